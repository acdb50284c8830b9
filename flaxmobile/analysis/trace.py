"""Where a compiled network's time goes, layer by layer, from the profiler's own trace."""

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from flaxmobile.analysis.counts import Layer

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) \(')
INSTRUCTION = re.compile(r'^ +(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)')
OPERAND = re.compile(r'%([\w.\-]+)')
CALLED = re.compile(r'calls=%?([\w.\-]+)')
OP_NAME = re.compile(r'op_name="([^"]*)"')
CONTAINERS = ('while', 'conditional', 'call')
"""Instructions that run others, each of which the trace has for itself."""


class LayerTime(NamedTuple):
    """Milliseconds of a call that a layer takes; `layer` is None for what belongs to none."""

    layer: Layer | None
    milliseconds: float


class Program(NamedTuple):
    """A compiled program: a call that waits for its results, and its text, as `jax.stages.Compiled.as_text` has it."""

    call: Callable[[], Any]
    text: str


def time_layers(program: Program, rows: tuple[Layer, ...], calls: int) -> list[LayerTime]:
    """The time of each layer in a call of `program`, in the order of `rows`, and last of what belongs to none.

    Times are the profiler's for the operations of the compiled program, the mean of `calls` calls, added over threads;
    in a training step a layer's forward and backward pass together. An operation that XLA made of several layers
    counts for the one that its result belongs to.

    Args:
        program: the network, or its training step.
        rows: the network's layers, as `counts.layers` gives them.
        calls: how often it is run.
    """
    program.call()
    return by_layer(_profile(program.call, calls), op_names(program.text), rows)


def by_layer(durations: Mapping[str, float], names: Mapping[str, str], rows: tuple[Layer, ...]) -> list[LayerTime]:
    """Durations of instructions, in ms, added up by layer: `names` has the `op_name` of each that is to be counted."""
    found: defaultdict[str, float] = defaultdict(float)
    known = {row.name for row in rows}
    for instruction, milliseconds in durations.items():
        if instruction in names:
            found[_layer_of(names[instruction], known)] += milliseconds
    return [*(LayerTime(row, found[row.name]) for row in rows), LayerTime(None, found[''])]


def _layer_of(op_name: str, known: set[str]) -> str:
    """The longest path of modules in an `op_name` that is a layer's, '' where none is.

    An `op_name` is what was traced, the modules, and last the operation: `jit(f)/Net/Net.features/stem/conv/add`.
    """
    components = {part for name in known for part in name.split('/')}
    path = [part for part in op_name.split('/')[:-1] if part in components]
    prefixes = ('/'.join(path[:length]) for length in range(len(path), 0, -1))
    return next((prefix for prefix in prefixes if prefix in known), '')


def op_names(text: str) -> dict[str, str]:
    """The `op_name` of each instruction of a compiled program's text, but of loops and calls.

    One that XLA put in without a name has that of the first instruction to use its result, inside a fusion if there,
    and '' where none has any.
    """
    names: dict[str, str] = {}
    parameters: dict[tuple[str, str], str] = {}
    computation = ''
    for line in text.splitlines():
        if start := COMPUTATION.match(line):
            computation = start[1]
        if not (instruction := INSTRUCTION.match(line)):
            continue
        name, opcode, operands = instruction.groups()
        op_name, called = (found[1] if found else '' for found in (OP_NAME.search(line), CALLED.search(line)))
        for index, operand in enumerate(OPERAND.findall(operands)):
            if names.get(operand) == '':
                names[operand] = names.get(parameters.get((called, str(index)), ''), '') or op_name
        if opcode == 'parameter':
            parameters[computation, operands] = name
        if opcode not in CONTAINERS:
            names[name] = op_name
    return names


def durations_of(events: Iterable[Any]) -> dict[str, float]:
    """Nanoseconds by the name of the instruction, of those of a trace's events that are instructions."""
    found: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if instruction := dict(event.stats).get('hlo_op'):
            found[instruction] += event.duration_ns
    return found


def _profile(call: Callable[[], Any], calls: int) -> dict[str, float]:
    """Milliseconds of a call by instruction."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(calls):
                call()
        (file,) = Path(folder).rglob('*.xplane.pb')
        planes = jax.profiler.ProfileData.from_file(str(file)).planes
        durations = durations_of(event for plane in planes for line in plane.lines for event in line.events)
    return {instruction: nanoseconds / 1e6 / calls for instruction, nanoseconds in durations.items()}


class LayerTable:
    """The times of a network's layers in the piece of work named, for rich to print."""

    def __init__(self, work: str, times: list[LayerTime], batch_size: int) -> None:
        self.work, self.times, self.batch_size = work, times, batch_size

    def __rich_console__(self, console: 'Console', options: 'ConsoleOptions') -> 'RenderResult':
        """The table, and what its times are."""
        from rich.table import Table

        whole = sum(time.milliseconds for time in self.times)
        table = Table(box=None, show_footer=True, padding=(0, 2, 0, 0))
        headings = (
            (f'layer, in {self.work}', 'total'),
            ('kind', ''),
            ('output', ''),
            ('mult-adds', f'{sum(time.layer.multiply_adds for time in self.times if time.layer) * self.batch_size:,}'),
            ('ms', f'{whole:.3f}'),
            ('share', '100 %'),
            ('G mult-adds/s', ''),
        )
        for index, (heading, footer) in enumerate(headings):
            table.add_column(heading, footer, justify='right' if index > 2 else 'left', no_wrap=True)
        for time in self.times:
            table.add_row(*self._cells(time, whole))
        yield table
        yield (
            "Times are the profiler's, for the operations that XLA made of the layers, added over the threads. Threads "
            'work side by side,\nso the total is not how long a call takes. An operation made of several layers counts '
            'for the one its\nresult belongs to; a layer with less time than its work needs was merged into another.'
        )

    def _cells(self, time: LayerTime, whole: float) -> tuple[str, ...]:
        share = f'{100 * time.milliseconds / whole:.1f} %' if whole else ''
        if time.layer is None:
            return 'no layer', '', '', '', f'{time.milliseconds:.3f}', share, ''
        multiply_adds = time.layer.multiply_adds * self.batch_size
        rate = f'{multiply_adds / time.milliseconds / 1e6:.1f}' if time.milliseconds else ''
        output = 'x'.join(map(str, time.layer.output_shape))
        cells = f'{multiply_adds:,}', f'{time.milliseconds:.3f}', share, rate
        return time.layer.name, time.layer.kind, output, *cells

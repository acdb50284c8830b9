"""What a compiled program needs of its devices: memory, FLOPs, bytes moved, collectives."""

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from flaxmobile.analysis.tpu import Slice

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
# An instruction of HLO: the types of its results, its kind, and whether it only starts (its `-done` is another one).
_INSTRUCTION = re.compile(rf' = (\S+|\(.*?\)) ({"|".join(COLLECTIVES)})(-start)?\(')
_ARRAY = re.compile(r'\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]')


class Collective(NamedTuple):
    """Of one kind: how many a call of the program makes, and the bytes of their results on one device."""

    kind: str
    number: int
    bytes: int


class Memory(NamedTuple):
    """Bytes on one device. Outputs that take the place of arguments (`aliased`) take none of their own."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


class Footprint(NamedTuple):
    """What one call of a program needs of one device, by XLA's own analysis of what it compiled.

    Attributes:
        memory: bytes held.
        flops: operations, two for a multiply-add.
        bytes_moved: bytes read and written by all its fused operations.
        collectives: exchanges between devices, by kind.
    """

    memory: Memory
    flops: float
    bytes_moved: float
    collectives: tuple[Collective, ...]


def footprint(compiled: jax.stages.Compiled) -> Footprint:
    """Read it off a compiled program."""
    memory: Any = compiled.memory_analysis()
    costs: Any = compiled.cost_analysis()
    held = Memory(
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes,
    )
    return Footprint(held, costs['flops'], costs['bytes accessed'], collectives(compiled.as_text() or ''))


def collectives(text: str) -> tuple[Collective, ...]:
    """Those of a compiled program's text, in HLO, by kind."""
    found: dict[str, list[int]] = {}
    for types, kind, starts in _INSTRUCTION.findall(text):
        sizes = [_bytes(*array) for array in _ARRAY.findall(types)]
        # What starts an exchange that changes shapes has its operands among its results, and results are larger.
        found.setdefault(kind, []).append(max(sizes) if starts and kind != 'all-reduce' else sum(sizes))
    return tuple(Collective(kind, len(found[kind]), sum(found[kind])) for kind in COLLECTIVES if kind in found)


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == 'pred' else int(re.sub(r'^\D+', '', dtype).split('e')[0])
    return math.prod(map(int, filter(None, shape.split(',')))) * bits // 8


class Report(NamedTuple):
    """What a training step needs of a slice, for rich to print.

    Attributes:
        title: what was compiled.
        slice: what for.
        batch: images a step, over all devices.
        parameters: of the network.
        needed: by one of the devices.
    """

    title: str
    slice: Slice
    batch: int
    parameters: int
    needed: Footprint

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON: bytes, FLOPs, images a second."""
        chip, needed = self.slice.chip, self.needed
        return {
            'step': self.title,
            'target': self.slice.name,
            'chips': self.slice.chips,
            'batch_size': self.batch,
            'parameters': self.parameters,
            'memory_of_a_chip': chip.memory,
            'memory_needed_of_a_chip': needed.memory.total * chip.cores,
            'flops_per_image': needed.flops * self._devices / self.batch,
            'bytes_moved_per_image': needed.bytes_moved * self._devices / self.batch,
            'images_per_second_by_compute': self.batch / self._seconds_of_compute,
            'images_per_second_by_memory': self.batch / self._seconds_of_memory,
            'images_per_second_at_most': self.batch / max(self._seconds_of_compute, self._seconds_of_memory),
            'collectives': [collective._asdict() for collective in needed.collectives],
        }

    @property
    def _devices(self) -> int:
        return len(self.slice.devices)

    @property
    def _seconds_of_compute(self) -> float:
        return self.needed.flops * self.slice.chip.cores / self.slice.chip.peak

    @property
    def _seconds_of_memory(self) -> float:
        return self.needed.bytes_moved * self.slice.chip.cores / self.slice.chip.bandwidth

    def __rich_console__(self, console: 'Console', options: 'ConsoleOptions') -> 'RenderResult':
        """A line for each figure, and for each kind of collective."""
        from rich.table import Table

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title_style='bold')
        for row in self._rows():
            table.add_row(*row)
        yield f'{self.title}, {self.batch} images a step on {self.slice.name} ({self.slice.chips} chips)'
        yield table
        yield (
            "FLOPs and bytes are the compiler's own figures; the bound is what peak and bandwidth of the chips allow "
            'at most, not what a run reaches.'
        )

    def _rows(self) -> list[tuple[str, str]]:
        figures, memory, cores = self.as_dict(), self.needed.memory, self.slice.chip.cores
        parts = {
            'arguments': memory.arguments,
            'outputs beside them': memory.outputs - memory.aliased,
            'temporaries': memory.temporaries,
            'code': memory.code,
        }
        held = ', '.join(f'{name} {size * cores / 1e9:.2f}' for name, size in parts.items())
        rates = {name: figures[f'images_per_second_by_{name}'] for name in ('compute', 'memory')}
        return [
            ('parameters', f'{self.parameters:,}'),
            ('memory of a chip', f'{memory.total * cores / 1e9:.2f} of {self.slice.chip.memory / 1e9:.0f} GB: {held}'),
            ('FLOPs an image', f'{figures["flops_per_image"] / 1e9:.2f} G'),
            ('bytes moved an image', f'{figures["bytes_moved_per_image"] / 1e6:.1f} MB'),
            (
                'images/s at most',
                f'{min(rates.values()):,.0f}, bound by {min(rates, key=rates.__getitem__)} '
                f'(compute {rates["compute"]:,.0f}, memory {rates["memory"]:,.0f})',
            ),
            *((each.kind, f'{each.number} a step, {each.bytes / 1e6:.2f} MB') for each in self.needed.collectives),
        ]

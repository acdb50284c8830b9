"""`python -m benchmarks.compile`: what comes before the first result, and the memory of a training step."""

import subprocess
import sys

from benchmarks.report import Row, print_table, row, write_json
from benchmarks.runner import Options, parse
from benchmarks.timing import summarize
from benchmarks.worker import Case, Contender, Worker

CONTENDERS = {name: Contender('compile_contenders', name) for name in ('ours', 'plain_flax')}
IMPORTS = {'ours': 'flaxmobile', 'plain_flax': 'jax, flax'}
MEASURES = (
    ('compile training step', 's'),
    ('temporaries of a training step', 'MiB'),
    ('peak memory in a training step', 'MiB'),
    ('compile inference', 's'),
    ('init', 's'),
)
"""`init` is `model.init` as it is; compiling inference ends with the first logits; the peak is of the whole process."""


def import_seconds(modules: str) -> float:
    """Seconds that a fresh process imports them."""
    timed = f'import time; start = time.perf_counter(); import {modules}; print(time.perf_counter() - start)'
    return float(subprocess.run([sys.executable, '-c', timed], capture_output=True, check=True, text=True).stdout)


def imports(options: Options) -> list[Row]:
    """Imports, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in options.contenders}
    for _ in range(max(20, options.rounds)):
        for name in seconds:
            seconds[name].append(import_seconds(IMPORTS[name]))
    return [row('import', '', 0, name, summarize(values), 's') for name, values in seconds.items()]


def measure(network: str, batch: int, options: Options) -> list[Row]:
    """All measures of a network, each round of each contender in a process of its own."""
    rounds: dict[str, list[list[float]]] = {name: [] for name in options.contenders}
    for _ in range(options.rounds):
        for name in rounds:
            worker = Worker(CONTENDERS[name])
            rounds[name].append(worker.prepare(Case(network, batch, options.threads)).tolist())
            worker.close()
    return [
        row(task, network, batch, name, summarize([values[index] for values in rounds[name]]), unit)
        for index, (task, unit) in enumerate(MEASURES)
        for name in rounds
    ]


def main() -> None:
    """Table and JSON."""
    options = parse('compile', list(CONTENDERS), batch='8', rounds=5)
    rows = imports(options)
    for network in options.networks:
        for batch in options.batch:
            print(f'{network}, batch {batch}', flush=True)
            rows += measure(network, batch, options)
            write_json(options.output / 'compile.json', rows)
    print_table(rows)


if __name__ == '__main__':
    main()

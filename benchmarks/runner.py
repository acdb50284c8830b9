"""The command of a benchmark: each network in turn, its contenders prepared, compared, then timed interleaved."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.report import Row, plot, print_table, row, write_json
from benchmarks.timing import interleave, limit_threads
from benchmarks.worker import Case, Contender, Unavailable, Worker, jax_contender

NETWORKS = (
    'mobilenetv1_100',
    'mobilenetv2_100',
    'mobilenetv3_large_100',
    'mobilenetv3_small_100',
    'mobilenetv4_conv_small',
    'mobilenetv4_conv_medium',
)


class Task(NamedTuple):
    """A piece of work and who does it.

    Attributes:
        name: in the table.
        contenders: by name, 'ours' among them.
        reference: function of `jax_contenders` whose outcome all have to agree with.
        tolerance: the largest difference of an outcome over its largest value.
    """

    name: str
    contenders: Mapping[str, Contender]
    reference: str
    tolerance: float


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    networks: Sequence[str]
    batch: Sequence[int]
    rounds: int
    threads: int
    contenders: Sequence[str]
    output: Path


def parse(name: str, contenders: Sequence[str], *, batch: str, rounds: int = 20) -> Options:
    """The command line, and the process kept to its threads.

    Args:
        name: of the benchmark.
        contenders: all there are.
        batch: sizes unless others are asked for, with commas.
        rounds: unless others are asked for.
    """
    parser = argparse.ArgumentParser(f'python -m benchmarks.{name}', description='Lists are written with commas.')
    add = parser.add_argument
    add('--networks', default=','.join(NETWORKS), help='default: %(default)s')
    add('--batch', default=batch, help='images at once; default: %(default)s')
    add('--rounds', type=int, default=rounds, help='default: %(default)s')
    add('--threads', type=int, default=2, help='cores and threads of every library; default: %(default)s')
    add('--contenders', default=','.join(contenders), help='default: %(default)s')
    add('--output', type=Path, default=Path('benchmarks/results'), metavar='DIR', help='default: %(default)s')
    given = parser.parse_args()
    for option, allowed in (('networks', NETWORKS), ('contenders', contenders)):
        unknown = [word for word in getattr(given, option).split(',') if word not in allowed]
        if unknown:
            parser.error(f'--{option}: there is no {", ".join(unknown)}, allowed is {", ".join(allowed)}')
    if given.rounds < 1:
        parser.error(f'--rounds {given.rounds}: 1 or more')
    try:
        sizes = [int(size) for size in given.batch.split(',')]
        limit_threads(given.threads)
    except ValueError as error:
        parser.error(str(error))
    lists = (given.networks.split(','), sizes, given.rounds, given.threads, given.contenders.split(','), given.output)
    return Options(*lists)


def run(name: str, tasks: Sequence[Task], *, batch: str) -> int:
    """A whole benchmark: table, JSON and plot; 1 if a contender failed."""
    options = parse(name, list(dict.fromkeys(word for task in tasks for word in task.contenders)), batch=batch)
    rows: list[Row] = []
    failed = False
    for network in options.networks:
        for task in tasks:
            print(f'{network}: {task.name}', flush=True)
            new, ended_well = measure(task, network, options)
            rows, failed = rows + new, failed or not ended_well
            finish(name, rows, options)
    print_table(rows)
    return int(failed)


def finish(name: str, rows: Sequence[Row], options: Options) -> None:
    """Write what there is so far."""
    write_json(options.output / f'{name}.json', rows)
    plot(options.output / f'{name}.png', rows)


def measure(task: Task, network: str, options: Options) -> tuple[list[Row], bool]:
    """The rows of a network, and whether every contender that could take part did."""
    rows, workers, well = [], {}, True
    asked = {name: contender for name, contender in task.contenders.items() if name in options.contenders}
    references = {
        convention: Worker(jax_contender(task.reference)._replace(convention=convention))
        for convention in dict.fromkeys(contender.convention for contender in asked.values())
    }
    absent: dict[str, str] = {}
    for name, contender in asked.items():
        try:
            workers[name] = Worker(contender)
        except Unavailable as reason:
            absent[name] = str(reason)
    for batch in options.batch:
        case, reasons = Case(network, batch, options.threads), dict(absent)
        wanted = {convention: worker.prepare(case) for convention, worker in references.items()}
        for name, worker in workers.items():
            try:
                compare(worker.prepare(case), wanted[worker.contender.convention], task.tolerance)
            except Unavailable as reason:
                reasons[name] = str(reason)
            except RuntimeError as error:
                reasons[name], well = f'failed: {error}', False
        times = interleave(
            {name: worker.run for name, worker in workers.items() if name not in reasons}, options.rounds
        )
        rows += [row(task.name, network, batch, name, reasons.get(name) or times[name]) for name in asked]
    for worker in (*workers.values(), *references.values()):
        worker.close()
    return rows, well


def compare(outcome: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """See that two outcomes agree.

    Raises:
        RuntimeError: they do not.
    """
    if outcome.shape != wanted.shape:
        raise RuntimeError(f'its outcome is {list(outcome.shape)}, not {list(wanted.shape)}')
    difference = np.max(np.abs(outcome - wanted)) / np.max(np.abs(wanted))
    if not difference <= tolerance:
        raise RuntimeError(f'its outcome is {difference:.1e} of the largest value away, allowed is {tolerance:.0e}')

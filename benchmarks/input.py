"""The input against torch's DataLoader and tf.data: `python -m benchmarks.input`."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.input_contenders import make_photographs
from benchmarks.report import print_table, row, write_json
from benchmarks.timing import interleave, limit_threads
from benchmarks.worker import Case, Contender, Unavailable, Worker

READY, TIMED = 12, 32
"""Batches that are thrown away, more than any library keeps ready, and that are timed then."""


def contenders(folder: str) -> dict[str, Contender]:
    """Who takes part, by name."""

    def own(name: str, *needs: str, **arguments: object) -> Contender:
        return Contender('input_contenders', name, {'folder': folder, **arguments}, needs, children=True)

    return {
        'ours': own('ours', workers=False),
        'ours, worker processes': own('ours', workers=True),
        'torch': own('torch_loader', 'torch', 'torchvision'),
        'tf.data': own('tf_data', 'tensorflow', antialias=False),
        'tf.data, antialiased': own('tf_data', 'tensorflow', antialias=True),
    }


def steady(worker: Worker) -> Callable[[int], float]:
    """Seconds of so many batches, once what was made in advance is used up."""

    def run(calls: int) -> float:
        worker.run(READY)
        return worker.run(TIMED) * calls / TIMED

    return run


def main() -> None:
    """The whole benchmark."""
    parser = argparse.ArgumentParser('python -m benchmarks.input')
    add = parser.add_argument
    add('--batch', type=int, default=64, help='images; default: %(default)s')
    add('--images', type=int, default=512, help='photographs to make; default: %(default)s')
    add('--rounds', type=int, default=10, help='default: %(default)s')
    add('--threads', type=int, default=2, help='cores, and threads or workers of every library; default: %(default)s')
    add('--output', type=Path, default=Path('benchmarks/results'), metavar='DIR', help='default: %(default)s')
    given = parser.parse_args()
    limit_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_photographs(Path(folder) / 'train', given.images)
        # A split beside it, so that all of these are read.
        make_photographs(Path(folder) / 'test', 2)
        rows = measure(folder, Case('', given.batch, given.threads), given.rounds)
    write_json(given.output / 'input.json', rows)
    print_table(rows)


def measure(folder: str, case: Case, rounds: int) -> list[dict[str, object]]:
    """The rows of the table: milliseconds of a batch."""
    workers, reasons = {}, {}
    asked = contenders(folder)
    for name, contender in asked.items():
        try:
            workers[name] = Worker(contender)
            workers[name].prepare(case)
        except Unavailable as reason:
            reasons[name] = str(reason)
    times = interleave({name: steady(worker) for name, worker in workers.items()}, rounds)
    for worker in workers.values():
        worker.close()
    return [row('input', '500x375 JPEG', case.batch, name, reasons.get(name) or times[name]) for name in asked]


if __name__ == '__main__':
    main()

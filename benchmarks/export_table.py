"""The table of `docs/exports.md`, of what `benchmarks.exports` found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.export_rules import PLAIN
from flaxmobile import list_models
from flaxmobile.files import write_whole
from flaxmobile.markdown import code, table

DOCUMENT = Path(__file__).parents[1] / 'docs' / 'exports.md'
HEADER = (
    'network',
    'pixels',
    *('LiteRT: error', 'size', 'operations', 'and of these'),
    *('ONNX: error', 'size', 'operations', 'and of these'),
    *('JAX: error', 'size', 'faults'),
)
MARK = '<!-- written by benchmarks/exports.py -->\n'


def write_table(results: Mapping[str, Any]) -> None:
    """Write the table in place of the one that is there; what stands before the mark stays.

    Args:
        results: by network, as `benchmarks.exports.measured` has them.
    """
    before, _ = DOCUMENT.read_text().split(MARK)
    write_whole(DOCUMENT, f'{before}{MARK}\n{made_table(results)}\n')


def made_table(results: Mapping[str, Any]) -> str:
    """A row for each registered network."""
    return table(HEADER, (_row(name, results[name]) if name in results else _without(name) for name in list_models()))


def _without(name: str) -> list[str]:
    return [code(name), *[''] * (len(HEADER) - 2), 'not run']


def _row(name: str, found: Mapping[str, Any]) -> list[str]:
    width = f' at {found["width"]} of its width' if found['width'] else ''
    cells = [code(name) + width, str(found['image_size'])]
    for suffix, each in found['formats'].items():
        cells += [f'{each["error"]:.1e}', f'{each["size"] / found["size"]:.4f}']
        if suffix in PLAIN:
            cells += [str(sum(each['operations'].values())), _besides(each['operations'], PLAIN[suffix])]
    wrong = [f'{suffix}: {fault}' for suffix, each in found['formats'].items() for fault in each['faults']]
    return [*cells, '; '.join(wrong) or 'none']


def _besides(operations: Mapping[str, int], plain: set[str]) -> str:
    """What a convolutional network has not."""
    return ', '.join(f'{count} {kind}' for kind, count in operations.items() if kind not in plain)

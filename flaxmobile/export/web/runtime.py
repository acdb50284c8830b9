"""LiteRT.js as it lies in the package: what runs a LiteRT file in a browser."""

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parent / 'runtime.tar.xz'
"""What `scripts/make_web_runtime.py` made."""
FOLDER = 'litert'
"""The folder of the page that it goes into."""
FILES = (
    'LICENSE',
    'index.js',
    'wasm-utils.js',
    'wasm/litert_wasm_compat_internal.js',
    'wasm/litert_wasm_compat_internal.wasm',
    'wasm/litert_wasm_internal.js',
    'wasm/litert_wasm_internal.wasm',
)
"""What is in that folder."""


def runtime_files() -> list[str]:
    """The paths of the runtime's files in a page's folder."""
    return [f'{FOLDER}/{name}' for name in FILES]


def unpack_runtime(folder: Path) -> None:
    """Write the runtime's files into a page's folder."""
    with tarfile.open(ARCHIVE, 'r:xz') as archive:
        archive.extractall(folder, filter='data')

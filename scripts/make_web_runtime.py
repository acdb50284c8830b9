"""Pack LiteRT.js, which runs a model in a browser, into the package from its two packages on npm.

    python scripts/make_web_runtime.py

`npm pack` fetches them at the versions below, and each has to have the SHA-256 that stands here. Kept are the modules
and the two builds of WebAssembly that the page can come to load: that of browsers with relaxed SIMD, and that of those
without, Safari and so every iPhone among them. The same packages give the same bytes.
"""

import hashlib
import io
import lzma
import subprocess
import tarfile
import tempfile
from pathlib import Path

from flaxmobile.export.web.runtime import ARCHIVE, FOLDER

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    '@litertjs/core@2.5.3': 'a97660833e9e7e1063c95e12016718881240b14f7438728a2f62785e912d30fd',
    '@litertjs/wasm-utils@2.5.3': 'ce2a1f8379c067be49e59752e5a7f40db6be09f6e497f0f11e59f17b515366a7',
}
"""Name and version, and the SHA-256 of what npm has under it."""
KEPT = {
    '@litertjs/core@2.5.3': {
        'dist/index.js': 'index.js',
        'wasm/litert_wasm_internal.js': 'wasm/litert_wasm_internal.js',
        'wasm/litert_wasm_internal.wasm': 'wasm/litert_wasm_internal.wasm',
        'wasm/litert_wasm_compat_internal.js': 'wasm/litert_wasm_compat_internal.js',
        'wasm/litert_wasm_compat_internal.wasm': 'wasm/litert_wasm_compat_internal.wasm',
    },
    '@litertjs/wasm-utils@2.5.3': {'dist/index.js': 'wasm-utils.js'},
}
"""The files of each that are kept, and their names in the page's folder."""


def fetch(package: str, folder: Path) -> bytes:
    """A package of npm, as the archive that it is there.

    Raises:
        ValueError: it is another one than what stands here.
    """
    words = ['npm', 'pack', '--silent', '--pack-destination', str(folder), package]
    name = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
    content = (folder / name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != PACKAGES[package]:
        raise ValueError(f'npm gives {package} with SHA-256 {found}, and {PACKAGES[package]} is wanted')
    return content


def files_of(content: bytes, kept: dict[str, str]) -> dict[str, bytes]:
    """Those files of a package that are kept, by their names in the page's folder."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for there, here in kept.items():
            file = archive.extractfile(f'package/{there}')
            if file is None:
                raise ValueError(f'{there} is no file')
            found[here] = file.read()
    return found


def pack(files: dict[str, bytes]) -> bytes:
    """A tar of the files without times and owners, compressed as one: the two builds have most in common."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode='w') as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(f'{FOLDER}/{name}')
            entry.size = len(files[name])
            archive.addfile(entry, io.BytesIO(files[name]))
    return lzma.compress(plain.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def main() -> None:
    """Write the archive into the package."""
    files = {'LICENSE': (ROOT / 'LICENSE').read_bytes()}  # Apache 2.0, as theirs, of which they hold no copy.
    with tempfile.TemporaryDirectory() as folder:
        for package, kept in KEPT.items():
            files |= files_of(fetch(package, Path(folder)), kept)
    temporary = ARCHIVE.with_suffix('.tmp')
    temporary.write_bytes(pack(files))
    temporary.replace(ARCHIVE)
    print(f'{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes')


if __name__ == '__main__':
    main()

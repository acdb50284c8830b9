"""A watch over what reading a file does to the process."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WATCHED = ('os.', 'subprocess.', 'exec', 'import', 'pickle.', 'ctypes.', 'socket.', 'shutil.')
SEEN: list[str] | None = None


def hook(event: str, _: object) -> None:
    if SEEN is not None and event.startswith(WATCHED):
        SEEN.append(event)


sys.addaudithook(hook)


@contextmanager
def harmless() -> Iterator[None]:
    """Fails if anything is imported, executed or unpickled, or if over 64 MiB are allocated by whomever."""
    global SEEN
    mapped = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    SEEN = []
    try:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + (64 << 20), limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        seen, SEEN = SEEN, None
    assert seen == []

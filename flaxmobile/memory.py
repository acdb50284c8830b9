"""Memory that the process keeps between two steps."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""
LARGEST = 2**31 - 1


def keep_memory() -> None:
    """Let glibc's `malloc` keep what this process frees, in one heap, rather than return large blocks to the system.

    XLA asks for the temporary memory of a program at every call and frees it at the end. On a CPU mapping it anew, page
    by page, is a third of a training step. Call it before there are threads. What the user's environment says of
    `malloc` goes first; without glibc nothing happens.
    """
    if 'GLIBC_TUNABLES' in os.environ or any(name.startswith('MALLOC_') for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # Not this operating system, or another C library.
        return
    for option, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST)):
        mallopt(option, value)

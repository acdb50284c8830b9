"""Huge pages for the memory of compiled programs."""

import os
import platform
import sys
from pathlib import Path

SETTING = Path('/sys/kernel/mm/transparent_hugepage/enabled')


def use_huge_pages() -> None:
    """Begin the command anew with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, where that makes a difference.

    XLA asks for the temporary memory of a program at every call and frees it at the end. On a CPU mapping it anew in
    pages of 4 KiB is a third of a training step; in pages of 2 MiB it is little. Where Linux gives these to those who
    ask, glibc's `malloc` asks only if it was told before it began. What the user's environment says of `malloc` goes
    first. Call it before there is anything to lose: the process becomes another, of the same number and words.
    """
    told = 'GLIBC_TUNABLES' in os.environ or any(name.startswith('MALLOC_') for name in os.environ)
    again = sys.executable and os.path.isfile(sys.argv[0])  # What was read from standard input is gone.
    if told or not again or not _knows_huge_pages(*platform.libc_ver()):
        return
    try:
        for_those_who_ask = '[madvise]' in SETTING.read_text()
    except OSError:  # Not Linux, or without huge pages.
        return
    if for_those_who_ask:
        os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
        os.execv(sys.executable, sys.orig_argv)


def _knows_huge_pages(library: str, version: str) -> bool:
    return library == 'glibc' and tuple(map(int, version.split('.')[:2])) >= (2, 35)

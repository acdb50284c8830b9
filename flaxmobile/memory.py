"""Huge pages for the memory of compiled programs."""

import os
import platform
import sys
from pathlib import Path

SETTING = Path('/sys/kernel/mm/transparent_hugepage/enabled')


def use_huge_pages() -> None:
    """Restart the command with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` if that makes `malloc` use huge pages.

    XLA allocates the temporary memory of a program at every call and frees it at the end. On a CPU, mapping it again in
    pages of 4 KiB took a third of a training step, and little in pages of 2 MiB (docs/performance.md). Linux may be set
    to give huge pages only to programs that ask for them (`madvise`). glibc's `malloc` asks only if this variable was
    set when the process started. If the environment already sets anything of `malloc`, this function changes nothing.

    Call it first of all: the program starts again from its beginning, in the same process and with the same arguments.
    """
    told = 'GLIBC_TUNABLES' in os.environ or any(name.startswith('MALLOC_') for name in os.environ)
    again = sys.executable and os.path.isfile(sys.argv[0])  # A program read from standard input cannot start again.
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

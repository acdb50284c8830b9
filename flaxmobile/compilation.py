"""Compiled programs kept on disk, so that a command compiles only what no command before it has."""

import os
from pathlib import Path

import jax

SHORTEST = 0.1
"""Seconds that a program takes to compile, under which it is not kept."""
LARGEST = 2 * 2**30
"""Bytes of all programs; those unused for longest make room."""


def keep_programs(folder: Path) -> None:
    """Let this process keep its compiled programs in `folder`, by JAX's persistent compilation cache.

    What the user's environment says goes first: `JAX_COMPILATION_CACHE_DIR` is another folder,
    `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing. A folder that cannot be written is left alone.

    JAX finds a program by the versions of jaxlib and XLA, the compiler's options, the number and kind of devices, and
    on a CPU the instructions that it has, so machines with other processors can share a folder. Whoever may write
    there can have this process run their code.
    """
    if 'JAX_COMPILATION_CACHE_DIR' in os.environ or not _is_writable(folder):
        return
    settings = {
        'jax_compilation_cache_dir': str(folder),
        'jax_compilation_cache_max_size': LARGEST,
        'jax_persistent_cache_min_compile_time_secs': SHORTEST,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def _is_writable(folder: Path) -> bool:
    """Whether files can be made there, or the folder itself."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)

"""Compiled programs kept on disk, so that a command compiles only what no command before it has."""

import os
from pathlib import Path

import jax

LARGEST = 2 * 2**30
"""Bytes of programs; those that lay unused the longest make room."""


def keep_programs(folder: Path) -> None:
    """Let this process keep its compiled programs in `folder`, by JAX's persistent compilation cache.

    What the user set goes first: `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false`
    keeps nothing, `JAX_COMPILATION_CACHE_MAX_SIZE` is the most bytes. A folder that cannot be written is left alone.
    Programs that compile in less than a second are not kept, which is JAX's own threshold. A program's key holds the
    versions of jaxlib and XLA, the options and a fingerprint of the processor's instructions, so that machines of other
    kinds may share a folder; whoever may write there can have this process run their code.
    """
    if jax.config.jax_compilation_cache_dir is None and _is_writable(folder):
        jax.config.update('jax_compilation_cache_dir', str(folder))
        if jax.config.jax_compilation_cache_max_size == -1:
            jax.config.update('jax_compilation_cache_max_size', LARGEST)


def _is_writable(folder: Path) -> bool:
    """Whether files can be made there, or the folder itself."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)

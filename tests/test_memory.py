import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from flaxmobile.memory import keep_memory
if sys.argv[1] == 'keep':
    keep_memory()
import jax, jax.numpy as jnp

@jax.jit
def products(tall, wide):  # The first product is temporary memory: 64 MiB.
    return tall @ wide @ wide.T

operands = jnp.ones((2**12, 4)), jnp.ones((4, 2**12))
for _ in range(40):  # The heap grows until every block finds its place.
    products(*operands).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    products(*operands).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(word: str, **environment: str) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('MALLOC_', 'GLIBC_'))}
    done = subprocess.run(
        [sys.executable, '-c', FAULTS, word], env={**kept, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason="glibc's malloc is Linux's")
def test_memory_is_not_mapped_anew_at_every_call() -> None:
    without, kept = page_faults('leave'), page_faults('keep')
    assert without > 20 * 2**14  # Every call touches 2 ** 14 pages of 4 KiB.
    assert kept < without / 4
    assert page_faults('keep', MALLOC_ARENA_MAX='8') > without / 2

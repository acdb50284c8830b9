"""What a network costs before its first result, and the memory of its training step."""

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import flaxmobile
from benchmarks.jax_contenders import module, ours_step, plain_step
from benchmarks.networks import IMAGE_SIZE, images, network, variables_of
from benchmarks.worker import Case
from flaxmobile.models.network import MobileNet
from flaxmobile.training.compiled import compile_step


def ours(case: Case) -> tuple[None, np.ndarray]:
    """The measures of ours, in the order of `compile.MEASURES`."""

    def infer(model: MobileNet, variables: Any, batch: jax.Array) -> Any:
        return flaxmobile.compile_inference(model, variables, batch_size=len(batch))(batch)

    return None, _measures(case, network(case), infer, ours_step, compile_step)


def plain_flax(case: Case) -> tuple[None, np.ndarray]:
    """The measures of plain Flax, in the same order."""

    def infer(model: nn.Module, variables: Any, batch: jax.Array) -> Any:
        return jax.jit(model.apply)(variables, batch)

    def compile_plain(step: Any, *arguments: Any) -> Any:
        return step.lower(*arguments).compile()

    return None, _measures(case, module(case, plain=True), infer, plain_step, compile_plain)


def _measures(
    case: Case,
    model: Any,
    infer: Callable[..., Any],
    step_of: Callable[[Case], Any],
    compile_step: Callable[..., Any],
) -> np.ndarray:
    step, state, batch = step_of(case)
    start = time.perf_counter()
    compiled = compile_step(step, state, batch)
    seconds = time.perf_counter() - start
    temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
    peak = _peak(partial(compiled, state, batch))
    inference = _seconds(partial(infer, model, variables_of(network(case)), jnp.asarray(images(case.batch))))
    init = _seconds(partial(model.init, jax.random.key(0), jnp.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3))))
    return np.asarray([seconds, temporary, peak, inference, init])


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def _peak(work: Callable[[], Any]) -> float:
    """The most MiB that the process holds while it works; not a number where the system does not tell."""
    status, reset = Path('/proc/self/status'), Path('/proc/self/clear_refs')
    if not reset.exists():
        return float('nan')
    reset.write_text('5')
    jax.block_until_ready(work())
    found = re.search(r'VmHWM:\s+(\d+) kB', status.read_text())
    return int(found[1]) / 1024 if found else float('nan')

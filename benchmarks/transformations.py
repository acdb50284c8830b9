"""`python -m benchmarks.transformations`: what JAX is chosen for beyond a training step."""

import sys

from benchmarks.runner import Task, run
from benchmarks.worker import Contender, jax_contender, torch_contender


def pair(function: str) -> dict[str, Contender]:
    """Ours and plain Flax."""
    return {'ours': jax_contender(function), 'plain_flax': jax_contender(function, plain=True)}


EXAMPLES = {**pair('per_example'), 'torch_func': torch_contender('per_example')}
TASKS = [
    Task('per-example gradients', EXAMPLES, 'per_example', 1e-2),
    Task('jvp of the training loss', pair('tangent'), 'tangent', 1e-2),
    Task('Hessian-vector product', pair('hessian_vector'), 'hessian_vector', 1e-2),
]

if __name__ == '__main__':
    sys.exit(run('transformations', TASKS, batch='8'))

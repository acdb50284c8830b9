"""`python -m benchmarks.training`: one step of SGD with momentum on a batch that is there, loss and statistics in."""

import sys

from benchmarks.runner import Task, run
from benchmarks.worker import jax_contender, keras_contender, torch_contender

CONTENDERS = {
    'ours': jax_contender('ours_training'),
    'plain_flax': jax_contender('plain_training'),
    'keras_jax': keras_contender('training', 'jax'),
    'keras_tensorflow': keras_contender('training', 'tensorflow'),
    'torch_nchw': torch_contender('training'),
    'torch_channels_last': torch_contender('training', layout='channels_last'),
    'torch_compile': torch_contender('training', layout='channels_last', compiled=True),
}

if __name__ == '__main__':
    sys.exit(run('training', [Task('training step', CONTENDERS, 'first_loss', 1e-4)], batch='8,32'))

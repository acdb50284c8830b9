"""`python -m benchmarks.inference`: logits of a batch of images, as each library's user gets them fastest."""

import sys

from benchmarks.runner import Task, run
from benchmarks.worker import jax_contender, keras_contender, torch_contender

CONTENDERS = {
    'ours': jax_contender('ours_inference'),
    'ours_apply': jax_contender('apply_inference'),
    'plain_flax': jax_contender('apply_inference', plain=True),
    'keras_jax': keras_contender('inference', 'jax'),
    'keras_tensorflow': keras_contender('inference', 'tensorflow'),
    'torch_nchw': torch_contender('inference'),
    'torch_channels_last': torch_contender('inference', layout='channels_last'),
    'torch_compile': torch_contender('inference', layout='channels_last', compiled=True),
    'onnxruntime': torch_contender('onnx_inference', 'onnx', 'onnxscript', 'onnxruntime'),
    'litert': keras_contender('litert_inference', 'tensorflow', 'ai_edge_litert'),
}

if __name__ == '__main__':
    sys.exit(run('inference', [Task('inference', CONTENDERS, 'apply_inference', 1e-4)], batch='1,8,32'))

"""keras.applications with our variables, on the backend that KERAS_BACKEND names, and LiteRT on its conversion."""

import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks.networks import IMAGE_SIZE, images, labels, network, variables_of
from benchmarks.worker import Case, Unavailable
from flaxmobile.weights import to_keras

Build = tuple[Callable[[], Any], np.ndarray]
APPLICATIONS = {
    'mobilenetv1_100': partial(keras.applications.MobileNet, dropout=0),
    'mobilenetv2_100': keras.applications.MobileNetV2,
    'mobilenetv3_large_100': partial(keras.applications.MobileNetV3Large, dropout_rate=0, include_preprocessing=False),
    'mobilenetv3_small_100': partial(keras.applications.MobileNetV3Small, dropout_rate=0, include_preprocessing=False),
}


def twin(case: Case) -> keras.Model:
    """Keras's network of the case with our variables, logits out.

    Raises:
        Unavailable: keras.applications has none.
    """
    if case.network not in APPLICATIONS:
        raise Unavailable('keras.applications has no such network')
    if keras.config.backend() == 'tensorflow':
        limit_tensorflow(case.threads)
    twin = APPLICATIONS[case.network](
        weights=None, classifier_activation=None, input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3), name='twin'
    )
    model = network(case)
    arrays = to_keras(variables_of(model), model)
    for weight in twin.weights:
        weight.assign(arrays[weight.path])
    return twin


def limit_tensorflow(threads: int) -> None:
    """Set TensorFlow's threads, once, before its first operation."""
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def inference(case: Case) -> Build:
    """By `predict_on_batch`."""
    infer, batch = twin(case).predict_on_batch, images(case.batch)
    return partial(infer, batch), np.asarray(infer(batch))


def training(case: Case) -> Build:
    """A step of SGD with momentum by `train_on_batch`."""
    network = twin(case)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    work = partial(network.train_on_batch, *map(keras.ops.convert_to_tensor, (images(case.batch), labels(case.batch))))
    return work, np.asarray(work())


def litert_file(case: Case) -> bytes:
    """TensorFlow's conversion of Keras's network."""
    import tensorflow as tf

    fixed = keras.Input(batch_shape=(case.batch, IMAGE_SIZE, IMAGE_SIZE, 3))
    with contextlib.redirect_stdout(io.StringIO()):  # It lists every variable.
        content: bytes = tf.lite.TFLiteConverter.from_keras_model(keras.Model(fixed, twin(case)(fixed))).convert()
    return content


def litert_inference(case: Case) -> Build:
    """LiteRT's interpreter, whose kernels are XNNPACK's, on TensorFlow's conversion of Keras's network."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=litert_file(case), num_threads=case.threads)
    interpreter.allocate_tensors()
    given, returned = (
        details[0]['index'] for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    batch = images(case.batch)

    def infer() -> np.ndarray:
        interpreter.set_tensor(given, batch)
        interpreter.invoke()
        return interpreter.get_tensor(returned)

    return infer, infer()

"""Files of a network side by side in one process, by the time that the processor gives to the calling thread.

On one thread this hardly depends on what else the machine does, where the time of day swings by three and more.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Call = Callable[[], Any]
ROUNDS, WARM_UP = 300, 10


def litert_call(content: bytes, image: np.ndarray) -> Call:
    """A call of a LiteRT file on one thread; `image` is `[1, height, width, channels]`."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (answered,) = interpreter.get_input_details(), interpreter.get_output_details()

    def call() -> np.ndarray:
        interpreter.set_tensor(given['index'], image)
        interpreter.invoke()
        answer: np.ndarray = interpreter.get_tensor(answered['index'])
        return answer

    return call


def onnx_call(content: bytes, image: np.ndarray) -> Call:
    """A call of an ONNX file on one thread; `image` is `[1, channels, height, width]`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    fed = {session.get_inputs()[0].name: image}
    return lambda: session.run(None, fed)[0]


def interleaved(calls: Mapping[str, Call], rounds: int = ROUNDS) -> dict[str, np.ndarray]:
    """Milliseconds of each call, `[rounds]`: all in turn, each round in another order."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    shuffled = np.random.default_rng(0).permutation
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    for _ in range(rounds):
        for name in shuffled(list(calls)):
            start = time.thread_time()
            calls[name]()
            times[name].append(1e3 * (time.thread_time() - start))
    return {name: np.array(values) for name, values in times.items()}


def quartiles(values: np.ndarray) -> str:
    """`0.45 (0.44-0.46)`: the median and the quartiles around it."""
    lower, median, upper = np.percentile(values, [25, 50, 75])
    return f'{median:.2f} ({lower:.2f}-{upper:.2f})'

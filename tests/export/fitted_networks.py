"""Narrow networks that tell clothes apart: random kernels, norms of real statistics, and a classifier by least squares.

Seconds where training takes minutes, and the first answer means something. As a program it prints the table of
docs/deployment.md: `PYTHONPATH=. python tests/export/fitted_networks.py`.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
from flax import linen as nn

from benchmarks.random_variables import calibrated, random_variables
from flaxmobile.data import Preprocessing
from flaxmobile.data.fashion_mnist import CLASSES, read_embedded
from flaxmobile.export import Int8, export
from flaxmobile.models import (
    MobileNetV1,
    MobileNetV2,
    MobileNetV3Small,
    MobileNetV4ConvSmall,
    MobileNetV4HybridMedium,
)
from flaxmobile.models.mobilenetv3 import SMALL
from flaxmobile.models.mobilenetv4 import attention, conv, convnext, extra_dw, ffn, fused, inverted_bottleneck
from flaxmobile.weights import Model

SIZE = 32
"""Side of the images in pixels: 28 with a border of two."""
FITTED, CALIBRATED, COMPARED = 2048, 64, 400
"""Images that the classifier is fitted to, and others to calibrate and to compare on."""
RIDGE = 300.0
"""What keeps the classifier's weights small."""


class ShortV1(MobileNetV1):
    """The first three blocks."""

    def stages(self) -> list[list[nn.Module]]:
        return super().stages()[:2]


class ShortV2(MobileNetV2):
    """The first three blocks, the last with a sum."""

    def stages(self) -> list[list[nn.Module]]:
        return super().stages()[:2]


class ShortV3(MobileNetV3Small):
    """The first blocks with squeeze-excite, with ReLU and with hard-swish."""

    table = (SMALL[0], SMALL[2][:2])


class ShortV4(MobileNetV4ConvSmall):
    """A block of each kind."""

    table = ((conv(3, 32, s=2),), (extra_dw(5, 5, 3, 96, s=2), inverted_bottleneck(3, 2, 96), convnext(3, 4, 96)))


class ShortHybrid(MobileNetV4HybridMedium):
    """Attention, with keys in strides and without, among convolutions."""

    table = ((fused(3, 4, 48, s=2),), (extra_dw(3, 5, 4, 80, s=2), attention(4, 64, 2), attention(4, 64), ffn(4, 80)))


NETWORKS = {'V1': ShortV1, 'V2': ShortV2, 'V3': ShortV3, 'V4': ShortV4, 'V4 hybrid': ShortHybrid}


def images(split: str, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `[count, SIZE, SIZE, 1]` and their classes."""
    found = _embedded()[split]
    pixels = np.pad(found.images[start : start + count], ((0, 0), (2, 2), (2, 2)))
    return pixels[..., None], found.labels[start : start + count]


@functools.cache
def _embedded() -> dict:
    return read_embedded()


def calibration() -> np.ndarray:
    """Images to find ranges on."""
    return images('train', FITTED, CALIBRATED)[0]


def unseen() -> np.ndarray:
    """Images that neither the classifier nor the ranges have seen."""
    return images('test', 0, COMPARED)[0]


def skewed() -> np.ndarray:
    """Inputs whose ranges by each observer are far apart: most from -1 to 14, two at 40 and one at 80."""
    values = np.random.default_rng(0).gamma(2, size=32 * SIZE * SIZE).astype(np.float32) - 1
    values[[5, 9_000, 20_000]] = 40, 80, 40
    return values.reshape(32, SIZE, SIZE, 1)


@functools.cache
def fitted(family: str) -> Model:
    """The short network of a family, for the ten classes of Fashion-MNIST."""
    network = NETWORKS[family](width_multiplier=0.5, num_classes=len(CLASSES), dropout_rate=0.0)
    preprocessing = Preprocessing(SIZE, 1, (0.286,), (0.353,))
    pixels, labels = images('train', 0, FITTED)
    params = random_variables(network, (1, SIZE, SIZE, 1))['params']
    features, variables = calibrated(network, params, preprocessing.normalize(pixels), method='embed')
    params['classifier'] = _least_squares(np.asarray(features), labels)
    return Model(network, {**variables, 'params': params}, preprocessing, CLASSES)


def _least_squares(features: np.ndarray, labels: np.ndarray) -> dict:
    """The classifier nearest to 10 for an image's own class and 0 for the others."""
    centre, spread = features.mean(0), features.std(0) + 1e-6
    standard = ((features - centre) / spread).astype(np.float64)
    wanted = 10 * np.eye(len(CLASSES))[labels]
    products = standard.T @ standard + RIDGE * np.eye(standard.shape[1])
    kernel = np.linalg.solve(products, standard.T @ (wanted - wanted.mean(0))) / spread[:, None]
    return {'kernel': kernel.astype(np.float32), 'bias': (wanted.mean(0) - centre @ kernel).astype(np.float32)}


COLUMNS = (('.tflite', 'extremes'), ('.tflite', 'percentile'), ('.tflite', 'mse'), ('.onnx', 'percentile'))
"""Files and observers of the table."""


def row(family: str) -> str:
    """The accuracy in float, and of each int8 file the share of equal first answers."""
    model, (pixels, labels) = fitted(family), images('test', 0, COMPARED)
    accuracy = np.mean(model.predict(pixels, 100).argmax(1) == labels)
    cells = [f'| {family} | {accuracy:.3f} |']
    with tempfile.TemporaryDirectory() as folder:
        for number, (suffix, observer) in enumerate(COLUMNS):
            path = Path(folder) / f'{number}{suffix}'
            check = export(model, path, int8=Int8(calibration(), observer), images=pixels)
            cells.append(f' {check.int8.agreement:.3f} |')
    return ''.join(cells)


if __name__ == '__main__':
    for family in NETWORKS:
        print(row(family), flush=True)

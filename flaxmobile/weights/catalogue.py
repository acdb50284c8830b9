"""The published weights of the family: where each comes from and all that is needed to use it as it was evaluated."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flaxmobile.data import Preprocessing
from flaxmobile.data.preprocessing import Interpolation
from flaxmobile.messages import unknown
from flaxmobile.models.registry import REGISTRY
from flaxmobile.weights.class_names import VOCABULARIES

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
UNIT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
TERMS = {'Gemma': 'https://ai.google.dev/gemma/terms'}
"""By licence that is not an open one, where its terms are."""
Scaling = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation."""


@dataclass(frozen=True)
class Weight:
    """A published weight.

    Attributes:
        name: the network, a dot, and a tag as timm writes it: recipe, resolution, data.
        model: the registered network it belongs to, and with it padding and BatchNorm.
        address: of the file, https.
        license: of the weight, or of the library that publishes it where it states no other; an SPDX identifier, or
            'Gemma', which is no open licence.
        vocabulary: what its classes are, a name for `class_names.vocabulary`; None for a network without classes.
        mean: subtracted from pixel values in [0, 1], by channel.
        std: what the difference is divided by.
        interpolation: how images are resized.
        image_size: side in pixels of the images it was trained on.
        crop_fraction: of the centre crop at that size.
        test_size: side in pixels of the images it is best evaluated at.
        test_crop_fraction: of the centre crop from that size on.
        top1: the published accuracy on ImageNet-1k's validation images, in percent, by side of the images.
        size: of the file in bytes; None where it is not published.
        sha256: of the file, in hexadecimal, or its first digits; None where it is not published.
        md5: of the file; None where it is not published.
    """

    name: str
    model: str
    address: str
    license: str
    vocabulary: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    image_size: int
    crop_fraction: float
    test_size: int
    test_crop_fraction: float
    top1: Mapping[int, float] = field(hash=False)
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def file_name(self) -> str:
        """The file's name at its source."""
        return self.address.rsplit('/', 1)[-1]

    @property
    def num_classes(self) -> int:
        """How many classes it tells apart, 0 where it has no classifier."""
        return VOCABULARIES[self.vocabulary] if self.vocabulary else 0

    @property
    def terms(self) -> str:
        """What its licence asks, in words, with the address of its terms; '' for an open licence."""
        if self.license not in TERMS:
            return ''
        return (
            f'{self.name} is under the {self.license} licence, which is not an open one: whoever uses the weights '
            f'accepts its terms, {TERMS[self.license]}'
        )

    def preprocessing(self, image_size: int | None = None) -> Preprocessing:
        """What an image goes through first, at the training size or another: from the test size on with its crop."""
        size = self.image_size if image_size is None else image_size
        return Preprocessing(
            image_size=size,
            mean=self.mean,
            std=self.std,
            crop_fraction=self.test_crop_fraction if size >= self.test_size else self.crop_fraction,
            interpolation=self.interpolation,
        )


def _weight(
    name: str,
    scaling: Scaling,
    interpolation: Interpolation,
    train: tuple[int, float],
    test: tuple[int, float] | None,
    top1: Mapping[int, float],
    **fields: Any,
) -> Weight:
    (image_size, crop_fraction), (test_size, test_crop_fraction) = train, test or train
    return Weight(
        name=name,
        model=name.split('.')[0],
        mean=scaling[0],
        std=scaling[1],
        interpolation=interpolation,
        image_size=image_size,
        crop_fraction=crop_fraction,
        test_size=test_size,
        test_crop_fraction=test_crop_fraction,
        top1=top1,
        **fields,
    )


def _timm(
    name: str,
    scaling: Scaling,
    train: tuple[int, float],
    *test: tuple[int, float],
    top1: tuple[float, ...] = (),
    interpolation: Interpolation = 'bicubic',
    license: str = 'Apache-2.0',
    classes: bool = True,
) -> Weight:
    """One of timm's, on the Hugging Face hub; `top1` at the training size and the test size."""
    larger = {'in12k': 'imagenet-12k', 'in21k': 'imagenet-21k-miil'}
    return _weight(
        name,
        scaling,
        interpolation,
        train,
        test[0] if test else None,
        dict(zip([size for size, _ in (train, *test)], top1, strict=False)),
        address=f'https://huggingface.co/timm/{name}/resolve/main/model.safetensors',
        license=license,
        vocabulary=larger.get(name.rsplit('_', 1)[-1], 'imagenet-1k') if classes else None,
    )


def _torchvision(name: str, file: str, shorter: int, top1: float, **known: Any) -> Weight:
    """One of torchvision's, at 224 pixels: the shorter side is resized to `shorter`."""
    return _weight(
        name,
        IMAGENET,
        'bilinear',
        (224, 224 / shorter),
        None,
        {224: top1},
        address=f'https://download.pytorch.org/models/{file}.pth',
        license='BSD-3-Clause',
        vocabulary='imagenet-1k',
        **{'sha256': file.rsplit('-', 1)[-1], **known},
    )


def _keras(name: str, size: int, file: str, top1: float, md5: str | None = None) -> Weight:
    """One of Keras's, made from TensorFlow's, which evaluates the central 87.5 %."""
    return _weight(
        f'{name}.keras_r{size}_in1k',
        HALVES,
        'bilinear',
        (size, 0.875),
        None,
        {size: top1},
        address=f'https://storage.googleapis.com/tensorflow/keras-applications/{file}.h5',
        license='Apache-2.0',
        vocabulary='imagenet-1k',
        md5=md5,
    )


# Configurations and accuracies as timm 1.0.31 has them, the latter in its `results-imagenet.csv`.
TIMM = (
    _timm('mobilenetv1_100.ra4_e3600_r224_in1k', HALVES, (224, 0.875), (256, 0.95), top1=(75.388, 76.088)),
    _timm('mobilenetv1_100h.ra4_e3600_r224_in1k', HALVES, (224, 0.875), (256, 0.95), top1=(75.664, 76.598)),
    _timm('mobilenetv1_125.ra4_e3600_r224_in1k', HALVES, (224, 0.9), (256, 1.0), top1=(76.920, 77.612)),
    _timm('mobilenetv2_050.lamb_in1k', IMAGENET, (224, 0.875), top1=(65.928,)),
    _timm('mobilenetv2_100.ra_in1k', IMAGENET, (224, 0.875), top1=(72.910,)),
    _timm('mobilenetv2_110d.ra_in1k', IMAGENET, (224, 0.875), top1=(75.056,)),
    _timm('mobilenetv2_120d.ra_in1k', IMAGENET, (224, 0.875), top1=(77.300,)),
    _timm('mobilenetv2_140.ra_in1k', IMAGENET, (224, 0.875), top1=(76.528,)),
    _timm('mobilenetv3_large_100.miil_in21k', UNIT, (224, 0.875), interpolation='bilinear'),
    _timm('mobilenetv3_large_100.miil_in21k_ft_in1k', UNIT, (224, 0.875), top1=(77.920,), interpolation='bilinear'),
    _timm('mobilenetv3_large_100.ra4_e3600_r224_in1k', HALVES, (224, 0.95), (256, 1.0), top1=(76.310, 77.182)),
    _timm('mobilenetv3_large_100.ra_in1k', IMAGENET, (224, 0.875), top1=(75.784,)),
    _timm(
        'mobilenetv3_large_150d.ra4_e3600_r256_in1k',
        HALVES,
        (256, 0.95),
        (320, 1.0),
        top1=(80.994, 81.832),
        interpolation='bilinear',
    ),
    _timm('mobilenetv3_rw.rmsp_in1k', IMAGENET, (224, 0.875), top1=(75.616,)),
    _timm('mobilenetv3_small_050.lamb_in1k', IMAGENET, (224, 0.875), top1=(57.918,)),
    _timm('mobilenetv3_small_075.lamb_in1k', IMAGENET, (224, 0.875), top1=(65.284,)),
    _timm('mobilenetv3_small_100.lamb_in1k', IMAGENET, (224, 0.875), top1=(67.636,)),
    _timm('tf_mobilenetv3_large_075.in1k', HALVES, (224, 0.875), top1=(73.442,), interpolation='bilinear'),
    _timm('tf_mobilenetv3_large_100.in1k', HALVES, (224, 0.875), top1=(75.510,), interpolation='bilinear'),
    _timm('tf_mobilenetv3_large_minimal_100.in1k', HALVES, (224, 0.875), top1=(72.270,), interpolation='bilinear'),
    _timm('tf_mobilenetv3_small_075.in1k', HALVES, (224, 0.875), top1=(65.706,), interpolation='bilinear'),
    _timm('tf_mobilenetv3_small_100.in1k', HALVES, (224, 0.875), top1=(67.922,), interpolation='bilinear'),
    _timm('tf_mobilenetv3_small_minimal_100.in1k', HALVES, (224, 0.875), top1=(62.892,), interpolation='bilinear'),
    _timm('mobilenetv4_conv_aa_large.e230_r384_in12k', IMAGENET, (384, 0.95), (448, 1.0)),
    _timm(
        'mobilenetv4_conv_aa_large.e230_r384_in12k_ft_in1k',
        IMAGENET,
        (384, 0.95),
        (480, 1.0),
        top1=(84.314, 84.772),
    ),
    _timm(
        'mobilenetv4_conv_aa_large.e230_r448_in12k_ft_in1k',
        IMAGENET,
        (448, 0.95),
        (544, 1.0),
        top1=(84.668, 84.990),
    ),
    _timm('mobilenetv4_conv_aa_large.e600_r384_in1k', IMAGENET, (384, 0.95), (480, 1.0), top1=(83.264, 83.826)),
    _timm('mobilenetv4_conv_blur_medium.e500_r224_in1k', IMAGENET, (224, 0.95), (256, 1.0), top1=(79.446, 80.152)),
    _timm('mobilenetv4_conv_large.e500_r256_in1k', IMAGENET, (256, 0.95), (320, 1.0), top1=(81.864, 82.672)),
    _timm('mobilenetv4_conv_large.e600_r384_in1k', IMAGENET, (384, 0.95), (448, 1.0), top1=(82.974, 83.418)),
    _timm('mobilenetv4_conv_medium.e180_ad_r384_in12k', IMAGENET, (384, 1.0)),
    _timm('mobilenetv4_conv_medium.e180_r384_in12k', IMAGENET, (384, 1.0)),
    _timm('mobilenetv4_conv_medium.e250_r384_in12k', IMAGENET, (384, 1.0)),
    _timm('mobilenetv4_conv_medium.e250_r384_in12k_ft_in1k', IMAGENET, (384, 0.95), top1=(82.776,)),
    _timm('mobilenetv4_conv_medium.e500_r224_in1k', IMAGENET, (224, 0.95), (256, 1.0), top1=(79.092, 79.836)),
    _timm('mobilenetv4_conv_medium.e500_r256_in1k', IMAGENET, (256, 0.95), (320, 1.0), top1=(79.916, 80.890)),
    _timm('mobilenetv4_conv_small.e1200_r224_in1k', IMAGENET, (224, 0.875), (256, 0.95), top1=(73.450, 74.282)),
    _timm('mobilenetv4_conv_small.e2400_r224_in1k', IMAGENET, (224, 0.875), (256, 0.95), top1=(73.756, 74.644)),
    _timm('mobilenetv4_conv_small.e3600_r256_in1k', HALVES, (256, 0.95), (320, 1.0), top1=(74.534, 75.616)),
    _timm('mobilenetv4_conv_small_050.e3000_r224_in1k', HALVES, (224, 0.875), (256, 0.95), top1=(64.778, 65.826)),
    _timm('mobilenetv4_hybrid_large.e600_r384_in1k', IMAGENET, (384, 0.95), (448, 1.0), top1=(83.826, 84.264)),
    _timm('mobilenetv4_hybrid_large.ix_e600_r384_in1k', IMAGENET, (384, 0.95), (448, 1.0), top1=(83.996, 84.352)),
    _timm('mobilenetv4_hybrid_medium.e200_r256_in12k', IMAGENET, (256, 0.95), (320, 1.0)),
    _timm(
        'mobilenetv4_hybrid_medium.e200_r256_in12k_ft_in1k',
        IMAGENET,
        (256, 0.95),
        (320, 1.0),
        top1=(82.360, 82.998),
    ),
    _timm('mobilenetv4_hybrid_medium.e500_r224_in1k', IMAGENET, (224, 0.95), (256, 1.0), top1=(80.432, 81.284)),
    _timm('mobilenetv4_hybrid_medium.ix_e550_r256_in1k', IMAGENET, (256, 0.95), (320, 1.0), top1=(81.478, 82.500)),
    _timm('mobilenetv4_hybrid_medium.ix_e550_r384_in1k', IMAGENET, (384, 0.95), (448, 1.0), top1=(82.952, 83.390)),
    _timm('mobilenetv5_300m.gemma3n', UNIT, (768, 1.0), license='Gemma', classes=False),
    _timm('mobilenet_edgetpu_v2_m.ra4_e3600_r224_in1k', HALVES, (224, 0.9), (256, 0.95), top1=(80.116, 80.684)),
    _timm('mnasnet_100.rmsp_in1k', IMAGENET, (224, 0.875), top1=(74.672,)),
    _timm('mnasnet_small.lamb_in1k', IMAGENET, (224, 0.875), top1=(66.204,)),
    _timm('semnasnet_075.rmsp_in1k', IMAGENET, (224, 0.875), top1=(73.000,)),
    _timm('semnasnet_100.rmsp_in1k', IMAGENET, (224, 0.875), top1=(75.452,)),
)

# As the weight enumerations of torchvision 0.29 have them. A file's name ends in the first digits of its SHA-256.
TORCHVISION = (
    _torchvision(
        'mobilenetv2_100.tv_in1k',
        'mobilenet_v2-b0353104',
        256,
        71.878,
        size=14212972,
        sha256='b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889',
    ),
    _torchvision('mobilenetv2_100.tv2_in1k', 'mobilenet_v2-7ebf99e0', 232, 72.154),
    _torchvision('tv_mobilenetv3_large_100.tv_in1k', 'mobilenet_v3_large-8738ca79', 256, 74.042),
    _torchvision('tv_mobilenetv3_large_100.tv2_in1k', 'mobilenet_v3_large-5c1a4163', 232, 75.274),
    _torchvision('tv_mobilenetv3_small_100.tv_in1k', 'mobilenet_v3_small-047dcff4', 256, 67.668),
)

# Accuracies that TensorFlow's research/slim gives for the checkpoints that Keras's files were made from, by width and
# size. Of the two widest MobileNetV2 only 224 pixels were released.
KERAS_V1 = {
    '025': {128: 41.5, 160: 45.5, 192: 47.7, 224: 49.8},
    '050': {128: 56.3, 160: 59.1, 192: 61.7, 224: 63.3},
    '075': {128: 62.1, 160: 65.3, 192: 67.2, 224: 68.4},
    '100': {128: 65.2, 160: 68.0, 192: 70.0, 224: 70.9},
}
KERAS_V2 = {
    '035': {96: 45.5, 128: 50.8, 160: 55.7, 192: 58.2, 224: 60.3},
    '050': {96: 51.2, 128: 57.7, 160: 61.0, 192: 63.9, 224: 65.4},
    '075': {96: 58.8, 128: 63.2, 160: 66.4, 192: 68.7, 224: 69.8},
    '100': {96: 60.3, 128: 65.3, 160: 68.8, 192: 70.7, 224: 71.8},
    '130': {224: 74.4},
    '140': {224: 75.0},
}
# Our name, Keras's, the accuracy in Keras's documentation, the MD5 of the file.
KERAS_V3 = (
    ('large_075', 'large_224_0.75', 73.3, '765b44a33ad4005b3ac83185abf1d0eb'),
    ('large_100', 'large_224_1.0', 75.6, '59e551e166be033d707958cf9e29a6a7'),
    ('large_minimal_100', 'large_minimalistic_224_1.0', 72.3, '675e7b876c45c57e9e63e6d90a36599c'),
    ('small_075', 'small_224_0.75', 65.4, 'cb65d4e5be93758266aa0a7f2c6708b7'),
    ('small_100', 'small_224_1.0', 68.1, '8768d4c2e7dee89b9d02b2d03d65d862'),
    ('small_minimal_100', 'small_minimalistic_224_1.0', 61.9, '99cd97fb2fcdad2bf028eb838de69e37'),
)
_V2_FILE = 'mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels'
KERAS = (
    *(
        _keras(f'tf_mobilenetv1_{width}', size, f'mobilenet/mobilenet_{label}_{size}_tf', top1)
        for (width, sizes), label in zip(KERAS_V1.items(), ('2_5', '5_0', '7_5', '1_0'), strict=True)
        for size, top1 in sizes.items()
    ),
    *(
        _keras(f'tf_mobilenetv2_{width}', size, f'{_V2_FILE}_{int(width) / 100}_{size}', top1)
        for width, sizes in KERAS_V2.items()
        for size, top1 in sizes.items()
    ),
    *(
        _keras(f'tf_mobilenetv3_{ours}', 224, f'mobilenet_v3/weights_mobilenet_v3_{theirs}_float', top1, md5)
        for ours, theirs, top1, md5 in KERAS_V3
    ),
)

CATALOGUE: dict[str, Weight] = {
    weight.name: weight for weight in sorted((*TIMM, *TORCHVISION, *KERAS), key=lambda weight: weight.model)
}

# What a network's name alone stands for, where there are several: trained on ImageNet-1k alone, at the paper's size
# where the paper has the network.
DEFAULT_TAGS = {
    'mobilenetv2_100': 'ra_in1k',
    'mobilenetv3_large_100': 'ra_in1k',
    'mobilenetv4_conv_aa_large': 'e600_r384_in1k',
    'mobilenetv4_conv_large': 'e600_r384_in1k',
    'mobilenetv4_conv_medium': 'e500_r256_in1k',
    'mobilenetv4_conv_small': 'e2400_r224_in1k',
    'mobilenetv4_hybrid_large': 'ix_e600_r384_in1k',
    'mobilenetv4_hybrid_medium': 'ix_e550_r256_in1k',
    'tv_mobilenetv3_large_100': 'tv2_in1k',
    **{f'tf_mobilenetv1_{width}': 'keras_r224_in1k' for width in KERAS_V1},
    **{f'tf_mobilenetv2_{width}': 'keras_r224_in1k' for width in KERAS_V2},
    **{f'tf_mobilenetv3_{ours}': 'in1k' for ours, *_ in KERAS_V3},
}


def list_weights(pattern: str = '*') -> list[Weight]:
    """The published weights whose name, or whose network's name, matches a shell pattern, network by network."""
    return [
        weight
        for weight in CATALOGUE.values()
        if fnmatch.fnmatch(weight.name, pattern) or fnmatch.fnmatch(weight.model, pattern)
    ]


def find(name: str) -> Weight:
    """The published weight of that name; of a network's name, its weight of `DEFAULT_TAGS`, or its only one.

    Raises:
        ValueError: there is none, with the nearest names.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    if name in DEFAULT_TAGS:
        return CATALOGUE[f'{name}.{DEFAULT_TAGS[name]}']
    only = [weight for weight in CATALOGUE.values() if weight.model == name]
    if only:
        return only[0]
    networks = {weight.model for weight in CATALOGUE.values()}
    if name in REGISTRY:
        raise ValueError(f'{name} has no published weights. ' + unknown('weights', name, networks))
    raise ValueError(unknown('weights', name, CATALOGUE if '.' in name else networks))

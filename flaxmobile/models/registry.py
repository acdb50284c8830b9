"""Networks by name: timm's where timm has the network, its habit where it has not.

The prefix is the convention: none for torch, `tf_` for TensorFlow and Keras, `tv_` for torchvision's MobileNetV3.
"""

import dataclasses
from typing import Any, NamedTuple

from flaxmobile.layers import KERAS_V1, TENSORFLOW, TORCH, TORCHVISION_V3, Convention
from flaxmobile.messages import unknown
from flaxmobile.models.mnasnet import MnasNet, MnasNetSmall, SemNASNet
from flaxmobile.models.mobilenet_edgetpu import (
    MobileNetEdgeTPUV1,
    MobileNetEdgeTPUV2L,
    MobileNetEdgeTPUV2M,
    MobileNetEdgeTPUV2S,
    MobileNetEdgeTPUV2XS,
)
from flaxmobile.models.mobilenetv1 import MobileNetV1
from flaxmobile.models.mobilenetv2 import MobileNetV2
from flaxmobile.models.mobilenetv3 import MobileNetV3Large, MobileNetV3RW, MobileNetV3Small
from flaxmobile.models.mobilenetv4 import (
    MobileNetV4ConvLarge,
    MobileNetV4ConvMedium,
    MobileNetV4ConvSmall,
    MobileNetV4HybridLarge,
    MobileNetV4HybridMedium,
)
from flaxmobile.models.mobilenetv5 import MobileNetV5, MobileNetV5Encoder
from flaxmobile.models.network import MobileNet


class Entry(NamedTuple):
    """A registered network: its class, the fields that make it, and the size in pixels it is usually run at."""

    module: type[MobileNet]
    fields: dict[str, Any]
    image_size: int = 224


def _widths(prefix: str, module: type[MobileNet], convention: Convention, widths: str) -> dict[str, Entry]:
    return {
        f'{prefix}_{width}': Entry(module, {'width_multiplier': int(width) / 100, 'convention': convention})
        for width in widths.split()
    }


def _one(module: type[MobileNet], convention: Convention, image_size: int = 224, **fields: Any) -> Entry:
    return Entry(module, {'convention': convention, **fields}, image_size)


REGISTRY: dict[str, Entry] = {
    **_widths('mobilenetv1', MobileNetV1, TORCH, '025 050 075 100 125'),
    'mobilenetv1_100h': _one(MobileNetV1, TORCH, head_features=1024),
    **_widths('tf_mobilenetv1', MobileNetV1, KERAS_V1, '025 050 075 100'),
    **_widths('mobilenetv2', MobileNetV2, TORCH, '035 050 075 100 130 140'),
    'mobilenetv2_110d': _one(MobileNetV2, TORCH, width_multiplier=1.1, depth_multiplier=1.2, fix_stem_and_head=True),
    'mobilenetv2_120d': _one(MobileNetV2, TORCH, width_multiplier=1.2, depth_multiplier=1.4, fix_stem_and_head=True),
    **_widths('tf_mobilenetv2', MobileNetV2, TENSORFLOW, '035 050 075 100 130 140'),
    **_widths('mobilenetv3_large', MobileNetV3Large, TORCH, '035 050 075 100 125'),
    'mobilenetv3_large_150d': _one(MobileNetV3Large, TORCH, 256, width_multiplier=1.5, depth_multiplier=1.2),
    **_widths('mobilenetv3_small', MobileNetV3Small, TORCH, '035 050 075 100 125'),
    'mobilenetv3_large_minimal_100': _one(MobileNetV3Large, TORCH, minimalistic=True),
    'mobilenetv3_small_minimal_100': _one(MobileNetV3Small, TORCH, minimalistic=True),
    'mobilenetv3_rw': _one(MobileNetV3RW, dataclasses.replace(TORCH, epsilon=1e-3)),
    **_widths('tf_mobilenetv3_large', MobileNetV3Large, TENSORFLOW, '075 100'),
    **_widths('tf_mobilenetv3_small', MobileNetV3Small, TENSORFLOW, '075 100'),
    'tf_mobilenetv3_large_minimal_100': _one(MobileNetV3Large, TENSORFLOW, minimalistic=True),
    'tf_mobilenetv3_small_minimal_100': _one(MobileNetV3Small, TENSORFLOW, minimalistic=True),
    'tv_mobilenetv3_large_100': _one(MobileNetV3Large, TORCHVISION_V3),
    'tv_mobilenetv3_small_100': _one(MobileNetV3Small, TORCHVISION_V3),
    'mobilenetv4_conv_small_035': _one(MobileNetV4ConvSmall, TORCH, width_multiplier=0.35),
    'mobilenetv4_conv_small_050': _one(MobileNetV4ConvSmall, TORCH, width_multiplier=0.5),
    'mobilenetv4_conv_small': _one(MobileNetV4ConvSmall, TORCH),
    'mobilenetv4_conv_medium': _one(MobileNetV4ConvMedium, TORCH, 256),
    'mobilenetv4_conv_aa_medium': _one(MobileNetV4ConvMedium, TORCH, 256, anti_aliasing='average'),
    'mobilenetv4_conv_blur_medium': _one(MobileNetV4ConvMedium, TORCH, anti_aliasing='blur'),
    'mobilenetv4_conv_large': _one(MobileNetV4ConvLarge, TORCH, 384),
    'mobilenetv4_conv_aa_large': _one(MobileNetV4ConvLarge, TORCH, 448, anti_aliasing='average'),
    'mobilenetv4_hybrid_medium_075': _one(MobileNetV4HybridMedium, TORCH, width_multiplier=0.75),
    'mobilenetv4_hybrid_medium': _one(MobileNetV4HybridMedium, TORCH, 256),
    'mobilenetv4_hybrid_large_075': _one(MobileNetV4HybridLarge, TORCH, 256, width_multiplier=0.75),
    'mobilenetv4_hybrid_large': _one(MobileNetV4HybridLarge, TORCH, 384),
    'mobilenetv5_300m': _one(MobileNetV5, TORCH, 768, num_classes=0),
    'mobilenetv5_300m_enc': _one(MobileNetV5Encoder, dataclasses.replace(TORCH, padding='same'), 768),
    'mobilenet_edgetpu_100': _one(MobileNetEdgeTPUV1, TORCH),
    'mobilenet_edgetpu_v2_xs': _one(MobileNetEdgeTPUV2XS, TORCH),
    'mobilenet_edgetpu_v2_s': _one(MobileNetEdgeTPUV2S, TORCH),
    'mobilenet_edgetpu_v2_m': _one(MobileNetEdgeTPUV2M, TORCH),
    'mobilenet_edgetpu_v2_l': _one(MobileNetEdgeTPUV2L, TORCH),
    **_widths('mnasnet', MnasNet, TORCH, '050 075 100 140'),
    **_widths('semnasnet', SemNASNet, TORCH, '050 075 100 140'),
    'mnasnet_small': _one(MnasNetSmall, TORCH),
}


def entry(name: str) -> Entry:
    """The registered network of that name.

    Raises:
        ValueError: there is none, with the nearest names.
    """
    if not isinstance(name, str) or name not in REGISTRY:
        raise ValueError(unknown('model', str(name), REGISTRY))
    return REGISTRY[name]


def create_model(name: str, **overrides: Any) -> MobileNet:
    """The registered network of that name, with some of its fields overridden: `num_classes=10`, `stem_stride=1`.

    Raises:
        ValueError: no such name or field, with the nearest, or a value out of its range.
    """
    module, fields, _ = entry(name)
    allowed = {field.name for field in dataclasses.fields(module)} - {'parent', 'name'}
    for given in overrides:
        if given not in allowed:
            raise ValueError(unknown(f'field of {module.__name__}', given, allowed))
    return module(**{**fields, **overrides})

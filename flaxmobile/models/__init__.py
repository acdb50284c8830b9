"""The generations, each a Flax Linen module, the bases for networks of your own, and the published forms by name."""

from flaxmobile.models.mnasnet import MnasNet, MnasNetBase, MnasNetSmall, SemNASNet
from flaxmobile.models.mobilenet_edgetpu import (
    MobileNetEdgeTPU,
    MobileNetEdgeTPUV1,
    MobileNetEdgeTPUV2L,
    MobileNetEdgeTPUV2M,
    MobileNetEdgeTPUV2S,
    MobileNetEdgeTPUV2XS,
)
from flaxmobile.models.mobilenetv1 import MobileNetV1
from flaxmobile.models.mobilenetv2 import MobileNetV2
from flaxmobile.models.mobilenetv3 import MobileNetV3, MobileNetV3Large, MobileNetV3Small
from flaxmobile.models.mobilenetv4 import (
    MobileNetV4,
    MobileNetV4ConvLarge,
    MobileNetV4ConvMedium,
    MobileNetV4ConvSmall,
    MobileNetV4HybridLarge,
    MobileNetV4HybridMedium,
)
from flaxmobile.models.mobilenetv5 import MobileNetV5, MobileNetV5Encoder
from flaxmobile.models.network import ConvolutionHead, MobileNet
from flaxmobile.models.registry import create_model

__all__ = [
    'ConvolutionHead',
    'MnasNet',
    'MnasNetBase',
    'MnasNetSmall',
    'MobileNet',
    'MobileNetEdgeTPU',
    'MobileNetEdgeTPUV1',
    'MobileNetEdgeTPUV2L',
    'MobileNetEdgeTPUV2M',
    'MobileNetEdgeTPUV2S',
    'MobileNetEdgeTPUV2XS',
    'MobileNetV1',
    'MobileNetV2',
    'MobileNetV3',
    'MobileNetV3Large',
    'MobileNetV3Small',
    'MobileNetV4',
    'MobileNetV4ConvLarge',
    'MobileNetV4ConvMedium',
    'MobileNetV4ConvSmall',
    'MobileNetV4HybridLarge',
    'MobileNetV4HybridMedium',
    'MobileNetV5',
    'MobileNetV5Encoder',
    'SemNASNet',
    'create_model',
]

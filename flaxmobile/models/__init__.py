"""The generations, each a Flax Linen module, and the registry of their published forms."""

from flaxmobile.models.mobilenetv1 import MobileNetV1
from flaxmobile.models.mobilenetv2 import MobileNetV2
from flaxmobile.models.mobilenetv3 import MobileNetV3Large, MobileNetV3Small
from flaxmobile.models.registry import create_model, list_models

__all__ = ['MobileNetV1', 'MobileNetV2', 'MobileNetV3Large', 'MobileNetV3Small', 'create_model', 'list_models']

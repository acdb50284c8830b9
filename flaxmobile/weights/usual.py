"""What is usual for a network, where a file says neither how images are prepared nor what its classes are."""

from flaxmobile.data import Preprocessing
from flaxmobile.layers import get_convention
from flaxmobile.models.registry import create_model, entry
from flaxmobile.weights.catalogue import CATALOGUE, find
from flaxmobile.weights.class_names import VOCABULARIES, vocabulary

TORCHVISIONS = 'tv2_in1k'
"""The tag of torchvision's default weights."""


def usual_preprocessing(name: str, channels: int, layout: str = '') -> Preprocessing:
    """That of the network's published weights, of torchvision's where the tensors have its names, or its origin's."""
    torchvision = layout == 'torchvision'
    if channels == 3 and torchvision and f'{name}.{TORCHVISIONS}' in CATALOGUE:
        return find(f'{name}.{TORCHVISIONS}').preprocessing()
    published = name.removesuffix('_enc')  # An encoder has the weights of the whole network.
    if channels == 3 and not torchvision and any(weight.model == published for weight in CATALOGUE.values()):
        return find(published).preprocessing()
    image_size = entry(name).image_size
    if channels == 3 and get_convention(create_model(name).convention).padding == 'symmetric':
        return Preprocessing(image_size, interpolation='bilinear' if torchvision else 'bicubic')
    half = (0.5,) * channels
    return Preprocessing(image_size, channels, half, half)


def usual_labels(count: int) -> tuple[str, ...] | None:
    """The names of the vocabulary of that length; None where there is none."""
    for name, length in VOCABULARIES.items():
        if length == count:
            return vocabulary(name).names
    return None

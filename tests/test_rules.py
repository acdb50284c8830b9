"""Every public field of networks, layers, preprocessing and configuration is held to a type and a range."""

import dataclasses
import gc
import inspect
import json
import math
import weakref
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmobile import layers, models
from flaxmobile.data.batches import BatchFormat
from flaxmobile.data.preprocessing import Augmentation, Preprocessing
from flaxmobile.export import Int8
from flaxmobile.layers.attention import Attention, Projection
from flaxmobile.layers.normalization import BatchNorm, RMSNorm
from flaxmobile.quantization.training import QuantizationAware
from flaxmobile.rules import checker, checks
from flaxmobile.tasks.classification import Classification
from flaxmobile.tasks.mixing import Mixing
from flaxmobile.training.config import TrainConfig

NAN, INF = math.nan, math.inf
NO_COUNT = (0, -1, 2.5, 8.0, '8', True, NAN, (1, 1))
NO_SHARE = (-0.1, 1.1, '0.5', True, NAN, INF, (0.5,))
NO_RATE = (-0.1, 1, 1.0, '0.5', True, NAN)
NOT_POSITIVE = (0, -0.5, '0.5', None, True, NAN, INF)
NEGATIVE = (-1, '1', True, NAN, INF)
NO_BOOL = (0, 1, 'yes', None)
NO_NAME = ('no such name', 3, ('relu',), b'relu')
NO_TEXT = (3, None, b'x', ('x',))


def each(names: str, values: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    return dict.fromkeys(names.split(), values)


WRONG: dict[str, tuple[Any, ...]] = {
    **each(
        'strides dilation groups squeeze_divisor heads key_features key_strides '
        'batch_size distance accumulation_steps max_skipped_updates log_every keep_checkpoints '
        'randaugment_layers repeated_augmentation most_boxes',
        (*NO_COUNT, None),
    ),
    **each('features squeeze_features head_features size', NO_COUNT),
    'depth_multiplier': (0, -1, '8', True, NAN, None, 1e5 + 0.5),
    'kernel_size': (-1, 2.5, '3', True, None, (3, 3)),
    'start_kernel_size': (-1, 2.5, '3', True, None),
    'group_size': (-1, 2.5, '3', True, None),
    'num_classes': (-1, 2.5, '10', True, None),
    'stem_stride': (0, 3, 2.0, '2', True),
    'output_stride': (4, 64, 32.0, '32', None),
    **each(
        'dropout_rate stochastic_depth_rate rate momentum rmsprop_decay label_smoothing ema_decay',
        NO_RATE,
    ),
    **each('random_erasing color_jitter max_unreadable distillation_weight', NO_SHARE),
    **each(
        'width_multiplier expansion_ratio reduction_ratio squeeze_reduction epochs learning_rate '
        'decay_epochs evaluate_every distillation_temperature',
        NOT_POSITIVE,
    ),
    **each('epsilon checkpoint_every clip_gradient_norm', (0, -0.5, '0.5', True, NAN, INF)),
    **each('mixup_alpha cutmix_alpha weight_decay warmup_epochs', (*NEGATIVE, None)),
    **each('initial layer_scale', NEGATIVE),
    'randaugment_magnitude': (-1, 11, '9', True, NAN, None),
    'randaugment_magnitude_std': (-1, '0.5', True, NAN, None),
    'decay_rate': (0, 1.5, '0.9', NAN, None),
    'layer_decay': (0, 1.5, '0.9', NAN, True),
    'image_size': (0, -224, 224.5, 224.0, '224', True, None, 10**6),
    'train_image_size': (0, 224.5, '224', True, 10**6),
    'channels': (0, 2, 4, 3.0, '3', True, None),
    'crop_fraction': (0, 1e-9, 1.1, '0.9', NAN, True, None),
    'mean': (0.5, '0.5', ('0.5',) * 3, (NAN,) * 3, (INF,) * 3, (True,) * 3, None),
    'std': (0.5, ('0.5',) * 3, (0.0,) * 3, (-1.0,) * 3, (NAN,) * 3, None),
    'crop_scale': ((0.1,), (0, 1), (0.1, 1.5), ('0.1', 1), (0.1, NAN), 0.5, None),
    'crop_ratio': ((1,), (0, 1), (0.5, INF), ('1', 2), (0.5, NAN), 1.0, None),
    'preprocessing': (None, 224, {'image_size': 224}, Augmentation()),
    'augmentation': (None, 'randaugment', Preprocessing()),
    'quantization': (None, True, Preprocessing()),
    'calibration': (None, 'photos', [[0, 1]], 3),
    'observer': NO_NAME,
    'calibration_images': (15, 100.0, '100', True, None),
    'targets': ('boxes', ('box',), (3,), None),
    'milestones': (1.0, ('1',), (-1.0,), (NAN,), None),
    'seed': (-1, 0.5, '0', True, None, 2**63),
    'workers': (-1, 0.5, '0', True, None, 10**6),
    **each(
        'use_bias squeeze_excite residual use_running_average dilate_strided flip randaugment_increasing '
        'download decay_depthwise decay_norms linear_probe minimalistic ignore_convention init_ema '
        'fix_stem_and_head remat qat int8_io',
        NO_BOOL,
    ),
    **each(
        'activation gate squeeze_gate kind padding initialization interpolation optimizer schedule',
        (*NO_NAME, None),
    ),
    **each('squeeze_activation anti_aliasing auto_augment train_interpolation', NO_NAME),
    'norm': ('layer', 3, True, ('batch',)),
    'convention': ('pytorch', 3, layers.Conv, ('torch',)),
    'dtype': ('x', 'int8', np.int32, jnp.uint8, 3),
    'param_dtype': ('x', 'int8', np.int32, None, 3),
    'kernel_init': ('zeros', 3),
    'batch_norm_axis_name': (3, ('data',), b'data'),
    'axis_name': (3, ('data',), b'data'),
    'freeze': ('stem', ['stem', 3], (3,), None),
    **each('model dataset train_split validation_split test_split', NO_TEXT),
    'classes': ('cat', ['cat', 3], (3,), (), None),
    **each('mixing distillation', ('mixup', 0.5, (0.1, 0.2))),
    'positions': (1, (0.5,), ('cat',)),
    **each('init data_dir teacher', (3, b'x', ('x',))),
}
NEEDED = {'features': 8, 'heads': 2, 'key_features': 8, 'use_running_average': True, 'rate': 0.1}
NEEDED |= {'classes': ('cat', 'dog'), 'preprocessing': Preprocessing()}
NEEDED |= {'calibration': np.zeros((16, 8, 8, 3), np.uint8)}
NEEDED |= {'model': 'mobilenetv2_100', 'dataset': 'cifar10'}


def classes() -> list[type]:
    exported = [getattr(part, name) for part in (layers, models) for name in part.__all__]
    public = [
        kind for kind in exported if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind is not nn.Dropout
    ]
    return [
        *public,
        BatchNorm,
        RMSNorm,
        Attention,
        Projection,
        layers.Convention,
        Preprocessing,
        Augmentation,
        BatchFormat,
        Mixing,
        QuantizationAware,
        Int8,
        Classification,
        TrainConfig,
    ]


def fields(owner: type) -> list[str]:
    return [field.name for field in dataclasses.fields(owner) if field.name not in ('parent', 'name')]


def build(owner: type, **given: Any) -> Any:
    return owner(**{name: value for name, value in NEEDED.items() if name in fields(owner)} | given)


@pytest.mark.parametrize('owner', classes(), ids=lambda owner: owner.__name__)
def test_every_field_refuses_what_it_cannot_be(owner: type) -> None:
    title = 'config' if owner is TrainConfig else owner.__name__
    assert set(checks(owner)) == set(fields(owner))
    for name in fields(owner):
        for value in WRONG[name]:
            with pytest.raises(ValueError, match=rf'^{title}: ({name} must be|unknown {name} )') as refused:
                build(owner, **{name: value})
            assert '\n' not in str(refused.value)
            assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    'owner', [layers.Conv, layers.DepthwiseSeparable, layers.InvertedResidual, layers.FusedInvertedBottleneck]
)
def test_a_kernel_has_a_size_where_it_cannot_be_left_out(owner: type) -> None:
    with pytest.raises(ValueError, match=r'kernel_size must be a whole number, 1 or more, not 0'):
        build(owner, kernel_size=0)
    assert layers.UniversalInvertedBottleneck(features=8, kernel_size=0).kernel_size == 0


def test_depthwise_features_per_channel_are_a_whole_number() -> None:
    with pytest.raises(ValueError, match=r'^DepthwiseSeparable: depth_multiplier must be a whole number, 1 or more'):
        layers.DepthwiseSeparable(features=8, depth_multiplier=1.5)


@pytest.mark.parametrize('shape', [(1, 3, 64, 48), (2, 1, 32, 32)])
def test_images_with_their_channels_first_are_refused(shape: tuple[int, ...]) -> None:
    model = models.MobileNetV2(width_multiplier=0.35)
    with pytest.raises(ValueError, match=r'NHWC.*channels first.*transpose\(0, 2, 3, 1\)'):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ('owner', 'given'),
    [
        (models.MobileNetV2, {'width_multiplier': np.float32(0.35), 'num_classes': np.int64(0), 'dtype': 'bfloat16'}),
        (models.MobileNetV2, {'width_multiplier': 2, 'output_stride': 8, 'dropout_rate': 0, 'convention': 'torch'}),
        (models.MobileNetV2, {'dtype': jnp.float16, 'param_dtype': np.dtype('float64'), 'batch_norm_axis_name': 'i'}),
        (layers.Conv, {'features': None, 'kernel_init': nn.initializers.zeros, 'strides': np.int32(2)}),
        (layers.InvertedResidual, {'squeeze_activation': None, 'expansion_ratio': 1}),
        (Preprocessing, {'mean': [0.5] * 3, 'std': [1, 1, 1], 'crop_fraction': 1}),
        (Preprocessing, {'mean': np.array([0.5, 0.5, 0.5])}),
        (Preprocessing, {'channels': 1, 'mean': (0,), 'std': (1,), 'image_size': 1}),
        (Augmentation, {'randaugment_magnitude_std': INF, 'crop_scale': [1, 1], 'color_jitter': 0}),
        (TrainConfig, {'milestones': [0, 2.5], 'ema_decay': None, 'seed': 2**63 - 1, 'freeze': ['stem']}),
    ],
)
def test_what_is_allowed_stays_allowed(owner: type, given: dict[str, Any]) -> None:
    built = build(owner, **given)
    for name, value in given.items():
        assert getattr(built, name) == (tuple(value) if isinstance(value, list | np.ndarray) else value)


@pytest.mark.parametrize(
    ('owner', 'given'),
    [
        (Preprocessing, {'image_size': np.int64(64), 'mean': np.full(3, 0.5), 'std': tuple(np.ones(3, np.float32))}),
        (Augmentation, {'crop_scale': (np.float32(0.5), 1), 'flip': np.bool_(False), 'color_jitter': jnp.float32(0.5)}),
        (TrainConfig, {'batch_size': np.int64(8), 'learning_rate': np.array(0.5), 'milestones': np.array([1.0, 2.0])}),
        (Mixing, {'mixup_alpha': np.float32(0.5)}),
    ],
)
def test_what_numpy_gives_becomes_what_a_file_can_say(owner: type, given: dict[str, Any]) -> None:
    built = build(owner, **given)
    assert json.dumps(dataclasses.asdict(built))
    for name, value in given.items():
        np.testing.assert_array_equal(getattr(built, name), value)


def test_a_field_of_a_user_s_own_is_left_alone() -> None:
    class Mine(models.MobileNetV2):
        extra: 'Any' = 3
        sides: Sequence[int] = (1, 2)

    assert Mine(extra=None, sides=[3]).extra is None
    with pytest.raises(ValueError, match=r'^Mine: num_classes must be'):
        Mine(num_classes=-1)


def test_the_rules_of_a_class_go_with_it() -> None:
    kept = weakref.ref(nn.remat(layers.InvertedResidual))
    layers.InvertedResidual(features=8)
    gc.collect()
    assert kept() is None


def test_the_nearest_names_are_shown() -> None:
    with pytest.raises(ValueError, match=r"^ConvNorm: unknown activation 'relu7'\. Did you mean: relu, relu6"):
        layers.ConvNorm(activation='relu7')


def test_an_annotation_without_a_rule_is_an_error_of_ours() -> None:
    with pytest.raises(TypeError, match='there is no rule'):
        checker(Any)

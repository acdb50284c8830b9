import dataclasses
import inspect
import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from flaxmobile.cli import main
from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.quantization.training import QuantizationAware
from flaxmobile.tasks.mixing import Mixing
from flaxmobile.training.config import TrainConfig, list_configs, load_config

ROOT = Path(__file__).parents[2]

# Names and classes as the README and the papers have them, with the parameters of the network from the papers' own code
# (Keras, torchvision and timm count the same).
EXPECTED = {
    'cifar10': (10, None),
    'fashion_mnist': (10, None),
    'fashion_mnist_mini': (10, None),
    'image_folder': (5, None),
    'imagenet_mobilenetv1': (1000, 4_231_976),
    'imagenet_mobilenetv1_timm': (1000, 4_231_976),
    'imagenet_mobilenetv2': (1000, 3_504_872),
    'imagenet_mobilenetv2_timm': (1000, 3_504_872),
    'imagenet_mobilenetv2_torchvision': (1000, 3_504_872),
    'imagenet_mobilenetv2_torchvision_v2': (1000, 3_504_872),
    'imagenet_mobilenetv3_large': (1000, 5_483_032),
    'imagenet_mobilenetv3_large_timm': (1000, 5_483_032),
    'imagenet_mobilenetv3_large_torchvision': (1000, 5_483_032),
    'imagenet_mobilenetv3_small': (1000, 2_542_856),
    'imagenet_mobilenetv3_small_timm': (1000, 2_542_856),
    'imagenet_mobilenetv3_small_torchvision': (1000, 2_542_856),
    'imagenet_mobilenetv4_conv_large': (1000, 32_590_864),
    'imagenet_mobilenetv4_conv_medium': (1000, 9_715_512),
    'imagenet_mobilenetv4_conv_small': (1000, 3_774_024),
    'imagenet_mobilenetv4_conv_small_distilled': (1000, 3_774_024),
    'imagenet_mobilenetv4_conv_small_timm': (1000, 3_774_024),
    'imagenet_mobilenetv4_hybrid_medium': (1000, 11_074_648),
}


def small(**changes: object) -> TrainConfig:
    return TrainConfig(model='mobilenetv1_025', dataset='cifar10').with_options(**changes)


def test_every_config_is_expected():
    assert list_configs() == sorted(EXPECTED)


@pytest.mark.parametrize('name', sorted(EXPECTED))
def test_every_config_builds_its_model(name: str):
    config, (num_classes, _) = load_config(name), EXPECTED[name]
    model = config.build_model(num_classes)
    assert (model.num_classes, model.plan.blocks != ()) == (num_classes, True)


# One of each generation's; the counts of every network are in tests/models/reference_counts.json.
TRACED = (
    *('cifar10', 'fashion_mnist', 'image_folder', 'imagenet_mobilenetv1', 'imagenet_mobilenetv2'),
    *('imagenet_mobilenetv3_small', 'imagenet_mobilenetv4_conv_small_distilled'),
)


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in TRACED else pytest.mark.thorough) for name in sorted(EXPECTED)]
)
def test_the_model_of_a_config_answers_its_classes_with_the_paper_s_parameters(name: str):
    config, (num_classes, parameters) = load_config(name), EXPECTED[name]
    model = config.build_model(num_classes)
    side = config.preprocessing.image_size
    images = jnp.zeros((2, side, side, config.preprocessing.channels))
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert logits.shape == (2, num_classes)
    if parameters is not None:
        assert sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) == parameters


@pytest.mark.parametrize('name', sorted(EXPECTED))
def test_every_config_says_what_to_expect(name: str):
    docstring = runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['__doc__']
    for word in (f'flaxmobile train {name}', 'Hardware:', 'Time:', 'Expected top-1:'):
        assert word in docstring


def test_papers_recipes():
    """Section 6.1 of the MobileNetV2 paper, for 8 GPUs in step, and section 6.1 of the MobileNetV3 paper."""
    v2, v3 = load_config('imagenet_mobilenetv2'), load_config('imagenet_mobilenetv3_large')
    assert (v2.learning_rate, v2.batch_size, v2.weight_decay) == (8 * 0.045, 8 * 96, 4e-5)
    assert (v3.learning_rate, v3.batch_size, v3.weight_decay) == (0.1, 4096, 1e-5)
    assert (v3.decay_rate, v3.decay_epochs, v3.ema_decay, v3.dropout_rate) == (0.99, 3, 0.9999, 0.2)
    for config in (v2, v3):
        assert (config.optimizer, config.schedule, config.momentum) == ('rmsprop', 'exponential', 0.9)
        assert config.preprocessing.mean == config.preprocessing.std == (0.5, 0.5, 0.5)


def test_a_path_is_a_config_too(tmp_path: Path):
    path = tmp_path / 'mine.py'
    path.write_text(
        'from flaxmobile.training.config import TrainConfig\n'
        "config = TrainConfig(model='mobilenetv2_035', dataset='photos', batch_size=7)\n"
    )
    assert load_config(path) == load_config(str(path)) == small(model='mobilenetv2_035', dataset='photos', batch_size=7)
    assert [file.name for file in tmp_path.iterdir()] == ['mine.py']


def test_configs_that_are_not_there(tmp_path: Path):
    with pytest.raises(ValueError, match=r"config 'fashion_mnist_mimi'.*fashion_mnist_mini"):
        load_config('fashion_mnist_mimi')
    with pytest.raises(ValueError, match=r'no config file .*absent\.py'):
        load_config(tmp_path / 'absent.py')
    (tmp_path / 'empty.py').write_text('')
    with pytest.raises(ValueError, match=r'empty\.py must define `config'):
        load_config(tmp_path / 'empty.py')


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(['train', 'fashion_mnist_mini', '--help'])
    told = capsys.readouterr().out
    for name in small().options():
        assert f'--{name.replace("_", "-")}' in told
    assert 'Share of the target spread evenly over all classes.' in ' '.join(told.replace('│', ' ').split())


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'batch_size': 2.5}, 'batch_size must be a whole number, 1 or more, not 2.5'),
        ({'batch_size': '64'}, "batch_size must be a whole number, 1 or more, not '64'"),
        ({'batch_size': None}, 'batch_size must be a whole number, 1 or more, not None'),
        ({'epochs': 0}, 'epochs must be a number above 0, not 0'),
        ({'epochs': float('nan')}, 'epochs must be a number above 0, not nan'),
        ({'learning_rate': -0.1}, 'learning_rate must be a number above 0'),
        ({'weight_decay': -1e-4}, 'weight_decay must be a number, 0 or more'),
        ({'label_smoothing': 1.0}, 'label_smoothing must be a number from 0 to below 1, not 1.0'),
        ({'ema_decay': 1.5}, 'ema_decay must be'),
        ({'decay_rate': 0.0}, 'decay_rate must be a number above 0, at most 1'),
        ({'optimizer': 'rmspop'}, "unknown optimizer 'rmspop'. Did you mean: rmsprop"),
        ({'schedule': 'cosin'}, "unknown schedule 'cosin'. Did you mean: cosine"),
        ({'dtype': 'float16'}, "unknown dtype 'float16'. Did you mean: .*bfloat16"),
        ({'warmup_epochs': 5, 'epochs': 4}, r'warmup_epochs \(5\) must be less than epochs \(4\)'),
        ({'schedule': 'step'}, 'needs milestones'),
        ({'channels': 1}, 'mean has 3 numbers for 1 channels'),
        ({'crop_scale': (0.5, 1.2)}, 'crop_scale'),
        ({'auto_augment': 'autoagument'}, "unknown auto_augment 'autoagument'. Did you mean: autoaugment"),
        ({'randaugment_magnitude': 31}, 'randaugment_magnitude must be a number from 0 to 10, not 31'),
        ({'mixup_alpha': -1}, 'mixup_alpha must be a number, 0 or more'),
        ({'cutmix_alpha': float('inf')}, 'cutmix_alpha must be a number, 0 or more'),
        (
            {'batch_size': 6, 'repeated_augmentation': 4},
            r'batch_size \(6\) must be a multiple of repeated_aug',
        ),
    ],
)
def test_values_that_are_not_allowed(changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_augmentation_and_mixing_get_what_is_configured():
    changes = {
        'crop_scale': (0.3, 0.9),
        'crop_ratio': (0.5, 2.0),
        'flip': False,
        'auto_augment': 'randaugment',
        'randaugment_magnitude': 7.5,
        'randaugment_layers': 3,
        'randaugment_magnitude_std': float('inf'),
        'randaugment_increasing': True,
        'color_jitter': 0.4,
        'random_erasing': 0.2,
        'repeated_augmentation': 4,
        'train_interpolation': 'random',
        'train_image_size': 176,
    }
    config = small(**changes, mixup_alpha=0.2, cutmix_alpha=1.0)
    assert dataclasses.asdict(config.augmentation) == changes
    assert config.augmentation.training_size(config.preprocessing) == 176
    assert small(image_size=28).augmentation.training_size(small(image_size=28).preprocessing) == 28
    assert config.mixing == Mixing(0.2, 1.0, distance=4)
    assert not small().mixing


def test_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match=r"'mobilenetv2_10'.*mobilenetv2_100"):
        small(model='mobilenetv2_10').build_model(10)


def test_the_model_computes_in_the_dtype_and_stores_float32():
    config = small(dtype='bfloat16', stem_stride=1, dropout_rate=0.5, convention='tensorflow')
    model, images = config.build_model(7), jnp.zeros((1, 32, 32, 3))
    assert config.model_overrides == {'stem_stride': 1, 'dropout_rate': 0.5, 'convention': 'tensorflow'}
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    assert jax.eval_shape(model.apply, variables, images).dtype == jnp.bfloat16


def test_total_steps():
    assert small(epochs=2.5).total_steps(10) == 25
    assert small(epochs=0.01).total_steps(10) == 1


def test_options_and_nested_fields_say_the_same():
    preprocessing = Preprocessing(image_size=28, channels=1, mean=(0.3,), std=(0.2,))
    nested = TrainConfig(
        model='mobilenetv1_025',
        dataset='cifar10',
        preprocessing=preprocessing,
        augmentation=Augmentation(flip=False),
        epochs=3,
    )
    flat = {'image_size': 28, 'channels': 1, 'mean': (0.3,), 'std': (0.2,), 'flip': False, 'epochs': 3}
    assert small(**flat) == nested
    assert {name: nested.options()[name] for name in flat} == flat
    assert TrainConfig.from_options(nested.options()) == nested
    parts = (preprocessing, Augmentation, QuantizationAware)
    assert len(nested.options()) == sum(len(dataclasses.fields(part)) for part in (*parts, nested)) - len(parts)


def test_a_mistyped_field_names_the_nearest():
    with pytest.raises(TypeError, match=r"^unknown field of TrainConfig 'imagesize'\. Did you mean: image_size"):
        small().with_options(imagesize=32)
    with pytest.raises(TypeError, match=r"^unknown field of TrainConfig 'learnig_rate'\. Did you mean: learning_rate"):
        TrainConfig(model='mobilenetv2_035', dataset='cifar10', learnig_rate=0.1)  # type: ignore[call-arg]


def test_the_default_is_tensorflow_s_normalisation_and_that_of_images_is_imagenet_s():
    assert small().preprocessing.mean == small().preprocessing.std == (0.5, 0.5, 0.5)
    assert Preprocessing().mean == (0.485, 0.456, 0.406)


def test_a_field_of_a_part_says_where_it_is(tmp_path: Path):
    """What the message says to write means what the flat field meant, mean and std too."""
    path = tmp_path / 'flat.py'
    path.write_text(
        'from flaxmobile.training.config import TrainConfig\n'
        "config = TrainConfig(model='mobilenetv2_035', dataset='photos', image_size=64, crop_fraction=1.0)\n"
    )
    nested = 'preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), image_size=64, crop_fraction=1.0)'
    there = re.escape(f'image_size and crop_fraction are fields of TrainConfig.preprocessing. Write {nested} in a new')
    with pytest.raises(ValueError, match=rf'flat\.py .*: {there}'):
        load_config(path)
    there, changed = re.escape('flip is a field of TrainConfig.augmentation. '), re.escape('with_options(flip=False)')
    with pytest.raises(TypeError, match=rf'^{there}Write augmentation=Augmentation\(flip=False\) .*config\.{changed}'):
        dataclasses.replace(small(), flip=False)  # type: ignore[call-arg]
    assert list(inspect.signature(TrainConfig).parameters) == [field.name for field in dataclasses.fields(TrainConfig)]

"""What a run starts from, and what of it is trained."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from tiny_run import CLASSES, TinyNet

from flaxmobile import cli, weights
from flaxmobile.cli.training import train_command
from flaxmobile.data import Preprocessing
from flaxmobile.models import create_model
from flaxmobile.runs.folder import changed_fields, load_run
from flaxmobile.runs.start import FOLLOWED, follow, load_init
from flaxmobile.runs.training import class_columns, train
from flaxmobile.tasks.classification import Classification
from flaxmobile.training.config import TrainConfig, load_config
from flaxmobile.training.finetuning import start_from
from flaxmobile.training.metrics import read_metrics
from flaxmobile.training.state import TrainState, create_state
from flaxmobile.weights import Model

NETWORK = 'mobilenetv1_025'
SCALED = Preprocessing(image_size=96, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop_fraction=0.9)


def tiny_state(ema_decay: float | None = 0.9) -> TrainState:
    return create_state(TinyNet(4), optax.sgd(0.1), jax.random.key(1), (1, 8, 8, 1), ema_decay)


def tiny_weights(classes: tuple[str, ...], width: int = 8) -> Model:
    model = TinyNet(len(classes), width)
    variables = jax.jit(model.init)(jax.random.key(7), jnp.zeros((1, 8, 8, 1)))
    return Model(model, variables, TrainConfig(model='a', dataset='b').preprocessing, classes)


def started_from(state: TrainState, loaded: Model) -> TrainState:
    columns = class_columns(loaded.labels, CLASSES)
    return start_from(state, loaded.variables, columns, Classification.label_layers)


def random_model(num_classes: int = 3) -> Model:
    model = create_model(NETWORK, num_classes=num_classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype), shapes)
    return Model(model, variables, SCALED, ('cat', 'dog', 'owl')[:num_classes], name=NETWORK)


def test_all_but_the_classifier_is_taken() -> None:
    state, loaded = tiny_state(), tiny_weights(('left', 'right', 'north', 'south'))
    started = started_from(state, loaded)
    chex.assert_trees_all_equal(started.params['stem'], loaded.variables['params']['stem'])
    chex.assert_trees_all_equal(started.model_state, {'batch_stats': loaded.variables['batch_stats']})
    assert not np.any(started.params['classifier']['kernel'])
    assert not np.any(started.params['classifier']['bias'])
    chex.assert_trees_all_equal(started.ema, started.variables)
    kernels = started.params['stem']['kernel'], started.ema['params']['stem']['kernel']
    assert kernels[0].unsafe_buffer_pointer() != kernels[1].unsafe_buffer_pointer()


@pytest.mark.parametrize('known', [CLASSES, ('top', 'far', 'bottom', 'right', 'left')])
def test_the_classifier_is_taken_by_the_names_of_its_classes(known: tuple[str, ...]) -> None:
    loaded = tiny_weights(known)
    started = started_from(tiny_state(), loaded).params['classifier']
    for number, name in enumerate(CLASSES):
        theirs = loaded.variables['params']['classifier']
        np.testing.assert_array_equal(started['kernel'][:, number], theirs['kernel'][:, known.index(name)])
        np.testing.assert_array_equal(started['bias'][number], theirs['bias'][known.index(name)])


def test_another_network_is_refused() -> None:
    message = r'another network: \d variables differ, first batch_stats/norm/mean \(8, and 9 in the weights\)'
    with pytest.raises(ValueError, match=message):
        started_from(tiny_state(None), tiny_weights(CLASSES, 9))


def test_a_config_follows_a_run(finished_run: Path) -> None:
    ours = load_config('image_folder')
    followed = follow(ours, str(finished_run))
    # Of the run in tests/tiny_run.py.
    assert followed.model == 'tiny'
    assert followed.preprocessing == Preprocessing(8, 1, (0.3,), (0.2,), 1.0)
    assert changed_fields(ours, followed).keys() <= set(FOLLOWED)


def test_a_config_follows_published_weights() -> None:
    ours = dataclasses.replace(load_config('image_folder'), stem_stride=1)
    followed = follow(ours, 'mobilenetv2_100.tv_in1k')
    # torchvision's: 224 pixels of an image resized to 256, bilinear, and ImageNet's mean and standard deviation.
    assert (followed.model, followed.stem_stride) == ('mobilenetv2_100', None)
    expected = Preprocessing(224, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224 / 256, 'bilinear')
    assert followed.preprocessing == expected
    assert follow(ours, 'mobilenetv3_small_100').model == 'mobilenetv3_small_100'
    with pytest.raises(ValueError, match=r'no run, no file and no published weights: .*mobilenetv3_small_100'):
        follow(ours, 'mobilenetv3_smal_100')
    with pytest.raises(FileNotFoundError, match=r'no run and no file birds\.pth'):
        follow(ours, 'birds.pth')


def test_our_own_file_says_all(tmp_path: Path) -> None:
    path, loaded = tmp_path / 'birds.safetensors', random_model()
    loaded = dataclasses.replace(loaded, module=loaded.module.clone(stem_stride=1), overrides={'stem_stride': 1})
    loaded.save(path)
    followed = follow(load_config('image_folder'), str(path))
    assert (followed.model, followed.stem_stride, followed.preprocessing) == (NETWORK, 1, SCALED)
    again = load_init(str(path), load_config('image_folder').start_plan)
    assert again.labels == loaded.labels
    chex.assert_trees_all_equal(again.variables, loaded.variables)


def test_another_format_is_read_as_the_configs_model(tmp_path: Path) -> None:
    path, loaded, config = tmp_path / 'birds.npz', random_model(), load_config('image_folder')
    np.savez(path, **weights.to_torch(loaded.variables, loaded.module))
    ours, others = (dataclasses.replace(config, model=network) for network in (NETWORK, f'tf_{NETWORK}'))
    followed = follow(dataclasses.replace(ours, stem_stride=1), str(path))
    assert (followed.model, followed.preprocessing.mean[0], followed.stem_stride) == (NETWORK, 0.485, 1)
    with pytest.raises(ValueError, match=r"birds\.npz: these are weights of timm, .*build it with convention='torch'"):
        follow(others, str(path))
    followed = follow(dataclasses.replace(others, ignore_convention=True), str(path))
    assert (followed.model, followed.preprocessing.mean[0]) == (f'tf_{NETWORK}', 0.5)
    followed = follow(dataclasses.replace(others, convention='torch'), str(path))
    assert (followed.model, followed.convention) == (f'tf_{NETWORK}', 'torch')
    read = load_init(str(path), ours.start_plan)
    chex.assert_trees_all_equal(read.variables, loaded.variables)
    assert read.labels is None  # Three, whose names the file does not have.
    wider = dataclasses.replace(config, model='mobilenetv1_050')
    with pytest.raises(ValueError, match=r'birds\.npz: .*misshapen.*conv_stem\.weight is \(8, 3, 3, 3\)'):
        load_init(str(path), wider.start_plan)


def test_a_run_starts_from_weights_of_its_own_convention(tmp_path: Path) -> None:
    path = tmp_path / 'birds.safetensors'
    random_model().save(path)
    config = dataclasses.replace(load_config('image_folder'), model=NETWORK)
    assert load_init(str(path), config.start_plan, config.build_model(2)).labels == ('cat', 'dog', 'owl')
    for change in ({'model': f'tf_{NETWORK}'}, {'convention': 'tensorflow'}):
        other = dataclasses.replace(config, **change)
        with pytest.raises(ValueError, match=r"init: .*mobilenetv1_025 \(.*birds\.safetensors\).*convention='torch'"):
            load_init(str(path), other.start_plan, other.build_model(2))
        load_init(str(path), other.start_plan)  # A teacher, which stays what it is.
        insisting = dataclasses.replace(other, ignore_convention=True)
        load_init(str(path), insisting.start_plan, insisting.build_model(2))


def test_a_network_that_no_config_can_ask_for_is_refused(tmp_path: Path) -> None:
    path, loaded = tmp_path / 'wide.safetensors', random_model()
    overrides = {'width_multiplier': 0.25}  # What the name has anyway; the file says it all the same.
    dataclasses.replace(loaded, overrides=overrides).save(path)
    with pytest.raises(ValueError, match=r"mobilenetv1_025 with \{'width_multiplier': 0\.25\}, which a config cannot"):
        follow(load_config('image_folder'), str(path))


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The configuration that `flaxmobile train image_folder` gives with these words."""

    def configuration(*words: str) -> TrainConfig:
        called: list[TrainConfig] = []

        def training(config: TrainConfig, run_dir: Path, **_: Any) -> None:
            called.append(config)
            run_dir.mkdir(parents=True, exist_ok=True)
            (run_dir / 'results.json').write_text('{"test": {"accuracy": 0.5}}')

        with monkeypatch.context() as patched:
            patched.chdir(tmp_path)
            patched.setattr('flaxmobile.runs.training.train', training)
            with pytest.raises(SystemExit) as ended:
                cli.main(['train', 'image_folder', *words])
        assert ended.value.code == 0
        return called[0]

    return configuration


def test_the_command_line_follows_and_overrides(followed: Any) -> None:
    plain = followed('--dataset', 'photos', '--init', 'mobilenetv3_small_100.lamb_in1k')
    published = weights.find('mobilenetv3_small_100.lamb_in1k')
    assert (plain.model, plain.preprocessing) == (published.model, published.preprocessing())
    assert (plain.dataset, plain.init) == ('photos', published.name)
    # Given by the user, even where it is what the config says anyway.
    size = load_config('image_folder').preprocessing.image_size
    changed = followed('--init=mobilenetv2_100.tv_in1k', '--image-size', str(size), '--mean', '0.5', '0.5', '0.5')
    prepared = changed.preprocessing
    assert (prepared.image_size, prepared.mean) == (size, (0.5, 0.5, 0.5))
    assert (prepared.std, prepared.interpolation) == ((0.229, 0.224, 0.225), 'bilinear')
    words = train_command('image_folder', changed).split()
    assert followed(*words[3:]) == changed
    assert followed('--init', 'None').init is None


@pytest.mark.slow
def test_what_a_run_starts_from_may_go_once_it_has_a_checkpoint(
    tiny: TrainConfig, tmp_path: Path, finished_run: Path
) -> None:
    before = shutil.copytree(finished_run, tmp_path / 'before')
    config = dataclasses.replace(tiny, init=str(before), freeze=('stem',), epochs=2)
    run_dir = train(config, tmp_path / 'run')
    shutil.rmtree(before)
    # The last checkpoint but one, as if stopped there.
    shutil.rmtree(run_dir / 'checkpoints/12')
    (run_dir / 'results.json').unlink()
    expected = (run_dir / 'report.md').read_text()
    with pytest.raises(FileNotFoundError, match=r'there is no run and no file .*before'):
        follow(load_config('image_folder'), str(before))
    resumed = follow(load_config('image_folder'), str(before), run_dir)
    assert (resumed.model, resumed.preprocessing) == (config.model, config.preprocessing)
    train(config, run_dir, resume=True)
    assert (run_dir / 'report.md').read_text().split('Trained in')[0] == expected.split('Trained in')[0]
    kernels = [load_run(folder).variables['params']['stem']['kernel'] for folder in (run_dir, finished_run)]
    np.testing.assert_array_equal(*kernels)


@pytest.mark.slow
def test_a_fine_tuned_run_reports_its_probe(tiny: TrainConfig, tmp_path: Path, finished_run: Path) -> None:
    """The features of a run that learnt all give others as much, or nearly: 27 of 30, as three are mislabelled."""
    config = dataclasses.replace(tiny, init=str(finished_run), linear_probe=True, epochs=1, learning_rate=1e-5)
    run_dir = train(config, tmp_path / 'run')
    (record,) = [
        record for record in read_metrics(run_dir / 'metrics.jsonl', Classification) if record['split'] == 'probe'
    ]
    results = json.loads((run_dir / 'results.json').read_text())
    assert record['step'] == 0
    assert results['probe'] == {name: record[name] for name in results['probe']}
    assert (results['probe']['train_images'], results['probe']['test_images']) == (96, 30)
    figures = results['probe']['linear_accuracy'], results['probe']['knn_accuracy']
    assert all(25 <= 30 * figure <= 27.001 for figure in figures)
    report = (run_dir / 'report.md').read_text()
    assert f'| linear probe of its features | {figures[0]:.2%} |' in report
    assert f'| 20 nearest neighbours of its features | {figures[1]:.2%} |' in report
    assert f'| fine-tuned, the whole network trained | {results["validation"]["accuracy"]:.2%} |' in report


def test_a_run_from_scratch_has_no_probe(finished_run: Path) -> None:
    assert json.loads((finished_run / 'results.json').read_text())['probe'] is None
    assert 'linear probe' not in (finished_run / 'report.md').read_text()


def test_a_frozen_backbone_stays_to_the_bit(tiny: TrainConfig, tmp_path: Path, finished_run: Path) -> None:
    config = dataclasses.replace(
        tiny, init=str(finished_run), freeze=('backbone',), epochs=1, weight_decay=0.5, accumulation_steps=2
    )
    after = flatten_dict(load_run(train(config, tmp_path / 'run')).variables, sep='/')
    before = flatten_dict(load_run(finished_run).variables, sep='/')
    changed = {name for name in before if np.asarray(before[name]).tobytes() != np.asarray(after[name]).tobytes()}
    assert changed == {'params/classifier/kernel', 'params/classifier/bias'}

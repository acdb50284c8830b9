"""SavedModels, which TensorFlow loads."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from small_networks import SIZE, small

from flaxmobile.export import to_saved_model

NEEDED = ('tensorflow', 'dataclasses_json')  # The second comes with orbax-export, whose own name others share.


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason='TensorFlow or orbax-export is not installed'
)
def test_tensorflow_answers_as_the_network(tmp_path: Path) -> None:
    import tensorflow as tf

    model, path = small('short'), tmp_path / 'saved'
    assert to_saved_model(model, path, uint8_input=True) < 5e-5
    assert json.loads((path / 'assets.extra' / 'flaxmobile.json').read_text())['labels'] == list(model.labels)
    assert [each.name for each in tmp_path.iterdir()] == ['saved']
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    answers = tf.saved_model.load(str(path)).signatures['serving_default'](image=tf.constant(pixels))
    wanted = np.asarray(jax.jit(model.module.apply)(model.variables, model.preprocessing.normalize(pixels)))
    assert list(answers) == ['logits']
    np.testing.assert_allclose(answers['logits'], wanted, atol=5e-5 * np.abs(wanted).max())


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package tensorflow: .*'flaxmobile\[saved-model\]'"):
        to_saved_model(small('short'), tmp_path / 'saved')
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match='is already there: name a folder that is not'):
        to_saved_model(small('short'), tmp_path)
    assert list(tmp_path.iterdir()) == []

"""A run with all of augmentation at once."""

import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from test_loop import stop_after

from flaxmobile.runs.folder import load_run
from flaxmobile.runs.training import train
from flaxmobile.training import loop as engine
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.interruption import TrainingStopped


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(
    tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.with_options(
        epochs=2,
        auto_augment='randaugment',
        randaugment_magnitude_std=float('inf'),
        color_jitter=0.4,
        random_erasing=0.3,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        repeated_augmentation=2,
        train_interpolation='random',
        train_image_size=16,
        label_smoothing=0.1,
    )
    sides, shard = set(), engine.shard_batch

    def watched(batch, mesh):
        sides.add(batch['image'].shape)
        return shard(batch, mesh)

    monkeypatch.setattr(engine, 'shard_batch', watched)
    train(config, tmp_path / 'straight')
    with monkeypatch.context() as patched:
        stop_after(patched, 4, signal.SIGTERM)
        with pytest.raises(TrainingStopped, match='step 4'):
            train(config, tmp_path / 'stopped')
    train(config, tmp_path / 'stopped', resume=True)
    straight, stopped = (jax.tree.leaves(load_run(tmp_path / name).variables) for name in ('straight', 'stopped'))
    for ours, theirs in zip(straight, stopped, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sides == {(16, 16, 16, 1)}

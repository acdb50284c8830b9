"""A model by what it is named by: a run's folder, a file of weights, or a published name."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flaxmobile.messages import printable
from flaxmobile.models import list_models
from flaxmobile.runs.folder import RunDescription, load_run, read_description
from flaxmobile.training.config import TrainConfig
from flaxmobile.weights import NamedModel, Weight, find, formats, load_pretrained, open_model
from flaxmobile.weights.catalogue import CATALOGUE


class Source(NamedTuple):
    """A model and where it comes from: `title` in words, its run (what `run.json` says) or its published weight."""

    title: str
    model: NamedModel
    run: RunDescription | None = None
    weight: Weight | None = None

    @property
    def config(self) -> TrainConfig | None:
        """That of the run."""
        return self.run.config if self.run else None


def locate(given: str) -> Path | Weight:
    """A run's folder or a file as its path, which go before a published name.

    Raises:
        FileNotFoundError: it can only be meant as a path, and nothing is there.
        ValueError: there are no such weights, with the nearest names.
    """
    path = Path(given).expanduser()
    if path.exists():
        return path
    if os.sep in given or path.name.lower().endswith(formats.SUFFIXES):
        raise FileNotFoundError(f'there is no run and no file {given}')
    try:
        return find(given)
    except ValueError as error:
        raise ValueError(f'{given} is no run, no file and no published weights: {error}') from None


def open_source(
    given: str,
    *,
    file: Path | None = None,
    network: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    ignore_convention: bool = False,
    ema: bool = False,
) -> Source:
    """The model that `given` names.

    Args:
        given: a run's folder, a file, or a published name, which is downloaded unless it is there already.
        file: where the weights lie that a published name or a registered network stands for, in any format.
        network: the registered network that a file of another format than ours holds; None: the one it fits.
        overrides: what else `create_model` is given for that network.
        image_size: side of the images in pixels; None: the model's own.
        ignore_convention: take a file that was made for another padding or BatchNorm epsilon than its network's.
        ema: of a file that is a torch checkpoint, take the moving average of the weights.

    Raises:
        OSError: there is no such run or file, or the weights cannot be fetched.
        ValueError: nothing has that name; it is damaged; it does not fit its network, or was made for another
            convention; a file that does not say its network fits none, or several.
    """
    if file is not None:
        return _from_file(given, file, image_size, ignore_convention, ema)
    where = locate(given)
    if ema and not (isinstance(where, Path) and where.is_file()):
        raise ValueError(f'ema=True (--ema) goes with a file, a checkpoint of torch, and {printable(given)} is none')
    if isinstance(where, Weight):
        loaded = load_pretrained(where.name, image_size=image_size)
        return Source(where.name, NamedModel(loaded, where.model, {}), weight=where)
    if where.is_file():
        opened = open_model(where, network, overrides=overrides, ignore_convention=ignore_convention, ema=ema)
        return Source(str(where), _resized(opened, image_size))
    description = read_description(where)
    config = description.config
    model = NamedModel(load_run(where), config.model, config.model_overrides)
    return Source(f'{config.model} from {where}', _resized(model, image_size), description)


def _from_file(given: str, file: Path, image_size: int | None, ignore_convention: bool, ema: bool) -> Source:
    if given in CATALOGUE:
        weight = CATALOGUE[given]
        loaded = load_pretrained(given, file=file, image_size=image_size, ignore_convention=ignore_convention, ema=ema)
        return Source(given, NamedModel(loaded, weight.model, {}), weight=weight)
    if given in list_models():
        opened = open_model(file, given, ignore_convention=ignore_convention, ema=ema)
        return Source(f'{given} from {file}', _resized(opened, image_size))
    raise ValueError(
        f'--weights goes with a published name (`flaxmobile weights list`) or a network (`flaxmobile list`), '
        f'and {given} is neither'
    )


def _resized(model: NamedModel, image_size: int | None) -> NamedModel:
    if image_size is None:
        return model
    preprocessing = dataclasses.replace(model.loaded.preprocessing, image_size=image_size)
    return model._replace(loaded=model.loaded._replace(preprocessing=preprocessing))

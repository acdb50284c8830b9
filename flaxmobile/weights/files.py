"""Weights from files of any format: into a network that is given, or as a `Model` of the network that they are of."""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from flaxmobile.layers import get_convention
from flaxmobile.messages import printable
from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import REGISTRY, create_model
from flaxmobile.weights import formats, keras_names, names, origins, recognition, torch_names
from flaxmobile.weights.class_names import VOCABULARIES
from flaxmobile.weights.description import channels_of, other_channels, outdated, understand
from flaxmobile.weights.formats import File, naming
from flaxmobile.weights.model import Model, task_of
from flaxmobile.weights.usual import usual_labels, usual_preprocessing


def load_variables(
    path: str | Path,
    model: MobileNet,
    *,
    excuse: Iterable[str] = (),
    initial: Mapping[str, Any] | None = None,
    ignore_convention: bool = False,
    ema: bool = False,
) -> dict[str, Any]:
    """The variables of `model` from a file of any format: safetensors, torch, Keras or NumPy.

    The names inside tell whose they are: ours (`params/stem/conv/kernel`), Keras's (`Conv1/kernel`), or torch's
    (`conv_stem.weight`, `features.0.0.weight`); and with that how the network pads and normalises that they were made
    for. Our own format says it; our names alone, in an `.npz`, do not.

    Args:
        path: of the file; its contents decide what it is, not its suffix.
        model: the network.
        excuse: shell patterns of names in the file, such as `['classifier.*']`. Excused tensors that the model has no
            place for are left out; where one is missing or does not fit, `initial` gives the value.
        initial: variables of the model, as `model.init` makes them.
        ignore_convention: take weights that were made for another padding or BatchNorm epsilon than the model's, or
            that the file says are of a network that computes otherwise with the same tensors.
        ema: of a torch checkpoint, take the moving average of the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of no known format; it does not fit the model (a `TensorMismatchError`, whose
            `faults` are all that does not); it was made for another convention; it says that it is of another network.
    """
    options = {'excuse': excuse, 'initial': initial, 'ignore_convention': ignore_convention}
    return read_variables(Path(path), formats.read(path, ema=ema), model, **options)


def read_variables(path: Path, file: File, model: MobileNet, **options: Any) -> dict[str, Any]:
    """What `load_variables` gives, of a file that has been read from `path`."""
    shown = printable(path, None)
    try:
        match recognition.origin(file.tensors):
            case 'flaxmobile':
                return _read_ours(shown, file, model, **options)
            case 'keras':
                return keras_names.from_keras(file.tensors, model, **options)
            case _:
                tensors, note = torch_names.unwrapped(file.tensors)
                if note:
                    warnings.warn(f'{shown}: {note}', stacklevel=3)
                variables = torch_names.from_torch(tensors, model, **options)
                _check_arch(file.metadata.get('arch'), model, options.get('ignore_convention', False))
                return variables
    except names.TensorMismatchError as error:
        raise names.TensorMismatchError(f'{shown}: {error}', error.faults) from error
    except ValueError as error:
        raise ValueError(f'{shown}: {error}') from error


def _check_arch(said: Any, model: MobileNet, insist: bool) -> None:
    """Hold the model to the network that a checkpoint says it is of, `arch` of timm's script, if its tensors fit it."""
    if insist or not isinstance(said, str) or said not in REGISTRY or not origins.in_timm(said):
        return
    if not recognition.same_tensors(said, model):
        return
    network = create_model(said)
    origin = f'{said}, as the file says'
    if why := origins.contradiction(origin, (get_convention(network.convention),), model):
        raise ValueError(why)
    if differing := origins.differing(network, model):
        raise ValueError(_otherwise(f'is of {origin}', differing, model, f'build it with create_model({said!r})'))


def _otherwise(holds: str, differing: str, model: nn.Module, mend: str) -> str:
    return (
        f'{holds}, and {type(model).__name__} here differs from it in {differing}: with these numbers it answers '
        f'something else; {mend}, or insist with ignore_convention=True'
    )


def _read_ours(shown: str, file: File, model: MobileNet, **options: Any) -> dict[str, Any]:
    """Tensors of our names, for a model like the one that a file of our own format says it holds."""
    if 'model' not in file.metadata:
        return names.read(file.tensors, {'flaxmobile': names.SAME}, model, **options)
    said = understand(file.metadata, file.tensors)
    layout = names.SAME._replace(origin=said.name, conventions=(get_convention(said.model.convention),))
    variables = names.read(file.tensors, {'flaxmobile': layout}, model, **options)
    differing = origins.differing(said.model, model, also=('stem_stride',))
    if differing and not options.get('ignore_convention', False):
        raise ValueError(
            _otherwise(f'holds {said.name}', differing, model, 'load_file(path) has the network that the file says')
        )
    if what := outdated(said, file.metadata):
        warnings.warn(f'{shown}: {what}', stacklevel=4)
    return variables


def load_file(
    path: str | Path,
    network: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    ignore_convention: bool = False,
    ema: bool = False,
) -> Model:
    """The model in a file of any format. Ours says all that is needed; of another the tensors tell the network.

    Of another format the number of classes is taken from the classifier; their names are ImageNet's where the number
    is one of its vocabularies', else they are not known; the preprocessing is that of the network's published weights,
    or its origin's habit. `Model.assumed` says what was taken so.

    Args:
        path: of the file; its contents decide what it is, not its suffix.
        network: the registered network. None: the one that the file says, or the only one that the tensors fit.
        overrides: what else `create_model` is given for the network of a file that does not say it; refused for ours.
        image_size: side of the images in pixels; None: the one that the file says, or the usual one.
        ignore_convention: take weights that were made for another padding or BatchNorm epsilon than the network's.
        ema: of a torch checkpoint, take the moving average of the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or does not fit the network, or was made for another convention; `network` is not
            what the file says, or `overrides` are given for one that says it; without one, the tensors fit no network,
            or several that answer differently with them.
    """
    path = Path(path)
    file = formats.read(path, ema=ema)
    if file.kind == 'flaxmobile':
        if overrides:
            given = printable(repr(dict(overrides)))
            raise ValueError(
                f'{printable(path, None)}: says its network itself, and overrides={given} are for one that does not'
            )
        return resized(_load_ours(path, file, network), image_size)
    with naming(path):
        tensors = file.tensors
        if recognition.origin(tensors) == 'torch':
            tensors = dict(torch_names.bare(tensors))
    name, reason = (network, '') if network else _recognize(path, tensors, file.metadata)
    with naming(path):
        overrides = {**(overrides or {}), 'num_classes': recognition.count_classes(tensors, name)}
        module = create_model(name, **overrides)
        title = recognition.layout_of(tensors, name)
    variables = read_variables(path, file, module, ignore_convention=ignore_convention)
    labels = usual_labels(module.num_classes)
    usual = usual_preprocessing(name, channels_of(variables), title)
    model = Model(module, variables, usual, labels, task_of(module), name, overrides)
    model = resized(model, image_size)
    return dataclasses.replace(model, assumed=_assumed(model, reason))


def resized(model: Model, image_size: int | None) -> Model:
    """The same model for images of that size; None: its own."""
    if image_size is None:
        return model
    return dataclasses.replace(model, preprocessing=dataclasses.replace(model.preprocessing, image_size=image_size))


def _assumed(model: Model, reason: str) -> str:
    """What a file that says neither does not say, and what was taken for it; `reason` is what told the network."""
    reasons = {'tensors': f'its tensors fit {model.name} alone', 'arch': f'its `arch` says {model.name}'}
    which = f'which network it is of ({reasons[reason]}), ' if reason else ''
    if model.num_classes in VOCABULARIES.values():
        names = f", and for its {model.num_classes:,} classes ImageNet's names, as it has as many"
    else:
        names = f'; its {model.num_classes:,} classes have no names' if model.num_classes else ''
    return (
        f'says neither {which}how images are prepared nor what its classes are; taken as usual for '
        f'{model.name}: {model.preprocessing}{names}'
    )


def _recognize(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> recognition.Recognized:
    """The network of a file that does not say it; `arch` is what timm's training script calls it in a checkpoint."""
    said, shown = metadata.get('arch'), printable(path, None)
    try:
        return recognition.recognize(tensors, said if isinstance(said, str) else '')
    except recognition.AmbiguousError as error:
        raise recognition.AmbiguousError(f'{shown}: {error}. Say which it is: load_file(path, network)') from None
    except ValueError as error:
        raise ValueError(f'{shown}: {error}') from None


def _load_ours(path: Path, file: File, network: str | None) -> Model:
    with naming(path):
        said = understand(file.metadata, file.tensors)
        if network not in (None, said.name):
            raise ValueError(f'holds {said.name}, not {network}')
    variables = read_variables(path, file, said.model)
    with naming(path):
        if why := other_channels(variables, said.preprocessing):
            raise ValueError(f'{why}. load_variables(path, model) takes its variables, to be saved with another')
    return Model(said.model, variables, said.preprocessing, said.labels, task_of(said.model), said.name, said.overrides)

"""Weights in files: any format into a network's variables, our own with all that is needed, and from one to another."""

import dataclasses
import importlib.metadata
import shlex
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from flax import linen as nn

from flaxmobile.files import write_whole
from flaxmobile.layers import get_convention
from flaxmobile.messages import printable, unknown
from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import REGISTRY, create_model
from flaxmobile.weights import formats, keras_names, names, origins, recognition, torch_names
from flaxmobile.weights.description import (
    channels_of,
    check_classes,
    check_described,
    check_ours,
    other_channels,
    outdated,
    understand,
)
from flaxmobile.weights.formats import File, naming
from flaxmobile.weights.loaded import LoadedModel
from flaxmobile.weights.usual import usual_classes, usual_preprocessing

Layout = Literal['timm', 'torchvision', 'keras']
TORCH_SUFFIXES = ('.pth', '.pt')
KERAS_SUFFIXES = ('.weights.h5', '.h5')
SUFFIXES = ('.safetensors', '.npz', *TORCH_SUFFIXES, *KERAS_SUFFIXES)


class NamedModel(NamedTuple):
    """A loaded model with the registered name and the overrides that `create_model` builds it from.

    Where preprocessing and classes are a guess, as the file says neither, `assumed` is whose names its tensors have:
    'torch', 'keras' or 'flaxmobile'. `recognized` is what told the name where the caller did not: 'tensors', which fit
    this network alone, or 'arch', a checkpoint's word among networks that they fit alike.
    """

    loaded: LoadedModel
    name: str
    overrides: dict[str, Any]
    assumed: str = ''
    recognized: str = ''


def load_file(
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
    """What `load_file` gives, of a file that has been read from `path`."""
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
        f'something else; {mend}, or insist with ignore_convention=True (--ignore-convention)'
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
            _otherwise(f'holds {said.name}', differing, model, 'load(path) has the network that the file says')
        )
    if what := outdated(said, file.metadata):
        warnings.warn(f'{shown}: {what}', stacklevel=4)
    return variables


def load(path: str | Path) -> LoadedModel:
    """A model from a file of our own format, with its preprocessing and classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of another format: `load_file` takes those, with a model.
    """
    if (file := formats.read(path)).kind != 'flaxmobile':
        raise ValueError(
            f'{printable(path, None)}: tensors of {recognition.origin(file.tensors)}, and the file says neither '
            'its network nor its classes: open_model recognizes the one and takes the others as usual, load_file is '
            'given a model'
        )
    return _open_ours(Path(path), file, None).loaded


def open_model(
    path: str | Path,
    name: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    ignore_convention: bool = False,
    ema: bool = False,
) -> NamedModel:
    """A model from a file of any format. Ours says all that is needed; of another the tensors tell the network.

    Of another format the number of classes is taken from the classifier; their names are ImageNet's where the number
    is one of its vocabularies'; the preprocessing is that of the network's published weights, or its origin's habit.

    Args:
        path: of the file.
        name: the registered network. None: the one that the file says, or the only one that the tensors fit.
        overrides: what else `create_model` is given for the network of a file that does not say it.
        ignore_convention: take weights that were made for another padding or BatchNorm epsilon than the network's.
        ema: of a torch checkpoint, take the moving average of the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or does not fit the network, or was made for another convention; `name` is not what
            the file says; without a name, the tensors fit no network, or several that answer differently with them.
    """
    path = Path(path)
    file = formats.read(path, ema=ema)
    if file.kind == 'flaxmobile':
        return _open_ours(path, file, name)
    with naming(path):
        tensors = file.tensors
        if recognition.origin(tensors) == 'torch':
            tensors = dict(torch_names.bare(tensors))
        found, told = (name, '') if name else _recognize(path, tensors, file.metadata)
        overrides = {**(overrides or {}), 'num_classes': recognition.count_classes(tensors, found)}
        model = create_model(found, **overrides)
        title = recognition.layout_of(tensors, found)
    variables = read_variables(path, file, model, ignore_convention=ignore_convention)
    channels = channels_of(variables)
    loaded = LoadedModel(
        model, variables, usual_preprocessing(found, channels, title), usual_classes(model.num_classes)
    )
    return NamedModel(loaded, found, overrides, recognition.origin(file.tensors), told)


def _recognize(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> recognition.Recognized:
    """The network of a file that does not say it; `arch` is what timm's training script calls it in a checkpoint."""
    said = metadata.get('arch')
    try:
        return recognition.recognize(tensors, said if isinstance(said, str) else '')
    except recognition.AmbiguousError as error:
        shown = shlex.quote(printable(path, None))
        raise ValueError(
            f'{error}. Say which it is: open_model(path, name); in the shell `flaxmobile convert {shown} '
            'model.safetensors --model NAME` makes a file that says it'
        ) from None


def _open_ours(path: Path, file: File, name: str | None) -> NamedModel:
    with naming(path):
        said = understand(file.metadata, file.tensors)
        if name not in (None, said.name):
            raise ValueError(f'holds {said.name}, not {name}')
    variables = read_variables(path, file, said.model)
    with naming(path):
        if why := other_channels(variables, said.preprocessing):
            raise ValueError(f'{why}. load_file(path, model) takes its variables, to be saved with another')
    loaded = LoadedModel(said.model, variables, said.preprocessing, said.classes)
    return NamedModel(loaded, said.name, said.overrides)


def save(
    path: str | Path,
    loaded: LoadedModel,
    name: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    layout: Layout | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model's variables, in the format of the suffix: whole, or not at all.

    `.safetensors` is our own format, with the model, its preprocessing and classes inside, unless `layout` asks for
    another library's names. `.npz` holds arrays by our names or those of `layout`, `.pth` and `.pt` a state dict for
    `torch.load`, `.h5` and `.weights.h5` what Keras's `load_weights` reads.

    Args:
        path: of the file to write.
        loaded: the model.
        name: of the registered network.
        overrides: what else `create_model` is given for it, plain values, fit for JSON.
        layout: whose names the tensors get: 'timm', 'torchvision' or 'keras'. None: ours where the format is ours or
            NumPy's; in torch's formats the library's that the network comes from.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set.
        ValueError: no such suffix or layout, or the library has no such network; the variables are not the network's,
            or the model pads or normalises otherwise; a file of our own format would say another network or other
            images than the model's.
    """
    path = Path(path)
    suffix = check_target(path, layout, overwrite=overwrite)
    overrides = {**(overrides or {}), 'num_classes': loaded.model.num_classes}
    model = create_model(name, **overrides)
    with naming(path):
        check_described(loaded.model, model, name)
        if suffix == '.safetensors' and layout is None:
            check_ours(loaded, model, name)
    if suffix in KERAS_SUFFIXES:
        from flaxmobile.weights.formats import hdf5

        return hdf5.write(path, keras_names.to_keras(loaded.variables, model), model)
    tensors = _named(loaded.variables, model, layout, torch=suffix in TORCH_SUFFIXES)
    with naming(path):
        write_whole(path, _encoder(suffix, layout, loaded, {'name': name, **overrides})(tensors))


def check_target(path: str | Path, layout: Layout | None = None, *, overwrite: bool = False) -> str:
    """See that such a file may be written, before anything costly; its suffix.

    Raises:
        FileExistsError: it is there, and `overwrite` is not set, or it is a folder.
        ValueError: no such suffix or layout, or one that does not go with the other.
    """
    path = Path(path)
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        allowed = ', '.join(SUFFIXES)
        keras = '. (A .keras is a Keras program too: load an .h5 into keras.applications, and save that)'
        raise ValueError(
            f'{printable(path, None)}: the suffix says which format to write, and {path.suffix!r} is none of {allowed}'
            + (keras if path.suffix == '.keras' else '')
        )
    if layout is not None and layout not in get_args(Layout):
        raise ValueError(unknown('layout', layout, get_args(Layout)))
    others = {'keras': TORCH_SUFFIXES, 'timm': KERAS_SUFFIXES, 'torchvision': KERAS_SUFFIXES}
    if layout is not None and suffix in others[layout]:
        raise ValueError(
            f'{printable(path, None)}: {suffix} does not hold the names of {layout}: .safetensors and .npz hold any'
        )
    if path.is_dir():
        raise FileExistsError(f'{printable(path, None)} is a folder: name a file in it')
    if path.exists() and not overwrite:
        raise FileExistsError(f'{printable(path, None)} is already there: --overwrite (overwrite=True) replaces it')
    return suffix


def _named(variables: Mapping[str, Any], model: MobileNet, layout: Layout | None, torch: bool) -> dict[str, np.ndarray]:
    if layout == 'keras':
        return keras_names.to_keras(variables, model)
    if layout is None and not torch:
        return names.write(variables, names.SAME, model)
    return torch_names.to_torch(variables, model, layout)


def _encoder(
    suffix: str, layout: Layout | None, loaded: LoadedModel, described: Mapping[str, Any]
) -> Callable[[Mapping[str, np.ndarray]], bytes]:
    from flaxmobile.weights.formats import npz, safetensors_file, torch_pickle

    if suffix in TORCH_SUFFIXES:
        return torch_pickle.encode
    if suffix == '.npz':
        return npz.encode
    if layout is not None:
        return lambda tensors: safetensors_file.encode(tensors, {'format': 'np' if layout == 'keras' else 'pt'})
    description = {
        'flaxmobile': importlib.metadata.version('flaxmobile'),
        'model': dict(described),
        'classes': check_classes(loaded.classes, loaded.model.num_classes),
        'preprocessing': dataclasses.asdict(loaded.preprocessing),
    }
    return lambda tensors: safetensors_file.encode_ours(tensors, description)


def convert(
    source: str | Path | NamedModel,
    target: str | Path,
    *,
    model_name: str | None = None,
    layout: Layout | None = None,
    overwrite: bool = False,
    ignore_convention: bool = False,
    ema: bool = False,
) -> NamedModel:
    """Write what `source` holds in the format of `target`'s suffix; every number comes over unchanged.

    Args:
        source: a file of any format, or a model.
        target: see `save`.
        model_name: the registered network of a file that does not say it; None: the only one that its tensors fit.
        layout: see `save`.
        overwrite: replace a file that is there.
        ignore_convention: see `open_model`.
        ema: see `open_model`.

    Returns:
        What was written.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: see `open_model` and `save`.
    """
    check_target(target, layout, overwrite=overwrite)
    if isinstance(source, NamedModel) and model_name not in (None, source.name):
        raise ValueError(f'{source.name} is to be written, not {model_name}')
    with jax.enable_x64(True):  # So that float64 stays float64.
        if isinstance(source, NamedModel):
            model = source
        else:
            model = open_model(source, model_name, ignore_convention=ignore_convention, ema=ema)
        save(target, model.loaded, model.name, model.overrides, layout=layout, overwrite=overwrite)
    return model

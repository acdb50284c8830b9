"""Weights in files: any format into a network's variables, our own with all that is needed, and from one to another."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from flaxmobile.data import Preprocessing
from flaxmobile.files import write_whole
from flaxmobile.layers import get_convention
from flaxmobile.messages import unknown
from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import create_model, entry
from flaxmobile.weights import formats, keras_names, names, torch_names
from flaxmobile.weights.catalogue import CATALOGUE, find
from flaxmobile.weights.class_names import VOCABULARIES, vocabulary
from flaxmobile.weights.description import check_classes, understand
from flaxmobile.weights.formats import OUR_NAMES, File, naming
from flaxmobile.weights.loaded import LoadedModel

Layout = Literal['timm', 'torchvision', 'keras']
CLASSIFIER_BIAS = 'params/classifier/bias'
TORCH_SUFFIXES = ('.pth', '.pt')
KERAS_SUFFIXES = ('.weights.h5', '.h5')
SUFFIXES = ('.safetensors', '.npz', *TORCH_SUFFIXES, *KERAS_SUFFIXES)


class NamedModel(NamedTuple):
    """A loaded model with the registered name and the overrides that `create_model` builds it from.

    Where preprocessing and classes are a guess, as the file says neither, `assumed` is whose names its tensors have:
    'torch', 'keras' or 'flaxmobile'.
    """

    loaded: LoadedModel
    name: str
    overrides: dict[str, Any]
    assumed: str = ''


def load_file(
    path: str | Path, model: MobileNet, *, excuse: Iterable[str] = (), initial: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The variables of `model` from a file of any format: safetensors, torch, Keras or NumPy.

    The names inside tell whose they are: ours (`params/stem/conv/kernel`), Keras's (`Conv1/kernel`), or torch's
    (`conv_stem.weight`, `features.0.0.weight`).

    Args:
        path: of the file; its contents decide what it is, not its suffix.
        model: the network.
        excuse: shell patterns of names in the file, such as `['classifier.*']`. Excused tensors that the model has no
            place for are left out; where one is missing or does not fit, `initial` gives the value.
        initial: variables of the model, as `model.init` makes them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of no known format, or does not fit the model, with every tensor that does not.
    """
    return _variables(Path(path), formats.read(path), model, excuse=excuse, initial=initial)


def _variables(path: Path, file: File, model: MobileNet, **options: Any) -> dict[str, Any]:
    with naming(path):
        match _origin(file):
            case 'flaxmobile':
                return names.read(file.tensors, {'flaxmobile': names.same}, model, **options)
            case 'keras':
                return keras_names.from_keras(file.tensors, model, **options)
            case _:
                return torch_names.from_torch(file.tensors, model, **options)


def _origin(file: File) -> str:
    """Whose names the tensors have."""
    if any(name.startswith(OUR_NAMES) for name in file.tensors):
        return 'flaxmobile'
    return 'keras' if file.kind == 'keras' or any('/' in name for name in file.tensors) else 'torch'


def load(path: str | Path) -> LoadedModel:
    """A model from a file of our own format, with its preprocessing and classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of another format: `load_file` takes those, with a model.
    """
    return open_model(path).loaded


def open_model(path: str | Path, name: str | None = None) -> NamedModel:
    """A model from a file of any format. Ours says all that is needed; of another, `name` is the registered network.

    Of another format the number of classes is taken from the classifier; their names are ImageNet's where the number
    is one of its vocabularies'; the preprocessing is that of the network's published weights, or its origin's habit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or does not fit the network, or `name` is missing or not what the file says.
    """
    path = Path(path)
    file = formats.read(path)
    if file.kind == 'flaxmobile':
        return _open_ours(path, file, name)
    if name is None:
        example = 'tf_mobilenetv2_100' if _origin(file) == 'keras' else 'mobilenetv2_100'
        raise ValueError(
            f'{path}: tensors of {_origin(file)}, and the file does not say of which network. '
            f'`flaxmobile convert {path} model.safetensors --model {example}` makes one that does; '
            '`flaxmobile list` prints the names'
        )
    with naming(path):
        overrides = {'num_classes': _count_classes(file, create_model(name))}
    model = create_model(name, **overrides)
    variables = _variables(path, file, model)
    channels = variables['params']['stem']['conv']['kernel'].shape[2]
    loaded = LoadedModel(model, variables, _usual(name, channels), _classes(model.num_classes))
    return NamedModel(loaded, name, overrides, assumed=_origin(file))


def _open_ours(path: Path, file: File, name: str | None) -> NamedModel:
    with naming(path):
        said = understand(file.metadata, file.tensors)
        if name not in (None, said.name):
            raise ValueError(f'holds {said.name}, not {name}')
    variables = _variables(path, file, said.model)
    channels = variables['params']['stem']['conv']['kernel'].shape[2]
    with naming(path):
        if channels != said.preprocessing.channels:
            told = f'preprocessing.channels is {said.preprocessing.channels}'
            raise ValueError(f'{told}, and its network takes images of {channels} channels')
    loaded = LoadedModel(said.model, variables, said.preprocessing, said.classes)
    return NamedModel(loaded, said.name, said.overrides)


def _count_classes(file: File, model: MobileNet) -> int:
    """As many as the classifier has biases in the file, 0 without a classifier."""
    origin, tensors = _origin(file), file.tensors
    if origin == 'torch':
        tensors, layouts = dict(torch_names.bare(tensors)), torch_names.layouts(model)
    else:
        layouts = keras_names.layouts(model, tensors) if origin == 'keras' else {'flaxmobile': names.same}
    _, assignment = names.nearest(tensors, layouts, names.flat_shapes(model))
    found = [name for name, place in assignment.items() if place.path == CLASSIFIER_BIAS and name in tensors]
    return sum(tensors[name].size for name in found)


def _usual(name: str, channels: int) -> Preprocessing:
    if channels == 3 and any(weight.model == name for weight in CATALOGUE.values()):
        return find(name).preprocessing()
    image_size = entry(name).image_size
    if channels == 3 and get_convention(create_model(name).convention).padding == 'symmetric':
        return Preprocessing(image_size)
    half = (0.5,) * channels
    return Preprocessing(image_size, channels, half, half)


def _classes(count: int) -> tuple[str, ...]:
    for name, length in VOCABULARIES.items():
        if length == count:
            return vocabulary(name).names
    return tuple(map(str, range(count)))


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
        ValueError: no such suffix or layout, or the library has no such network; the variables are not the network's.
    """
    path = Path(path)
    suffix = check_target(path, layout, overwrite=overwrite)
    overrides = {**(overrides or {}), 'num_classes': loaded.model.num_classes}
    model = create_model(name, **overrides)
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
            f'{path}: the suffix says which format to write, and {path.suffix!r} is none of {allowed}'
            + (keras if path.suffix == '.keras' else '')
        )
    if layout is not None and layout not in get_args(Layout):
        raise ValueError(unknown('layout', layout, get_args(Layout)))
    others = {'keras': TORCH_SUFFIXES, 'timm': KERAS_SUFFIXES, 'torchvision': KERAS_SUFFIXES}
    if layout is not None and suffix in others[layout]:
        raise ValueError(f'{path}: {suffix} does not hold the names of {layout}: .safetensors and .npz hold any')
    if path.is_dir():
        raise FileExistsError(f'{path} is a folder: name a file in it')
    if path.exists() and not overwrite:
        raise FileExistsError(f'{path} is already there: --overwrite (overwrite=True) replaces it')
    return suffix


def named_by(path: Path) -> str:
    """Whose names the tensors of a file of that suffix have: 'torch', 'keras' or 'flaxmobile'."""
    libraries = {'keras': KERAS_SUFFIXES, 'torch': TORCH_SUFFIXES}
    return next((name for name, ends in libraries.items() if path.name.lower().endswith(ends)), 'flaxmobile')


def _named(variables: Mapping[str, Any], model: MobileNet, layout: Layout | None, torch: bool) -> dict[str, np.ndarray]:
    if layout == 'keras':
        return keras_names.to_keras(variables, model)
    if layout is None and not torch:
        return names.write(variables, names.same, model)
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
) -> NamedModel:
    """Write what `source` holds in the format of `target`'s suffix; every number comes over unchanged.

    Args:
        source: a file of any format, or a model.
        target: see `save`.
        model_name: the registered network of a file that does not say it.
        layout: see `save`.
        overwrite: replace a file that is there.

    Returns:
        What was written.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: see `open_model` and `save`.
    """
    check_target(target, layout, overwrite=overwrite)
    if isinstance(source, NamedModel) and model_name not in (None, source.name):
        raise ValueError(f'{source.name} is to be written, not {model_name}')
    with jax.enable_x64(True):  # So that float64 stays float64.
        model = source if isinstance(source, NamedModel) else open_model(source, model_name)
        save(target, model.loaded, model.name, model.overrides, layout=layout, overwrite=overwrite)
    return model

"""A model by what it is named by: a run's folder, a file of weights, or a published name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxmobile.messages import printable
from flaxmobile.models.registry import REGISTRY
from flaxmobile.runs.folder import load_run
from flaxmobile.runs.locating import locate
from flaxmobile.weights import Model, Weight, load_file, load_pretrained
from flaxmobile.weights.catalogue import CATALOGUE
from flaxmobile.weights.files import resized


def load(
    source: str | Path,
    *,
    file: str | Path | None = None,
    network: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    ignore_convention: bool = False,
    ema: bool = False,
) -> Model:
    """The model that `source` names: a run's folder, a file of weights of any format, or a published name.

    What lies at that path goes before a published name. `load_run`, `weights.load_file` and `load_pretrained` are the
    same for one of the three.

    Args:
        source: a run's folder, a file, or a published name, which is downloaded unless it is there already.
        file: where the weights lie that a published name or a registered network stands for, in any format.
        network: the registered network that a file of another format than ours holds; None: the one it fits.
        overrides: what else `create_model` is given for that network. It goes with such a file alone, as `network`.
        image_size: side of the images in pixels; None: the model's own.
        ignore_convention: take a file that was made for another padding or BatchNorm epsilon than its network's.
        ema: of a file that is a torch checkpoint, take the moving average of the weights.

    Raises:
        OSError: there is no such run or file, or the weights cannot be fetched.
        ValueError: nothing has that name; it is damaged; it does not fit its network, or was made for another
            convention; a file that does not say its network fits none, or several.
    """
    options: dict[str, Any] = {'image_size': image_size, 'ignore_convention': ignore_convention, 'ema': ema}
    where = locate(source) if file is None else Path(file)
    if file is None and isinstance(where, Path) and where.is_file():
        return load_file(where, network, overrides=overrides, **options)
    if network is not None or overrides:
        raise ValueError(f'network and overrides go with a file as the source, and {printable(source)} is none')
    if file is not None:
        return _from_file(str(source), file, options)
    if ema:
        raise ValueError(f'ema=True goes with a file, a checkpoint of torch, and {printable(source)} is none')
    if isinstance(where, Weight):
        return load_pretrained(where.name, image_size=image_size)
    return resized(load_run(where), image_size)


def _from_file(name: str, file: str | Path, options: Mapping[str, Any]) -> Model:
    if name in CATALOGUE:
        return load_pretrained(name, file=file, **options)
    if name in REGISTRY:
        return load_file(file, name, **options)
    raise ValueError(
        f'file=... goes with a published name (weights.list_weights()) or a network (list_models()), and {name} is '
        'neither'
    )

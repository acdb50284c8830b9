"""Where a run's first parameters come from: another run, published weights or a file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from flaxmobile import weights
from flaxmobile.data import Preprocessing
from flaxmobile.layers import get_convention
from flaxmobile.messages import printable
from flaxmobile.quantization import Quantized, float_network
from flaxmobile.runs.folder import read_description
from flaxmobile.runs.locating import locate
from flaxmobile.runs.sources import load
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.plans import StartPlan
from flaxmobile.weights import Model, formats, origins

NETWORK = ('stem_stride', 'convention')
# Options that follow the weights: these fit one network, and images prepared as those it learnt from.
FOLLOWED = ('model', *NETWORK, *(field.name for field in dataclasses.fields(Preprocessing)))


def follow(config: TrainConfig, init: str, resumed: Path | None = None) -> TrainConfig:
    """`config` with the network and the preprocessing of the weights that `init` names.

    A file of another format than ours is of the config's network (with its stem and its convention), and gets the
    preprocessing usual for it. With
    `resumed`, the folder of a run that started from them, that run says both, and the weights may be gone.

    Raises:
        OSError: there is no such run or file.
        ValueError: there are no such weights, with the nearest names; they are damaged; they are of another network, or
            of one that a config cannot ask for.
    """
    if resumed is not None and (before := read_description(resumed).config).init == init:
        return config.with_options(**_followed(before))
    where = locate(init)
    if config.init_ema and not (isinstance(where, Path) and where.is_file()):
        raise ValueError(_no_average(init))
    if isinstance(where, weights.Weight):
        return _with(config, {'name': where.model}, where.preprocessing())
    if where.is_dir():
        return config.with_options(**_followed(read_description(where).config))
    found = _load_file(init, config.start_plan, config.init_ema)
    return _with(config, {'name': found.name, **found.overrides}, found.preprocessing)


def _followed(config: TrainConfig) -> dict[str, Any]:
    options = config.options()
    return {name: options[name] for name in FOLLOWED}


def _with(config: TrainConfig, network: Mapping[str, Any], preprocessing: Preprocessing) -> TrainConfig:
    """`config` with a network as `run.json` describes one."""
    more = {name: value for name, value in network.items() if name not in ('name', 'num_classes', *NETWORK)}
    if more:
        raise ValueError(f'init: the weights are of {network["name"]} with {more}, which a config cannot ask for')
    changes: dict[str, Any] = {'model': network['name']} | {name: network.get(name) for name in NETWORK}
    return dataclasses.replace(config, **changes, preprocessing=preprocessing)


def _no_average(init: str) -> str:
    return f'init_ema=True goes with a checkpoint of torch, and {printable(init)} is none'


def _load_file(init: str, plan: StartPlan, ema: bool) -> Model:
    """A file of ours, whatever its network, or one of another format that holds the plan's."""
    if formats.read(Path(init).expanduser(), ema=ema).kind == 'flaxmobile':
        return load(init)
    overrides = {name: value for name in NETWORK if (value := getattr(plan, name)) is not None}
    insists = plan.ignore_convention
    try:
        return load(init, network=plan.model, overrides=overrides, ignore_convention=insists, ema=ema)
    except ValueError as error:
        raise ValueError(
            f'{printable(init)} was read as weights of {plan.model}; model=... names another network. {error}'
        ) from error


def load_init(init: str, plan: StartPlan, model: nn.Module | None = None) -> Model:
    """The weights that `init` names, in their own network, with their own labels, where they are known.

    Args:
        init: a run's folder, a file, or a published name, which is downloaded unless it is there already.
        plan: of the run; a file of another format than ours holds its network.
        model: what starts from them, None for a teacher, which stays as it is. Unless the plan insists
            (`ignore_convention`), it has to pad and normalise as their own network does. With the plan's `init_ema`
            it starts from a checkpoint's moving average; a teacher does not.

    Raises:
        OSError: there is no such run or file, or the weights cannot be fetched.
        ValueError: it is damaged, does not hold that network, or was made for another convention.
    """
    file = Path(init).expanduser().is_file()
    ema = plan.init_ema and model is not None
    if ema and not file:
        raise ValueError(_no_average(init))
    found = _load_file(init, plan, ema) if file else load(init)
    if model is not None and isinstance(found.module, Quantized):
        raise ValueError(
            f'init: {printable(init)} was trained for int8 already: start from the float network that it came from'
        )
    if model is not None and not plan.ignore_convention:
        _check_network(f'{found.name} ({printable(init)})', found.module, float_network(model))
    return found


def _check_network(origin: str, theirs: nn.Module, model: nn.Module) -> None:
    """See that the weights of `origin` mean in `model` what they mean in their own network."""
    own = getattr(theirs, 'convention', None)
    if own is not None and (why := origins.contradiction(origin, (get_convention(own),), model)):
        raise ValueError(f'init: {why}')
    if differing := origins.differing(theirs, model):
        raise ValueError(
            f'init: these are weights of {origin}, which differs from the network to be trained in {differing}: take '
            'that network (model=...), or insist with ignore_convention=True'
        )

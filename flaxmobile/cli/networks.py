"""The subcommands for networks by name, trained or not: list, summary and benchmark."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

import flaxmobile
from flaxmobile.cli.common import ImageSize, Opened, WeightsFile, as_json, open_model, print_table, tell, title_of
from flaxmobile.messages import unknown

if TYPE_CHECKING:
    from flaxmobile.analysis.trace import Program
    from flaxmobile.weights import Model


def list_models(
    pattern: Positional[
        Annotated[str, arg(metavar='PATTERN', help="Part of a name, with * and ?: 'mobilenetv2*'.")]
    ] = '*',
) -> int:
    """List the models."""
    names = flaxmobile.list_models(pattern)
    if not names:
        raise ValueError(unknown('model', pattern, flaxmobile.list_models()))
    print('\n'.join(names))
    _tell_terms(names)
    return 0


def summary(
    name: Positional[Annotated[str, arg(metavar='NAME', help='A model, as `flaxmobile list` prints it.')]],
    image_size: ImageSize = None,
    width_multiplier: Annotated[float | None, arg(help="Width of the layers; None: the name's own.")] = None,
) -> int:
    """Show a model by layer: shapes, parameters, multiply-adds, and what depthwise separation saves."""
    from flaxmobile.analysis.summary import render

    options = {} if width_multiplier is None else {'width_multiplier': width_multiplier}
    print_table(render(name, image_size=image_size, **options))
    _tell_terms([name])
    return 0


def _tell_terms(names: Collection[str]) -> None:
    """Which of these networks have published weights under a licence that is not an open one."""
    from flaxmobile.weights import list_weights

    for weight in list_weights():
        if weight.terms and weight.model in names:
            tell(weight.terms)


def benchmark(
    model: Positional[
        Annotated[
            str,
            arg(
                metavar='MODEL',
                help='A network by name (`flaxmobile list`), untrained; or what the other commands take: a published '
                "name, a run's folder, or a file of weights.",
            ),
        ]
    ],
    batch_size: Annotated[int, arg(help='Images at once.')] = 1,
    image_size: ImageSize = None,
    weights: WeightsFile = None,
    rounds: Annotated[int, arg(help='How often each piece of work is timed, in turn with the others.')] = 50,
    by_layer: Annotated[
        FlagCreatePairsOff[bool], arg(help="All of it layer by layer, by the profiler's trace.")
    ] = False,
    train: Annotated[FlagCreatePairsOff[bool], arg(help='A training step too, of SGD with momentum.')] = False,
    json: Annotated[FlagCreatePairsOff[bool], arg(help='Print JSON.')] = False,
) -> int:
    """Time a model on this machine: latency, images a second, and its share of what the machine can multiply.

    `flaxmobile benchmark input CONFIG` times the input of a training run instead.
    """
    from flaxmobile.analysis import latency

    latency.check(batch_size=batch_size, rounds=rounds)
    title, timed = _trained_or_not(model, weights, image_size)
    result = latency.benchmark(
        timed.module,
        timed.variables,
        batch_size=batch_size,
        image_size=timed.preprocessing.image_size,
        channels=timed.preprocessing.channels,
        rounds=rounds,
        train_step=_train_step(timed, batch_size) if train else None,
        by_layer=by_layer,
    )
    if json:
        print(as_json(latency.as_dict(title, result)))
    else:
        print_table(latency.Report(title, result))
    return 0


def _trained_or_not(given: str, file: Path | None, image_size: int | None) -> tuple[str, 'Model']:
    """The model by its title, as `open_model` finds it; untrained where only a network is named: speed asks no more."""
    networks = flaxmobile.list_models()
    if file or given not in networks or Path(given).exists():
        try:
            # How it pads and normalises changes the answers, and they are not looked at.
            model = open_model(given, how := Opened(file, image_size, ignore_convention=True))
        except ValueError as error:
            near = '' if Path(given).exists() else f'; {unknown("network", given, networks)}'
            raise ValueError(f'{error}{near}') from None
        return title_of(given, model, how), model
    import jax

    from flaxmobile.data import Preprocessing
    from flaxmobile.models.registry import entry
    from flaxmobile.training.state import initial_variables
    from flaxmobile.weights import Model
    from flaxmobile.weights.model import task_of

    network = flaxmobile.create_model(given)
    preprocessing = Preprocessing(entry(given).image_size if image_size is None else image_size)
    variables = initial_variables(network, jax.random.key(0), (1, 64, 64, 3))
    return given, Model(network, variables, preprocessing, task=task_of(network), name=given)


def _train_step(model: 'Model', batch_size: int) -> 'Program':
    from flaxmobile.analysis.trace import Program
    from flaxmobile.inspection.rehearsal import random_batch, rehearse, repeated
    from flaxmobile.training.compiled import compile_step

    step, state, batch = rehearse(model, random_batch(model, batch_size))
    compiled = compile_step(step, state, batch)
    return Program(repeated(compiled, state, batch), str(compiled.as_text()))

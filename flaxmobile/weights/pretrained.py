"""Published weights as a network that is ready for use."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxmobile.messages import printable
from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import create_model
from flaxmobile.weights.catalogue import find
from flaxmobile.weights.class_names import vocabulary
from flaxmobile.weights.description import understand
from flaxmobile.weights.download import download
from flaxmobile.weights.model import Model, task_of

log = logging.getLogger(__name__)


def load_pretrained(
    name: str,
    num_classes: int | None = None,
    *,
    image_size: int | None = None,
    file: str | Path | None = None,
    key: jax.Array | None = None,
    new_classifier: bool = False,
    ignore_convention: bool = False,
    ema: bool = False,
) -> Model:
    """A published weight in its network, with its preprocessing and the names of its classes.

    Those of a new classifier have no names yet: `labels` is None.

    Args:
        name: as `flaxmobile weights list` prints it, `'mobilenetv2_100.ra_in1k'`; a network's name alone takes the
            weight that `weights.find` gives, and logs which as a warning.
        num_classes: of a new classifier over the same features; 0 for none; None, or the weight's own number, keeps the
            weight's own classifier unless `new_classifier` is set.
        image_size: side of the images in pixels, and with it the weight's crop; None: the size it was trained at.
        file: where the weight's file lies, instead of the cache or its address; or the same weights in another format.
        key: what a new classifier is drawn from (default: `jax.random.key(0)`).
        new_classifier: draw it whatever the number, as for a thousand classes that are not ImageNet's.
        ignore_convention: take a `file` that was made for another padding or BatchNorm epsilon than the network's.
        ema: of a torch checkpoint as `file`, take the moving average of the weights.

    Raises:
        ValueError: no such weight; its file does not fit, is damaged, was made for another convention, or names other
            classes than the weight's; a new classifier of no classes is asked for.
        OSError: the file cannot be fetched or read.
    """
    weight = find(name)
    if weight.name != name:
        log.warning('%s: taking %s', name, weight.name)
    if new_classifier and num_classes == 0:
        raise ValueError('new_classifier=True and num_classes=0: give how many classes the new classifier tells apart')
    preprocessing = weight.preprocessing(image_size)
    model = create_model(weight.model, num_classes=weight.num_classes)
    wanted = create_model(weight.model, num_classes=weight.num_classes if num_classes is None else num_classes)
    path = download(weight) if file is None else Path(file)
    labels = vocabulary(weight.vocabulary).names if weight.vocabulary else None
    try:
        variables = _read(path, model, labels, ignore_convention, ema)
    except ValueError as error:
        raise ValueError(f'{error}. Remove it, and it is fetched again') if file is None else error from error
    if wanted.num_classes == weight.num_classes and not new_classifier:
        return Model(model, variables, preprocessing, labels, task_of(model), weight.model, weight=weight)
    classifier = _classifier(wanted, jax.random.key(0) if key is None else key)
    params = {part: values for part, values in variables['params'].items() if part != 'classifier'} | classifier
    variables, overrides = {**variables, 'params': params}, {'num_classes': wanted.num_classes}
    return Model(wanted, variables, preprocessing, None, task_of(wanted), weight.model, overrides, weight)


def _read(
    path: Path, model: MobileNet, labels: Sequence[str] | None, ignore_convention: bool, ema: bool
) -> dict[str, Any]:
    """The variables in a file of published weights, which names those classes if any."""
    from flaxmobile.weights import formats
    from flaxmobile.weights.files import read_variables

    file = formats.read(path, ema=ema)
    if file.kind == 'flaxmobile' and 'model' in file.metadata:
        with formats.naming(path):
            said = understand(file.metadata, file.tensors)
            if said.model.num_classes != model.num_classes:
                raise ValueError(
                    f'holds {said.name} with {said.model.num_classes:,} classes, not the published weights with '
                    f'{model.num_classes:,}: open the file itself, flaxmobile.load({printable(repr(str(path)), None)})'
                )
    variables = read_variables(path, file, model, ignore_convention=ignore_convention)
    known = None if labels is None else list(labels)
    if file.kind == 'flaxmobile' and file.metadata.get('classes', known) != known:
        raise ValueError(f'{printable(path)}: says other classes than the published weights: load_file(path) has them')
    return variables


def _classifier(model: MobileNet, key: jax.Array) -> dict[str, Any]:
    """The classifier that `model.init(key, images)` would draw, and nothing where there is none; computes no more."""

    @jax.jit
    def draw(key: jax.Array) -> dict[str, Any]:
        params = model.init(key, jnp.zeros((1, 64, 64, 3)))['params']
        return {part: values for part, values in params.items() if part == 'classifier'}

    drawn: dict[str, Any] = draw(key)
    return drawn

"""What a training run is: one frozen dataclass, written in a Python file and overridden on the command line."""

import dataclasses
import functools
import runpy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jax.numpy as jnp
from flax import linen as nn

from flaxmobile.data.preprocessing import Augmentation, Preprocessing
from flaxmobile.layers.convention import CONVENTIONS
from flaxmobile.messages import printable, unknown
from flaxmobile.models import create_model
from flaxmobile.quantization import Quantized
from flaxmobile.quantization.training import QuantizationAware
from flaxmobile.rules import (
    Count,
    NotNegative,
    OneOf,
    Positive,
    Rate,
    Share,
    above,
    among,
    between,
    check_fields,
    plain_values,
)
from flaxmobile.tasks.mixing import Mixing
from flaxmobile.training.plans import DataPlan, Optimizer, OptimizerPlan, Schedule, StartPlan, TeacherPlan, Timetable

Precision = Literal['float32', 'bfloat16']


_Config = TypeVar('_Config')
_PARTS = ('preprocessing', 'augmentation', 'quantization')
_INT8_RECIPE: dict[str, Any] = {
    **{'epochs': 4.0, 'optimizer': 'adamw', 'learning_rate': 1e-4, 'schedule': 'cosine', 'warmup_epochs': 0.0},
    **{'layer_decay': None, 'momentum': 0.9, 'epsilon': None, 'weight_decay': 0.0, 'clip_gradient_norm': None},
    **{'accumulation_steps': 1, 'label_smoothing': 0.0, 'mixup_alpha': 0.0, 'cutmix_alpha': 0.0, 'ema_decay': None},
    **{'distillation_weight': 1.0, 'distillation_temperature': 1.0, 'freeze': (), 'linear_probe': False},
    'dtype': 'float32',
}
"""Of quantisation-aware training: a float network's weights are close to good ones already, and its answers known."""


def _tells_where_fields_are(config: type[_Config]) -> type[_Config]:
    """Make a field of a part, or of nothing, that is given to `config` itself a TypeError that says what to write."""
    build = config.__init__

    @functools.wraps(build)
    def init(self: Any, **given: Any) -> None:
        _check_places(config, given)
        build(self, **given)

    config.__init__ = init  # type: ignore[method-assign, assignment]
    return config


def _check_places(config: Any, given: Mapping[str, Any]) -> None:
    known = {field.name for field in dataclasses.fields(config)}
    anywhere = known.union(*(vars(getattr(config, part)) for part in _PARTS))
    for name in given:
        if name not in anywhere:
            raise TypeError(unknown('field of TrainConfig', name, anywhere))
    for part in _PARTS:
        default = getattr(config, part)
        own = {name: given[name] for name in vars(default) if name in given}
        if not own:
            continue
        usual = {name: value for name, value in vars(default).items() if value != getattr(type(default), name)}
        words, change = (', '.join(f'{name}={value!r}' for name, value in some.items()) for some in (usual | own, own))
        raise TypeError(
            f'{_listed(own)} of TrainConfig.{part}. Write {part}={type(default).__name__}({words}) in a new '
            f'configuration, or config.with_options({change}) to change one'
        )


def _listed(names: Collection[str]) -> str:
    *first, last = map(printable, names)
    return f'{", ".join(first)} and {last} are fields' if first else f'{last} is a field'


@_tells_where_fields_are
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run.

    A step takes one batch; an update changes the parameters, once every `accumulation_steps` steps. Epochs are passes
    over the training images, and may be fractions. Raises ValueError for a value that is not allowed.
    """

    model: str
    """Name of the network, as `flaxmobile list` prints it."""
    stem_stride: Annotated[int, among(1, 2)] | None = None
    """Stride of the first convolution: 1 for images of 28 to 64 pixels; None: the network's own, 2."""
    dropout_rate: Rate | None = None
    """Share of features dropped before the classifier; None: the network's own."""
    stochastic_depth_rate: Rate | None = None
    """Chance to skip the last residual block, rising from 0 at the first; None: the network's own."""
    convention: Annotated[str, OneOf(tuple(CONVENTIONS))] | None = None
    """Padding, BatchNorm, initialisation and dilation: tensorflow, keras_v1, torch or torchvision_v3; None: the name's
    own."""
    init: str | None = None
    """Weights to start from: a run's folder, a published name (mobilenetv3_small_100.lamb_in1k) or a file. All but the
    classifier is taken, and the classifier too where the weights know every class by name. On the command line, model
    and preprocessing follow the weights unless they are given as well."""
    init_ema: bool = False
    """Start from the moving average of the weights in a torch checkpoint."""
    ignore_convention: bool = False
    """Start from weights that were made for another padding or BatchNorm epsilon than the network's."""
    freeze: tuple[str, ...] = ()
    """Shell patterns of what is not trained: parameter paths or the layers they lie in (stem, block_0*, */norm);
    backbone is all but the classifier. A BatchNorm that is frozen keeps its running statistics too, and uses them."""

    dataset: str
    """A TFDS name (cifar10), fashion_mnist_mini, fashion_mnist, or the path of a folder of images."""
    data_dir: str | None = None
    """Where TFDS keeps prepared data sets; None: its own default."""
    download: bool = False
    """Download and prepare the data set where it is missing."""
    train_split: str = 'train[:90%]'
    """Images to train on, in TFDS slicing."""
    validation_split: str = 'train[90%:]'
    """Images evaluated during training, which choose the best checkpoint."""
    test_split: str = 'test'
    """Images read once, at the end."""
    preprocessing: Preprocessing = dataclasses.field(default=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    """How every image is resized, cropped and normalised. Without it mean and std are 0.5, as TensorFlow's networks
    have them."""
    augmentation: Augmentation = dataclasses.field(default=Augmentation())
    """How training images are varied, each by itself."""
    mixup_alpha: NotNegative = 0.0
    """Mix each batch with its neighbours, by a share from Beta(alpha, alpha); 0: never. With cutmix_alpha too, one of
    both is drawn for each batch."""
    cutmix_alpha: NotNegative = 0.0
    """Paste a rectangle of the neighbour into each image, its area by Beta(alpha, alpha); 0: never."""
    max_unreadable: Share = 0.01
    """Share of images that may be unreadable before the run stops."""
    workers: Annotated[int, between(0, 1024)] = 0
    """Processes that read and augment training images; 0: threads of this process, as many as it has cores, up to
    16. The batches are the same."""

    batch_size: Count = 256
    """Images a step, over all devices together."""
    epochs: Positive = 100.0
    """Passes over the training images."""
    seed: Annotated[int, between(0, 2**63 - 1)] = 0
    """Where all randomness comes from: initial parameters, order, crops, dropout."""
    optimizer: Optimizer = 'rmsprop'
    """rmsprop is TensorFlow's, as the papers used it, torch_rmsprop torch's; sgd has momentum."""
    learning_rate: Positive = 0.045
    """Greatest learning rate, that of the schedule before any decay."""
    layer_decay: Annotated[float, above(0, 1)] | None = None
    """Factor of the learning rate for each block further from the head: 1 for the head convolution and the classifier,
    layer_decay for the last block, its square for the one before, and so on to the stem; None: one rate for all."""
    schedule: Schedule = 'exponential'
    """cosine falls to 0 at the end; exponential multiplies by decay_rate every decay_epochs, step at the milestones."""
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear warm-up, part of `epochs`; the decay counts from the start of training all the same."""
    decay_rate: Annotated[float, above(0, 1)] = 0.98
    """Factor of the schedules exponential and step."""
    decay_epochs: Positive = 1.0
    """Epochs between two decays of the schedule exponential."""
    milestones: tuple[NotNegative, ...] = ()
    """Epochs at which the schedule step decays."""
    momentum: Rate = 0.9
    """Decay of the momentum (both rmsprop, sgd), or of the gradient's average (adamw, lamb)."""
    rmsprop_decay: Rate = 0.9
    """Decay of rmsprop's average of squared gradients."""
    epsilon: Positive | None = None
    """Added to the denominator (rmsprop: under the root); None: 1e-3 for rmsprop, 1e-6 for lamb, 1e-8 for
    torch_rmsprop and adamw."""
    weight_decay: NotNegative = 0.0
    """Weight decay of the kernels: added to the gradient (both rmsprop, sgd) or to the update (adamw, lamb)."""
    decay_depthwise: bool = False
    """Whether weight decay reaches depthwise kernels; the papers spare them."""
    decay_norms: bool = False
    """Whether weight decay reaches all that is no kernel as well: BatchNorm, biases."""
    clip_gradient_norm: Positive | None = None
    """Greatest global norm of an update's gradient; None: no clipping."""
    accumulation_steps: Count = 1
    """Steps whose gradients are averaged into one update, as in a batch so many times larger but for BatchNorm."""
    label_smoothing: Rate = 0.0
    """Share of the target spread evenly over all classes."""
    teacher: str | None = None
    """A trained model to learn from, named as for init, which knows every class; None: labels alone."""
    distillation_weight: Share = 1.0
    """With a teacher, the share of the loss that is the distance to its answers; the labels have the rest."""
    distillation_temperature: Positive = 1.0
    """Divides both networks' logits before they are compared: above 1, small probabilities count for more."""
    ema_decay: Rate | None = None
    """Decay, per update, of the average of parameters and BatchNorm statistics that is evaluated; None: no average."""
    quantization: QuantizationAware = dataclasses.field(default=QuantizationAware())
    """Quantisation-aware training."""
    max_skipped_updates: Count = 10
    """Updates in a row that may be skipped, as the loss or the gradient was not finite, before the run stops."""
    dtype: Precision = 'float32'
    """Type the network computes in; parameters, loss and optimizer stay in float32."""

    log_every: Count = 50
    """Steps between two lines of metrics."""
    evaluate_every: Positive = 1.0
    """Epochs between two evaluations, each with a checkpoint."""
    checkpoint_every: Positive | None = None
    """Epochs between two checkpoints, besides those of the evaluations; None: those are enough."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept, besides the best."""
    linear_probe: bool = False
    """With init, first see how well a linear classifier and nearest neighbours do on its unchanged features, for the
    report: one more pass over the training and validation images."""

    def __post_init__(self) -> None:
        plain_values(self)
        check_fields(self, 'config')
        _check_schedule(self)
        _check_quantization(self)
        _ = self.mixing
        if self.init_ema and self.init is None:
            raise ValueError('init_ema=True goes with init=..., a checkpoint of torch to start from')
        if self.batch_size % (times := self.augmentation.repeated_augmentation):
            raise ValueError(
                f'batch_size ({self.batch_size}) must be a multiple of repeated_augmentation ({times}), the times that '
                'an image comes in it'
            )

    @property
    def mixing(self) -> Mixing:
        """How the images of a batch are mixed."""
        return Mixing(self.mixup_alpha, self.cutmix_alpha, self.augmentation.repeated_augmentation)

    @property
    def model_overrides(self) -> dict[str, Any]:
        """What the run changes of the named network, but for its classes and precision: plain values, fit for JSON."""
        names = ('stem_stride', 'dropout_rate', 'stochastic_depth_rate', 'convention')
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def build_model(self, num_classes: int) -> nn.Module:
        """The network with `num_classes` outputs, computing in `dtype`; with `qat`, that network `Quantized`.

        Raises:
            ValueError: an unknown name, or a network that cannot be trained for int8.
        """
        network = create_model(self.model, num_classes=num_classes, dtype=jnp.dtype(self.dtype), **self.model_overrides)
        return Quantized(network) if self.quantization.qat else network

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run, at least one."""
        return self.optimizer_plan.total_steps(steps_per_epoch)

    @property
    def data_plan(self) -> DataPlan:
        """Which images the run trains on, and which it holds out."""
        return DataPlan.of(self)

    @property
    def optimizer_plan(self) -> OptimizerPlan:
        """The optimiser, the schedule of its learning rate, and how long it runs."""
        return OptimizerPlan.of(self)

    @property
    def start_plan(self) -> StartPlan:
        """The weights that the run starts from."""
        return StartPlan.of(self)

    @property
    def teacher_plan(self) -> TeacherPlan:
        """The trained model that the run learns from."""
        return TeacherPlan.of(self)

    def timetable(self, steps_per_epoch: int) -> Timetable:
        """When the run does what, in steps."""
        return Timetable.of(self, steps_per_epoch)

    def options(self) -> dict[str, Any]:
        """All values as the command line and `run.json` have them: the fields of the parts beside the others."""
        values: dict[str, Any] = {}
        for name in (field.name for field in dataclasses.fields(self)):
            value = getattr(self, name)
            values |= vars(value) if name in _PARTS else {name: value}
        return values

    def for_int8(self, init: str) -> 'TrainConfig':
        """This configuration for quantisation-aware training of the network that `init` names, which is the teacher.

        Data, batches and augmentation stay; length, optimiser and loss are those of the recipe.
        """
        return self.with_options(qat=True, init=init, teacher=init, **_INT8_RECIPE)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> 'TrainConfig':
        """The configuration with these `options`; the rest is as in `TrainConfig()`."""
        others, parts = dict(options), {}
        for part in _PARTS:
            default = getattr(cls, part)
            own = {name: others.pop(name) for name in vars(default) if name in others}
            parts[part] = dataclasses.replace(default, **own)
        return cls(**others, **parts)

    def with_options(self, **changes: Any) -> 'TrainConfig':
        """This configuration with some of its `options` changed."""
        return self.from_options(self.options() | changes)


def load_config(name_or_path: str | Path) -> TrainConfig:
    """Read `config` from a Python file: a path, or the name of one that comes with flaxmobile.

    Raises:
        ValueError: there is no such file, or it defines no `config`.
    """
    path = Path(name_or_path)
    if (path / 'run.json').is_file():
        raise ValueError(
            f'{printable(path, None)} is the folder of a run, and no config. To go on with the run, give its config, '
            'this folder (run_dir) and resume=True; to train anew from its weights, give a config and this folder as '
            'init=...'
        )
    if path.suffix != '.py':
        shipped = {file.stem: file for file in _config_folder().glob('*.py')}
        if str(name_or_path) not in shipped:
            raise ValueError(f'{unknown("config", str(name_or_path), shipped)}. (A file of your own ends in .py.)')
        path = shipped[str(name_or_path)]
    elif not path.is_file():
        raise ValueError(f'there is no config file {path}')
    try:
        config = runpy.run_path(str(path)).get('config')
    except Exception as error:  # Whatever a file of the user's raises.
        raise ValueError(f'the config file {path} does not run: {type(error).__name__}: {error}') from error
    if not isinstance(config, TrainConfig):
        raise ValueError(f'{path} must define `config = TrainConfig(...)`, and has {config!r}')
    return config


def list_configs() -> list[str]:
    """Names of the configs that come with flaxmobile, sorted."""
    return sorted(path.stem for path in _config_folder().glob('*.py'))


def _config_folder() -> Path:
    package = Path(__file__).parent.parent
    packaged = package / 'configs'
    return packaged if packaged.is_dir() else package.parent / 'configs'


def _check_quantization(config: TrainConfig) -> None:
    if not config.quantization.qat:
        return
    if config.init is None:
        raise ValueError('qat=True goes with init=..., the float network to train for int8')
    wrong = {'freeze': config.freeze, 'linear_probe': config.linear_probe, 'dtype': config.dtype != 'float32'}
    if names := [name for name, given in wrong.items() if given]:
        reasons = {
            'freeze': 'all weights and ranges are trained together',
            'linear_probe': "probe the float network's features",
            'dtype': 'the numbers that int8 stands for are exact in float32 alone',
        }
        value = getattr(config, names[0])
        given = ' '.join(value) if isinstance(value, tuple) else value
        raise ValueError(f'{names[0]} ({printable(given)}) does not go with qat=True: {reasons[names[0]]}')


def _check_schedule(config: TrainConfig) -> None:
    if config.warmup_epochs >= config.epochs:
        raise ValueError(
            f'warmup_epochs ({config.warmup_epochs}) must be less than epochs ({config.epochs}): warmup_epochs=0 '
            'trains without a warm-up'
        )
    if config.schedule == 'step' and not config.milestones:
        raise ValueError('the schedule step needs milestones, the epochs at which the learning rate falls')

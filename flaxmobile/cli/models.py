"""The subcommands that try a trained model on images: evaluate, predict and probe."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from flaxmobile.cli.common import AS_IT_IS, ModelName, Opened, as_json, open_model, run_of, tell, title_of
from flaxmobile.cli.datasets import DataDir, DataName, TestSplit, drawn_of, named_data, open_test_data
from flaxmobile.messages import printable

if TYPE_CHECKING:
    from flaxmobile.tasks.classification import Evaluation
    from flaxmobile.weights import Weight


def evaluate(
    model: Positional[ModelName],
    data: DataName = None,
    split: TestSplit = None,
    data_dir: DataDir = None,
    download: Annotated[
        FlagCreatePairsOff[bool], arg(help='Fetch and prepare a data set that is not there yet.')
    ] = False,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
    batch_size: Annotated[int | None, arg(help="Images at once; None: the run's, or 64.")] = None,
) -> int:
    """Evaluate a model: accuracy, top 5, loss and the classes it does worst on, beside what was published."""
    import jax

    from flaxmobile.parallel.mesh import make_mesh, replicate
    from flaxmobile.tasks.classification import Classification
    from flaxmobile.tasks.evaluation import evaluate as run_evaluation
    from flaxmobile.training.step import make_evaluation_step
    from flaxmobile.weights.class_names import label_positions

    trained, run = open_model(model, opened), run_of(model, opened)
    title = title_of(model, trained, opened)
    if not trained.num_classes:
        raise ValueError(f'{title} has no classes, so there is no accuracy to measure')
    dataset = open_test_data(run, title, data, split, data_dir, download)
    positions = tuple(label_positions(dataset.classes, trained.labels).tolist())
    if batch_size is None:
        batch_size = run.config.batch_size if run else 64
    mesh = make_mesh()
    task = Classification(trained.labels or (), trained.preprocessing, positions=positions)
    step, variables = make_evaluation_step(trained.module, task, mesh), replicate(trained.variables, mesh)
    result = run_evaluation(task, step, variables, dataset, -(-batch_size // mesh.size) * mesh.size, mesh)
    for name in dataset.unreadable:
        tell(f'left out, as it cannot be read: {name}')
    if jax.process_index() > 0:
        return 0
    print(f'{title} on {printable(f"{dataset.name} ({dataset.split}{drawn_of(dataset)})", None)}')
    _print_evaluation(result, trained.labels or ())
    if trained.weight and trained.weight.top1:
        print(_published(trained.weight, trained.preprocessing.image_size))
    return 0


def _published(weight: 'Weight', image_size: int) -> str:
    """The published accuracy at that image size, or at those that were published."""
    sizes = [image_size] if image_size in weight.top1 else list(weight.top1)
    figures = ', '.join(f'{weight.top1[size]:.2f}% at {size} pixels' for size in sizes)
    return f'published for ImageNet-1k: accuracy {figures}'


def _print_evaluation(result: 'Evaluation', classes: Sequence[str]) -> None:
    top5 = f', top 5 {result.accuracy_top5:.2%}' if len(classes) > 5 else ''
    print(f'accuracy {result.accuracy:.2%}{top5}, loss {result.loss:.4f}, {result.count:,} images')
    images = result.confusion.sum(axis=1)
    seen = [number for number in range(len(classes)) if images[number]]
    recall = {number: result.confusion[number, number] / images[number] for number in seen}
    worst = sorted(seen, key=lambda number: recall[number])[:5]
    print('worst classes: ' + ', '.join(f'{printable(classes[number])} {recall[number]:.1%}' for number in worst))


def predict(
    model: Positional[ModelName],
    images: Positional[
        Annotated[
            tuple[Path, ...],
            arg(metavar='IMAGE...', help='Images, or folders of images.', help_behavior_hint='(required)'),
        ]
    ],
    top: Annotated[int, arg(help='How many classes to name, the most probable first.')] = 5,
    json: Annotated[FlagCreatePairsOff[bool], arg(help='Print JSON.')] = False,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
) -> int:
    """Say what is on images, with probabilities; exit code 1 where one cannot be read."""
    from flaxmobile.runs.prediction import predict_files

    if not images:
        raise ValueError('name at least one image, or a folder of images')
    if _is_image(model):
        raise ValueError(f'{model} is an image: name the model first, then the images')
    results = predict_files(open_model(model, opened), images, top)
    print(as_json(results) if json else '\n'.join(_lines(result) for result in results))
    return int(any('error' in result for result in results))


def _is_image(given: str) -> bool:
    from flaxmobile.data.kinds import suffixes

    path = Path(given)
    kind = suffixes().get(path.suffix.lower()) if path.is_file() else None
    return kind is not None and kind.is_read


def _lines(result: dict[str, Any]) -> str:
    if 'error' in result:
        return f'{printable(result["image"], None)}\n  cannot be read: {printable(result["error"], None)}'
    lines = [f'  {guess["probability"]:6.1%}  {_guess(guess)}' for guess in result['predictions']]
    return '\n'.join([printable(result['image'], None), *lines])


def _guess(prediction: dict[str, Any]) -> str:
    return f'class {prediction["index"]}' if prediction['class'] is None else printable(prediction['class'])


def probe(
    model: Positional[ModelName],
    data: DataName = None,
    train_split: Annotated[str | None, arg(help="Its part to fit; None: the run's train split, or 'train'.")] = None,
    test_split: Annotated[str | None, arg(help="Its part to test; None: the run's test split, or 'test'.")] = None,
    data_dir: DataDir = None,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
    batch_size: Annotated[int, arg(help='Images at once.')] = 64,
) -> int:
    """See how good a model's features are for other classes: nearest neighbours and a linear classifier on them."""
    from flaxmobile.data import load_dataset
    from flaxmobile.parallel.mesh import make_mesh
    from flaxmobile.tasks.probe import NEIGHBOURS
    from flaxmobile.tasks.probe import probe as run_probe

    trained, run = open_model(model, opened), run_of(model, opened)
    title = title_of(model, trained, opened)
    if run and run.config.quantization.qat:
        raise ValueError(f'{title} was trained for int8: probe the float network that it came from, {run.config.init}')
    config = run.config if run and data in (None, run.config.dataset) else None
    data = named_data(run, data, title)
    own = (config.train_split, config.test_split, config.data_dir) if config else ('train', 'test', None)
    splits = (train_split or own[0], test_split or own[1])
    train, test = (load_dataset(data, split, data_dir=data_dir or own[2]) for split in splits)
    mesh = make_mesh()
    size = -(-batch_size // mesh.size) * mesh.size
    found = run_probe(trained.module, trained.variables, trained.preprocessing, train, test, size, mesh)
    print(
        f'{title} on {printable(train.name, None)}: fitted to {found.train_images:,} images '
        f'of {train.split}, tested on {found.test_images:,} of {test.split}, '
        f'at {trained.preprocessing.image_size} pixels'
    )
    print(f'{NEIGHBOURS} nearest neighbours {found.knn_accuracy:.2%}')
    print(f'linear probe {found.linear_accuracy:.2%} (penalty {found.penalty:g})')
    return 0

"""Where images come from: TFDS, folders, the embedded set; decoding, augmentation, batching."""

from typing import TYPE_CHECKING

from flaxmobile.lazy import lazy_names

if TYPE_CHECKING:
    from flaxmobile.data.batches import Batch, BatchFormat
    from flaxmobile.data.dataset import Dataset, UnreadableImages
    from flaxmobile.data.images import UnreadableImage, read_image
    from flaxmobile.data.loading import load_dataset
    from flaxmobile.data.preparation import prepare_for_evaluation, prepare_for_training
    from flaxmobile.data.preprocessing import Augmentation, Preprocessing
    from flaxmobile.data.sample import Sample

__all__ = [
    'Augmentation',
    'Batch',
    'BatchFormat',
    'Dataset',
    'Preprocessing',
    'Sample',
    'UnreadableImage',
    'UnreadableImages',
    'load_dataset',
    'prepare_for_evaluation',
    'prepare_for_training',
    'read_image',
]

# Lazy: the models need Preprocessing and nothing of Grain, TFDS or Pillow.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        '.preprocessing': ('Augmentation', 'Preprocessing'),
        '.sample': ('Sample',),
        '.images': ('UnreadableImage', 'read_image'),
        '.preparation': ('prepare_for_evaluation', 'prepare_for_training'),
        '.batches': ('Batch', 'BatchFormat'),
        '.dataset': ('Dataset', 'UnreadableImages'),
        '.loading': ('load_dataset',),
    },
)

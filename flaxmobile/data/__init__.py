"""Where images come from: TFDS, folders, the embedded set; decoding, augmentation, batching."""

from typing import TYPE_CHECKING

from flaxmobile.lazy import lazy_names

if TYPE_CHECKING:
    from flaxmobile.data.dataset import Batch, Dataset, UnreadableImages
    from flaxmobile.data.images import UnreadableImage, prepare_for_evaluation, prepare_for_training, read_image
    from flaxmobile.data.loading import load_dataset
    from flaxmobile.data.preprocessing import Augmentation, Preprocessing

__all__ = [
    'Augmentation',
    'Batch',
    'Dataset',
    'Preprocessing',
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
        '.images': ('UnreadableImage', 'prepare_for_evaluation', 'prepare_for_training', 'read_image'),
        '.dataset': ('Batch', 'Dataset', 'UnreadableImages'),
        '.loading': ('load_dataset',),
    },
)

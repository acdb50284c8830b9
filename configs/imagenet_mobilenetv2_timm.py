"""MobileNetV2 1.0 at 224 on ImageNet, from scratch, by timm's recipe for EfficientNet-B0.

    flaxmobile train imagenet_mobilenetv2_timm --data-dir gs://BUCKET/tensorflow_datasets

Source: timm's hfdocs/source/training_script.mdx, EfficientNet-B0 with RandAugment. For `mobilenetv2_100.ra_in1k` timm
prints no command: its author says that it is like this one (issue 355).
Not reproduced: the rate falls at an update, not at the end of a whole epoch; warm-up begins at one part of its 5 epochs
(timm's default) and not at 1e-6.
Hardware: 8 accelerators of 16 GB or more (timm: 2 GPUs of 384 images each). Time: about 50 hours if 3,300 images a
second come through, an assumption, not measured.
Expected top-1: 72.9 % (timm's `mobilenetv2_100.ra_in1k`). Not run in full by this project.
"""

from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='mobilenetv2_100',
    dropout_rate=0.2,
    stochastic_depth_rate=0.2,
    dataset='imagenet2012',
    train_split='train[:99%]',
    validation_split='train[99%:]',
    test_split='validation',
    preprocessing=Preprocessing(),
    augmentation=Augmentation(
        auto_augment='randaugment', randaugment_magnitude_std=0.5, random_erasing=0.2, train_interpolation='random'
    ),
    batch_size=768,
    epochs=450,
    optimizer='rmsprop',
    learning_rate=0.048,
    schedule='exponential',
    warmup_epochs=5,
    decay_rate=0.97,
    decay_epochs=2.4,
    epsilon=1e-3,
    weight_decay=1e-5,
    decay_depthwise=True,
    label_smoothing=0.1,
    ema_decay=0.9999,
    dtype='bfloat16',
    evaluate_every=5,
)

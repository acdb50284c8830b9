"""MobileNetV2 1.0 on CIFAR-10, from scratch, with a stem of stride 1.

    flaxmobile train cifar10 --download

Needs the extra `tensorflow` where TFDS prepared the set as tfrecords, its default.
Hardware: one GPU. Time: about 1 hour, estimated, not measured.
Expected top-1: 92 to 94 %, estimated from MobileNetV2 with crops and flips elsewhere; not run by this project.
"""

from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='mobilenetv2_100',
    stem_stride=1,
    dropout_rate=0.2,
    dataset='cifar10',
    preprocessing=Preprocessing(
        image_size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616), crop_fraction=1.0
    ),
    augmentation=Augmentation(crop_scale=(0.4, 1.0)),
    batch_size=128,
    epochs=200,
    optimizer='sgd',
    learning_rate=0.1,
    schedule='cosine',
    warmup_epochs=5,
    weight_decay=5e-4,
    dtype='bfloat16',
    evaluate_every=2,
)

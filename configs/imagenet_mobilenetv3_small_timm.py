"""MobileNetV3-Small 1.0 at 224 on ImageNet, from scratch, by timm's recipe with LAMB.

    flaxmobile train imagenet_mobilenetv3_small_timm --data-dir gs://BUCKET/tensorflow_datasets

Source: timm's issue 1021, where the run's file names give the optimizer, rate, weight decay, RandAugment, Mixup, both
dropouts, smoothing and epochs; the card of `mobilenetv3_small_100.lamb_in1k` says "ResNet Strikes Back" A2 (2110.00476,
table 2) half as long again, with a moving average and without CutMix, whose batch of 2,048 and 5 epochs of warm-up are
taken here. timm prints no command. The clipping at a norm of 1.0 is ours.
Not reproduced: A2's binary cross entropy, if the run had it: here it is the softmax's; A2's repeated augmentation.
Hardware: 8 accelerators of 16 GB or more. Time: about 20 hours if 8,000 images a second come through, an assumption,
not measured.
Expected top-1: 67.6 % (timm's `mobilenetv3_small_100.lamb_in1k`). Not run in full by this project.
"""

import math

from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='mobilenetv3_small_100',
    dropout_rate=0.1,
    stochastic_depth_rate=0.1,
    dataset='imagenet2012',
    train_split='train[:99%]',
    validation_split='train[99%:]',
    test_split='validation',
    preprocessing=Preprocessing(),
    augmentation=Augmentation(
        auto_augment='randaugment',
        randaugment_magnitude_std=math.inf,
        randaugment_increasing=True,
        train_interpolation='random',
    ),
    mixup_alpha=0.1,
    batch_size=2048,
    epochs=450,
    optimizer='lamb',
    learning_rate=5e-3,
    schedule='cosine',
    warmup_epochs=5,
    weight_decay=0.1,
    decay_depthwise=True,
    clip_gradient_norm=1.0,
    label_smoothing=0.1,
    ema_decay=0.9999,
    dtype='bfloat16',
    evaluate_every=5,
)

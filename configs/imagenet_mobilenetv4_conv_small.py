"""MobileNetV4-Conv-Small at 224 on ImageNet, from scratch, by the authors' recipe.

    flaxmobile train imagenet_mobilenetv4_conv_small --data-dir gs://BUCKET/tensorflow_datasets

Source: Qin et al. 2024 (2404.10518), in the authors' code: tensorflow/models,
official/vision/configs/experiments/image_classification/imagenet_mobilenetv4_conv_small_tpu.yaml. AdamW with beta1 0.6,
batch 4,096, rate 0.002, cosine, 1,560 steps of warm-up (5 epochs), weight decay 0.01 but of BatchNorm, RandAugment of
magnitude 9 with probability 1/2, moving average 0.9999.
Not reproduced: a second decay of 1e-5 as a term of the loss, beside AdamW's own; the classifier's bias is not decayed.
The network is timm's: convolutions pad symmetrically and BatchNorm has epsilon 1e-5 and momentum 0.9,
where the authors have theirs pad as TensorFlow does, with 1e-6 and 0.95.
Hardware: 32 accelerators of 16 GB. Time: about 170 hours if 20,000 images a second come through, an assumption, not
measured; timm needed 2,400 epochs (`imagenet_mobilenetv4_conv_small_timm`).
Expected top-1: 73.8 % (the YAML; the paper's table 6 has the same). Not run in full by this project.
"""

from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='mobilenetv4_conv_small',
    dropout_rate=0.3,
    dataset='imagenet2012',
    train_split='train[:99%]',
    validation_split='train[99%:]',
    test_split='validation',
    preprocessing=Preprocessing(interpolation='bilinear'),
    augmentation=Augmentation(auto_augment='randaugment'),
    batch_size=4096,
    epochs=9623,
    optimizer='adamw',
    learning_rate=2e-3,
    schedule='cosine',
    warmup_epochs=5,
    momentum=0.6,
    epsilon=1e-6,
    weight_decay=0.01,
    decay_depthwise=True,
    label_smoothing=0.1,
    ema_decay=0.9999,
    evaluate_every=20,
)

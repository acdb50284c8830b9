"""MobileNetV2 1.0 at 224 on ImageNet, from scratch, by the authors' recipe.

    flaxmobile train imagenet_mobilenetv2 --data-dir gs://BUCKET/tensorflow_datasets

Source: Sandler et al. 2018 (1801.04381), section 6.1, in the synchronous form of the authors' code for 8 GPUs of 96
images: RMSProp, rate 0.045 a GPU times 0.98 every 2.5 epochs, 700,000 updates, weight decay 4e-5 but on depthwise
kernels, label smoothing 0.1, moving average 0.9999. The epsilon of 1 is that code's default. Its colour distortion is
left out here.
Hardware: 8 accelerators of 16 GB or more. Time: about 45 hours if 3,300 images a second come through, an assumption,
not measured.
Expected top-1: 72.0 % (Table 4; the authors' released network reaches 71.8 %). Not run in full by this project.
"""

from flaxmobile.data import Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='tf_mobilenetv2_100',
    dropout_rate=0.2,
    dataset='imagenet2012',
    train_split='train[:99%]',
    validation_split='train[99%:]',
    test_split='validation',
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation='bilinear'),
    batch_size=768,
    epochs=420,
    optimizer='rmsprop',
    learning_rate=0.36,
    schedule='exponential',
    decay_rate=0.98,
    decay_epochs=2.5,
    epsilon=1.0,
    weight_decay=4e-5,
    label_smoothing=0.1,
    ema_decay=0.9999,
    dtype='bfloat16',
    evaluate_every=5,
)

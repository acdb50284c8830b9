"""MobileNetV1 1.0 at 224 on ImageNet, from scratch, by the paper's recipe.

    flaxmobile train imagenet_mobilenetv1 --data-dir gs://BUCKET/tensorflow_datasets

Source: Howard et al. 2017 (1704.04861), section 3.2: RMSProp like Inception-V3's, gentler crops, no label smoothing,
no weight decay on depthwise kernels. The paper prints no numbers: the least crop and the number of epochs are our
choice; rate, decay, epsilon, clipping and moving average are Inception-V3's (1512.00567, section 8), weight decay and
dropout those of the authors' code, and the asynchronous workers become one synchronous batch of 768 with eight times
the rate of one worker, as the authors' code does for MobileNetV2.
Hardware: 8 accelerators of 16 GB or more. Time: about 12 hours if 3,500 images a second come through, an assumption,
not measured.
Expected top-1: 70.6 % (Table 8; the authors' released network reaches 70.9 %). Not run in full by this project.
"""

from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='tf_mobilenetv1_100',
    dropout_rate=0.001,
    dataset='imagenet2012',
    train_split='train[:99%]',
    validation_split='train[99%:]',
    test_split='validation',
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation='bilinear'),
    augmentation=Augmentation(crop_scale=(0.25, 1.0)),
    batch_size=768,
    epochs=120,
    optimizer='rmsprop',
    learning_rate=0.36,
    schedule='exponential',
    decay_rate=0.94,
    decay_epochs=2,
    epsilon=1.0,
    weight_decay=4e-5,
    clip_gradient_norm=2.0,
    ema_decay=0.9999,
    dtype='bfloat16',
)

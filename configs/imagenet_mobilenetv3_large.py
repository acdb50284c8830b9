"""MobileNetV3-Large 1.0 at 224 on ImageNet, from scratch, by the paper's recipe.

    flaxmobile train imagenet_mobilenetv3_large --data-dir gs://BUCKET/tensorflow_datasets

Source: Howard et al. 2019 (1905.02244), section 6.1: RMSProp with momentum 0.9, batch 4096, rate 0.1 times 0.99 every
3 epochs, dropout 0.2, L2 1e-5, moving average 0.9999, BatchNorm momentum 0.99. The paper does not print the number of
epochs, epsilon, warm-up and label smoothing: they are those of the authors' later MobileNetV3-Small in TensorFlow's
model garden.
Hardware: 32 accelerators of 16 GB (the paper: a 4x4 TPU pod, 128 images a chip). Time: about 30 hours if 12,000
images a second come through, an assumption, not measured.
Expected top-1: 75.2 % (Table 3; the authors' released network reaches 75.2 %). Not run in full by this project.
"""

from flaxmobile.data import Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='tf_mobilenetv3_large_100',
    dropout_rate=0.2,
    dataset='imagenet2012',
    train_split='train[:99%]',
    validation_split='train[99%:]',
    test_split='validation',
    preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation='bilinear'),
    batch_size=4096,
    epochs=1000,
    optimizer='rmsprop',
    learning_rate=0.1,
    schedule='exponential',
    warmup_epochs=5,
    decay_rate=0.99,
    decay_epochs=3,
    epsilon=2e-3,
    weight_decay=1e-5,
    label_smoothing=0.1,
    ema_decay=0.9999,
    dtype='bfloat16',
    evaluate_every=10,
)

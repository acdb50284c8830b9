"""MobileNetV2 1.0 at 224 on ImageNet, from scratch, by torchvision's first recipe.

    flaxmobile train imagenet_mobilenetv2_torchvision --data-dir gs://BUCKET/tensorflow_datasets

Source: torchvision's references/classification/README.md, MobileNetV2 (weights IMAGENET1K_V1): SGD, batch 8 x 32, rate
0.045 times 0.98 every epoch, weight decay 4e-5 of every parameter.
Not reproduced: each of 8 GPUs normalises its 32 images by themselves; here BatchNorm is that of all 256.
Hardware: 8 accelerators of 16 GB or more (torchvision: 8 GPUs). Time: about 35 hours if 3,000 images a second come
through, an assumption, not measured.
Expected top-1: 71.9 % (torchvision's weights IMAGENET1K_V1: 71.878 %). Not run in full by this project.
"""

from flaxmobile.data import Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='mobilenetv2_100',
    dropout_rate=0.2,
    dataset='imagenet2012',
    train_split='train[:99%]',
    validation_split='train[99%:]',
    test_split='validation',
    preprocessing=Preprocessing(interpolation='bilinear'),
    batch_size=256,
    epochs=300,
    optimizer='sgd',
    learning_rate=0.045,
    schedule='exponential',
    decay_rate=0.98,
    decay_epochs=1,
    weight_decay=4e-5,
    decay_depthwise=True,
    decay_norms=True,
    evaluate_every=5,
)

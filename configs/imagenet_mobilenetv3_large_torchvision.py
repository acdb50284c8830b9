"""MobileNetV3-Large 1.0 at 224 on ImageNet, from scratch, by torchvision's first recipe.

    flaxmobile train imagenet_mobilenetv3_large_torchvision --data-dir gs://BUCKET/tensorflow_datasets

Source: torchvision's references/classification/README.md, MobileNetV3 (weights IMAGENET1K_V1): torch's RMSprop with
epsilon 0.0316, batch 8 x 128, rate 0.064 times 0.973 every 2 epochs, AutoAugment, erasing 0.2, weight decay 1e-5 of
every parameter. The second weights (75.274 %) have a recipe that torchvision does not print.
Not reproduced: the last three checkpoints that improved are not averaged (pull request 3182): the moving average of the
paper stands for it; erased rectangles are noise, not the mean colour; 8 batches of 128 with a BatchNorm each.
Hardware: 8 accelerators of 16 GB or more (torchvision: 8 GPUs). Time: about 55 hours if 4,000 images a second come
through, an assumption, not measured.
Expected top-1: 74.0 % (torchvision's weights IMAGENET1K_V1: 74.042 %). Not run in full by this project.
"""

from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='tv_mobilenetv3_large_100',
    dropout_rate=0.2,
    dataset='imagenet2012',
    train_split='train[:99%]',
    validation_split='train[99%:]',
    test_split='validation',
    preprocessing=Preprocessing(interpolation='bilinear'),
    augmentation=Augmentation(auto_augment='autoaugment', random_erasing=0.2),
    batch_size=1024,
    epochs=600,
    optimizer='torch_rmsprop',
    learning_rate=0.064,
    schedule='exponential',
    decay_rate=0.973,
    decay_epochs=2,
    epsilon=0.0316,
    weight_decay=1e-5,
    decay_depthwise=True,
    decay_norms=True,
    ema_decay=0.9999,
    evaluate_every=5,
)

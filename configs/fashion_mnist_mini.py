"""The demo: MobileNetV2 0.35 on 9,000 of Fashion-MNIST's images, which come with the package.

    flaxmobile train fashion_mnist_mini

Hardware: two cores of a CPU. Time: about 3 minutes. Expected top-1: 85 % (aim; the measured value is in the README).
"""

from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='tf_mobilenetv2_035',
    stem_stride=1,
    dropout_rate=0.1,
    dataset='fashion_mnist_mini',
    image_size=28,
    channels=1,
    mean=(0.286,),
    std=(0.353,),
    crop_fraction=1.0,
    crop_scale=(0.7, 1.0),
    crop_ratio=(0.9, 1.1),
    batch_size=128,
    epochs=10,
    optimizer='adamw',
    learning_rate=0.005,
    schedule='cosine',
    warmup_epochs=2,
    weight_decay=0.01,
    log_every=10,
)

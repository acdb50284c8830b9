"""MobileNetV2 0.50 on all 60,000 training images of Fashion-MNIST.

    flaxmobile train fashion_mnist --download

Hardware: one GPU, or a CPU with patience. Time: about 10 minutes on a GPU, estimated, not measured.
Expected top-1: 92 to 93 %, estimated from what networks of this size reach elsewhere; not run by this project.
"""

from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='tf_mobilenetv2_050',
    stem_stride=1,
    dropout_rate=0.2,
    dataset='fashion_mnist',
    preprocessing=Preprocessing(image_size=28, channels=1, mean=(0.286,), std=(0.353,), crop_fraction=1.0),
    augmentation=Augmentation(crop_scale=(0.6, 1.0), crop_ratio=(0.9, 1.1)),
    batch_size=256,
    epochs=40,
    optimizer='adamw',
    learning_rate=0.004,
    schedule='cosine',
    warmup_epochs=2,
    weight_decay=0.05,
    label_smoothing=0.1,
    ema_decay=0.999,
)

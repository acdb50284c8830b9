"""MobileNetV3-Large 1.0 at 224 on ImageNet, from scratch, by timm's recipe.

    flaxmobile train imagenet_mobilenetv3_large_timm --data-dir gs://BUCKET/tensorflow_datasets

Source: timm's hfdocs/source/training_script.mdx, MobileNetV3-Large-100 with RandAugment.
Not reproduced: the noise on the learning rate between 42 and 90 % of training (`--lr-noise 0.42 0.9`), which only this
recipe has; the rate falls at an update, not at the end of a whole epoch; warm-up begins at one part of its 5 epochs
(timm's default) and not at 1e-6.
Hardware: 8 accelerators of 16 GB or more (timm: 2 GPUs of 512 images each). Time: about 55 hours if 4,000 images a
second come through, an assumption, not measured.
Expected top-1: 75.8 % (timm's `mobilenetv3_large_100.ra_in1k`). Not run in full by this project.
"""

from flaxmobile.training.config import load_config

config = load_config('imagenet_mobilenetv2_timm').with_options(
    model='mobilenetv3_large_100',
    batch_size=1024,
    epochs=600,
    learning_rate=0.064,
    decay_rate=0.973,
)

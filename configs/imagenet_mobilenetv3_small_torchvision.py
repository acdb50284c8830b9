"""MobileNetV3-Small 1.0 at 224 on ImageNet, from scratch, by torchvision's recipe.

    flaxmobile train imagenet_mobilenetv3_small_torchvision --data-dir gs://BUCKET/tensorflow_datasets

Source: torchvision's references/classification/README.md, MobileNetV3 (weights IMAGENET1K_V1): that of
`imagenet_mobilenetv3_large_torchvision`, with which it shares what is not reproduced.
Hardware: 8 accelerators of 16 GB or more (torchvision: 8 GPUs). Time: about 26 hours if 8,000 images a second come
through, an assumption, not measured.
Expected top-1: 67.7 % (torchvision's weights IMAGENET1K_V1: 67.668 %). Not run in full by this project.
"""

from flaxmobile.training.config import load_config

config = load_config('imagenet_mobilenetv3_large_torchvision').with_options(model='tv_mobilenetv3_small_100')

"""MobileNetV1 1.0 at 224 on ImageNet, from scratch, by the recipe of MobileNetV4 as timm used it.

    flaxmobile train imagenet_mobilenetv1_timm --data-dir gs://BUCKET/tensorflow_datasets

Source: timm's author tells in "MobileNet Baselines" (huggingface.co/blog/rwightman/mobilenet-baselines) that he gave
MobileNetV1 the recipe of MobileNetV4-Conv-Small, for 3,600 epochs. His own hyper-parameters are in a gist that we could
not read, so the rest is `imagenet_mobilenetv4_conv_small_timm`; mean and standard deviation are those of his weights.
Hardware: 32 accelerators of 16 GB. Time: about 90 hours if 14,000 images a second come through, an assumption, not
measured.
Expected top-1: 75.4 % (timm's `mobilenetv1_100.ra4_e3600_r224_in1k`). Not run in full by this project.
"""

from flaxmobile.training.config import load_config

config = load_config('imagenet_mobilenetv4_conv_small_timm').with_options(
    model='mobilenetv1_100',
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    epochs=3600,
)

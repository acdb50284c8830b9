"""MobileNetV4-Conv-Small at 224 on ImageNet, taught by MobileNetV4-Hybrid-Large.

    flaxmobile train imagenet_mobilenetv4_conv_small_distilled --data-dir gs://BUCKET/tensorflow_datasets

Source: Qin et al. 2024 (2404.10518), section 8: a frozen teacher that sees the same augmented images. Its answers alone
are learnt from, as in Beyer et al. 2021 (2106.05237), and not the labels. The teacher is the best network trained on
ImageNet alone of which flaxmobile has the weights; it sees the images enlarged to its own 384 pixels. The rest is
`imagenet_mobilenetv4_conv_small_timm`.
Not reproduced: the paper's teacher, an EfficientNet-L2 that knows JFT; its mixture of differently augmented copies of
ImageNet, and its images of JFT.
Hardware: 32 accelerators of 16 GB. Time: about 240 hours if 3,500 images a second come through, an assumption, not
measured: nearly all of it the teacher's.
Expected top-1: not known; the paper's table 9 has 75.5 % with its own teacher and data. Not run by this project.
"""

from flaxmobile.training.config import load_config

config = load_config('imagenet_mobilenetv4_conv_small_timm').with_options(
    teacher='mobilenetv4_hybrid_large.ix_e600_r384_in1k',
    label_smoothing=0.0,
    dtype='bfloat16',
)

"""MobileNetV4-Conv-Large at 384 on ImageNet, from scratch, by the authors' recipe.

    flaxmobile train imagenet_mobilenetv4_conv_large --data-dir gs://BUCKET/tensorflow_datasets

Source: Qin et al. 2024 (2404.10518), in the authors' code: tensorflow/models,
official/vision/configs/experiments/image_classification/imagenet_mobilenetv4_conv_large_tpu.yaml. AdamW, batch 16,384,
rate 0.004, cosine, 1,560 steps of warm-up (20 epochs), weight decay 0.2 but of BatchNorm.
Not reproduced: Mixup 0.8 or CutMix 1.0 in a fifth of the batches, since here it is all or none: none; stochastic depth
of 0.2 in every block, where here it rises from 0 to 0.2; RandAugment of magnitude 15; here 10, where timm's scale ends.
The classifier's bias is not decayed.
The network is timm's: convolutions pad symmetrically and BatchNorm has epsilon 1e-5 and momentum 0.9,
where the authors have theirs pad as TensorFlow does, with 1e-3 and 0.997.
Hardware: 128 accelerators of 16 GB (128 images each). Time: about 18 hours if 10,000 images a second come through, an
assumption, not measured.
Expected top-1: 82.9 % (the YAML; the paper's table 6 has the same). Not run in full by this project.
"""

from flaxmobile.training.config import load_config

config = load_config('imagenet_mobilenetv4_conv_medium').with_options(
    model='mobilenetv4_conv_large',
    stochastic_depth_rate=0.2,
    image_size=384,
    batch_size=16384,
    warmup_epochs=20,
    weight_decay=0.2,
)

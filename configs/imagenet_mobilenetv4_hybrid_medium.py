"""MobileNetV4-Hybrid-Medium at 256 on ImageNet, from scratch, by the authors' recipe.

    flaxmobile train imagenet_mobilenetv4_hybrid_medium --data-dir gs://BUCKET/tensorflow_datasets

Source: Qin et al. 2024 (2404.10518), in the authors' code: tensorflow/models,
official/vision/configs/experiments/image_classification/imagenet_mobilenetv4_hybrid_medium_tpu.yaml. AdamW, batch
16,384, rate 0.016, cosine, 1,560 steps of warm-up (20 epochs), weight decay 0.1 but of BatchNorm, linear stochastic
depth 0.075.
Not reproduced: RandAugment of magnitude 15 made with probability 0.7; here 10, where timm's scale ends, with
probability 1/2. The classifier's bias and the layer scales are not decayed.
The network is timm's: convolutions pad symmetrically and BatchNorm has epsilon 1e-5 and momentum 0.9,
where the authors have theirs pad as TensorFlow does, with 1e-3 and 0.997.
Hardware: 64 accelerators of 16 GB (256 images each). Time: about 18 hours if 10,000 images a second come through, an
assumption, not measured.
Expected top-1: 80.7 % (the YAML; the paper's table 6 has the same). Not run in full by this project.
"""

from flaxmobile.training.config import load_config

config = load_config('imagenet_mobilenetv4_conv_medium').with_options(
    model='mobilenetv4_hybrid_medium',
    batch_size=16384,
    learning_rate=0.016,
    warmup_epochs=20,
)

"""MobileNetV3-Small 1.0 at 224 on ImageNet, from scratch, by the paper's recipe.

    flaxmobile train imagenet_mobilenetv3_small --data-dir gs://BUCKET/tensorflow_datasets

Source: Howard et al. 2019 (1905.02244), section 6.1: RMSProp with momentum 0.9, batch 4096, rate 0.1 times 0.99 every
3 epochs, dropout 0.2, L2 1e-5, moving average 0.9999, BatchNorm momentum 0.99. The paper does not print the number of
epochs, epsilon, warm-up and label smoothing: they are those of the authors' later MobileNetV3-Small in TensorFlow's
model garden.
Hardware: 32 accelerators of 16 GB (the paper: a 4x4 TPU pod, 128 images a chip). Time: about 15 hours if 24,000
images a second come through, an assumption, not measured.
Expected top-1: 67.4 % (Table 3; the authors' released network reaches 67.5 %). Not run in full by this project.
"""

from flaxmobile.training.config import load_config

config = load_config('imagenet_mobilenetv3_large').with_options(model='tf_mobilenetv3_small_100')

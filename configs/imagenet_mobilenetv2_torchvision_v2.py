"""MobileNetV2 1.0 on ImageNet, trained at 176 and evaluated at 224, from scratch, by torchvision's second recipe.

    flaxmobile train imagenet_mobilenetv2_torchvision_v2 --data-dir gs://BUCKET/tensorflow_datasets

Source: pytorch/vision pull request 5560 (weights IMAGENET1K_V2): SGD, batch 8 x 128, rate 0.5, cosine, TrivialAugment,
Mixup 0.2 or CutMix 1.0, erasing 0.1, four copies of an image, weight decay 2e-5 but of BatchNorm, evaluated in 224 of
232 pixels. Its average moves once in 32 steps by 2e-5 * 8 * 128 * 32 / 600 = 1.092e-3; here every step by a 32nd.
Not reproduced: its cosine counts from the end of warm-up, ours from the start (at most 0.8 % of the greatest rate
apart), and moves every update rather than every epoch; warm-up begins at one part of its 5 epochs, not at 1 % of the
rate; biases are not decayed; erased rectangles are noise, not the mean colour; an epoch here is 1.27 million images of
which a quarter are different, as there.
Hardware: 8 accelerators of 16 GB or more (torchvision: 8 GPUs). Time: about 45 hours if 4,700 images a second come
through, an assumption, not measured.
Expected top-1: 72.2 % (torchvision's weights IMAGENET1K_V2: 72.154 %). Not run in full by this project.
"""

from flaxmobile.training.config import load_config

config = load_config('imagenet_mobilenetv2_torchvision').with_options(
    train_image_size=176,
    crop_fraction=224 / 232,
    auto_augment='trivialaugment',
    random_erasing=0.1,
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
    repeated_augmentation=4,
    batch_size=1024,
    epochs=600,
    learning_rate=0.5,
    schedule='cosine',
    warmup_epochs=5,
    weight_decay=2e-5,
    decay_norms=False,
    label_smoothing=0.1,
    ema_decay=1 - 1.092e-3 / 32,
)

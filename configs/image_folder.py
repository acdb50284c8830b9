"""Fine-tune on your own images: FOLDER/train/CLASS/*.jpg and FOLDER/test/CLASS/*.jpg, or FOLDER/CLASS/*.jpg.

    flaxmobile train image_folder --dataset FOLDER --init RUN

RUN is the folder of an earlier run of the same network; its classifier is kept where the number of classes agrees.
Without `--init` training starts from scratch and wants more epochs and a higher rate.
Hardware: any. Time: on a GPU a minute for 1,000 images, on two cores about an hour, both estimated, not measured.
Expected top-1: depends on the images; not run by this project.
"""

from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='tf_mobilenetv2_100',
    dropout_rate=0.2,
    dataset='images',
    crop_scale=(0.25, 1.0),
    batch_size=32,
    epochs=20,
    optimizer='adamw',
    learning_rate=3e-4,
    schedule='cosine',
    warmup_epochs=1,
    weight_decay=0.01,
    clip_gradient_norm=1.0,
    label_smoothing=0.1,
    log_every=10,
)

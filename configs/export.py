"""The weights of a trained run as .safetensors: one file, or two for a CycleGAN.

python launch.py --config=configs/export.py --workdir=runs/export --config.classifier=runs/resnet50

Cost: seconds.
"""

from configs import base


def get_config():
    return base.stage(
        'export',
        classifier='',  # workdir of a classification run
        generator='',  # or workdir of a CycleGAN
        segmenter='',  # or workdir of a segmentation run
        checkpoint='best',  # by validation, or latest
    )

"""The weights of a trained classifier as one .safetensors file, or of the two generators of a CycleGAN as two.

python launch.py --config=configs/export.py --workdir=runs/export --config.classifier=runs/resnet50
"""

from configs import base


def get_config():
    return base.stage(
        'export',
        classifier='',  # workdir of a classification run
        generator='',  # or workdir of a CycleGAN
        checkpoint='best',
    )  # by validation; or latest

"""The weights of a trained classifier as one .safetensors file.

python launch.py --config=configs/export.py --workdir=runs/export --config.classifier=runs/resnet50
"""
from configs import base


def get_config():
    return base.stage(
        'export',
        classifier='',                    # workdir of a classification run
        checkpoint='best')                # by validation; or latest

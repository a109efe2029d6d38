"""A trained network as files for other programs, with a model card: weights, or the network itself.

python launch.py --config=configs/export.py --workdir=runs/export --config.classifier=runs/resnet50
python launch.py --config=configs/export.py --workdir=runs/onnx --config.classifier=runs/resnet50 \\
    --config.format=onnx

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
        # safetensors: the weights alone; onnx: a network that takes uint8 images, for ONNX Runtime
        # and other programs.
        format='safetensors',
    )

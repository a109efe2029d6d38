"""Synthetic images as files that other programs read.

python launch.py --config=configs/export_images.py --workdir=runs/imagefolder \\
    --config.synthetic=runs/synthesize

imagefolder  For Hugging Face: datasets.load_dataset('imagefolder', data_dir='runs/imagefolder').
dicom        Secondary Capture for viewers, with "synthetic, not for diagnosis" burnt in.

COCO lies in the `synthetic` folder of every such run already.
"""

from configs import base


def get_config():
    return base.stage(
        'export_images',
        synthetic='',  # workdir of a run of synthesize or synthesize_pairs
        format='imagefolder',  # or dicom
    )

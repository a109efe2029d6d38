"""Measures synthetic images: distance from real ones (KID, FID), copies, checkerboards, anatomy.

python launch.py --config=configs/quality.py --workdir=runs/quality \\
    --config.synthetic=runs/synthesize

Cost: seconds on two CPU cores with pixels as features.
"""

from configs import base


def get_config():
    return base.stage(
        'quality',
        # Workdir of a synthesize run.
        synthetic='',
        # Of its images; '' for all.
        split='test',
        # Real COVID-19 images that the generator has not seen.
        real='covid_ct:test@covid',
        # Or a classifier's workdir, or a .h5 file of Inception-v3 that Keras wrote; several are
        # separated by commas.
        features='pixels',
        title='Quality of synthetic images',  # of the page
        batch_size=32,
    )

"""Measures synthetic images: distance from real ones (KID, FID), copies of training images, checkerboards, whether lungs and nodules stayed.

python launch.py --config=configs/quality.py --workdir=runs/quality --config.synthetic=runs/synthesize
Cost: seconds on two CPU cores with pixels as features.
"""

from configs import base


def get_config():
    return base.stage(
        'quality',
        synthetic='',  # workdir of a synthesize run
        split='test',  # of its images; '' for all
        real='covid_ct:test@covid',  # real COVID-19 images that the generator has not seen
        features='pixels',  # or a classifier's workdir, or a .h5 file of Inception-v3 that Keras wrote; several separated by commas
        batch_size=32,
    )

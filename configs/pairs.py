"""Pairs of CT slices that differ in a lesion alone: lesions and healthy lung made by one network.

python launch.py --config=configs/pairs.py --workdir=runs/pairs

Slices without lesions get one where a mask says so, and their twin gets healthy lung in the same
mask, made by the same network. What lesions and healthy lung look like is learned from pictures in
which a doctor has drawn the lesions (COVID-SemiSeg, its training pictures). Slices and pictures are
framed: cropped to the lungs (docs/synthesis.md).

full     256x256, the generator of Zhu et al. 2017, for one GPU.
small    96x96, narrow, for two CPU cores, which do 1.8 steps a second with nothing beside them.

Expect val/contrast, the grey levels by which ground glass is brighter than the sham, to rise to
that of real lesions. No scalar says that an image is good: look at images/, which has slice, gate,
sham, ground glass and consolidation side by side.
"""

from configs import base

VARIANTS = {
    'full': {},
    'small': {
        'image_size': 96,
        'gen_filters': 24,
        'gen_blocks': 4,
        'disc_filters': 24,
        'steps': 4000,
        'eval_every': 500,
    },
}


def get_config(variant=''):
    config = base.training(
        'pairs',
        # Data.
        slices='luna16_patches/slices_framed:train',  # or nodules_framed
        pictures='ct_scans/covid_semiseg_framed:train',  # with lesions and their kinds
        val='luna16_patches/slices_framed:validation',
        image_size=256,
        augment={'scale': 0.1, 'flip': True, 'rotate': 10.0, 'crop': 0.0},  # of slices and pictures
        batch_size=4,  # of each
        steps=40_000,
        eval_every=2000,
        # Networks.
        gen_filters=64,
        gen_blocks=9,
        disc_filters=64,
        dtype='float32',  # or bfloat16
        # Losses.
        learning_rate=2e-4,
        constant_share=0.5,  # of the steps at the full rate, which then falls linearly to 0
        lambda_pictures=10.0,  # weight of the L1 distance where pictures are filled again
    )
    config.update(base.variant(variant, VARIANTS))
    return config

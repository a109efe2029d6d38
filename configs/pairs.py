"""Pairs of CT slices that differ only in a lesion: lesions and healthy lung made by one network.

python launch.py --config=configs/pairs.py --workdir=runs/pairs

Slices without lesions get one where a mask says so, and their twin gets healthy lung in the same
mask, made by the same network. What lesions and healthy lung look like is learned from pictures in
which a doctor has drawn the lesions (COVID-SemiSeg, its training pictures), in which a segmenter
that learned from such finds them, or of which only the label is known (COVID-CT). Slices and
pictures are framed: cropped to the lungs (docs/synthesis.md).

full              256x256, for one GPU.
outlined          the same with masks that do not say the kind of a lesion, such as one's own.
predicted         the same on COVID-CT, whose lesions a segmenter finds (config.lesion_segmenter).
procedural        the same, without any mask by hand: from blobs in the lungs of COVID-CT.
small             96x96, narrow, 17 minutes on one CPU core (`seconds` of environment.json).
small_outlined    outlined, as small.
small_predicted   predicted, as small.
small_procedural  procedural, as small.
rehearsal         Minutes on two CPU cores, to see that data and paths are right;
                  rehearsal_outlined with masks that do not say the kind of a lesion.

Expect val/contrast, the grey levels by which a lesion is brighter than the sham, to rise to that of
real lesions. No scalar says that an image is good: look at images/, which has slice, gate, sham and
every kind of lesion side by side.
"""

from configs import base

SMALL = {
    'image_size': 96,
    'gen_widths': (16, 32, 64, 64),
    'disc_filters': 24,
    'steps': 3000,
    'eval_every': 500,
}
REHEARSAL = {
    'image_size': 64,
    'gen_widths': (8, 16, 32, 32),
    'disc_filters': 12,
    'steps': 200,
    'eval_every': 100,
}
# Of COVID-SemiSeg without the kinds; for one's own pictures with masks name ct_scans/folder_framed.
OUTLINED = {'masks': 'outlined'}
PREDICTED = {'masks': 'predicted', 'pictures': 'covid_ct/clean_framed:train@covid'}
PROCEDURAL = {'masks': 'procedural', 'pictures': 'covid_ct/clean_framed:train'}
VARIANTS = {
    'full': {},
    'outlined': OUTLINED,
    'predicted': PREDICTED,
    'procedural': PROCEDURAL,
    'small': SMALL,
    'small_outlined': SMALL | OUTLINED,
    'small_predicted': SMALL | PREDICTED,
    'small_procedural': SMALL | PROCEDURAL,
    'rehearsal': REHEARSAL,
    'rehearsal_outlined': REHEARSAL | OUTLINED,
}


def get_config(variant=''):
    config = base.training(
        'pairs',
        # Data.
        slices='luna16_patches/slices_framed:train',  # or nodules_framed
        # drawn by doctors as ground_glass and consolidation, outlined without a kind, predicted by
        # a segmenter, or procedural: blobs
        masks='drawn',
        # With lesions and their kinds; for procedural masks with COVID-19 and without.
        pictures='ct_scans/covid_semiseg_framed:train',
        lesion_segmenter='',  # of predicted masks: workdir of a segmentation of lesions
        val='luna16_patches/slices_framed:validation',
        # COVID pictures that slices with lesions are compared with there; '' for none.
        val_pictures='covid_ct/clean_framed:validation@covid',
        image_size=256,
        augment={'scale': 0.1, 'flip': True, 'rotate': 10.0, 'crop': 0.0},  # of slices and pictures
        batch_size=4,  # of each
        steps=40_000,
        eval_every=2000,
        # Lesions are picked by how bright they are and by how lungs with them look, both beside
        # real ones (covjax/training/likeness.py); with a minus, the lowest is best.
        best='-val/unlike',
        # Networks.
        gen_widths=(64, 128, 256, 256),  # of the levels of a U-Net
        gen_up='transposed',  # or bilinear
        disc_filters=64,
        dtype='float32',  # or bfloat16
        # Few real images: random changes of what the discriminator sees, real or made, joined by +
        # (shade, shift, cut; Zhao et al. 2020), and the decay of a moving average of the generator,
        # which then makes the lesions.
        disc_augment='',
        ema=0.0,
        # Losses.
        learning_rate=2e-4,
        constant_share=0.5,  # of the steps at the full rate, which then falls linearly to 0
        # Weight of the L1 distance where the truth is known: pictures, and shams in slices.
        lambda_known=3.0,
    )
    config.update(base.variant(variant, VARIANTS))
    return config

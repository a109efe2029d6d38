"""CycleGAN between lung-cancer and COVID-19 CT (Jiang et al. 2020, doi 10.21203/rs.3.rs-58467/v1).

python launch.py --config=configs/cyclegan.py --workdir=runs/cyclegan

original     Zhu et al. 2017 (arXiv 1703.10593) as in their PyTorch implementation: 256x256 crops of
             286x286, mirrored, batch 1, least squares, identity term at half the cycle weight, 100
             + 100 epochs of the larger domain (the rate falls at every step, there at every epoch).
             For 950 slices 190,000 steps of 1.9 TFLOP; by that count half an hour where a GPU
             sustains 200 TFLOP/s, and three weeks on two CPU cores that do 0.18.
paper_text   What the text of Jiang et al. says where it differs: batch 4, cross-entropy (their
             equations 1 and 2), no identity term, four kinds of augmentation that make 3000 images
             a domain, so 150,000 steps of 5 TFLOP.
paper_code   What their released code does: 512x512, least squares with real label 0.9 for both
             players, affine norm, a discriminator whose fourth convolution has stride 2, 100,000 +
             100,000 steps of 20 TFLOP. Not reproduced: SAME padding at one side, no biases (a
             norm removes most), a factor 5 on the discriminators' loss (Adam removes it), and a
             pool that swaps whole batches, which is a defect.
small        A narrow one at 96x96 for two CPU cores; what it makes, and how long it took, is in
             docs/protocols.md.
rehearsal    Minutes on two CPU cores, to see that data and paths are right: it learns next to
             nothing. Every config that trains has one (docs/stages.md).

Expect train/cycle_* to fall within the first epochs, adversarial_* and discriminator_* to keep
moving (least squares: near 0.25 when the discriminator cannot tell), and val/cancer/change_l1 to
stay well above 0. val/cancer/kid is the kernel distance of translated slices from real COVID-19
validation images, and val/*/checkerboard the decibels of upsampling patterns;
--config.best=-val/cancer/kid keeps the checkpoint where it is lowest. No scalar says that an image
is good: look at images/.
"""

from ml_collections.config_dict import placeholder

from configs import base

# The kinds are the paper's; it gives no amounts, so these are ours.
PAPER = {
    'scale': 0.1,
    'flip': True,
    'rotate': 10.0,
    'crop': 0.1,
}
VARIANTS = {
    'original': {},
    'paper_text': {
        'batch_size': 4,
        'loss': 'bce',
        'lambda_identity': 0.0,
        'augment': PAPER,
        'epoch_images': 3000,
    },
    'paper_code': {
        'image_size': 512,
        'load_size': 572,
        'batch_size': 4,
        'real_label': 0.9,
        'lambda_identity': 0.0,
        'augment': PAPER,
        'norm': 'affine',
        'disc_last_stride': 2,
        'steps': 200_000,
    },
    'small': {
        'image_size': 96,
        'load_size': 108,
        'lambda_identity': 0.0,
        'augment': PAPER,
        'gen_filters': 32,
        'gen_blocks': 6,
        'disc_filters': 32,
        'steps': 6000,
        'eval_every': 500,
    },
    'rehearsal': {
        'image_size': 64,
        'load_size': 72,
        'lambda_identity': 0.0,
        'gen_filters': 16,
        'gen_blocks': 3,
        'disc_filters': 16,
        'steps': 300,
        'eval_every': 150,
    },
}


def get_config(variant=''):
    chosen = base.variant(variant, VARIANTS)
    config = base.training(
        'cyclegan',
        # Data.
        cancer='luna16_patches/nodules:train',
        covid='covid_ct:train',  # only its covid images are used
        val='luna16_patches/nodules:validation,covid_ct:validation',
        image_size=256,
        load_size=286,
        augment={'scale': 0.0, 'flip': True, 'rotate': 0.0, 'crop': 1 - 256 / 286},
        batch_size=1,
        # Length.
        constant_epochs=100,  # at the full learning rate
        decay_epochs=100,  # while it falls linearly to 0
        epoch_images=0,  # of each domain that make an epoch; 0: as many as the larger domain has
        # Instead of the epochs; the learning rate is then constant for the same share of the steps.
        steps=placeholder(int),
        eval_every=2000,
        # Networks.
        gen_filters=64,
        gen_blocks=9,  # 9 at 256x256 and above, 6 below
        disc_filters=64,
        # Stride of the fourth convolution: 1 judges patches of 70x70 pixels, 2 of 94x94.
        disc_last_stride=1,
        norm='instance',  # or affine: with a learned scale and bias
        upsample='transposed',  # or resize: doubled pixels and a convolution
        # Of the convolutions, or bfloat16; parameters, norm statistics, losses and Adam are
        # float32.
        dtype='float32',
        # Losses.
        loss='lsgan',  # or bce
        real_label=1.0,  # what real images are to score, and fakes for the generator
        learning_rate=2e-4,
        lambda_cancer=10.0,  # weight of the cycle cancer -> covid -> cancer
        lambda_covid=10.0,  # weight of the cycle covid -> cancer -> covid
        # Weight, relative to those, of leaving images of the target domain alone; 0: not computed.
        lambda_identity=0.5,
        pool_size=50,  # earlier fakes kept for each discriminator; 0: none
        # In which val/*/kid compares translated with real validation images: pixels, the workdir of
        # a classifier, or a .h5 of Inception-v3.
        features='pixels',
    )
    config.update(chosen)
    return config

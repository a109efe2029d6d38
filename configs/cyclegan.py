"""CycleGAN between lung-cancer CT and COVID-19 CT (Jiang et al. 2020, doi 10.21203/rs.3.rs-58467/v1).

python launch.py --config=configs/cyclegan.py --workdir=runs/cyclegan
Variants: `default` is the architecture of Zhu et al. 2017 at 256x256, batch 4 as in the paper's text; `small` is a narrow one at 96x96 that two
CPU cores can train in three quarters of an hour.
"""
from configs import base

VARIANTS = {
    'default': {},
    'small': dict(image_size=96, load_size=108, gen_filters=32, gen_blocks=6, disc_filters=32, batch_size=1, steps=6000, eval_every=500),
}


def get_config(variant=''):
    return base.training('cyclegan', **{
        'cancer': 'luna16_patches/nodules:train',
        'covid': 'covid_ct:train',        # only its covid images are used
        'val': 'luna16_patches/nodules:validation,covid_ct:validation',
        'image_size': 256,
        'load_size': 286,
        'batch_size': 4,
        'steps': 60_000,
        'eval_every': 2000,
        'gen_filters': 64,
        'gen_blocks': 9,
        'disc_filters': 64,
        'learning_rate': 2e-4,
        'constant_share': 0.5,            # of the steps, before the learning rate falls linearly to 0
        'lambda_cancer': 10.,
        'lambda_covid': 10.,
        'pool_size': 50,
        **base.variant(variant, VARIANTS)})

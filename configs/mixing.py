"""Few real pictures, with synthetic ones beside or before them: does it help? One page.

The question that Jiang et al. 2020 (doi 10.21203/rs.3.rs-58467/v1) leave for later: "fine tuning
the classification model by a mixture dataset, including small amount real data and large amount
synthetic data".

python launch.py --config=configs/mixing.py --workdir=runs/mixing --config.generator=runs/pairs

Classifiers learn from budgets of real COVID-19 pictures and all others, alone, together with
synthetic slices (half of every batch), or after them; both classes are shown equally often. The
slices are pairs of lesions and shams, painted or made by the generator; where a CycleGAN is named,
its translations beside real pictures. The tests are those of configs/pair_study.py. config.read
says on which split; choose on validation, and read the test set once.

Cost: 17 classifiers for each seed, and 3 more with a CycleGAN (`seconds` of the environment.json of
each says what it took). What is finished is kept, so the same command resumes where it was stopped.

rehearsal does every step of it in minutes, to see that data and paths are right.
"""

from configs import base, pair_study
from covjax.budgets import MODES

VARIANTS = {
    'full': {},
    'rehearsal': {
        **pair_study.FEW,
        'budgets': (25,),
        'cyclegan_budgets': (25,),
        'steps': {'real': 30, 'alone': 30, 'together': 30, 'fine_tuned': 30},
        'train': {'eval_every': 30},
    },
}


def get_config(variant=''):
    pairs = pair_study.get_config()
    config = base.stage(
        'mixing',
        # Workdir of a pair training; its masks are those of painted pairs too.
        generator='',
        # Workdir of a CycleGAN on framed slices, for rows with its translations, or ''.
        cyclegan='',
        cyclegan_budgets=(50,),  # beside which these rows are made
        # How many real COVID-19 pictures are learned from, beside all of them.
        budgets=(25, 50),
        modes=MODES,  # together, fine_tuned
        seeds=(0, 1, 2, 3, 4),
        # The real images that are learned from, and of the tests: their split, and the data sets.
        read='validation',  # or test
        real='covid_ct/clean_framed',
        lesions='ct_scans/covid_semiseg_lesions96',  # lesions, and healthy lung of the same slices
        scans='ct_scans/covid_ct_md_slices_framed',  # slices of whole scans; read with the test
        # Steps of real pictures alone, of synthetic ones with or without them, and after them.
        steps={'real': 1500, 'alone': 3000, 'together': 3000, 'fine_tuned': 1500},
        synthesize=pairs.synthesize,
        translate=pairs.translate,
        train=pairs.train,
    )
    # No checkpoint is picked: that would take more real pictures than some budgets have.
    config.train.update({'best': '', 'equal_parts': True, 'eval_every': 750})
    config.update(base.variant(variant, VARIANTS))
    return config

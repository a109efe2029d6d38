"""Lesions segmented from synthetic masks, with few real masks and with none: one page.

python launch.py --config=configs/segmentation_study.py --workdir=runs/segmentation_study \\
    --config.drawn=runs/pairs

Opacity is painted into slices without lesions, where a rule says or where masks were drawn by hand;
a generator of pairs makes lesions there. U-Nets learn from these alone, from few real masks alone,
and from both, together or one after the other, with several seeds. config.read says on which split
of the real slices they are compared; choose on validation, and read the test set once.

Cost: 19 networks for each seed, each one to two minutes on one CPU core with another beside it
(`seconds` of its environment.json), 9 more with config.procedural and 3 with config.predicted. What
is finished is kept, so the same command resumes where it was stopped.

rehearsal does every step of it in minutes, to see that data and paths are right.
"""

from configs import base, evaluate_masks, segmentation, synthesize_pairs
from covjax.budgets import MODES

VARIANTS = {
    'full': {},
    'rehearsal': {
        'seeds': (0,),
        'synthesize': {'slices': synthesize_pairs.FEW, 'per_slice': 1, 'joined': 1},
        'budgets': (5,),
        'fine_tuned': {'steps': 20},
        'train': {'steps': 30, 'eval_every': 30, 'widths': (8, 16, 32, 64)},
    },
}


def get_config(variant=''):
    config = base.stage(
        'segmentation_study',
        # Makers of opacity that need no training: painted where a rule says, or in drawn masks.
        makers=('painted', 'painted_drawn'),
        # Workdirs of pair trainings by where their masks are from; '' leaves out their rows.
        drawn='',
        predicted='',
        procedural='',
        # How many real slices with masks are learned from, beside all of them.
        budgets=(5, 10, 25),
        modes=MODES,  # how synthetic lesions join them: together, fine_tuned
        seeds=(0, 1, 2, 3, 4),
        # The real slices: their split, and the data sets.
        read='validation',  # or test, for which all of training and validation may be learned from
        real='ct_scans/covid_semiseg_framed',
        # Slices without infection; '' for none.
        negatives='ct_scans/covid_ct_md_slices_framed:validation@normal',
        maps='',  # published maps of the test slices, as in configs/evaluate_masks.py
        maps_sideways=False,
        # The difference in Dice between two networks on one slice, as a standard deviation: for
        # what is printed before anything is trained.
        deviation=0.15,
        fine_tuned={'steps': 300, 'learning_rate': 3e-4},
        # Random brightness and contrast by what is learned from. Windows of published figures vary,
        # which slices of one window do not show; for real slices alone so much was worse.
        recoloured={'real': 0.2, 'alone': 0.6, 'together': 0.6, 'fine_tuned': 0.2},
        synthesize=synthesize_pairs.get_config(),
        train=segmentation.get_config('small'),
        evaluate=evaluate_masks.get_config(),
    )
    config.synthesize.update(
        {'slices': 'luna16_patches/slices_framed', 'per_slice': 3, 'joined': 8}
    )
    config.train.update(
        {
            'image_size': 96,
            'patch': (96, 96),
            'steps': 500,
            'eval_every': 500,
            'best': '',
            'regions': 'any_lesion',
        }
    )
    config.update(base.variant(variant, VARIANTS))
    return config

"""What classifiers learn from pairs, and from their stand-ins: one page.

python launch.py --config=configs/pair_study.py --workdir=runs/pair_study \\
    --config.generator=runs/pairs

Pairs of every maker are synthesised. Small classifiers learn from each with several seeds and are
evaluated on real lesions: inside one slice, scan against scan, inside one scan, and figure against
figure. config.read says on which split; choose on validation, and read the test set once.

Cost: two to six minutes per classifier (`seconds` of its environment.json), 30 classifiers. What is
finished is kept, so the same command resumes where it was stopped.

rehearsal does every step of it in minutes, to see that data and paths are right.
"""

from configs import base, classifier, synthesize, synthesize_pairs
from covjax.pair_makers import METHODS

FEW = {
    'seeds': (0,),
    'synthesize': {'slices': synthesize_pairs.FEW, 'per_slice': 1},
    'lesions': 'ct_scans/covid_semiseg_lesions64',  # of the rehearsal of pairs
}
VARIANTS = {
    'full': {},
    'rehearsal': {
        **FEW,
        'steps': {'patches': 50, 'slices': 50},
        'train': {'eval_every': 50},
    },
}


def get_config(variant=''):
    config = base.stage(
        'pair_study',
        # Workdir of a pair training.
        generator='',
        # Workdir of a CycleGAN on framed slices, for rows of its own, or '': its translations, and
        # the slices themselves (framed), against the non-COVID pictures of `figures`.
        cyclegan='',
        # What fills the masks: the generator and what takes its place.
        makers=tuple(METHODS),
        # What classifiers see: the square around a lesion, or the whole slice.
        parts=('patches', 'slices'),
        seeds=(0, 1, 2, 3, 4),
        # Steps of a classifier: as many as it takes to learn pairs that it has not seen.
        steps={'patches': 1500, 'slices': 3000},
        # The real images: their split, and the data sets.
        read='validation',  # or test
        lesions='ct_scans/covid_semiseg_lesions96',  # lesions, and healthy lung of the same slices
        scans='ct_scans/covid_ct_md_slices_framed',  # slices of whole scans; read with the test
        figures='covid_ct/clean_framed',  # pictures of papers
        synthesize=synthesize_pairs.get_config(),
        translate=synthesize.get_config(),
        train=classifier.get_config('plain8'),
    )
    config.synthesize.update({'slices': 'luna16_patches/slices_framed', 'per_slice': 3})
    config.translate.cancer = 'luna16_patches/slices_framed'
    config.train.update(
        {
            'image_size': 64,
            'load_size': 64,
            'batch_size': 16,
            'eval_every': 250,
            'log_every': 50,
            'brightness': 0.2,  # windows of published figures vary
            'contrast': 0.3,
        }
    )
    config.update(base.variant(variant, VARIANTS))
    return config

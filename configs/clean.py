"""The protocol without its leaks: all splits are fixed first, and the test set is read once.

python launch.py --config=configs/clean.py --workdir=runs/clean
python launch.py --config=configs/clean.py:small --workdir=runs/clean \\
    --config.luna16=luna16_patches/slices

Splits are by patient, source document and series. CycleGAN and classifiers learn from training
splits only; checkpoints and thresholds come from validation; the synthetic test set is translated
slices of test series, and the real one the test split of covid_ct/clean. Non-COVID pictures are
real everywhere.

Needs covid_ct/clean and luna16_patches/nodules (or what config.luna16 names).
Variants: full, the published CycleGAN and image sizes, for a GPU; small, for two CPU cores;
rehearsal, every step of it in minutes, to see that data and paths are right.
"""

from configs import base, classifier, cyclegan, evaluate, report, synthesize
from covjax.models import PUBLISHED

VARIANTS = {
    'full': {
        'gan': 'original',
        'runs': tuple(f'{model}:{seed}' for seed in range(3) for model in PUBLISHED),
        'gan_keys': {},
        'classifier_keys': {},
    },
    'small': {
        'gan': 'small',
        'runs': (
            *('resnet50:0', 'resnet50:1', 'resnet50:2'),
            *('inception_v3:0', 'densenet169:0', 'inception_resnet_v2:0', 'vgg16:0'),
        ),
        'gan_keys': {'steps': 1500},
        'classifier_keys': {
            'image_size': 75,  # the least that the Inceptions take
            'load_size': 84,
            'batch_size': 16,
            'steps': 200,
            'eval_every': 50,
            'warmup_steps': 20,
            'learning_rate': 2e-4,
        },
    },
    'rehearsal': {
        'gan': 'rehearsal',
        'runs': ('plain8:0', 'resnet18:0'),
        'gan_keys': {'steps': 100, 'eval_every': 100},
        'classifier_keys': {**classifier.REHEARSAL, 'steps': 50, 'eval_every': 25},
    },
}


def get_config(variant=''):
    chosen = base.variant(variant, VARIANTS)
    config = base.stage(
        'study',
        luna16='luna16_patches/nodules',  # the slices that become synthetic COVID-19 CT
        covid_ct='covid_ct/clean',
        runs=chosen['runs'],  # a classifier each, BACKBONE:SEED
        cyclegan=cyclegan.get_config(chosen['gan']),
        synthesize=synthesize.get_config(),
        classifier=classifier.get_config(),
        evaluate=evaluate.get_config(),
        report=report.get_config(),
    )
    # References, so that --config.luna16 and --config.covid_ct reach every stage.
    luna16, covid_ct = config.get_ref('luna16'), config.get_ref('covid_ct')

    config.cyclegan.cancer = luna16 + ':train'
    config.cyclegan.covid = covid_ct + ':train'
    config.cyclegan.val = luna16 + ':validation,' + covid_ct + ':validation'
    config.cyclegan.update(chosen['gan_keys'])

    config.synthesize.cancer = luna16 + ''

    config.classifier.train = 'synthetic_covid_ct:train+' + covid_ct + ':train@noncovid'
    config.classifier.val = covid_ct + ':validation'
    config.classifier.class_weights = 'balanced'
    config.classifier.update(chosen['classifier_keys'])

    synthetic_test = 'synthetic_covid_ct:test+' + covid_ct + ':test@noncovid'
    config.evaluate.tests = synthetic_test + ',' + covid_ct + ':test'
    config.evaluate.names = 'synthetic test,real test'
    config.evaluate.baseline = covid_ct + ':train'

    config.report.title = 'Clean protocol'
    return config

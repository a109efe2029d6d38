"""The protocol without its leaks: splits by patient, source document and series, fixed before the GAN; checkpoints and thresholds from validation; test read once.

python launch.py --config=configs/clean.py --workdir=runs/clean
python launch.py --config=configs/clean.py:small --workdir=runs/clean --config.luna16=luna16_patches/slices

Needs covid_ct/clean and luna16_patches/nodules (or what config.luna16 names). CycleGAN and classifiers learn from training splits only; the synthetic test set is
translated slices of test series, and the real one the test split of covid_ct/clean. Non-COVID pictures are real everywhere.
Variants: full, the published CycleGAN and image sizes, for a GPU; small, for two CPU cores.
"""

from configs import base, classifier, cyclegan, evaluate, report, synthesize
from covjax.models import MODELS

VARIANTS = {
    'full': dict(
        gan='original',
        runs=tuple(f'{model}:{seed}' for seed in range(3) for model in MODELS),
        gan_keys={},
        classifier_keys={},
    ),
    'small': dict(
        gan='small',
        runs=(
            'resnet50:0',
            'resnet50:1',
            'resnet50:2',
            'inception_v3:0',
            'densenet169:0',
            'inception_resnet_v2:0',
            'vgg16:0',
        ),
        gan_keys=dict(steps=1500, eval_every=500),
        classifier_keys=dict(
            image_size=75,
            load_size=84,
            batch_size=16,
            steps=200,
            eval_every=50,
            warmup_steps=20,
            learning_rate=2e-4,
        ),
    ),
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
    luna16, covid_ct = config.get_ref('luna16'), config.get_ref('covid_ct')
    config.cyclegan.update(
        {
            'cancer': luna16 + ':train',
            'covid': covid_ct + ':train',
            'val': luna16 + ':validation,' + covid_ct + ':validation',
            **chosen['gan_keys'],
        }
    )
    config.synthesize.cancer = luna16 + ''
    config.classifier.update(
        {
            'train': 'synthetic_covid_ct:train+' + covid_ct + ':train@noncovid',
            'val': covid_ct + ':validation',
            'class_weights': 'balanced',
            **chosen['classifier_keys'],
        }
    )
    config.evaluate.update(
        {
            'tests': 'synthetic_covid_ct:test+' + covid_ct + ':test@noncovid,' + covid_ct + ':test',
            'names': 'synthetic test,real test',
            'baseline': covid_ct + ':train',
        }
    )
    config.report.title = 'Clean protocol'
    return config

"""The whole path on phantoms, small enough for two CPU cores.

python launch.py --config=configs/quickstart.py
Cost: under 5 minutes on 2 cores. Expect pictures that change style and a report with one small
table; its numbers are about drawings.
"""

from configs import base, classifier, cyclegan, evaluate, prepare, report, synthesize

SMALL_GAN = {
    'image_size': 64,
    'load_size': 72,
    'batch_size': 2,
    'gen_filters': 16,
    'gen_blocks': 3,
    'disc_filters': 16,
    'steps': 200,
    'eval_every': 100,
}
SMALL_CLASSIFIER = {
    'image_size': 64,
    'load_size': 64,
    'batch_size': 16,
    'steps': 40,
    'eval_every': 20,
    'log_every': 10,
    'warmup_steps': 10,
}


def get_config():
    config = base.stage(
        'quickstart',
        seed=0,
        phantom={
            'luna16': {'series': 24, 'slices': 6, 'size': 512},  # size: pixels a side
            'covid_ct': {'train': 40, 'validation': 12, 'test': 20},  # pictures of each class
        },
        prepare_luna16=prepare.get_config(),
        prepare_covid_ct=prepare.get_config(),
        runs=('resnet50:0',),  # a classifier each, BACKBONE:SEED
        cyclegan=cyclegan.get_config('small'),
        synthesize=synthesize.get_config(),
        classifier=classifier.get_config(),
        evaluate=evaluate.get_config(),
        report=report.get_config(),
    )
    config.prepare_luna16.dataset = 'luna16_patches/nodules'
    config.prepare_covid_ct.dataset = 'covid_ct'
    config.cyclegan.update(SMALL_GAN)
    config.classifier.update(SMALL_CLASSIFIER)
    config.evaluate.names = 'synthetic test,real test'
    config.report.title = 'Phantoms: the quick start of covjax'
    return config

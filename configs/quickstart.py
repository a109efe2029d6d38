"""The whole pipeline on phantoms, small enough for two CPU cores.

python launch.py --config=configs/quickstart.py
Two small classifiers learn: one from (phantom) real pictures, one from translated lung-cancer
slices. Expect the first to see the disease that is drawn (AUC above 0.9 on 128 pictures of other
phantoms, where 32x32 pixels and grey levels stay below 0.7), the second not to, and a report whose
audit says why. Every number is about drawings.
Cost: under 4 minutes on two CPU cores.
"""

from configs import (
    audit,
    base,
    classifier,
    cyclegan,
    evaluate,
    prepare,
    quality,
    report,
    synthesize,
)

SMALL_GAN = {
    'image_size': 64,
    'load_size': 72,
    'batch_size': 2,
    'gen_filters': 16,
    'gen_blocks': 3,
    'disc_filters': 16,
    'steps': 600,
    'eval_every': 200,
    'log_every': 50,
}
SMALL_CLASSIFIER = {
    'model': 'plain8',
    'image_size': 64,
    'load_size': 72,
    'batch_size': 16,
    'steps': 500,
    'eval_every': 100,
    'log_every': 50,
    'warmup_steps': 20,
}


def get_config():
    config = base.stage(
        'quickstart',
        seed=0,
        phantom={
            'luna16': {'series': 30, 'slices': 5, 'size': 512},  # size: pixels a side
            'covid_ct': {'train': 72, 'validation': 20, 'test': 64},  # pictures of each class
        },
        prepare_luna16=prepare.get_config(),
        prepare_covid_ct=prepare.get_config(),
        # The classifiers: what each learns from, on which sets it is tested, and their names.
        classifiers={
            'real': {'train': 'covid_ct:train', 'tests': 'covid_ct:test', 'names': 'real test'},
            'synthetic': {
                'train': 'synthetic_covid_ct:train+covid_ct:train@noncovid',
                'tests': 'synthetic_covid_ct:test+covid_ct:test@noncovid,covid_ct:test',
                'names': 'synthetic test,real test',
            },
        },
        cyclegan=cyclegan.get_config('small'),
        synthesize=synthesize.get_config(),
        classifier=classifier.get_config(),
        evaluate=evaluate.get_config(),
        audit=audit.get_config(),
        quality=quality.get_config(),
        report=report.get_config(),
    )
    config.prepare_luna16.dataset = 'luna16_patches/nodules'
    config.prepare_covid_ct.dataset = 'covid_ct'
    config.cyclegan.update(SMALL_GAN)
    config.classifier.update(SMALL_CLASSIFIER)
    config.report.title = 'Phantoms: the quick start of covjax'
    config.audit.title = 'Phantoms: shortcut audit'
    config.quality.title = 'Phantoms: quality of synthetic images'
    return config

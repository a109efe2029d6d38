"""Defaults that stages share, once. Configs differ from these only in what differs."""

from ml_collections import ConfigDict

from covjax import InputError

# The least value of a key, in any config that has it.
LEAST = {
    'steps': 1,
    'batch_size': 1,
    'image_size': 1,
    'load_size': 1,
    'log_every': 1,
    'eval_every': 1,
    'gen_filters': 1,
    'disc_filters': 1,
    'seed': 0,
    'gen_blocks': 0,
    'pool_size': 0,
    'slices': 1,
    'freeze_steps': 0,
    'warmup_steps': 0,
    'body_rate': 0.0,
    'weight_decay': 0.0,
    'label_smoothing': 0.0,
    'dropout': 0.0,
    'bn_momentum': 0.0,
    'learning_rate': 0.0,
    'constant_epochs': 0,
    'decay_epochs': 0,
    'epoch_images': 0,
    'lambda_cancer': 0.0,
    'lambda_covid': 0.0,
    'lambda_identity': 0.0,
    'real_label': 0.0,
    'disc_last_stride': 1,
    'warmup': 1,
    'rounds': 1,
    'workers': 0,
    'shown': 1,
    'limit': 1,
    'shares': 0,
}
# What a key must stay below.
BELOW = {
    'dropout': 1.0,
    'label_smoothing': 1.0,
    'bn_momentum': 1.0,
    'scale': 1.0,
    'crop': 1.0,
    'shares': 101,
}


def stage(run, **fields):
    """A config that launch.py dispatches to covjax.<run>."""
    return ConfigDict(
        {
            'run': run,
            'data_dir': '',  # prepared data sets; '' is TFDS's own ~/tensorflow_datasets; several separated by commas
            **fields,
        }
    )


def training(task, **fields):
    """A config of covjax.train."""
    return stage(
        'train',
        **{
            'task': task,
            'seed': 0,
            'steps': 1000,
            'batch_size': 16,  # over all devices
            'image_size': 224,  # what the network sees
            'load_size': 224,  # what is kept in memory and augmented from
            'log_every': 20,
            'eval_every': 500,  # evaluate and save
            'best': '',  # the scalar whose highest value (with a minus before it: lowest) marks the best checkpoint; '' keeps the latest only
            'augment': {'scale': 0.1, 'flip': True, 'rotate': 10.0, 'crop': 0.1},
            **fields,
        },
    )


def variant(name, choices):
    """choices[name], for configs with variants; '' is the first."""
    if name and name not in choices:
        raise InputError(f'no such variant; choose one of {", ".join(choices)}')
    return choices[name or next(iter(choices))]

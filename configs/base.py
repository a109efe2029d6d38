"""Defaults that stages share, in one place. Configs say only what differs from these."""

from ml_collections import ConfigDict

from covjax import InputError

# The least value of a key, in any config that has it; of all others it is 0.
LEAST = {
    **dict.fromkeys(
        ['steps', 'batch_size', 'image_size', 'load_size', 'log_every', 'eval_every'], 1
    ),
    **dict.fromkeys(['gen_filters', 'disc_filters', 'disc_last_stride', 'slices'], 1),
    **dict.fromkeys(['gen_widths', 'widths', 'patch', 'size', 'budgets', 'cyclegan_budgets'], 1),
    **dict.fromkeys(['warmup', 'rounds', 'shown', 'limit', 'per_slice', 'joined', 'number'], 1),
    'patches': 1,  # steps of pair_study
}
# What a key must stay below.
BELOW = {
    **dict.fromkeys(['dropout', 'label_smoothing', 'bn_momentum', 'scale', 'crop', 'overlap'], 1.0),
    **dict.fromkeys(['threshold', 'ema'], 1.0),
    'rotate': 360.0,
}
# The greatest value of a key; of whole numbers under other keys it is MOST_OF_ALL.
MOST_OF_ALL = 2**31 - 1
MOST = {
    **dict.fromkeys(['batch_size', 'gen_filters', 'disc_filters', 'gen_widths', 'widths'], 2**16),
    **dict.fromkeys(['gen_blocks', 'disc_last_stride', 'workers'], 1024),
    **dict.fromkeys(['image_size', 'load_size', 'patch', 'size'], 8192),
    **dict.fromkeys(['foreground', 'constant_share'], 1.0),
    'spacing': 10.0,  # mm
    'least': 0.1,  # masks take a fifth of a slice at most
    **dict.fromkeys(['seed', 'seeds'], 2**32 - 1),  # JAX takes 32 bits of it
    **dict.fromkeys(['mip', 'apart'], 100.0),  # mm
    'shares': 100,
    'per_slice': 100,
    'joined': 100,
}


def stage(run, **fields):
    """A config that the launcher dispatches to covjax/runs/<run>.py."""
    shared = {
        'run': run,
        # Where prepared data sets lie: '' is TFDS's own ~/tensorflow_datasets; several folders are
        # separated by commas.
        'data_dir': '',
    }
    return ConfigDict(shared | fields)


def training(task, **fields):
    """A config of covjax/runs/train.py."""
    shared = {
        'task': task,
        'seed': 0,
        'steps': 1000,
        'batch_size': 16,  # over all devices
        'log_every': 20,
        'eval_every': 500,  # evaluate and save
        # The scalar whose highest value (with a minus before the name: lowest) marks the best
        # checkpoint; '' keeps only the latest two.
        'best': '',
        'augment': {'scale': 0.1, 'flip': True, 'rotate': 10.0, 'crop': 0.1},
    }
    return stage('train', **shared | fields)


def variant(name, choices):
    """choices[name], for configs with variants; '' is the first."""
    if name and name not in choices:
        raise InputError(f'no such variant; choose one of {", ".join(choices)}')
    return choices[name or next(iter(choices))]

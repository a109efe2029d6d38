"""Keys of configs that take one of a few words: all are compared before anything runs.

Otherwise a study would find a wrong word when it comes to the stage that it is for, hours later.
"""

from ml_collections import ConfigDict

from covjax import (
    choice,
    external_classifier,
    models,
    pair_makers,
    pair_pictures,
    rounds,
    scan_classifier,
    segmenter,
    stand_ins,
    trained,
)
from covjax.ct import framing, windows
from covjax.data import lineage
from covjax.generator import DIRECTIONS
from covjax.models import cyclegan as translators
from covjax.models import scans, unet
from covjax.training import classification, cyclegan, optimizer, segmentation

# By the name of a key, in every config that has it; tuples have several of the words.
WORDS = {
    'checkpoint': trained.CHECKPOINTS,
    'class_weights': classification.CLASS_WEIGHTS,
    'direction': DIRECTIONS,
    'dtype': models.DTYPES,
    'gen_up': unet.UPS,
    'input_range': external_classifier.INPUT_RANGES,
    'maker': pair_makers.METHODS,
    'masks': pair_pictures.READERS,
    'order': rounds.ORDERS,
    'protocol': lineage.PROTOCOLS,
    'schedule': optimizer.SCHEDULES,
    'stand_in': stand_ins.METHODS,
    'step': rounds.STEPS,
    'stand_ins': stand_ins.STAND_INS,
    'up': unet.UPS,
    'upsample': translators.UPSAMPLE,
    'window': windows.WINDOWS,
}
# By the task of a training too, where one name means different things.
WORDS_OF_TASKS = {
    'classification': {'lungs': ('', *framing.VIEWS), 'model': models.MODELS},
    'cyclegan': {'loss': cyclegan.LOSSES, 'norm': translators.NORMS},
    'scans': {
        'lungs': ('', *framing.VIEWS),
        'model': scan_classifier.BACKBONES,
        'pooling': scans.POOLING,
        'bn': scans.NORMS,
    },
    'segmentation': {
        'loss': segmentation.LOSSES,
        'model': segmenter.ALL,
        'bottleneck': segmenter.BOTTLENECKS,
        'norm': unet.NORMS,
    },
}


def check(config, prefix=''):
    """Compares the keys of a config, and of the configs inside it, with the words that they take.

    Args:
        config: ConfigDict.
        prefix: what stands before its keys in a message, such as 'classifier.'.

    Raises:
        InputError: one takes no such word; the message names the key and lists the words.
    """
    known = WORDS | WORDS_OF_TASKS.get(config.get('task', ''), {})
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            check(value, f'{prefix}{key}.')
        elif key in known:
            for word in value if isinstance(value, tuple) else (value,):
                choice({prefix + key: word}, prefix + key, known[key])

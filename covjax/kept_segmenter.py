"""Segmenters that a training makes use of: copied into its workdir, and part of its lineage.

A classifier can be shown the lungs that a segmenter finds, and a generator of pairs can learn from
the lesions that one finds. The run then no longer depends on the folder of the segmenter, and the
images that trained that are refused as test data of what the run makes.
"""

import pathlib

from ml_collections import ConfigDict

from covjax import InputError, segmenter, trained
from covjax.data import lineage
from covjax.weights import checkpoint

# {key of the config, and what lineage.json calls it: the copy in the workdir of the training}.
LUNGS, LESIONS = 'lung_segmenter', 'lesion_segmenter'
COPIES = {LUNGS: 'lungs.safetensors', LESIONS: 'lesions.safetensors'}


def by_copies(config, folder):
    """The config of a training with the copies of its segmenters, once it has a checkpoint.

    Args:
        config: ConfigDict of any training.
        folder: pathlib.Path of its workdir.

    Raises:
        InputError: there is no checkpoint yet, and the config names no workdir: what an exported
            file was trained on is not known.
    """
    for key, name in COPIES.items():
        if not config.get(key):
            continue
        if checkpoint.exists(folder):
            config = ConfigDict({**config, key: str(folder / name)})
        elif pathlib.Path(config[key]).suffix in segmenter.FILES:
            raise InputError(
                f'config.{key}={config[key]}: does not say what it was trained on; give the '
                'workdir of its training'
            )
    return config


def lineage_of(config, folder):
    """What trained the segmenters of a training: the records to add to its lineage.

    Args:
        config: ConfigDict of any training.
        folder: pathlib.Path of its workdir.
    """
    records = []
    for key in COPIES:
        if config.get(key) and checkpoint.exists(folder):
            records += [record for record in lineage.read(folder) if record['through'] == key]
        elif config.get(key):
            known = lineage.read(pathlib.Path(config[key]))
            records += [{**record, 'through': key} for record in known]
    return records


def keep(config, folder):
    """Writes the copies, unless a checkpoint came about with those that are there.

    Args:
        config: ConfigDict of any training.
        folder: pathlib.Path of its workdir.
    """
    for key, name in COPIES.items():
        if config.get(key) and not checkpoint.exists(folder):
            segmenter.save(folder / name, trained.open_run(config[key], 'segmentation', key))

"""A finished training run, opened once.

Its config, its variables and the step they are of, what trained it, and where its data lie.
"""

import dataclasses
import functools
import pathlib
from typing import Any

from ml_collections import ConfigDict

from covjax import CLASSES, InputError, choice, provenance
from covjax.data import lineage
from covjax.weights import checkpoint
from covjax.workdir import read_config, read_json, read_stored_config, write_json

CHECKPOINTS = ('best', 'latest')
CLASSES_FILE = 'classes.json'
# Config keys that name the run that a run is made from.
UPSTREAM = ('classifier', 'generator', 'synthetic')


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training run as all later stages see it.

    No training code is needed to open or to use one.
    """

    folder: pathlib.Path  # its workdir
    config: ConfigDict
    variables: dict[str, Any]  # the item `model` of the checkpoint: nested dict of arrays
    step: int  # of that checkpoint
    checkpoint: str  # 'best' (by validation) or 'latest'
    data_dir: str  # where its data sets lie, as covjax.data.specs takes it

    @functools.cached_property
    def lineage(self):
        """The records of lineage.json: what trained it, directly and through a generator.

        A list of dicts, see covjax.data.lineage.
        """
        return lineage.read(self.folder)

    @functools.cached_property
    def config_hash(self):
        """The hash of its config; see covjax.provenance."""
        return provenance.config_hash(self.config)

    @functools.cached_property
    def classes(self):
        """What the outputs of its network mean, tuple of str; see `read_classes`."""
        return read_classes(self.folder)


def open_run(folder, task, key, which='best'):
    """The Trained of a workdir.

    Args:
        folder: the workdir of a run of `train`.
        task: what it must have trained, 'cyclegan', 'classification' or 'segmentation'.
        key: the config key that named the folder, for messages.
        which: 'best' for the best checkpoint by the run's config.best (the latest, where that is
            empty), or 'latest'.

    Raises:
        InputError: the folder holds no such run, its checkpoint is missing or damaged, a file
            that says how that came about was changed, or `which` is neither 'best' nor 'latest'.
    """
    choice({'checkpoint': which}, 'checkpoint', CHECKPOINTS)
    config = read_config(folder, task, key)
    has_best = bool(config.get('best'))
    best = has_best and which == 'best'
    variables, known, step = checkpoint.load_model(folder, key, best, has_best)
    found = provenance.beside(config, folder)
    if changed := [name for name, value in known.items() if found.get(name) != value]:
        raise InputError(
            f'config.{key}={folder}: {changed[0]} there is not the one of its checkpoint; '
            'take it back from a copy, or run that training again'
        )
    chosen = which if has_best else 'latest'
    data_dir = config.get('data_dir', '')
    return Trained(pathlib.Path(folder), config, variables, step, chosen, data_dir)


def read_classes(folder):
    """The names of the classes that the outputs of a network stand for, in their order.

    Args:
        folder: pathlib.Path of the workdir of a training.

    Returns:
        tuple of str; covjax.CLASSES for a run from before names were noted.

    Raises:
        InputError: classes.json is damaged.
    """
    file = folder / CLASSES_FILE
    return tuple(read_json(file, list[str])) if file.is_file() else CLASSES


def write_classes(folder, classes):
    """Records in the workdir (pathlib.Path) of a training run what the outputs of its network mean.

    Args:
        folder: pathlib.Path of the workdir.
        classes: names, in the order of the outputs; without any, nothing is written.
    """
    if classes:
        write_json(folder / CLASSES_FILE, list(classes))


def data_dir_of(config):
    """Where the data sets of a run are stored.

    In its own config.data_dir, or else in that of the run that it is made from.

    Args:
        config: of any run; the run that it is made from is named by config.classifier,
            config.generator or config.synthetic, and may itself be made from another one.

    Returns:
        str as covjax.data.specs takes it; '' is TFDS's own folder.

    Raises:
        InputError: the run that it is made from names folders that are not there any more.
    """
    if config.get('data_dir'):
        return config.data_dir
    folders = (config.get(key) for key in UPSTREAM)
    configs = (pathlib.Path(folder) / 'config.json' for folder in folders if folder)
    file = next((file for file in configs if file.is_file()), None)
    if file is None:
        return ''
    found = data_dir_of(read_stored_config(file))
    if found and not any(pathlib.Path(each).expanduser().exists() for each in found.split(',')):
        raise InputError(
            f'{file}: its data sets lay in {found}, where there is nothing any more; '
            'say with --config.data_dir where they lie now'
        )
    return found

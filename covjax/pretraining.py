"""A training that begins with the weights of another one: pretrain on much, fine-tune on little.

config.start of a classification or a segmentation names the workdir of a run of the same task
and network; a classification of scans may begin with one of slices, whose network becomes its
backbone, and a DRE-Net with the classifier that it has inside. What trained that run is part of the
lineage, so that those images and patients are refused as test data.
"""

import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from covjax import InputError, trained
from covjax.data import lineage
from covjax.models import dre_net
from covjax.weights import checkpoint, safetensors
from covjax.workdir import read_config

KEY = 'start'  # of the config
THROUGH = 'pretraining'  # what lineage.json calls it
HEAD = 'head'  # the layer whose outputs are the classes
# The tasks that a run may have had to begin another one with, where that is not the same.
BEGINNINGS = {'scans': ('scans', 'classification')}
# Networks of models.MODELS with another one of them inside, and the layer that it is.
INSIDE = {'dre_net': (dre_net.DRENet.backbone, 'body')}


def tasks(config):
    """The tasks, any of which the run config.start may have had."""
    return BEGINNINGS.get(config.task, (config.task,))


def load(config, model, shown, classes, rng):
    """The variables that a training begins with: those of the best checkpoint of another run.

    Args:
        config: of this training; config.start is the workdir of the other one.
        model: the network of this training.
        shown: arrays of a batch, what the network is called with.
        classes: of its outputs. Where the run has others, the last layer is a new one.
        rng: key, of a new last layer.

    Returns:
        {'params', 'batch_stats'}, the latter only where the network has any.

    Raises:
        InputError: there is no such run, it trained another network, or its images were scaled
            otherwise.
    """
    folder = config[KEY]
    run = trained.open_run(folder, tasks(config), KEY)
    part = _part(config, run.config)
    if part is None:
        raise InputError(
            f'config.{KEY}={folder}: is a {run.config.model}, and config.model={config.model}; set '
            f'config.model={run.config.model}, or name the run of a {config.model}'
        )
    scaled_by = run.config.get('pretrained', '')
    if bool(scaled_by) != bool(config.get('pretrained')):
        raise InputError(
            f'config.{KEY}={folder}: was trained with config.pretrained={scaled_by!r}, which '
            'decides how images are scaled; set config.pretrained alike'
        )
    variables = {'params': {**run.variables['net']['params']}}
    if 'batch_stats' in run.variables:
        variables['batch_stats'] = run.variables['batch_stats']
    new = jax.jit(model.init)(rng, *shown)
    if part:
        variables = _inside(variables, new, part)
    if run.classes != tuple(classes):
        variables['params'][HEAD] = new['params'][HEAD]
        print(f'{folder}: has other classes, so the last layer is a new one', flush=True)
    remedy = 'give the workdir of a run of the same network, or change the network'
    named = f'config.{KEY}={folder}', variables, new, 'the network of this config'
    safetensors.check_fits(*named, remedy)
    return variables


def _part(config, begun):
    """The layer of a network that the network of another run is: '' for all of it, None for none.

    Args:
        config: of this training.
        begun: of the run that it begins with.
    """
    of_slices = begun.task != config.task
    if begun.get('model', config.model) == config.model:
        return 'backbone' if of_slices else ''
    backbone, part = INSIDE.get(config.model, (None, None))
    return part if begun.model == backbone and not of_slices else None


def _inside(variables, new, part):
    """Variables of a network as those of one like `new` that has it inside, as the layer `part`.

    Layers that only the latter has are new, and its last one is the old one where that fits.
    """
    params = dict(variables['params'])
    head = params.pop(HEAD)
    fits = jax.tree.map(np.shape, head) == jax.tree.map(np.shape, new['params'][HEAD])
    whole = {**new['params'], part: params}
    whole |= {HEAD: head} if fits else {}
    stats = {part: variables['batch_stats']} if 'batch_stats' in variables else None
    return {'params': whole} | ({'batch_stats': stats} if stats else {})


def needed(config, workdir):
    """The config of a training, without config.start where it has a checkpoint already.

    So a training goes on even where the run that it began with is gone.

    Args:
        config: ConfigDict of any training.
        workdir: pathlib.Path of its folder.
    """
    if config.get(KEY) and checkpoint.exists(workdir):
        return ConfigDict({**config, KEY: ''})
    return config


def lineage_of(config, workdir):
    """What trained the run that a training began with: the records to add to its lineage.

    Args:
        config: ConfigDict of any training.
        workdir: pathlib.Path of its folder.
    """
    if not config.get(KEY):
        return []
    if checkpoint.exists(workdir):
        return [record for record in lineage.read(workdir) if record['through'] == THROUGH]
    read_config(config[KEY], tasks(config), KEY)  # whose message names the key
    return [{**record, 'through': THROUGH} for record in lineage.read(pathlib.Path(config[KEY]))]

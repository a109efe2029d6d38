"""Classification of whole scans, each a bag of slices, as a Task.

A batch is {'image': uint8 [B, K, H, W, C], 'valid': bool [B, K], 'label': int32 [B]}: K slices of
each scan, of which those that are not valid only fill it up; of candidates for lesions with
'location', float32 [B, K].
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from covjax import InputError, classifier, pretraining, scan_classifier
from covjax.data import bags, batches
from covjax.data.augment import random_matrix, recoloured, to_float, warp
from covjax.training import classification
from covjax.training.optimizer import adamw, schedule
from covjax.training.task import AXIS, Net, State, Task, first_index
from covjax.weights import keras as keras_weights


class Parts(NamedTuple):
    """What the steps need of a config."""

    model: Any  # models.scans.ScanNet
    preprocess: Any  # float images [B, H, W, 1] in [-1, 1] -> input of the backbone
    class_weights: jax.Array  # float32 [C]
    tx: optax.GradientTransformation
    augment: dict  # settings of data.augment.random_matrix
    colour: dict  # settings of data.augment.recoloured
    label_smoothing: float


def make(config):
    """The Task of a config (configs/scans.py) on the data sets that it names.

    Raises:
        InputError: a key of the config has no valid value, a data set cannot be read or lacks a
            class, or the two have other classes.
    """
    train, val = _read(config, 'train'), _read(config, 'val')
    classification.check_classes(config, train, val)
    return task_on(config, train, val)


def _read(config, key):
    """The bags of config.train or config.val, which must have scans of every class."""
    if not config[key]:
        split = {'train': 'train', 'val': 'validation'}[key]
        raise InputError(
            f'config.{key} is empty; name a data set of scans with labels, for example '
            f'ct_scans/folder:{split}'
        )
    found = scan_classifier.read(config[key], config.data_dir, config)
    classification.check_labels(f'config.{key}={config[key]}', found, 'scans')
    if key == 'train' and not any(len(images) for images in found.images):
        raise InputError(
            f'config.lesion_segmenter={config.lesion_segmenter}: finds no lesion in any scan of '
            f'{config.train}, so that there is nothing to learn from; name one that learned more'
        )
    return found


def task_on(config, train, val):
    """The Task of a config on scans in memory: binds the functions of this module to it.

    Args:
        config: ConfigDict of configs/scans.py; the data sets it names are not read.
        train, val: data.bags.Bags of the same classes.

    Raises:
        InputError: a key of the config has no valid value.
    """
    parts = parts_of(config, train.labels, train.classes)
    return Task(
        train_batch=partial(train_batch, train, config),
        eval_batches=partial(eval_batches, val, config),
        init=partial(init, parts, config, train.classes),
        train_step=partial(train_step, parts),
        eval_step=partial(eval_step, parts),
        summarize=partial(classification.summarize, train.classes),
        steps=config.steps,
        sources={'train': train.members, 'val': val.members},
        classes=train.classes,
        scalars=tuple(f'val/{name}' for name in ('loss', *classification.SUMMARY)),
    )


def parts_of(config, labels, classes):
    """The Parts of a config, for training labels int [N] of classes.

    Raises:
        InputError: a key has no valid value.
    """
    if config.bn == 'frozen' and not (config.start or config.pretrained) and _has_norms(config):
        raise InputError(
            'config.bn=frozen: keeps the statistics that a network came with, and random weights '
            'have none; name the run of a classifier in config.start, or set bn=batch'
        )
    model = scan_classifier.network(config, classes, axis_name=AXIS, dropout=config.dropout)
    return Parts(
        model=model,
        preprocess=classifier.preprocess(config),
        class_weights=classification.class_weights(config, labels, len(classes)),
        tx=optimizer(config),
        augment=config.augment,
        colour={key: config[key] for key in ('brightness', 'contrast')},
        label_smoothing=config.label_smoothing,
    )


def _has_norms(config):
    """Whether the backbone of a config has statistics to keep."""
    model = scan_classifier.backbone(config)
    image = jnp.zeros((1, model.smallest, model.smallest, 1))
    return 'batch_stats' in jax.eval_shape(model.init, jax.random.key(0), image)


# Data.


def train_batch(train, config, step):
    """The batch of a step, from Bags."""
    parts = train.parts if config.equal_parts else None
    index = batches.batch_indices(step, len(train.labels), config.batch_size, config.seed, parts)
    shown = bags.batch_of(train.images, index, config.slices, train.locations)
    return shown | {'label': train.labels[index]}


def eval_batches(val, config):
    """{'': batches as those of training, with 'mask' bool [B]}; bags are filled as needed."""
    return {'': _eval_batches(val, config)}


def _eval_batches(val, config):
    places = {'index': np.arange(len(val.labels))}
    for batch in batches.padded_batches(places, config.batch_size):
        index = batch.pop('index')
        shown = bags.batch_of(val.images, index, config.slices, val.locations)
        yield batch | shown | {'label': val.labels[index]}


def init(parts, config, classes, rng, batch):
    """The State before the first step: random, or with weights from elsewhere.

    Args:
        parts: Parts.
        config: its `start` is the workdir of a run of scans, or of a classifier of slices with the
            same backbone; its `pretrained` a file of Keras; both may be ''.
        classes: names of the outputs.
        rng: key.
        batch: of one scan.

    Raises:
        InputError: there is no such run or file, or it holds another network.
    """
    images = scan_classifier.scaled(parts.preprocess, to_float(batch['image']))
    shown = images, batch['valid'], batch.get('location')
    if config.start:
        variables = pretraining.load(config, parts.model, shown, classes, rng)
    else:
        variables = jax.jit(parts.model.init)(rng, *shown)
        if config.pretrained:
            backbone, _ = keras_weights.load(
                parts.model.backbone, config.pretrained, channels=1, new_head=True, rng=rng
            )
            variables = {
                name: {**variables[name], 'backbone': backbone[name]} for name in variables
            }
    return State(
        step=jnp.zeros((), jnp.int32),
        net=Net.create(variables['params'], parts.tx),
        batch_stats=variables.get('batch_stats', {}),
    )


def augment(rng, images, settings, colour, first):
    """Changes each scan at random, all its slices alike, on any number of devices.

    Args:
        rng: key; scan i draws from fold_in(rng, first + i).
        images: uint8 [B, K, H, H, C].
        settings: of augment.random_matrix.
        colour: of augment.recoloured.
        first: the index of the first scan in the global batch.

    Returns:
        float32 [B, K, H, H, C] in [-1, 1].
    """
    size = images.shape[-2]

    def changed(rng, slices):
        matrix_rng, colour_rng = jax.random.split(rng)
        slices = recoloured(colour_rng, to_float(slices), colour)
        if not any(settings.values()):
            return slices
        matrix = random_matrix(matrix_rng, settings, size)
        return jax.vmap(partial(warp, matrix=matrix, size=size))(slices)

    rngs = jax.vmap(partial(jax.random.fold_in, rng))(first + jnp.arange(len(images)))
    return jax.vmap(changed)(rngs, images)


# Steps.


def loss(parts, params, batch_stats, images, batch, rng):
    """Cross-entropy of scans with smoothed labels, weighted by class.

    Args:
        parts: Parts.
        params: what is differentiated.
        batch_stats: of the model.
        images: float [B, K, H, W, C], preprocessed.
        batch: with 'valid' and 'label'.
        rng: key of the dropout.

    Returns:
        (mean loss, (new batch_stats, {'loss', 'accuracy'})).
    """
    found, updated = parts.model.apply(
        {'params': params, 'batch_stats': batch_stats},
        images,
        batch['valid'],
        batch.get('location'),
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': rng},
    )
    log_p, labels = found.log_probabilities, batch['label']
    targets = optax.smooth_labels(jax.nn.one_hot(labels, log_p.shape[-1]), parts.label_smoothing)
    losses = -parts.class_weights[labels] * (targets * log_p).sum(-1)
    scalars = {'loss': losses.mean(), 'accuracy': (log_p.argmax(-1) == labels).mean()}
    return losses.mean(), (updated.get('batch_stats', {}), scalars)


def train_step(parts, state, batch, rng):
    """One update of the network.

    Args:
        parts: Parts.
        state: State.
        batch: see the top of this file.
        rng: key, the same on every device.

    Returns:
        (State, {'loss', 'accuracy'}), averaged over all devices.
    """
    augment_rng, dropout_rng = jax.random.split(rng)
    first = first_index(len(batch['label']))
    images = augment(augment_rng, batch['image'], parts.augment, parts.colour, first)
    gradient = jax.grad(partial(loss, parts), has_aux=True)
    grads, (batch_stats, scalars) = gradient(
        state.net.params,
        state.batch_stats,
        scan_classifier.scaled(parts.preprocess, images),
        batch,
        dropout_rng,
    )
    net = state.net.update(grads, parts.tx)
    return State(state.step + 1, net, lax.pmean(batch_stats, AXIS)), lax.pmean(scalars, AXIS)


def eval_step(parts, state, batch):
    """Scores a batch.

    Args:
        parts: Parts.
        state: State.
        batch: see the top of this file.

    Returns:
        {'loss': float32 [B] without class weights or smoothing; 'scores': float32 [B, C], the
        probability of each class; 'label': int32 [B]}.
    """
    variables = {'params': state.net.params, 'batch_stats': state.batch_stats}
    images = scan_classifier.scaled(parts.preprocess, to_float(batch['image']))
    shown = images, batch['valid'], batch.get('location')
    log_p = parts.model.apply(variables, *shown).log_probabilities
    return {
        'loss': -jnp.take_along_axis(log_p, batch['label'][:, None], 1)[:, 0],
        'scores': jnp.exp(log_p),
        'label': batch['label'],
    }


def optimizer(config):
    """AdamW with decay of kernels only, and a rate of its own for the backbone.

    Raises:
        InputError: the schedule is unknown, or no steps are left for a part of it.
    """
    rate = schedule(config)
    body_rate = lambda step: config.body_rate * rate(step)
    decay = config.weight_decay
    return optax.partition(
        {'pooling': adamw(rate, decay), 'backbone': adamw(body_rate, decay)},
        lambda params: {name: 'backbone' if name == 'backbone' else 'pooling' for name in params},
    )

"""Segmentation of CT slices, a class for every pixel, as a Task.

A batch is {'image': uint8 [B, *patch], 'target': uint8 [B, *patch]}; a target is an index of a
class, the background 0, or IGNORED where there is no image. Patches are of slices or of volumes, of
which the last two dimensions are the plane of a slice.
"""

from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from covjax import InputError, choice, pretraining, segmenter
from covjax.ct import masks
from covjax.data import batches, segmented, tiles
from covjax.data.augment import (
    is_mirror,
    random_matrix,
    recoloured,
    to_float,
    to_uint8,
    warp,
    warp_classes,
)
from covjax.training.optimizer import adamw, schedule
from covjax.training.task import AXIS, Net, State, Task, first_index

IGNORED = 255  # the target of pixels that are no part of an image
SMOOTH = 1.0  # pixels; a class that is neither there nor predicted has a Dice of 1
FOCUS = 2.0  # the exponent of the focal loss, as published
MOST_PLACES = 10_000  # of foreground that are kept of an image, to centre patches on


class Parts(NamedTuple):
    """What the steps need of a config."""

    model: Any  # a network of models.SEGMENTERS or VOLUME_SEGMENTERS
    loss: Any  # (logits [B, *patch, classes], target [B, *patch]) -> float [B]
    tx: optax.GradientTransformation
    augment: dict  # settings of data.augment
    classes: tuple[str, ...]
    mirrored: np.ndarray | None  # of each target what it becomes in a mirror; None: all stay


class Patches(NamedTuple):
    """Where training patches come from."""

    images: list[np.ndarray]  # uint8 [*S]
    targets: list[np.ndarray]  # uint8 [*S]
    places: list[np.ndarray]  # int [K, dimensions], of foreground; K may be 0
    shape: tuple[int, ...]  # of a patch
    batch_size: int
    foreground: float  # the share of patches with a pixel of foreground in the middle
    seed: int
    # int [N], which parts of the spec images are from, where they are to be shown equally often.
    parts: np.ndarray | None = None


def make(config):
    """The Task of a config (configs/segmentation.py) on the data sets that it names.

    Raises:
        InputError: a key of the config has no valid value, a data set cannot be read, has no masks
            or no foreground, or training and validation have other classes.
    """
    train, val = _read(config, 'train'), _read(config, 'val') if config.val else None
    if val and train.classes != val.classes:
        raise InputError(
            f'config.val={config.val}: has the regions {", ".join(val.classes[1:])}, config.train '
            f'has {", ".join(train.classes[1:])}; name common ones in config.regions'
        )
    return task_on(config, train, val)


def _read(config, key):
    """The segmented.Segmented of config.train or config.val."""
    if not config[key]:
        raise InputError(f'config.{key} is empty; name a data set with masks, of ct_scans')
    examples = segmented.read(config[key], config.data_dir, config.image_size, config.regions)
    for index, name in enumerate(examples.classes):
        if not any((target == index).any() for target in examples.targets):
            raise InputError(
                f'config.{key}={config[key]}: no pixel is {name}; name another data set, or '
                'leave the region out of config.regions'
            )
    return examples


def task_on(config, train, val):
    """The Task of a config on examples in memory: binds the functions of this module to it.

    Args:
        config: ConfigDict of configs/segmentation.py; the data sets it names are not read.
        train, val: segmented.Segmented of the same classes; val may be None.

    Raises:
        InputError: a key of the config has no valid value, or images are volumes.
    """
    sets = {'train': train} | ({'val': val} if val else {})
    shape = segmenter.patch_of(config)
    _check_dimensions(config, len(shape), **sets)
    parts = parts_of(config, train.classes)
    patches = Patches(
        images=train.images,
        targets=train.targets,
        places=[foreground_places(target) for target in train.targets],
        shape=shape,
        batch_size=config.batch_size,
        foreground=config.foreground,
        seed=config.seed,
        parts=train.parts if config.equal_parts else None,
    )
    return Task(
        train_batch=partial(train_batch, patches),
        eval_batches=partial(eval_batches, val, shape, config.batch_size) if val else dict,
        init=partial(init, parts, config),
        train_step=partial(train_step, parts),
        eval_step=partial(eval_step, parts),
        summarize=partial(summarize, train.classes),
        steps=config.steps,
        sources={key: examples.rows for key, examples in sets.items()},
        classes=train.classes,
        scalars=scalars_of(train.classes) if val else (),
    )


def _check_dimensions(config, dimensions, **sets):
    """Refuses volumes of a network that sees slices (2 dimensions), and the other way round.

    Args:
        config: with model, and the names of the data sets.
        dimensions: that the network sees.
        **sets: {'train', 'val': segmented.Segmented}.
    """
    for key, examples in sets.items():
        found = {image.ndim for image in examples.images}
        if found != {2} and dimensions == 2:
            raise InputError(
                f'config.{key}={config[key]}: has volumes, and {config.model} sees slices; prepare '
                f'and name {segmented.of_slices(config[key])}'
            )
        if found != {3} and dimensions == 3:
            raise InputError(
                f'config.{key}={config[key]}: has slices, and {config.model} sees volumes; prepare '
                'and name a data set of volumes, such as ct_scans/folder_1500um'
            )
        if dimensions == 3 and config.spacing:
            _check_spacing(config, key, examples.rows)


def _check_spacing(config, key, rows):
    """Refuses volumes (data.rows.Row) whose voxels are no cubes of config.spacing."""
    for row in rows:
        found = row.others.get('spacing', (0, 0, 0))
        if not np.allclose(found, config.spacing, rtol=1e-3):
            shape = ' x '.join(f'{mm:.3g}' for mm in found)
            raise InputError(
                f'config.{key}={config[key]}: {row.id} has voxels of {shape} mm (z, y, x), and '
                f'config.spacing={config.spacing:g}; prepare and name data sets whose names end in '
                f'_{config.spacing * 1000:.0f}um, or set config.spacing=0'
            )


def parts_of(config, classes):
    """The Parts of a config, for the classes of its masks.

    Raises:
        InputError: the model, dtype, loss or schedule is not valid.
    """
    model = segmenter.network(config, len(classes), axis_name=AXIS, bn_momentum=config.bn_momentum)
    return Parts(
        model=model,
        loss=LOSSES[choice(config, 'loss', LOSSES)],
        tx=adamw(schedule(config), config.weight_decay),
        augment=config.augment,
        classes=classes,
        mirrored=mirrored_targets(classes) if config.augment.flip else None,
    )


def mirrored_targets(classes):
    """What each target becomes where left and right are exchanged: uint8 [256], or None for itself.

    Raises:
        InputError: there is a left region without the right one, or the other way round, so that
            nobody knows where it is in a mirror.
    """
    becomes, alone = masks.mirrored(classes)
    if one_sided := [name for name in alone if set(masks.SIDES) & set(name.split('_'))]:
        raise InputError(
            f'config.augment.flip=True: {one_sided[0]} has no other side among the regions, so it '
            'cannot be mirrored; set it to False, or name both sides in config.regions'
        )
    table = np.arange(256, dtype=np.uint8)
    table[: len(classes)] = becomes
    return None if (table == np.arange(256)).all() else table


# Data.


def foreground_places(target):
    """Where a target has a region: int [K, dimensions], MOST_PLACES of them at most, spread out."""
    places = np.flatnonzero(target)
    if len(places) > MOST_PLACES:
        places = places[np.linspace(0, len(places) - 1, MOST_PLACES).astype(int)]
    return np.stack(np.unravel_index(places, target.shape), -1)


def train_batch(patches, step):
    """The batch of a step: patches of images that take turns, at places that the step decides.

    Args:
        patches: Patches.
        step: int.

    Returns:
        {'image': uint8 [B, *patch, 1], 'target': uint8 [B, *patch]}.
    """
    chosen = batches.batch_indices(
        step, len(patches.images), patches.batch_size, patches.seed, patches.parts
    )
    images, targets = [], []
    for i, index in enumerate(chosen):
        rng = np.random.default_rng([patches.seed, step, i])
        corner = _corner(rng, patches, index)
        images.append(tiles.cut(patches.images[index], corner, patches.shape, 0))
        targets.append(tiles.cut(patches.targets[index], corner, patches.shape, IGNORED))
    return {'image': np.stack(images)[..., None], 'target': np.stack(targets)}


def _corner(rng, patches, index):
    """The corner of a patch inside an image: anywhere, or around a pixel of foreground."""
    shape, places = patches.images[index].shape, patches.places[index]
    room = np.maximum(np.array(shape) - patches.shape, 0)
    anywhere = rng.integers(0, room + 1)
    if rng.random() >= patches.foreground or not len(places):
        return tuple(anywhere)
    middle = places[rng.integers(len(places))]
    return tuple(np.clip(middle - np.array(patches.shape) // 2, 0, room))


def eval_batches(val, shape, batch_size):
    """{'': batches of tiles that cover every image}, with 'mask' and 'scan', its index.

    Where tiles overlap the first one counts, and the target of the others is IGNORED. Tiles are cut
    as they are needed, so that scans are not there twice.
    """
    places = [
        (scan, corner)
        for scan, image in enumerate(val.images)
        for corner in tiles.corners(image.shape, shape, shape)
    ]
    return {'': _tile_batches(val, places, shape, batch_size)}


def _tile_batches(val, places, shape, batch_size):
    """Yields the batches of tiles at places: (index of a scan, corner)."""
    for batch in batches.padded_batches({'place': np.arange(len(places))}, batch_size):
        cuts = [_tile(val, *places[i], shape) for i in batch.pop('place')]
        yield batch | {name: np.stack([cut[name] for cut in cuts]) for name in cuts[0]}


def _tile(val, scan, corner, shape):
    """One tile of a scan: {'image', 'target', 'scan'}."""
    target = tiles.cut(val.targets[scan], corner, shape, IGNORED)
    for axis, (start, n) in enumerate(zip(corner, shape)):
        # What the tile before it has, along this axis.
        covered = -start % n
        target[(slice(None),) * axis + (slice(covered),)] = IGNORED
    return {
        'image': tiles.cut(val.images[scan], corner, shape, 0)[..., None],
        'target': target,
        'scan': np.int32(scan),
    }


def init(parts, config, rng, batch):
    """The State before the first step: random, or with the weights of the run config.start.

    Raises:
        InputError: there is no such run, or it trained another network.
    """
    image = to_float(batch['image'])
    if config.start:
        variables = pretraining.load(config, parts.model, (image,), parts.classes, rng)
    else:
        variables = jax.jit(parts.model.init)(rng, image)
    return State(
        step=jnp.zeros((), jnp.int32),
        net=Net.create(variables['params'], parts.tx),
        batch_stats=variables.get('batch_stats', {}),
    )


def augment(rng, images, targets, settings, first, mirrored=None):
    """Changes each image and its target alike at random, on any number of devices.

    The slices of a volume are moved by one matrix, in their plane.

    Args:
        rng: key; image i draws from fold_in(rng, first + i).
        images: uint8 [B, *patch, 1].
        targets: uint8 [B, *patch].
        settings: of augment.random_matrix and augment.recoloured.
        first: the index of the first image in the global batch.
        mirrored: uint8 [256], what each target becomes where left and right are exchanged.

    Returns:
        (float32 [B, *patch, 1] in [-1, 1], uint8 [B, *patch], IGNORED outside the images).
    """
    size = images.shape[-2]

    def changed(rng, image, target):
        matrix_rng, colour_rng = jax.random.split(rng)
        matrix = random_matrix(matrix_rng, settings, size)
        move, move_target = (
            partial(warp, matrix=matrix, size=size),
            partial(warp_classes, matrix=matrix, size=size, outside=IGNORED),
        )
        if target.ndim == 3:
            move, move_target = jax.vmap(move), jax.vmap(move_target)
        target = move_target(target)
        if mirrored is not None:
            target = jnp.where(is_mirror(matrix), jnp.asarray(mirrored)[target], target)
        return move(recoloured(colour_rng, image, settings)), target

    rngs = jax.vmap(partial(jax.random.fold_in, rng))(first + jnp.arange(len(images)))
    return jax.vmap(changed)(rngs, to_float(images), targets)


# Losses: logits float [B, *patch, classes], targets uint8 [B, *patch] -> float [B]. Pixels that are
# IGNORED do not count.


def dice_loss(logits, target):
    """1 minus the soft Dice of each region, averaged over the regions (Milletari et al. 2016).

    The Dice of an example counts for itself, so that its mean over devices is that of one device.
    """
    wanted = _one_hot(logits, target)
    found = jnp.exp(_log_probabilities(logits)) * (target != IGNORED)[None]
    axes = tuple(range(2, wanted.ndim))
    shared, both = (found * wanted).sum(axes), (found + wanted).sum(axes)
    dice = (2 * shared + SMOOTH) / (both + SMOOTH)
    return 1 - dice[1:].mean(0)


def cross_entropy(logits, target):
    """The mean cross-entropy of the pixels."""
    return _mean(target, _pixel_entropy(logits, target))


def dice_cross_entropy(logits, target):
    """The sum of both, as nnU-Net has it (Isensee et al. 2021)."""
    return dice_loss(logits, target) + cross_entropy(logits, target)


def focal_loss(logits, target):
    """The cross-entropy of pixels weighted by (1 - P(target))^2 (Lin et al. 2017)."""
    entropy = _pixel_entropy(logits, target)
    return _mean(target, (1 - jnp.exp(-entropy)) ** FOCUS * entropy)


LOSSES = {
    'dice_ce': dice_cross_entropy,
    'dice': dice_loss,
    'cross_entropy': cross_entropy,
    'focal': focal_loss,
}


# The classes come first below, and are added one by one: XLA is slow at sums of few numbers on CPU.


def _one_hot(logits, target):
    """Whether a pixel is of a class, 0 for all of them where it is not known.

    Logits [B, *patch, classes], uint8 [B, *patch] -> float [classes, B, *patch].
    """
    return jax.nn.one_hot(target, logits.shape[-1], axis=0)


def _log_probabilities(logits):
    """[B, *patch, classes] -> log P [classes, B, *patch]."""
    planes = jnp.moveaxis(logits, -1, 0)
    return planes - reduce(jnp.logaddexp, planes)[None]


def _pixel_entropy(logits, target):
    """The cross-entropy of each pixel, 0 where it is not known: [B, *patch]."""
    return -sum(_one_hot(logits, target) * _log_probabilities(logits))


def _mean(target, values):
    """The mean of [B, *patch] over the pixels that are known: [B]."""
    axes = tuple(range(1, target.ndim))
    return values.sum(axes) / jnp.maximum((target != IGNORED).sum(axes), 1)


# Steps.


def loss(parts, params, batch_stats, images, target):
    """The loss of a batch.

    Args:
        parts: Parts.
        params: what is differentiated.
        batch_stats: of the model.
        images: float [B, *patch, 1] in [-1, 1].
        target: uint8 [B, *patch].

    Returns:
        (mean loss, (new batch_stats, {'loss', 'accuracy'})); accuracy is the share of pixels that
        are called right.
    """
    variables = {'params': params, 'batch_stats': batch_stats}
    logits, updated = parts.model.apply(variables, images, train=True, mutable=['batch_stats'])
    mean = parts.loss(logits, target).mean()
    scalars = {'loss': mean, 'accuracy': _mean(target, logits.argmax(-1) == target).mean()}
    return mean, (updated.get('batch_stats', {}), scalars)


def train_step(parts, state, batch, rng):
    """One update of the network.

    Args:
        parts: Parts.
        state: State.
        batch: {'image': uint8 [B, *patch, 1], 'target': uint8 [B, *patch]}.
        rng: key, the same on every device.

    Returns:
        (State, {'loss', 'accuracy'}), averaged over all devices.
    """
    first = first_index(len(batch['target']))
    images, target = augment(
        rng, batch['image'], batch['target'], parts.augment, first, parts.mirrored
    )
    gradient = jax.grad(partial(loss, parts), has_aux=True)
    grads, (batch_stats, scalars) = gradient(state.net.params, state.batch_stats, images, target)
    net = state.net.update(grads, parts.tx)
    return State(state.step + 1, net, lax.pmean(batch_stats, AXIS)), lax.pmean(scalars, AXIS)


def eval_step(parts, state, batch):
    """Counts, for every class, how its pixels were classified.

    Args:
        parts: Parts.
        state: State.
        batch: {'image': uint8 [B, *patch, 1], 'target': uint8 [B, *patch], 'scan': int32 [B]}.

    Returns:
        {'loss': float32 [B]; 'counts': int32 [B, classes, 3] of pixels of the class that were found
        (true positive), called so and are not (false positive), and missed (false negative);
        'scan': int32 [B]; 'panel': uint8 [B, side, 3 * side, 3], a picture of image, target and
        prediction, of a volume its middle slice}.
    """
    variables = {'params': state.net.params, 'batch_stats': state.batch_stats}
    images, target = to_float(batch['image']), batch['target']
    logits = parts.model.apply(variables, images)
    decided = segmenter.decided(jax.nn.softmax(logits))  # as it is used, and evaluated
    found = jnp.where(target == IGNORED, IGNORED, decided).astype(jnp.uint8)
    axes = tuple(range(1, target.ndim))
    is_class = partial(jax.nn.one_hot, num_classes=len(parts.classes), dtype=bool)
    wanted, called = is_class(target), is_class(found)
    counts = [wanted & called, called & ~wanted, wanted & ~called]
    return {
        'loss': parts.loss(logits, target),
        'counts': jnp.stack([count.sum(axes) for count in counts], -1),
        'scan': batch['scan'],
        'panel': _panel(images, target, found),
    }


def _panel(images, target, found):
    """uint8 [B, side, 3 * side, 3]: images, and with their target and what was found in colour."""
    if target.ndim == 4:
        middle = target.shape[1] // 2
        images, target, found = images[:, middle], target[:, middle], found[:, middle]
    grey = to_uint8(images).repeat(3, -1)
    colours = jnp.asarray(masks.colours(IGNORED))

    def painted(classes):
        region = ((classes > 0) & (classes != IGNORED))[..., None]
        return jnp.where(region, grey // 2 + colours[classes] // 2, grey)

    return jnp.concatenate([grey, painted(target), painted(found)], 2)


def scalars_of(classes):
    """The names under which an evaluation logs what `summarize` returns."""
    regions = classes[1:] if len(classes) > 2 else ()
    return tuple(f'val/{name}' for name in ('loss', 'dice', *(f'dice_{name}' for name in regions)))


def summarize(classes, outputs):
    """What the log says of eval_step's outputs on a split.

    Returns:
        ({'loss'; 'dice', the mean over regions; 'dice_<region>' where there are several, the mean
        over scans of the Dice of whole scans, those without the region in target and prediction
        left out}, {'panel': images}).
    """
    scans = np.unique(outputs['scan'])
    counts = np.stack([outputs['counts'][outputs['scan'] == scan].sum(0) for scan in scans])
    found, wrong, missed = np.moveaxis(counts[:, 1:].astype(float), -1, 0)
    pixels = 2 * found + wrong + missed
    dice = np.divide(2 * found, pixels, out=np.full(found.shape, np.nan), where=pixels > 0)
    by_region = {
        name: np.nanmean(values) if np.isfinite(values).any() else 0.0
        for name, values in zip(classes[1:], dice.T)
    }
    values = {'loss': outputs['loss'].mean(), 'dice': np.mean(list(by_region.values()))}
    if len(by_region) > 1:
        values |= {f'dice_{name}': value for name, value in by_region.items()}
    return values, {'panel': outputs['panel']}

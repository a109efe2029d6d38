"""Pairs of slices that differ in a lesion alone, as a Task: lesions and shams made by one network.

The generator sees a slice in which what a mask covers is hidden, and makes it anew: as a lesion of
some kind, or as healthy lung, the *sham*. The untouched slice is no negative: "was made anew" would
be the label. What may change is the gate of the mask (data.lesion_masks.gate), the same for every
kind; outside of it the slice is kept bit for bit.

The discriminator sees only what the generator may change. Its real examples of lesions and of
healthy lung are from the same annotated pictures, so that scanner, window and compression are
balanced. The generator fills gaps in these pictures too, where the truth is known (L1), in lesions
and in healthy lung alike.

A *gap* is {'image': uint8 [B, S, S, 1], 'gate': uint8 [B, S, S, 1], 'kind': int32 [B]}: an image,
the gate in 255 parts, and what is to be made there, an index in KINDS. A batch is {'slices/image',
..., 'pictures/image', ...}: gaps in slices without lesions and in annotated pictures.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax
from scipy import ndimage

from covjax import InputError
from covjax.ct import lungs
from covjax.data import batches, datasets, lesion_masks, segmented
from covjax.data.augment import augment, to_float, to_uint8
from covjax.models import compute_dtype
from covjax.models import cyclegan as networks
from covjax.training.cyclegan import schedule
from covjax.training.task import AXIS, Net, Task, first_index

SHAM = 'sham'
KINDS = (SHAM, 'ground_glass', 'consolidation')
SOURCES = ('slices', 'pictures')  # of gaps
APART = 0.02  # of the side, between a sham in an annotated picture and its lesions
DARKEST = 128  # grey level below which the median of healthy lung lies


@struct.dataclass
class State:
    """Everything that a step changes."""

    step: jax.Array
    gen: Net
    disc: Net


class Nets(NamedTuple):
    """What the losses need of a config."""

    generator: Any  # models.cyclegan.Generator
    discriminator: Any  # models.cyclegan.Discriminator
    reconstruction: float  # weight of the L1 distance from the truth, where it is known

    def fill(self, params, gap, noise):
        """What the generator makes of a gap, with the image around it.

        Args:
            params: of the generator.
            gap: {'image': float [B, S, S, 1] in [-1, 1], 'gate': float [B, S, S, 1] in 0..1,
                'kind': int [B]}.
            noise: float [B, S, S, 1], what the gap is filled with before.

        Returns:
            float [B, S, S, 1] in [-1, 1].
        """
        image, gate = gap['image'], gap['gate']
        hidden = jnp.where(gate > 0, noise, image)
        wanted = jnp.concatenate([hidden, of_kind(gap)], -1)
        made = self.generator.apply({'params': params}, wanted)
        return image + gate * (made - image)

    def judge(self, params, gap, image):
        """Logits [B, h, w, 1] of what an image has in a gap; all else is hidden."""
        shown = jnp.where(gap['gate'] > 0, image, -1.0)
        seen = jnp.concatenate([shown, of_kind(gap)], -1)
        return self.discriminator.apply({'params': params}, seen)


def of_kind(gap):
    """The gate in the channel of its kind: float [B, S, S, kinds]."""
    kinds = jax.nn.one_hot(gap['kind'], len(KINDS))
    return gap['gate'] * kinds[:, None, None]


# ---- where gaps come from


class Annotated(NamedTuple):
    """Pictures with lesions, and where there is none in their lungs."""

    images: np.ndarray  # uint8 [N, S, S]
    targets: list[np.ndarray]  # uint8 [S, S], an index in KINDS
    healthy: list[np.ndarray]  # bool [S, S]
    rows: list


class Slices(NamedTuple):
    """Slices without lesions, and their lungs."""

    images: np.ndarray  # uint8 [N, S, S]
    lungs: list[np.ndarray]  # bool [S, S]
    rows: list


def read_annotated(config, key):
    """The Annotated pictures of config.pictures or config.val_pictures.

    Raises:
        InputError: there is no such data set, or its masks have other regions.
    """
    regions = ','.join(KINDS[1:])
    found = segmented.read(config[key], config.data_dir, config.image_size, regions)
    targets, healthy = [], []
    for image, target in zip(found.images, found.targets):
        distance = ndimage.distance_transform_edt(target == 0)
        apart = distance > APART * config.image_size
        targets.append(target)
        healthy.append(lungs.mask_in_crop(image) & apart)
    return Annotated(np.stack(found.images), targets, healthy, found.rows)


def read_slices(config, key):
    """The Slices of config.slices or config.val_slices in which lungs are found.

    Raises:
        InputError: there is no such data set, or no lungs are found in any slice.
    """
    examples = datasets.read(config[key], config.data_dir, config.image_size)
    images = examples.images[..., 0]
    found = lungs.masks(examples.images)
    chosen = np.flatnonzero(lungs.plausible(found))
    if not len(chosen):
        raise InputError(
            f'config.{key}={config[key]}: no slice shows plausible lungs; name framed slices, such '
            'as luna16_patches/nodules_framed:train'
        )
    rows = [examples.rows[i] for i in chosen]
    return Slices(images[chosen], list(found[chosen]), rows)


def gap_in_slice(rng, slices, bank, index):
    """A gap of any kind in the lungs of a slice: {'image', 'gate', 'kind'}, or None.

    Args:
        rng: numpy.random.Generator.
        slices: Slices.
        bank: lesion_masks.Bank.
        index: of the slice.
    """
    shape = KINDS[rng.integers(1, len(KINDS))]  # of both, lesion and sham
    mask = lesion_masks.drawn(rng, slices.lungs[index], bank, shape)
    kind = shape if rng.random() < 0.5 else SHAM
    return None if mask is None else _gap(slices.images[index], mask, kind)


def gap_in_picture(rng, pictures, bank, index):
    """A lesion of an annotated picture, or healthy lung in the shape of one; or None."""
    image, target = pictures.images[index], pictures.targets[index]
    if rng.random() < 0.5:
        kinds = np.unique(target[target > 0])
        if not len(kinds):
            return None
        kind = rng.choice(kinds)
        mask = target == kind
        if rng.random() < 0.5:  # a part of it, so that no mask tells what is real
            mask = lesion_masks.drawn(rng, mask, bank, KINDS[kind])
        return None if mask is None else _gap(image, mask, KINDS[kind])
    shape = KINDS[rng.integers(1, len(KINDS))]
    mask = lesion_masks.drawn(rng, pictures.healthy[index], bank, shape)
    if mask is None or np.median(image[mask]) > DARKEST:
        return None
    return _gap(image, mask, SHAM)


def _gap(image, mask, kind):
    gate = np.round(255 * lesion_masks.gate(mask)).astype(np.uint8)
    return {'image': image[..., None], 'gate': gate[..., None], 'kind': np.int32(KINDS.index(kind))}


def train_batch(makers, sizes, batch_size, seed, step):
    """The batch of a step.

    Args:
        makers: {'slices', 'pictures'}: (rng, index) -> a gap or None.
        sizes: {'slices', 'pictures'}: how many there are.
        batch_size: gaps of each source.
        seed, step: ints, of which the batch is a function.

    Returns:
        {'slices/image', 'slices/gate', 'slices/kind', 'pictures/image', ...}.
    """
    batch = {}
    for number, source in enumerate(SOURCES):
        chosen = batches.batch_indices(step, sizes[source], batch_size, seed + number)
        gaps = []
        for i, index in enumerate(chosen):
            rng = np.random.default_rng([seed, step, number, i])
            gaps.append(_first_gap(rng, makers[source], index, sizes[source]))
        for name in gaps[0]:
            batch[f'{source}/{name}'] = np.stack([gap[name] for gap in gaps])
    return batch


def _first_gap(rng, make, index, size):
    """The gap of an image, or of the first after it in which one can be made."""
    for offset in range(size):
        gap = make(rng, (index + offset) % size)
        if gap is not None:
            return gap
    raise InputError('config.pictures, config.slices: no mask of a lesion fits into any lungs')


# ---- the Task


def make(config):
    """The Task of a config (configs/pairs.py) on the data sets that it names.

    Raises:
        InputError: a key of the config has no valid value, or a data set cannot be read.
    """
    train = read_slices(config, 'slices'), read_annotated(config, 'pictures')
    val = read_slices(config, 'val') if config.val else None
    return task_on(config, *train, val)


def task_on(config, slices, pictures, val):
    """The Task of a config on examples in memory: binds the functions of this module to it.

    Args:
        config: ConfigDict of configs/pairs.py; the data sets it names are not read.
        slices: Slices.
        pictures: Annotated.
        val: Slices, or None.

    Raises:
        InputError: image_size, norm, upsample or dtype is not valid.
    """
    nets = nets_of(config)
    bank = lesion_masks.Bank.of_targets(pictures.targets, KINDS)
    makers = {
        'slices': partial(gap_of, gap_in_slice, slices, bank),
        'pictures': partial(gap_of, gap_in_picture, pictures, bank),
    }
    sizes = {'slices': len(slices.images), 'pictures': len(pictures.images)}
    constant = round(config.steps * config.constant_share)
    tx = optax.adam(schedule(config.learning_rate, config.steps, constant), b1=0.5, b2=0.999)
    sources = {'slices': slices.rows, 'pictures': pictures.rows}
    return Task(
        train_batch=partial(train_batch, makers, sizes, config.batch_size, config.seed),
        eval_batches=partial(eval_batches, val, bank, config.batch_size, config.seed),
        init=partial(init, nets, tx, config.image_size),
        train_step=partial(train_step, nets, tx, config.augment),
        eval_step=partial(eval_step, nets),
        summarize=summarize,
        steps=config.steps,
        sources=sources | ({'val': val.rows} if val else {}),
    )


def gap_of(make, images, bank, rng, index):
    """make(rng, images, bank, index), in the order that train_batch wants."""
    return make(rng, images, bank, index)


def nets_of(config):
    """The Nets of a config.

    Raises:
        InputError: image_size or dtype is not valid.
    """
    if config.image_size % 4 or config.image_size < 32:
        raise InputError(
            f'config.image_size={config.image_size}: the generator halves images twice; '
            'choose a multiple of 4, at least 32'
        )
    dtype = compute_dtype(config)
    return Nets(
        generator=networks.Generator(
            filters=config.gen_filters,
            blocks=config.gen_blocks,
            upsample='resize',
            dtype=dtype,
            channels=1,
        ),
        discriminator=networks.Discriminator(config.disc_filters, dtype=dtype),
        reconstruction=config.lambda_pictures,
    )


def eval_batches(val, bank, batch_size, seed):
    """{'': batches of gaps in validation slices, 'mask'}, or {} for none."""
    if val is None:
        return {}
    gaps = []
    for index in range(len(val.images)):
        gap = gap_in_slice(np.random.default_rng([seed, index]), val, bank, index)
        if gap is not None:
            gaps.append(gap)
    arrays = {name: np.stack([gap[name] for gap in gaps]) for name in ('image', 'gate')}
    return {'': batches.padded_batches(arrays, batch_size)}


def init(nets, tx, image_size, rng, batch):
    """The State before the first step: random networks."""
    gen_rng, disc_rng = jax.random.split(rng)
    image = jnp.zeros((1, image_size, image_size, 1 + len(KINDS)))
    random = lambda network, rng: jax.jit(network.init)(rng, image)['params']
    return State(
        step=jnp.zeros((), jnp.int32),
        gen=Net.create(random(nets.generator, gen_rng), tx),
        disc=Net.create(random(nets.discriminator, disc_rng), tx),
    )


# ---- losses


def judged(logits, gate, target):
    """Mean squared distance of logits to a target, where they see what may change.

    Args:
        logits: [B, h, w, 1], one a patch.
        gate: float [B, S, S, 1] in 0..1.
        target: 0 or 1.
    """
    weight = jax.image.resize(gate, logits.shape, 'linear')
    each = (weight * (logits - target) ** 2).sum((1, 2, 3))
    return (each / jnp.maximum(weight.sum((1, 2, 3)), 1e-6)).mean()


def generator_loss(nets, gen_params, disc_params, gaps, noise):
    """The loss of the generator: adversarial, and L1 in pictures, whose truth is known.

    Args:
        nets: Nets.
        gen_params: what is differentiated.
        disc_params: of the discriminator.
        gaps: {'slices', 'pictures'}: a gap each, images float in [-1, 1].
        noise: {'slices', 'pictures'}: float [B, S, S, 1].

    Returns:
        (sum of the terms, ({name: term}, {'slices', 'pictures'}: images made)).
    """
    made = {source: nets.fill(gen_params, gaps[source], noise[source]) for source in SOURCES}
    terms = {
        f'adversarial_{source}': judged(
            nets.judge(disc_params, gaps[source], made[source]), gaps[source]['gate'], 1.0
        )
        for source in SOURCES
    }
    picture, gate = gaps['pictures']['image'], gaps['pictures']['gate']
    off = (gate * jnp.abs(made['pictures'] - picture)).sum() / jnp.maximum(gate.sum(), 1)
    terms['reconstruction'] = nets.reconstruction * off
    return sum(terms.values()), (terms, made)


def discriminator_loss(nets, params, gaps, made):
    """The loss of the discriminator: annotated pictures against what was made, in slices and there.

    Args:
        nets: Nets.
        params: of the discriminator, what is differentiated.
        gaps: as for `generator_loss`.
        made: {'slices', 'pictures'}: images made of them.

    Returns:
        (mean loss, {'discriminator_real', 'discriminator_made'}).
    """
    pictures = gaps['pictures']
    real = judged(nets.judge(params, pictures, pictures['image']), pictures['gate'], 1.0)
    fakes = [
        judged(nets.judge(params, gaps[source], made[source]), gaps[source]['gate'], 0.0)
        for source in SOURCES
    ]
    fake = sum(fakes) / len(fakes)
    return 0.5 * (real + fake), {'discriminator_real': real, 'discriminator_made': fake}


# ---- steps


def augmented(rng, gap, settings, first):
    """A gap of uint8 with image and gate moved alike, as floats."""
    both = jnp.concatenate([gap['image'], gap['gate']], -1)
    moved = augment(rng, both, settings, both.shape[1], first)
    gate = (moved[..., 1:] + 1) / 2
    return gap | {
        'image': moved[..., :1],
        'gate': jnp.where(gate > lesion_masks.SUPPORT, gate, 0.0),
    }


def noise_like(rng, images, first):
    """Standard normal noise [B, S, S, 1] that depends on the index of each image in all."""
    rngs = jax.vmap(partial(jax.random.fold_in, rng))(first + jnp.arange(len(images)))
    return jax.vmap(lambda rng: jax.random.normal(rng, images.shape[1:]))(rngs)


def train_step(nets, tx, settings, state, batch, rng):
    """One update of the generator, then one of the discriminator.

    Args:
        nets: Nets.
        tx: optax optimizer of both.
        settings: of data.augment.augment.
        state: State.
        batch: of `train_batch`.
        rng: key, the same on every device.

    Returns:
        (State, {name: scalar}), averaged over all devices.
    """
    first = first_index(len(batch['slices/image']))
    gaps, noise = {}, {}
    for source, source_rng in zip(SOURCES, jax.random.split(rng)):
        augment_rng, noise_rng = jax.random.split(source_rng)
        gap = {name: batch[f'{source}/{name}'] for name in ('image', 'gate', 'kind')}
        gaps[source] = augmented(augment_rng, gap, settings, first)
        noise[source] = noise_like(noise_rng, gaps[source]['image'], first)

    gradient = jax.grad(partial(generator_loss, nets), has_aux=True)
    grads, (terms, made) = gradient(state.gen.params, state.disc.params, gaps, noise)
    gen = state.gen.update(grads, tx)

    gradient = jax.grad(partial(discriminator_loss, nets), has_aux=True)
    grads, scalars = gradient(state.disc.params, gaps, lax.stop_gradient(made))
    disc = state.disc.update(grads, tx)
    return State(state.step + 1, gen, disc), lax.pmean(terms | scalars, AXIS)


def eval_step(nets, state, batch):
    """Makes every kind in gaps of validation slices.

    Args:
        nets: Nets.
        state: State.
        batch: {'image', 'gate'} of gaps.

    Returns:
        {'input', 'gate', KINDS...: uint8 images [B, S, S, 1]; 'grey_KIND': mean grey level that is
        made inside the gate, float [B]}.
    """
    outputs = {'input': batch['image'], 'gate': batch['gate']}
    image, gate = to_float(batch['image']), batch['gate'] / jnp.float32(255)
    for number, kind in enumerate(KINDS):
        gap = {'image': image, 'gate': gate, 'kind': jnp.full(len(image), number)}
        noise = noise_like(jax.random.key(0), gap['image'], 0)
        outputs[kind] = to_uint8(nets.fill(state.gen.params, gap, noise))
        total = (gap['gate'] * outputs[kind]).sum((1, 2, 3))
        outputs[f'grey_{kind}'] = total / gap['gate'].sum((1, 2, 3))
    return outputs


def summarize(outputs):
    """What the log says of eval_step's outputs: grey levels made, and pictures of every kind."""
    values = {name: outputs[name].mean() for name in outputs if name.startswith('grey_')}
    values['contrast'] = values[f'grey_{KINDS[1]}'] - values[f'grey_{SHAM}']
    shown = [outputs[name] for name in ('input', 'gate', *KINDS)]
    return values, {'made': np.concatenate(shown, 2)}

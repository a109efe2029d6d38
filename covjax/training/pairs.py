"""Pairs of slices that differ only in a lesion, as a Task: lesions and shams made by one network.

The generator sees a slice in which what a mask covers is hidden but for its vessels, and makes it
anew: as a lesion of some kind, or as healthy lung, the *sham*. The untouched slice is no negative:
"was made anew" would be the label. What may change is the gate of the mask
(data.lesion_masks.gate), the same for every kind; outside of it the slice is kept bit for bit.

The discriminator sees only what the generator may change, without the finest texture, which is that
of the slice. Its real examples of lesions and of healthy lung are from the same pictures where
lesions were drawn, so that scanner, window and compression are balanced. Where the truth is known,
the generator is held to it (L1): in these pictures, in lesions and in healthy lung alike, and in
slices without lesions where it makes shams.

Gaps are those of data.gaps. A batch is {'slices/image', 'slices/gate', 'slices/kind',
'pictures/image', ...}: gaps in slices without lesions and in annotated pictures.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from covjax import InputError, pair_generator, pair_pictures
from covjax.ct import lungs
from covjax.data import batches, gaps, lesion_masks, lineage
from covjax.data.augment import (
    DIFFERENTIABLE,
    augment,
    seen_by_discriminator,
    to_float,
    to_uint8,
)
from covjax.data.gaps import SOURCES
from covjax.data.lesion_masks import KINDS, LESIONS, SHAM
from covjax.models.cyclegan import Discriminator
from covjax.training import likeness
from covjax.training.cyclegan import schedule
from covjax.training.task import AXIS, Net, Task, first_index

SMALLEST = 32  # pixels a side, which leave the discriminator a patch or more


@struct.dataclass
class State:
    """Everything that a step changes."""

    step: jax.Array
    gen: Net
    disc: Net
    # {'params': moving average of those of the generator}, or {} for config.ema=0.
    ema: dict = struct.field(default_factory=dict)


class Nets(NamedTuple):
    """What the losses need of a config."""

    generator: Any  # models.unet.UNet
    discriminator: Any  # models.cyclegan.Discriminator
    known: float  # weight of the L1 distance from the truth, where it is known
    changes: tuple[str, ...] = ()  # of augment.DIFFERENTIABLE, of what the discriminator sees
    ema: float = 0.0  # decay of the moving average of the generator, at most; 0 for none

    def judge(self, params, gap, image, view):
        """What the discriminator says of what an image has in a gap, without grain.

        Args:
            params: of the discriminator.
            gap: {'gate', 'kind'}.
            image: float [B, S, S, 1] in [-1, 1]; outside the gate all is hidden.
            view: View, by which it is changed at random.

        Returns:
            (logits [B, h, w, 1], the gate as it was seen, float [B, S, S, 1]).
        """
        shown = jnp.where(gap['gate'] > 0, pair_generator.smooth(image, gap['gate']), -1.0)
        kinds = pair_generator.of_kind(gap)
        if self.changes:
            both = jnp.concatenate([shown + 1, kinds], -1)
            moved = seen_by_discriminator(view.rng, both, self.changes, view.first)
            shown, kinds = moved[..., :1] - 1, moved[..., 1:]
        seen = jnp.concatenate([shown, kinds], -1)
        return self.discriminator.apply({'params': params}, seen), kinds.sum(-1, keepdims=True)


class View(NamedTuple):
    """What the discriminator's random view of a batch depends on."""

    rng: jax.Array
    first: Any = 0  # index of the first image in the global batch

    def of(self, number):
        """The View of one of several sets of images."""
        return self._replace(rng=jax.random.fold_in(self.rng, number))


# ---- the Task


def make(config):
    """The Task of a config (configs/pairs.py) on the data sets that it names.

    Raises:
        InputError: a key of the config has no valid value, or a data set cannot be read.
    """
    read = partial(gaps.read_slices, data_dir=config.data_dir, size=config.image_size)
    slices, val = read(config.slices, key='slices'), None
    pictures = pair_pictures.read(config, config.data_dir, config.image_size)
    lineage.check_apart(config, ('slices', slices.rows), ('pictures', pictures.rows))
    if config.val:
        val = read(config.val, key='val')
    spec = config.val_pictures if config.val else ''
    reference = likeness.read(spec, pictures, config.data_dir, config.image_size)
    return task_on(config, slices, pictures, val, reference)


def task_on(config, slices, pictures, val, reference):
    """The Task of a config on examples in memory: binds the functions of this module to it.

    Args:
        config: ConfigDict of configs/pairs.py; the data sets it names are not read.
        slices: Slices.
        pictures: gaps.Pictures.
        val: Slices, or None.
        reference: likeness.Reference.

    Raises:
        InputError: image_size, gen_widths or dtype is not valid.
    """
    nets = nets_of(config)
    makers = {
        'slices': partial(gaps.gap_in_slice, slices, pictures),
        'pictures': partial(gaps.gap_in_picture, pictures),
    }
    sizes = {'slices': len(slices.images), 'pictures': len(pictures.images)}
    constant = round(config.steps * config.constant_share)
    tx = optax.adam(schedule(config.learning_rate, config.steps, constant), b1=0.5, b2=0.999)
    sources = {'slices': slices.rows, 'pictures': pictures.rows}
    if val:
        sources['val'] = val.rows
    if reference.rows:
        sources['val_pictures'] = reference.rows
    return Task(
        train_batch=partial(gaps.train_batch, makers, sizes, config.batch_size, config.seed),
        eval_batches=partial(eval_batches, val, pictures, config.batch_size, config.seed),
        init=partial(init, nets, tx, config.image_size),
        train_step=partial(train_step, nets, tx, config.augment),
        eval_step=partial(eval_step, nets, LESIONS[pictures.masks]),
        summarize=partial(summarize, LESIONS[pictures.masks], reference),
        steps=config.steps,
        sources=sources,
        scalars=scalars_of(LESIONS[pictures.masks], reference) if val else (),
    )


def nets_of(config):
    """The Nets of a config.

    Raises:
        InputError: image_size, gen_widths or dtype is not valid.
    """
    if config.image_size < SMALLEST:
        raise InputError(
            f'config.image_size={config.image_size}: too small for the discriminator; '
            f'choose at least {SMALLEST}'
        )
    network = pair_generator.network(config)
    return Nets(
        generator=network,
        discriminator=Discriminator(config.disc_filters, dtype=network.dtype, depth=3),
        known=config.lambda_known,
        changes=changes_of(config),
        ema=config.ema,
    )


def changes_of(config):
    """The names in config.disc_augment, in their order.

    Raises:
        InputError: one of them is no key of augment.DIFFERENTIABLE, or is there twice.
    """
    names = tuple(name.strip() for name in config.disc_augment.split('+') if name.strip())
    if not {*names} <= {*DIFFERENTIABLE} or len({*names}) < len(names):
        raise InputError(
            f'config.disc_augment={config.disc_augment}: join some of '
            f"{', '.join(DIFFERENTIABLE)} with +, or leave it ''"
        )
    return names


def eval_batches(val, pictures, batch_size, seed):
    """Gaps in validation slices.

    Args:
        val: gaps.Slices, or None.
        pictures: gaps.Pictures, whose masks are taken.
        batch_size: gaps of a batch.
        seed: of masks.

    Returns:
        {'': batches of {'image', 'gate', 'hull', 'mask'}}, or {} for None; a hull is that of the
        lungs, bool [B, S, S, 1].

    Raises:
        InputError: no mask fits into any lungs.
    """
    if val is None:
        return {}
    chosen = []
    for index in range(len(val.images)):
        gap = gaps.gap_in_slice(val, pictures, np.random.default_rng([seed, index]), index)
        if gap is not None:
            chosen.append(gap | {'hull': lungs.hull(val.lungs[index])[..., None]})
    if not chosen:
        raise InputError('config.val: no mask of a lesion fits into any lungs; name more slices')
    arrays = {name: np.stack([gap[name] for gap in chosen]) for name in ('image', 'gate', 'hull')}
    return {'': batches.padded_batches(arrays, batch_size)}


def init(nets, tx, image_size, rng, batch):
    """The State before the first step: random networks."""
    gen_rng, disc_rng = jax.random.split(rng)
    image = jnp.zeros((1, image_size, image_size, 1 + len(KINDS)))
    random = lambda network, rng: jax.jit(network.init)(rng, image)['params']
    gen = Net.create(random(nets.generator, gen_rng), tx)
    return State(
        step=jnp.zeros((), jnp.int32),
        gen=gen,
        disc=Net.create(random(nets.discriminator, disc_rng), tx),
        ema={'params': jax.tree.map(jnp.copy, gen.params)} if nets.ema else {},
    )


# ---- losses


def at_patches(gate, shape):
    """The gate at the centres of the patches that logits see: means of the 4x4 pixels there.

    Args:
        gate: float [B, S, S, 1] in 0..1.
        shape: of the logits, [B, h, w, 1]; the patch of logit i has its centre at pixel 4 i + 5.5.

    Returns:
        float [B, h, w, 1] in 0..1.
    """
    count, height, width, _ = shape
    cells = gate[:, 4 : 4 + 4 * height, 4 : 4 + 4 * width]
    return cells.reshape(count, height, 4, width, 4, 1).mean((2, 4))


def judged(logits, gate, target):
    """Mean squared distance of logits to a target, where they see what may change.

    Args:
        logits: [B, h, w, 1], one a patch.
        gate: float [B, S, S, 1] in 0..1.
        target: 0 or 1.
    """
    weight = at_patches(gate, logits.shape)
    each = (weight * (logits - target) ** 2).sum((1, 2, 3))
    return (each / jnp.maximum(weight.sum((1, 2, 3)), 1e-6)).mean()


def generator_loss(nets, gen_params, disc_params, gaps, noise, view):
    """The loss of the generator: adversarial, and L1 where the truth is known.

    Args:
        nets: Nets.
        gen_params: what is differentiated.
        disc_params: of the discriminator.
        gaps: {'slices', 'pictures'}: a gap each, images float in [-1, 1].
        noise: {'slices', 'pictures'}: float [B, S, S, 1].
        view: View of the discriminator.

    Returns:
        (sum of the terms, ({name: term}, {'slices', 'pictures'}: images made)).
    """
    made = {
        source: pair_generator.fill(nets.generator, gen_params, gaps[source], noise[source])
        for source in SOURCES
    }
    terms = {
        f'adversarial_{source}': judged(
            *nets.judge(disc_params, gaps[source], made[source], view.of(number)), 1.0
        )
        for number, source in enumerate(SOURCES)
    }
    for source in SOURCES:
        off = distance(gaps[source], made[source], shams=source == 'slices')
        terms[f'known_{source}'] = nets.known * off
    return sum(terms.values()), (terms, made)


def distance(gap, made, shams):
    """Mean L1 distance of what is made from the image itself inside gates, a scalar.

    Each image counts the same, however large its gate is.

    Args:
        gap: images float [B, S, S, 1] in [-1, 1].
        made: what is made of them.
        shams: whether shams alone count, which is where a slice without lesions is the truth.
    """
    of_sham = (gap['kind'] == KINDS.index(SHAM))[:, None, None, None]
    counted = gap['gate'] * of_sham if shams else gap['gate']
    off = (counted * jnp.abs(made - gap['image'])).sum((1, 2, 3))
    return (off / jnp.maximum(gap['gate'].sum((1, 2, 3)), 1)).mean()


def discriminator_loss(nets, params, gaps, made, view):
    """The loss of the discriminator: annotated pictures against what was made, in slices and there.

    Args:
        nets: Nets.
        params: of the discriminator, what is differentiated.
        gaps: as for `generator_loss`.
        made: {'slices', 'pictures'}: images made of them.
        view: View of the discriminator.

    Returns:
        (mean loss, {'discriminator_real', 'discriminator_made'}).
    """
    pictures = gaps['pictures']
    of_real = view.of(len(SOURCES))
    real = judged(*nets.judge(params, pictures, pictures['image'], of_real), 1.0)
    fakes = [
        judged(*nets.judge(params, gaps[source], made[source], view.of(number)), 0.0)
        for number, source in enumerate(SOURCES)
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

    view = View(jax.random.fold_in(rng, len(SOURCES)), first)
    gradient = jax.grad(partial(generator_loss, nets), has_aux=True)
    grads, (terms, made) = gradient(state.gen.params, state.disc.params, gaps, noise, view.of(0))
    gen = state.gen.update(grads, tx)

    gradient = jax.grad(partial(discriminator_loss, nets), has_aux=True)
    grads, scalars = gradient(state.disc.params, gaps, lax.stop_gradient(made), view.of(1))
    disc = state.disc.update(grads, tx)
    ema = averaged(state.ema, gen.params, nets.ema, state.step)
    return State(state.step + 1, gen, disc, ema), lax.pmean(terms | scalars, AXIS)


def averaged(ema, params, decay, step):
    """The moving average of parameters after a step, {} where there is none.

    The decay grows to its value as (1 + step) / (10 + step) does, so that random parameters of the
    start are soon forgotten.

    Args:
        ema: {'params': average before the step}, or {}.
        params: parameters after it.
        decay: at most, in 0..1.
        step: number of the step, from 0.
    """
    if not ema:
        return {}
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return {'params': optax.incremental_update(params, ema['params'], 1 - decay)}


def eval_step(nets, lesions, state, batch):
    """Makes every kind in gaps of validation slices.

    Args:
        nets: Nets.
        lesions: kinds that are made, beside shams.
        state: State.
        batch: {'image', 'gate', 'hull'} of gaps.

    Returns:
        {'input', 'gate', KIND...: uint8 images [B, S, S, 1]; 'grey_KIND': mean grey level that is
        made inside the gate, float [B]; 'lungs_KIND': lungs alone, as `likeness.small` has them}.
    """
    params = state.ema['params'] if state.ema else state.gen.params
    outputs = {'input': batch['image'], 'gate': batch['gate']}
    image, gate = to_float(batch['image']), batch['gate'] / jnp.float32(255)
    for kind in (SHAM, *lesions):
        numbers = jnp.full(len(image), KINDS.index(kind))
        gap = {'image': image, 'gate': gate, 'kind': numbers}
        noise = noise_like(jax.random.key(0), gap['image'], 0)
        outputs[kind] = to_uint8(pair_generator.fill(nets.generator, params, gap, noise))
        total = (gap['gate'] * outputs[kind]).sum((1, 2, 3))
        outputs[f'grey_{kind}'] = total / gap['gate'].sum((1, 2, 3))
        alone = jnp.where(batch['hull'], outputs[kind], 0)[..., 0]
        outputs[f'lungs_{kind}'] = likeness.small(alone)
    return outputs


def scalars_of(lesions, reference):
    """The names under which an evaluation logs what `summarize` returns."""
    grey = (f'grey_{kind}' for kind in (SHAM, *lesions))
    return tuple(f'val/{name}' for name in (*grey, 'contrast', *likeness.names(reference)))


def summarize(lesions, reference, outputs):
    """What the log says of eval_step's outputs: grey levels made, and pictures of every kind.

    What `likeness.scalars` says is part of it.
    """
    values = {name: outputs[name].mean() for name in outputs if name.startswith('grey_')}
    values['contrast'] = values[f'grey_{lesions[0]}'] - values[f'grey_{SHAM}']
    values |= likeness.scalars(reference, lesions, outputs)
    shown = [outputs[name] for name in ('input', 'gate', SHAM, *lesions)]
    return values, {'made': np.concatenate(shown, 2)}

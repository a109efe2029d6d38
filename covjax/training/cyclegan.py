"""CycleGAN (Zhu et al. 2017, arXiv 1703.10593) between lung-cancer CT and COVID-19 CT, as a Task.

Networks are named by the domain they produce or judge. In the paper's symbols: to_covid = G_N (N ->
C), to_cancer = G_C (C -> N), discriminator of cancer = D_N, of covid = D_C. `reals` and `fakes` are
{'cancer', 'covid'}: float32 images [B, H, W, C] in [-1, 1] of that domain.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from covjax import InputError, choice, features, generator
from covjax.data import batches, domains, lineage
from covjax.data.augment import augment, to_float, to_uint8
from covjax.data.domains import DOMAINS
from covjax.metrics.distances import kid_value
from covjax.metrics.spectrum import checkerboard
from covjax.models.cyclegan import Discriminator, check_size
from covjax.training.task import AXIS, Net, Task, first_index

# domain: (generator that leaves it, generator that brings back)
JOURNEYS = {'cancer': ('to_covid', 'to_cancer'), 'covid': ('to_cancer', 'to_covid')}
OPPOSITE = {'cancer': 'covid', 'covid': 'cancer'}


@struct.dataclass
class Pool:
    """Earlier fakes of one domain, so that a discriminator sees more than the newest generator."""

    images: jax.Array  # float32 [P, H, W, C] in [-1, 1]
    count: jax.Array  # int32: how many slots are filled


@struct.dataclass
class State:
    """Everything that a step changes."""

    step: jax.Array
    gen: Net  # params {'to_covid', 'to_cancer'}
    disc: Net  # params {'covid', 'cancer'}
    pools: dict  # {'covid': Pool, 'cancer': Pool}, or {} for config.pool_size=0


class Nets(NamedTuple):
    """What the losses need of a config: two architectures, the adversarial loss and the weights."""

    generator: Any  # models.cyclegan.Generator, of both directions
    discriminator: Any  # models.cyclegan.Discriminator, of both domains
    adversarial: Callable  # (logits, target) -> mean loss, one of LOSSES
    real_label: float  # what real images are to score, and fakes for the generators
    cycle: dict  # {'cancer', 'covid'}: weight of the cycle that starts there
    identity: float  # weight of the identity terms relative to those; 0 leaves them out

    def translate(self, params, images):
        """Generator output, float [B, H, W, C] in [-1, 1], of images of that shape and range."""
        return self.generator.apply({'params': params}, images)

    def judge(self, params, images):
        """Discriminator logits [B, h, w, 1], one per patch, of images [B, H, W, C] in [-1, 1]."""
        return self.discriminator.apply({'params': params}, images)


class Validation(NamedTuple):
    """What translated images are compared with: real validation images of the other domain."""

    groups: dict  # {domain: group of each of its validation images}
    extract: Callable  # uint8 images [N, H, W, 1] -> features [N, D]
    real_features: Callable  # (domain) -> features [N, D] of its validation images


def make(config):
    """The Task of a config (configs/cyclegan.py) on the data sets that it names.

    Raises:
        InputError: a key of the config has no valid value, or a data set cannot be read.
    """
    specs = config.val.split(',') if config.val else []
    if len(specs) not in (0, 2):
        raise InputError(
            f'config.val={config.val}: give two data sets, cancer and covid, '
            'separated by a comma, or none'
        )
    train = {
        name: domains.domain(config[name], name, config.load_size, config.data_dir)
        for name in DOMAINS
    }
    lineage.check_apart(config, *((name, train[name].rows) for name in DOMAINS))
    val = {
        name: domains.domain(spec, name, config.image_size, config.data_dir)
        for name, spec in zip(DOMAINS, specs)
    }
    return task_on(config, train, val)


def task_on(config, train, val):
    """The Task of a config on examples in memory: binds the functions of this module to it.

    Args:
        config: ConfigDict of configs/cyclegan.py; the data sets it names are not read.
        train: {domain: datasets.Examples} of both domains, images [N, load_size, load_size, C].
        val: {domain: datasets.Examples} with images [N, image_size, image_size, C], or {} for none.

    Raises:
        InputError: a key of the config has no valid value.
    """
    nets = nets_of(config)
    steps, constant = length(config, [len(examples.rows) for examples in train.values()])
    tx = optax.adam(schedule(config.learning_rate, steps, constant), b1=0.5, b2=0.999)
    augmented = partial(augment, settings=config.augment, size=config.image_size)
    sources = {domain: examples.rows for domain, examples in train.items()}
    if val:
        sources['val'] = [row for examples in val.values() for row in examples.rows]
    return Task(
        train_batch=partial(train_batch, train, config.batch_size, config.seed),
        eval_batches=partial(eval_batches, val, config.batch_size),
        init=partial(init, nets, tx, config.image_size, config.pool_size),
        train_step=partial(train_step, nets, tx, augmented),
        eval_step=partial(eval_step, nets),
        summarize=partial(summarize, validation_on(config, val)),
        steps=steps,
        sources=sources,
        scalars=scalars_of(val),
    )


def nets_of(config):
    """The Nets of a config.

    Raises:
        InputError: image_size, loss, norm, upsample or dtype is not valid.
    """
    check_size(config.image_size)
    network = generator.network(config)
    return Nets(
        generator=network,
        discriminator=Discriminator(
            config.disc_filters, network.norm, config.disc_last_stride, network.dtype
        ),
        adversarial=LOSSES[choice(config, 'loss', LOSSES)],
        real_label=config.real_label,
        cycle={domain: config[f'lambda_{domain}'] for domain in DOMAINS},
        identity=config.lambda_identity,
    )


def length(config, sizes):
    """How many updates a training run takes.

    An epoch is as many images as the larger domain has, or config.epoch_images. config.steps, where
    it is set, replaces the number of updates and keeps the share of those at the full learning
    rate.

    Args:
        config: ConfigDict of configs/cyclegan.py.
        sizes: the numbers of training images of the domains.

    Returns:
        (updates in all, updates before the learning rate falls).

    Raises:
        InputError: both numbers of epochs are 0.
    """
    images = config.epoch_images or max(sizes)
    epoch = -(-images // config.batch_size)
    constant, decay = config.constant_epochs * epoch, config.decay_epochs * epoch
    if not constant + decay:
        raise InputError(
            'config.constant_epochs and config.decay_epochs are both 0; give one of them'
        )
    steps = config.steps or constant + decay
    return steps, round(steps * constant / (constant + decay))


def schedule(rate, steps, constant):
    """The learning rate by step: `rate` for `constant` steps, then linearly to 0 at the end.

    The original lowers it once an epoch; here it falls in every step.
    """
    decay = optax.linear_schedule(rate, 0.0, max(steps - constant, 1))
    return optax.join_schedules([optax.constant_schedule(rate), decay], [constant])


# Data.


def train_batch(train, batch_size, seed, step):
    """The batch {domain: uint8 [B, load_size, load_size, C]} of a step, from {domain: Examples}."""
    batch = {}
    for i, domain in enumerate(DOMAINS):
        images = train[domain].images
        batch[domain] = images[batches.batch_indices(step, len(images), batch_size, seed + i)]
    return batch


def eval_batches(val, batch_size):
    """{domain: batches {domain: uint8 [B, H, W, C], 'mask': bool [B]}} of {domain: Examples}."""
    return {
        domain: batches.padded_batches({domain: examples.images}, batch_size)
        for domain, examples in val.items()
    }


def init(nets, tx, image_size, pool_size, rng, batch):
    """The State before the first step: random networks, pools with room for `pool_size` fakes."""
    gen_rngs, disc_rngs = jnp.split(jax.random.split(rng, 4), 2)
    shape = (image_size, image_size, batch['cancer'].shape[-1])

    def random_params(network, names, rngs):
        init = jax.jit(network.init)  # traced once for both
        image = jnp.zeros((1, *shape))
        return {name: init(rng, image)['params'] for name, rng in zip(names, rngs, strict=True)}

    gen_params = random_params(nets.generator, ('to_covid', 'to_cancer'), gen_rngs)
    disc_params = random_params(nets.discriminator, DOMAINS, disc_rngs)
    pools = {}
    if pool_size:
        pools = {domain: empty_pool((pool_size, *shape)) for domain in DOMAINS}
    return State(
        step=jnp.zeros((), jnp.int32),
        gen=Net.create(gen_params, tx),
        disc=Net.create(disc_params, tx),
        pools=pools,
    )


# Losses.


def least_squares(logits, target):
    """Mean squared distance of the logits to the target (Mao et al. 2017, arXiv 1611.04076)."""
    return jnp.mean((logits - target) ** 2)


def cross_entropy(logits, target):
    """Mean binary cross-entropy of sigmoid(logits) with the target.

    Goodfellow et al. 2014 (arXiv 1406.2661), as equations 1 and 2 of Jiang et al. 2020 print it.
    """
    return optax.sigmoid_binary_cross_entropy(logits, target).mean()


LOSSES = {'lsgan': least_squares, 'bce': cross_entropy}


def generator_loss(nets, gen_params, disc_params, cancer, covid):
    """The loss of both generators: adversarial, cycle and, where it has a weight, identity terms.

    Args:
        nets: Nets.
        gen_params: {'to_covid', 'to_cancer'}, what is differentiated.
        disc_params: {'cancer', 'covid'}.
        cancer, covid: float images [B, H, W, C] in [-1, 1].

    Returns:
        (sum of the terms, ({name: term}, fakes)).
    """
    to_covid = partial(nets.translate, gen_params['to_covid'])
    to_cancer = partial(nets.translate, gen_params['to_cancer'])
    if nets.identity:
        fake_covid, same_covid = apply_once(to_covid, cancer, covid)
        fake_cancer, same_cancer = apply_once(to_cancer, covid, cancer)
    else:
        fake_covid, fake_cancer = to_covid(cancer), to_cancer(covid)

    # The terms are summed in this order: another one rounds differently.
    fakes, terms = {'cancer': fake_cancer, 'covid': fake_covid}, {}
    for domain in DOMAINS:
        logits = nets.judge(disc_params[domain], fakes[domain])
        terms[f'adversarial_{domain}'] = nets.adversarial(logits, nets.real_label)
    terms['cycle_cancer'] = nets.cycle['cancer'] * mean_l1(to_cancer(fake_covid), cancer)
    terms['cycle_covid'] = nets.cycle['covid'] * mean_l1(to_covid(fake_cancer), covid)
    if nets.identity:
        cancer_term = nets.cycle['cancer'] * mean_l1(same_cancer, cancer)
        terms['identity_cancer'] = nets.identity * cancer_term
        covid_term = nets.cycle['covid'] * mean_l1(same_covid, covid)
        terms['identity_covid'] = nets.identity * covid_term
    return sum(terms.values()), (terms, fakes)


def discriminator_loss(nets, disc_params, reals, fakes):
    """The loss of both discriminators, at half weight as in the original.

    Args:
        nets: Nets.
        disc_params: {'cancer', 'covid'}, what is differentiated.
        reals, fakes: {'cancer', 'covid'} of float images [B, H, W, C] in [-1, 1].

    Returns:
        (sum of the terms, {name: term}).
    """
    terms = {}
    for domain in DOMAINS:
        judge = partial(nets.judge, disc_params[domain])
        real, fake = apply_once(judge, reals[domain], fakes[domain])
        loss = nets.adversarial(real, nets.real_label) + nets.adversarial(fake, 0.0)
        terms[f'discriminator_{domain}'] = 0.5 * loss
    return sum(terms.values()), terms


def mean_l1(images, targets):
    """The mean absolute difference of two arrays of images."""
    return jnp.abs(images - targets).mean()


def apply_once(apply, *images):
    """[apply(batch) for batch in images], in one call on all of them.

    The networks normalise each image by itself, so no image changes what another becomes.
    """
    return jnp.split(apply(jnp.concatenate(images)), len(images))


# Pools.


def empty_pool(shape):
    """A Pool with room for shape[0] images of shape[1:]."""
    return Pool(jnp.zeros(shape), jnp.zeros((), jnp.int32))


def query_pool(pool, fakes, rng):
    """Puts fakes into a pool and draws what a discriminator is to see (Shrivastava et al. 2017).

    Each fake in turn is stored and returned while there is room; after that, with probability 1/2
    it is swapped for a random stored one, and otherwise returned as it is.

    Args:
        pool: Pool.
        fakes: float images [B, H, W, C] in [-1, 1].
        rng: key.

    Returns:
        (Pool, images of the shape of fakes).
    """
    size = len(pool.images)

    def query(pool, fake_and_rng):
        fake, rng = fake_and_rng
        slot_rng, swap_rng = jax.random.split(rng)
        full = pool.count >= size
        slot = jnp.where(full, jax.random.randint(slot_rng, (), 0, size), pool.count)
        swap = full & jax.random.bernoulli(swap_rng)
        shown = jnp.where(swap, pool.images[slot], fake)
        stored = jnp.where(swap | ~full, fake, pool.images[slot])
        return Pool(pool.images.at[slot].set(stored), jnp.minimum(pool.count + 1, size)), shown

    return lax.scan(query, pool, (fakes, jax.random.split(rng, len(fakes))))


def query_pools(pools, fakes, first, rng):
    """Queries both pools with the fakes of all devices, so that every device keeps the same pools.

    Args:
        pools: {domain: Pool}, the same on every device.
        fakes: {domain: float images [B, H, W, C]} of this device.
        first: the index of the first of them in the global batch.
        rng: key, the same on every device.

    Returns:
        (pools, {domain: images to show the discriminator on this device}).
    """
    all_fakes = lax.all_gather(fakes, AXIS, tiled=True)
    kept, images = {}, {}
    for domain, domain_rng in zip(DOMAINS, jax.random.split(rng)):
        kept[domain], images[domain] = query_pool(pools[domain], all_fakes[domain], domain_rng)

    mine = lambda whole: lax.dynamic_slice_in_dim(whole, first, len(fakes['cancer']))
    return kept, {domain: mine(images[domain]) for domain in DOMAINS}


# Steps.


def train_step(nets, tx, augmented, state, batch, rng):
    """One update of the generators, then one of the discriminators on pooled fakes.

    Args:
        nets: Nets.
        tx: the optimizer of generators and of discriminators, an optax transformation.
        augmented: (rng, uint8 images, first=index) -> float images in [-1, 1].
        state: State.
        batch: {'cancer', 'covid'} of uint8 images [B, load_size, load_size, C].
        rng: key, the same on every device.

    Returns:
        (State, {name: term of a loss}), averaged over all devices.
    """
    cancer_rng, covid_rng, pool_rng = jax.random.split(rng, 3)
    first = first_index(len(batch['cancer']))
    reals = {
        'cancer': augmented(cancer_rng, batch['cancer'], first=first),
        'covid': augmented(covid_rng, batch['covid'], first=first),
    }

    gradient = jax.grad(partial(generator_loss, nets), has_aux=True)
    gen_grads, (gen_terms, fakes) = gradient(state.gen.params, state.disc.params, **reals)

    pools, shown = {}, fakes
    if state.pools:
        pools, shown = query_pools(state.pools, fakes, first, pool_rng)

    gradient = jax.grad(partial(discriminator_loss, nets), has_aux=True)
    disc_grads, disc_terms = gradient(state.disc.params, reals, shown)

    state = State(
        step=state.step + 1,
        gen=state.gen.update(gen_grads, tx),
        disc=state.disc.update(disc_grads, tx),
        pools=pools,
    )
    return state, lax.pmean({**gen_terms, **disc_terms}, AXIS)


def eval_step(nets, state, batch):
    """Translates images of one domain and brings them back.

    Args:
        nets: Nets.
        state: State.
        batch: {domain: uint8 images [B, H, W, C]} of one domain.

    Returns:
        {'cycle_l1', 'change_l1': float [B], mean absolute difference of an image from its
        reconstruction and from its translation; 'triptych': uint8 [B, H, 3 W, C], image,
        translation and reconstruction; 'translated_<domain>': uint8 [B, H, W]}. The last has no
        axis of channels, so that the loop does not take it for images and hands on all of them.
    """
    ((domain, images),) = batch.items()
    there, back = JOURNEYS[domain]
    images = to_float(images)
    translated = nets.translate(state.gen.params[there], images)
    reconstructed = nets.translate(state.gen.params[back], translated)
    return {
        'cycle_l1': jnp.abs(reconstructed - images).mean((1, 2, 3)),
        'change_l1': jnp.abs(translated - images).mean((1, 2, 3)),
        'triptych': to_uint8(jnp.concatenate([images, translated, reconstructed], 2)),
        f'translated_{domain}': to_uint8(translated)[..., 0],
    }


# Evaluation.


def validation_on(config, val):
    """The Validation of {domain: Examples}, in the features that config.features names."""
    extract = partial(
        batches.predict, features.extractor(config.features), batch_size=config.batch_size
    )
    return Validation(
        groups={domain: [row.group for row in examples.rows] for domain, examples in val.items()},
        extract=extract,
        # They stay the same for the whole training.
        real_features=functools.cache(lambda domain: extract(val[domain].images)),
    )


def scalars_of(val):
    """The names under which an evaluation of {domain: Examples} logs what `summarize` returns."""
    compared = ('kid',) if can_compare([examples.rows for examples in val.values()]) else ()
    names = ('cycle_l1', 'change_l1', 'checkerboard', *compared)
    return tuple(f'val/{domain}/{name}' for domain in val for name in names)


def can_compare(domains):
    """Whether there are enough images for a kernel distance: two in every domain."""
    return min(map(len, domains), default=0) > 1


def summarize(validation, outputs):
    """What the log says of one domain: the mean of each number, and how real its translations look.

    Args:
        validation: Validation.
        outputs: {name: array [N, ...]} of eval_step on all images of the domain. Its images are
            taken out.

    Returns:
        ({'cycle_l1', 'change_l1', 'checkerboard', and 'kid' where there is enough to compare},
        {'input_translated_reconstructed': uint8 [N, H, 3 W, C]}).
    """
    triptych = outputs.pop('triptych')
    domain = next(name for name in DOMAINS if f'translated_{name}' in outputs)
    translated = outputs.pop(f'translated_{domain}')[..., None]
    scalars = {name: values.mean() for name, values in outputs.items()}
    scalars['checkerboard'] = checkerboard(translated)
    if can_compare(validation.groups.values()):
        scalars['kid'] = kernel_distance(validation, domain, translated)
    return scalars, {'input_translated_reconstructed': triptych}


def kernel_distance(validation, domain, translated):
    """The kernel distance of translated images from real ones of the domain they were taken to.

    Images of one group are not compared with each other. Where a domain has a single group there is
    nothing but its images to compare, and each counts as a group of its own.

    Args:
        validation: Validation.
        domain: the one that the images were translated from.
        translated: uint8 images [N, H, W, 1], one of each validation image of `domain` in their
            order.
    """
    goal = OPPOSITE[domain]
    groups = [validation.groups[name] for name in (domain, goal)]
    groups = [names if len(set(names)) > 1 else None for names in groups]
    return kid_value(validation.extract(translated), validation.real_features(goal), *groups)

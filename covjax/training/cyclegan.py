"""CycleGAN (Zhu et al. 2017, arXiv 1703.10593) between lung-cancer CT and COVID-19 CT, as a Task.

Networks are named by the domain they produce or judge. In the paper's symbols: to_covid = G_N (N -> C), to_cancer = G_C (C -> N),
disc.cancer = D_N, disc.covid = D_C.
"""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from covjax import InputError, features
from covjax.data import batches, domains
from covjax.data.augment import augment, to_float, to_uint8
from covjax.generator import network
from covjax.metrics.distances import kid_value
from covjax.metrics.spectrum import checkerboard
from covjax.models import layers
from covjax.models.cyclegan import Discriminator
from covjax.training.task import AXIS, Net, Task, first_index


@struct.dataclass
class Pool:
    """Earlier fakes of one domain, so that a discriminator does not only see the newest generator."""

    images: jax.Array  # float32 [P, H, W, C] in [-1, 1]
    count: jax.Array  # int32: how many slots are filled


@struct.dataclass
class State:
    """Everything that a step changes."""

    step: jax.Array
    gen: Net  # params {'to_covid', 'to_cancer'}
    disc: Net  # params {'covid', 'cancer'}
    pools: dict  # {'covid': Pool, 'cancer': Pool}, or {} for config.pool_size=0


def least_squares(logits, target):
    """Mean squared distance of the logits to the target (Mao et al. 2017)."""
    return jnp.mean((logits - target) ** 2)


def cross_entropy(logits, target):
    """Mean binary cross-entropy of sigmoid(logits) with the target (Goodfellow et al. 2014, as equations 1 and 2 of the paper print it)."""
    return optax.sigmoid_binary_cross_entropy(logits, target).mean()


LOSSES = {'lsgan': least_squares, 'bce': cross_entropy}


def query_pool(pool, fakes, rng):
    """Each fake in turn: stored and returned while there is room; then with p = 1/2 swapped for a random stored one, else returned as it is.

    fakes float [B, H, W, C] -> (pool, images of the same shape to show the discriminator).
    """
    size = len(pool.images)

    def one(pool, pair):
        fake, rng = pair
        slot_rng, swap_rng = jax.random.split(rng)
        full = pool.count >= size
        slot = jnp.where(full, jax.random.randint(slot_rng, (), 0, size), pool.count)
        swap = full & jax.random.bernoulli(swap_rng)
        shown = jnp.where(swap, pool.images[slot], fake)
        images = pool.images.at[slot].set(jnp.where(swap | ~full, fake, pool.images[slot]))
        return Pool(images, jnp.minimum(pool.count + 1, size)), shown

    return lax.scan(one, pool, (fakes, jax.random.split(rng, len(fakes))))


def make(config):
    """The Task of a config (configs/cyclegan.py) on the data sets that it names."""
    train = {
        name: domains.domain(config[name], name, config.load_size, config.data_dir)
        for name in domains.DOMAINS
    }
    val_specs = config.val.split(',') if config.val else []
    if len(val_specs) not in (0, 2):
        raise InputError(
            f'config.val={config.val}: give two data sets, cancer and covid, separated by a comma, or none'
        )
    return task_on(
        config,
        train,
        {
            name: domains.domain(spec, name, config.image_size, config.data_dir)
            for name, spec in zip(domains.DOMAINS, val_specs)
        },
    )


def task_on(config, train, val):
    """The Task on examples {domain: data.Examples}. Batches are {'cancer', 'covid'}: uint8 [B, load_size, load_size, 1]."""
    if config.image_size % 4 or config.image_size < 32:
        raise InputError(
            f'config.image_size={config.image_size}: the generator halves images twice; choose a multiple of 4, at least 32'
        )
    if config.loss not in LOSSES:
        raise InputError(
            f'config.loss={config.loss}: no such choice; choose one of {", ".join(LOSSES)}'
        )
    generator = network(config)
    discriminator = Discriminator(
        config.disc_filters, generator.norm, config.disc_last_stride, generator.dtype
    )
    identity = int(config.lambda_identity > 0)  # whether a network also sees the domain it makes
    adversarial, real_label = LOSSES[config.loss], config.real_label
    steps, constant = length(config, [len(examples.rows) for examples in train.values()])
    tx = optax.adam(schedule(config.learning_rate, steps, constant), b1=0.5, b2=0.999)
    see = partial(
        batches.predict,
        features.extractor(config.get('features', 'pixels')),
        batch_size=config.batch_size,
    )
    real_features = functools.cache(lambda domain: see(val[domain].images))
    gen = lambda params, images: generator.apply({'params': params}, images)
    disc = lambda params, images: discriminator.apply({'params': params}, images)

    def train_batch(step):
        return {
            domain: train[domain].images[
                batches.batch_indices(
                    step, len(train[domain].images), config.batch_size, config.seed + i
                )
            ]
            for i, domain in enumerate(domains.DOMAINS)
        }

    def init(rng, batch):
        rngs = jax.random.split(rng, 4)
        images = jnp.zeros((1, config.image_size, config.image_size, batch['cancer'].shape[-1]))
        gen_params = {
            name: jax.jit(generator.init)(r, images)['params']
            for name, r in zip(('to_covid', 'to_cancer'), rngs[:2])
        }
        disc_params = {
            domain: jax.jit(discriminator.init)(r, images)['params']
            for domain, r in zip(domains.DOMAINS, rngs[2:])
        }
        pools = {
            domain: Pool(jnp.zeros((config.pool_size, *images.shape[1:])), jnp.zeros((), jnp.int32))
            for domain in domains.DOMAINS
            if config.pool_size
        }
        return State(
            jnp.zeros((), jnp.int32), Net.create(gen_params, tx), Net.create(disc_params, tx), pools
        )

    def generator_loss(gen_params, disc_params, cancer, covid):
        to_covid, to_cancer = (
            partial(each, gen, gen_params[name]) for name in ('to_covid', 'to_cancer')
        )
        fake_covid, *same_covid = to_covid(cancer, *[covid] * identity)
        fake_cancer, *same_cancer = to_cancer(covid, *[cancer] * identity)
        terms = {
            f'adversarial_{domain}': adversarial(disc(disc_params[domain], fake), real_label)
            for domain, fake in (('cancer', fake_cancer), ('covid', fake_covid))
        }
        l1 = lambda domain, image, output: (
            config[f'lambda_{domain}'] * jnp.abs(output - image).mean()
        )
        terms['cycle_cancer'] = l1('cancer', cancer, *to_cancer(fake_covid))
        terms['cycle_covid'] = l1('covid', covid, *to_covid(fake_cancer))
        if identity:
            terms['identity_cancer'] = config.lambda_identity * l1('cancer', cancer, *same_cancer)
            terms['identity_covid'] = config.lambda_identity * l1('covid', covid, *same_covid)
        return sum(terms.values()), (terms, {'cancer': fake_cancer, 'covid': fake_covid})

    def discriminator_loss(disc_params, reals, fakes):
        terms = {}
        for domain in domains.DOMAINS:
            real, fake = each(disc, disc_params[domain], reals[domain], fakes[domain])
            terms[f'discriminator_{domain}'] = 0.5 * (
                adversarial(real, real_label) + adversarial(fake, 0.0)
            )
        return sum(terms.values()), terms

    def train_step(state, batch, rng):
        *domain_rngs, pool_rng = jax.random.split(rng, 3)
        n = len(batch['cancer'])
        first = first_index(n)
        reals = {
            domain: augment(r, batch[domain], config.augment, config.image_size, first)
            for domain, r in zip(domains.DOMAINS, domain_rngs)
        }
        grads, (gen_terms, fakes) = jax.grad(generator_loss, has_aux=True)(
            state.gen.params, state.disc.params, **reals
        )
        pools, shown = {}, fakes
        if config.pool_size:  # every device keeps the one pool of all fakes
            everyone = {
                domain: lax.all_gather(fakes[domain], AXIS, tiled=True)
                for domain in domains.DOMAINS
            }
            queried = {
                domain: query_pool(state.pools[domain], everyone[domain], r)
                for domain, r in zip(domains.DOMAINS, jax.random.split(pool_rng))
            }
            pools = {domain: pool for domain, (pool, _) in queried.items()}
            shown = {
                domain: lax.dynamic_slice_in_dim(images, first, n)
                for domain, (_, images) in queried.items()
            }
        disc_grads, disc_terms = jax.grad(discriminator_loss, has_aux=True)(
            state.disc.params, reals, shown
        )
        state = State(
            state.step + 1, state.gen.update(grads, tx), state.disc.update(disc_grads, tx), pools
        )
        return state, lax.pmean({**gen_terms, **disc_terms}, AXIS)

    def eval_batches():
        return {
            domain: batches.padded_batches({domain: examples.images}, config.batch_size)
            for domain, examples in val.items()
        }

    def eval_step(state, batch):
        ((domain, images),) = batch.items()
        there, back = ('to_covid', 'to_cancer') if domain == 'cancer' else ('to_cancer', 'to_covid')
        images = to_float(images)
        translated = gen(state.gen.params[there], images)
        reconstructed = gen(state.gen.params[back], translated)
        return {
            'cycle_l1': jnp.abs(reconstructed - images).mean((1, 2, 3)),
            'change_l1': jnp.abs(translated - images).mean((1, 2, 3)),
            'triptych': to_uint8(jnp.concatenate([images, translated, reconstructed], 2)),
            f'translated_{domain}': to_uint8(translated)[..., 0],
        }

    def summarize(outputs):
        triptych = outputs.pop('triptych')  # input | translated | reconstructed
        ((source, goal),) = (
            pair
            for pair in (domains.DOMAINS, domains.DOMAINS[::-1])
            if f'translated_{pair[0]}' in outputs
        )
        translated = outputs.pop(f'translated_{source}')
        scalars = {name: values.mean() for name, values in outputs.items()} | {
            'checkerboard': checkerboard(translated[..., None])
        }
        if min(len(val[domain].rows) for domain in domains.DOMAINS) > 1:
            groups = [[row.group for row in val[domain].rows] for domain in (source, goal)]
            groups = [
                names if len(set(names)) > 1 else None for names in groups
            ]  # of one series, images are all that there is to compare
            scalars['kid'] = kid_value(see(translated[..., None]), real_features(goal), *groups)
        return scalars, {'input_translated_reconstructed': triptych}

    sources = {domain: examples.rows for domain, examples in train.items()} | (
        {'val': [row for e in val.values() for row in e.rows]} if val else {}
    )
    return Task(train_batch, eval_batches, init, train_step, eval_step, summarize, steps, sources)


def each(apply, params, *images):
    """[apply(params, batch) for batch in images]: one call on all of them where that is faster. No layer of the networks mixes images."""
    if layers.on_cpu() or len(images) == 1:
        return [apply(params, batch) for batch in images]
    return jnp.split(apply(params, jnp.concatenate(images)), len(images))


def length(config, sizes):
    """(updates in all, updates before the learning rate falls) for domains of these sizes.

    An epoch is as many images as the larger domain has, or config.epoch_images. config.steps, where it is set, replaces the sum and keeps the shares.
    """
    epoch = -(-(config.epoch_images or max(sizes)) // config.batch_size)
    constant, decay = config.constant_epochs * epoch, config.decay_epochs * epoch
    if not constant + decay:
        raise InputError(
            'config.constant_epochs and config.decay_epochs are both 0; give one of them'
        )
    steps = config.steps or constant + decay
    return steps, round(steps * constant / (constant + decay))


def schedule(rate, steps, constant):
    """step -> learning rate: constant, then linearly to 0 at the end (the original's staircase of epochs, without the stairs)."""
    return optax.join_schedules(
        [optax.constant_schedule(rate), optax.linear_schedule(rate, 0.0, max(steps - constant, 1))],
        [constant],
    )

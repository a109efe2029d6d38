"""CycleGAN (Zhu et al. 2017, arXiv 1703.10593) between lung-cancer CT and COVID-19 CT, as a Task.

Networks are named by the domain they produce or judge. In the paper's symbols: to_covid = G_N (N -> C), to_cancer = G_C (C -> N),
disc.cancer = D_N, disc.covid = D_C.
"""
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from covjax import InputError, data
from covjax.augment import augment, to_float, to_uint8
from covjax.models.cyclegan import Discriminator, Generator
from covjax.task import AXIS, Net, Task, first_index

DOMAINS = ('cancer', 'covid')


@struct.dataclass
class Pool:
    """Earlier fakes of one domain, so that a discriminator does not only see the newest generator."""
    images: jax.Array                     # float32 [P, H, W, C] in [-1, 1]
    count: jax.Array                      # int32: how many slots are filled


@struct.dataclass
class State:
    """Everything that a step changes."""
    step: jax.Array
    gen: Net                              # params {'to_covid', 'to_cancer'}
    disc: Net                             # params {'covid', 'cancer'}
    pools: dict                           # {'covid': Pool, 'cancer': Pool}


def networks(config):
    """(generator, discriminator) modules of a config; both directions share one architecture."""
    if config.image_size % 4 or config.image_size < 32:
        raise InputError(f'config.image_size={config.image_size}: the generator halves images twice; choose a multiple of 4, at least 32')
    return Generator(config.gen_filters, config.gen_blocks), Discriminator(config.disc_filters)


def translate(config, model, direction):
    """uint8 [B, H, W, C] -> uint8 of the same shape through generator 'to_covid' or 'to_cancer' of a trained `model` (checkpoint.load_model)."""
    generator, _ = networks(config)
    return lambda images: to_uint8(generator.apply({'params': model['gen']['params'][direction]}, to_float(images)))


def adversarial_loss(logits, real):
    """Least squares (Mao et al. 2017): the mean squared distance of logits to 1 (real) or 0 (fake)."""
    return jnp.mean((logits - (1. if real else 0.)) ** 2)


def query_pool(pool, fakes, rng):
    """Each fake in turn: stored and returned while there is room; then with p = 1/2 swapped for a random stored one, else returned as it is.

    fakes float [B, H, W, C] -> (pool, images of the same shape to show the discriminator). A pool of size 0 returns the fakes.
    """
    size = len(pool.images)
    if not size:
        return pool, fakes

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
    """The Task of a config (configs/cyclegan.py). Batches are {'cancer', 'covid'}: uint8 [B, load_size, load_size, 1]."""
    generator, discriminator = networks(config)
    train = {domain: _domain(config, config[domain], domain, config.load_size) for domain in DOMAINS}
    val_specs = config.val.split(',') if config.val else []
    if len(val_specs) not in (0, 2):
        raise InputError(f'config.val={config.val}: give two data sets, cancer and covid, separated by a comma, or none')
    val = {domain: _domain(config, spec, domain, config.image_size) for domain, spec in zip(DOMAINS, val_specs)}
    constant = int(config.steps * config.constant_share)
    schedule = optax.join_schedules([optax.constant_schedule(config.learning_rate),
                                     optax.linear_schedule(config.learning_rate, 0., max(config.steps - constant, 1))], [constant])
    tx = optax.adam(schedule, b1=0.5, b2=0.999)
    gen = lambda params, images: generator.apply({'params': params}, images)
    disc = lambda params, images: discriminator.apply({'params': params}, images)

    def train_batch(step):
        return {domain: train[domain].images[data.batch_indices(step, len(train[domain].images), config.batch_size, config.seed + i)]
                for i, domain in enumerate(DOMAINS)}

    def init(rng, batch):
        rngs = jax.random.split(rng, 4)
        images = jnp.zeros((1, config.image_size, config.image_size, batch['cancer'].shape[-1]))
        gen_params = {name: generator.init(r, images)['params'] for name, r in zip(('to_covid', 'to_cancer'), rngs[:2])}
        disc_params = {domain: discriminator.init(r, images)['params'] for domain, r in zip(DOMAINS, rngs[2:])}
        pools = {domain: Pool(jnp.zeros((config.pool_size, *images.shape[1:])), jnp.zeros((), jnp.int32)) for domain in DOMAINS}
        return State(jnp.zeros((), jnp.int32), Net.create(gen_params, tx), Net.create(disc_params, tx), pools)

    def generator_loss(gen_params, disc_params, cancer, covid):
        fakes = {'covid': gen(gen_params['to_covid'], cancer), 'cancer': gen(gen_params['to_cancer'], covid)}
        terms = {f'adversarial_{domain}': adversarial_loss(disc(disc_params[domain], fakes[domain]), real=True) for domain in DOMAINS}
        terms['cycle_cancer'] = config.lambda_cancer * jnp.abs(gen(gen_params['to_cancer'], fakes['covid']) - cancer).mean()
        terms['cycle_covid'] = config.lambda_covid * jnp.abs(gen(gen_params['to_covid'], fakes['cancer']) - covid).mean()
        return sum(terms.values()), (terms, fakes)

    def discriminator_loss(disc_params, reals, fakes):
        terms = {f'discriminator_{domain}': 0.5 * (adversarial_loss(disc(disc_params[domain], reals[domain]), real=True) +
                                                   adversarial_loss(disc(disc_params[domain], fakes[domain]), real=False)) for domain in DOMAINS}
        return sum(terms.values()), terms

    def train_step(state, batch, rng):
        *domain_rngs, pool_rng = jax.random.split(rng, 3)
        n = len(batch['cancer'])
        first = first_index(n)
        reals = {domain: augment(r, batch[domain], config.augment, config.image_size, first) for domain, r in zip(DOMAINS, domain_rngs)}
        grads, (gen_terms, fakes) = jax.grad(generator_loss, has_aux=True)(state.gen.params, state.disc.params, **reals)
        pools, shown = {}, {}
        for domain, r in zip(DOMAINS, jax.random.split(pool_rng)):             # every device keeps the one pool of all fakes
            pools[domain], everyone = query_pool(state.pools[domain], lax.all_gather(fakes[domain], AXIS, tiled=True), r)
            shown[domain] = lax.dynamic_slice_in_dim(everyone, first, n)
        disc_grads, disc_terms = jax.grad(discriminator_loss, has_aux=True)(state.disc.params, reals, shown)
        state = State(state.step + 1, state.gen.update(grads, tx), state.disc.update(disc_grads, tx), pools)
        return state, lax.pmean({**gen_terms, **disc_terms}, AXIS)

    def eval_batches():
        return {domain: data.padded_batches({domain: examples.images}, config.batch_size) for domain, examples in val.items()}

    def eval_step(state, batch):
        (domain, images), = batch.items()
        there, back = ('to_covid', 'to_cancer') if domain == 'cancer' else ('to_cancer', 'to_covid')
        images = to_float(images)
        translated = gen(state.gen.params[there], images)
        reconstructed = gen(state.gen.params[back], translated)
        return {'cycle_l1': jnp.abs(reconstructed - images).mean((1, 2, 3)), 'change_l1': jnp.abs(translated - images).mean((1, 2, 3)),
                'triptych': to_uint8(jnp.concatenate([images, translated, reconstructed], 2))}

    def summarize(outputs):
        triptych = outputs.pop('triptych')                                     # input | translated | reconstructed
        return {name: values.mean() for name, values in outputs.items()}, {'input_translated_reconstructed': triptych}

    sources = {domain: examples.rows for domain, examples in train.items()} | ({'val': [row for e in val.values() for row in e.rows]} if val else {})
    return Task(train_batch, eval_batches, init, train_step, eval_step, summarize, sources)


def _domain(config, spec, domain, size):
    """The examples of one domain; of a data set with labels, the covid domain takes the covid images only."""
    if not spec:
        raise InputError(f'config.{domain} is empty; name a data set, for example luna16_patches/nodules:train or covid_ct:train')
    examples = data.read(spec, config.data_dir, size)
    keep = np.flatnonzero(examples.labels != 0) if domain == 'covid' else np.arange(len(examples.rows))
    if not len(keep):
        raise InputError(f'{spec}: no covid image for config.{domain}; choose another data set')
    return data.Examples(examples.images[keep], examples.labels[keep], [examples.rows[i] for i in keep])

"""The CycleGAN task: its pool against a plain one, its step on every parameter, its devices against one another."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cyclegan as config_file
from covjax import InputError, checkpoint, cyclegan, data, generator, train
from covjax.cyclegan import Pool, query_pool

TINY = dict(image_size=32, load_size=36, gen_filters=4, gen_blocks=1, disc_filters=4, batch_size=2, pool_size=3)


def tiny(data_dir, **fields):
    config = config_file.get_config('small')
    config.update({**TINY, 'data_dir': data_dir, 'val': '', **fields})
    return config


class PlainPool:
    """The image pool as described by Shrivastava et al. 2017, with the choices given from outside."""

    def __init__(self, size):
        self.size, self.images = size, []

    def query(self, fake, slot, swap):
        if len(self.images) < self.size:
            self.images.append(fake)
            return fake
        if swap:
            fake, self.images[slot] = self.images[slot], fake
        return fake


@pytest.mark.parametrize('size', [0, 1, 5])
def test_pool_equals_a_plain_one(size):
    """Same choices, same images: after every query, shown and stored agree."""
    pool, plain = Pool(jnp.zeros((size, 1, 1, 1)), jnp.zeros((), jnp.int32)), PlainPool(size)
    query = jax.jit(query_pool)
    for i in range(20):
        fakes = jnp.arange(3 * i + 1., 3 * i + 4.).reshape(3, 1, 1, 1)
        rng = jax.random.key(i)
        pool, shown = query(pool, fakes, rng)
        expected = []
        for fake, r in zip(fakes.ravel().tolist(), jax.random.split(rng, 3)):
            slot_rng, swap_rng = jax.random.split(r)
            slot = int(jax.random.randint(slot_rng, (), 0, size)) if size else 0
            expected.append(plain.query(fake, slot, bool(jax.random.bernoulli(swap_rng))) if size else fake)
        assert shown.ravel().tolist() == expected
        assert pool.images.ravel().tolist()[:len(plain.images)] == plain.images


def test_pool_swaps_half_the_time():
    pool = Pool(jnp.zeros((50, 1, 1, 1)), jnp.int32(50))
    fakes = jnp.arange(1., 401.).reshape(400, 1, 1, 1)
    _, shown = query_pool(pool, fakes, jax.random.key(0))
    assert .4 < (shown != fakes).mean() < .6


def test_every_parameter_moves(data_dir, tmp_path):
    config = tiny(data_dir, steps=2, log_every=1)
    task = cyclegan.make(config)
    first = jax.device_get(task.init(jax.random.split(jax.random.key(config.seed))[0], task.train_batch(0)))
    last = train.fit(task, config, tmp_path)
    for before, after in ((first.gen, last.gen), (first.disc, last.disc)):
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(after.params), strict=True):
            assert np.isfinite(b).all() and (a != b).any(), jax.tree_util.keystr(path)
    assert last.step == 2 and {domain: int(pool.count) for domain, pool in last.pools.items()} == {'cancer': 3, 'covid': 3}
    terms = json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[0])
    assert set(terms) == {'step', *(f'train/{term}_{domain}' for term in ('adversarial', 'cycle', 'discriminator') for domain in cyclegan.DOMAINS)}


def test_constant_images_are_harmless(data_dir, tmp_path):
    """A slice of pure air has no variance to normalise by."""
    config = tiny(data_dir, steps=2)
    task = cyclegan.make(config)
    black = {domain: np.zeros_like(images) for domain, images in task.train_batch(0).items()}
    state = train.fit(task._replace(train_batch=lambda step: black), config, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_two_devices_equal_one(data_dir, tmp_path, launch):
    """Same seed and global batch: losses step by step, and the final generator's pictures, pools included."""
    keys = [f'--config.{key}={value}' for key, value in {**TINY, 'data_dir': data_dir, 'val': '', 'steps': 8, 'log_every': 1}.items()]
    losses, pictures = [], []
    images = data.read('luna16_patches/nodules:test', data_dir, 32).images
    for devices in (1, 2):
        workdir = tmp_path / f'on_{devices}'
        result = launch('--config=configs/cyclegan.py:small', f'--workdir={workdir}', *keys, devices=devices)
        assert result.returncode == 0 and f'{devices} x ' in result.stdout, result.stderr
        losses.append([list(json.loads(line).values()) for line in (workdir / 'metrics.jsonl').read_text().splitlines()])
        config, model, _ = checkpoint.load_model(workdir, 'cyclegan', 'generator')
        pictures.append(data.predict(generator.apply_uint8(generator.of_run(config, model, 'to_covid')), images, 4).astype(int))
    np.testing.assert_allclose(losses[0][:3], losses[1][:3], rtol=2e-4)        # rounding alone, which the two players then amplify
    np.testing.assert_allclose(losses[0], losses[1], rtol=3e-2)
    assert np.abs(pictures[0] - pictures[1]).max() <= 5


def test_wrong_domains(data_dir):
    for fields, message in ((dict(covid='covid_ct:train@noncovid'), 'no covid image'), (dict(cancer=''), 'config.cancer is empty'), (dict(image_size=66), 'multiple of 4')):
        with pytest.raises(InputError, match=message):
            cyclegan.make(tiny(data_dir, **fields))

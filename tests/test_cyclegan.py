"""The CycleGAN task: its pool against a plain one, its step on every parameter, its devices."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PlainPool
from flax import linen as nn

from configs import cyclegan as config_file
from covjax import InputError, generator, trained, workdir
from covjax.data import augment, batches, datasets
from covjax.data.domains import DOMAINS
from covjax.data.rows import Row
from covjax.models import layers
from covjax.runs import train
from covjax.training import cyclegan, devices, loop
from covjax.weights import checkpoint

TINY = {
    'image_size': 32,
    'load_size': 36,
    'gen_filters': 4,
    'gen_blocks': 1,
    'disc_filters': 4,
    'batch_size': 2,
    'pool_size': 3,
    'val': '',
}
TERMS = {f'{term}_{domain}' for term in ('adversarial', 'cycle') for domain in DOMAINS}
TERMS |= {f'discriminator_{domain}' for domain in DOMAINS}


def config_of(**fields):
    config = config_file.get_config('small')
    config.update(TINY | fields)
    return config


def examples(**sizes):
    """{domain: Examples} of random images, of the size that TINY loads."""
    rng = np.random.default_rng(0)
    domains = {}
    for domain, n in sizes.items():
        images = rng.integers(0, 256, (n, 36, 36, 1), np.uint8)
        rows = [Row(f'{i}', f'{i}', f'{domain}{i}') for i in range(n)]
        domains[domain] = datasets.Examples(images, np.zeros(n, np.int32), rows)
    return domains


def task_of(cancer=5, covid=3, **fields):
    """(config, Task) on so many random images of each domain."""
    config = config_of(**fields)
    return config, cyclegan.task_on(config, examples(cancer=cancer, covid=covid), {})


class Stepper:
    """A task whose step is compiled once."""

    def __init__(self, **fields):
        self.config, self.task = task_of(**fields)
        self.compiled, _ = devices.parallel(self.task)
        init = self.task.init(jax.random.key(0), self.task.train_batch(0))
        self.first = jax.device_get(init)

    def follow(self, train_batches, first_step=0):
        """(final state, [{term: number} of each step]), from the first state on such batches."""
        state, log = self.first.replace(step=np.int32(first_step)), []
        state = devices.replicated(state)
        for batch in train_batches:
            state, terms = self.compiled(state, devices.my_share(batch), jax.random.key(1))
            log.append({name: float(value[0]) for name, value in jax.device_get(terms).items()})
        return devices.on_host(state), log

    def train(self, steps):
        """`follow` on the task's own batches."""
        return self.follow(map(self.task.train_batch, range(steps)))


@pytest.fixture(scope='module')
def tiny():
    """Like the variant `original`, but small."""
    return Stepper()


@pytest.fixture(scope='module')
def with_identity():
    return Stepper(gen_filters=8, disc_filters=8, lambda_identity=0.5)


# The pool.


@pytest.mark.fast
@pytest.mark.parametrize('size', [1, 5])
def test_pool_equals_a_plain_one(size):
    """Same choices, same images: after every query, shown and stored agree."""
    pool, plain = cyclegan.empty_pool((size, 1, 1, 1)), PlainPool(size)
    query = jax.jit(cyclegan.query_pool)
    for i in range(20):
        fakes = jnp.arange(3 * i + 1.0, 3 * i + 4.0).reshape(3, 1, 1, 1)
        rng = jax.random.key(i)
        pool, shown = query(pool, fakes, rng)
        expected = []
        for fake, fake_rng in zip(fakes.ravel().tolist(), jax.random.split(rng, 3)):
            slot_rng, swap_rng = jax.random.split(fake_rng)
            slot = int(jax.random.randint(slot_rng, (), 0, size))
            expected.append(plain.query(fake, slot, bool(jax.random.bernoulli(swap_rng))))
        assert shown.ravel().tolist() == expected
        assert pool.images.ravel().tolist()[: len(plain.images)] == plain.images


@pytest.mark.fast
def test_pool_swaps_half_the_time():
    pool = cyclegan.Pool(jnp.zeros((50, 1, 1, 1)), jnp.int32(50))
    fakes = jnp.arange(1.0, 401.0).reshape(400, 1, 1, 1)
    _, shown = cyclegan.query_pool(pool, fakes, jax.random.key(0))
    assert 0.4 < (shown != fakes).mean() < 0.6


# Losses, on networks that can be computed in the head.


class Shift(nn.Module):
    """A generator that adds a number, or a discriminator that shows its images as logits."""

    @nn.compact
    def __call__(self, images):
        return images + self.param('by', nn.initializers.zeros, ())


def shifts(identity):
    return cyclegan.Nets(
        generator=Shift(),
        discriminator=Shift(),
        adversarial=cyclegan.least_squares,
        real_label=0.9,
        cycle={'cancer': 10.0, 'covid': 7.0},
        identity=identity,
    )


GEN = {'to_covid': {'by': jnp.float32(0.5)}, 'to_cancer': {'by': jnp.float32(-0.2)}}
DISC = {'cancer': {'by': jnp.float32(0.0)}, 'covid': {'by': jnp.float32(0.1)}}
GREY = jnp.zeros((2, 4, 4, 1))


@pytest.mark.fast
@pytest.mark.parametrize('identity', [0.0, 0.5])
def test_generator_loss_is_the_sum_of_its_terms(identity):
    total, (terms, fakes) = cyclegan.generator_loss(shifts(identity), GEN, DISC, GREY, GREY + 1)
    expected = {
        'adversarial_cancer': (0.8 - 0.9) ** 2,
        'adversarial_covid': (0.6 - 0.9) ** 2,
        'cycle_cancer': 10 * 0.3,
        'cycle_covid': 7 * 0.3,
    }
    if identity:
        expected['identity_cancer'] = 0.5 * 10 * 0.2
        expected['identity_covid'] = 0.5 * 7 * 0.5
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-5)
    np.testing.assert_allclose(fakes['covid'], 0.5)
    np.testing.assert_allclose(fakes['cancer'], 0.8)


@pytest.mark.fast
def test_discriminator_loss_wants_the_real_label_of_reals_and_0_of_fakes():
    reals, fakes = {'cancer': GREY, 'covid': GREY + 1}, {'cancer': GREY + 0.8, 'covid': GREY + 0.5}
    total, terms = cyclegan.discriminator_loss(shifts(0.0), DISC, reals, fakes)
    expected = {
        'discriminator_cancer': (0.9**2 + 0.8**2) / 2,
        'discriminator_covid': ((1.1 - 0.9) ** 2 + 0.6**2) / 2,
    }
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-5)


# Steps.


def test_every_parameter_moves(tiny):
    state, log = tiny.train(2)
    for before, after in ((tiny.first.gen, state.gen), (tiny.first.disc, state.disc)):
        leaves = jax.tree_util.tree_leaves_with_path(before.params)
        for (path, old), new in zip(leaves, jax.tree.leaves(after.params), strict=True):
            assert np.isfinite(new).all() and (old != new).any(), jax.tree_util.keystr(path)
    assert state.step == 2
    assert {domain: int(pool.count) for domain, pool in state.pools.items()} == {
        'cancer': 3,
        'covid': 3,
    }
    assert set(log[0]) == TERMS


def test_constant_images_are_harmless(tiny):
    """A slice of pure air has no variance to normalise by."""
    black = jax.tree.map(np.zeros_like, tiny.task.train_batch(0))
    state, _ = tiny.follow([black, black])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_augmentation_is_new_in_every_step(tiny):
    """One batch in two steps is two batches to the networks; nothing but seed and step matters."""
    batch, terms = tiny.task.train_batch(0), []
    for step in (0, 1, 0):
        _, (scalars,) = tiny.follow([batch], step)
        terms.append(scalars['cycle_cancer'])
    assert terms[0] == terms[2] != terms[1]


STEPS = 12


@pytest.mark.slow
def test_bfloat16_trains_as_float32_does(tiny):
    """Some steps from the same weights on the same batches.

    Outputs at the start are within 3 %, the mean of every term over the second half within 10 %.
    """
    bfloat16 = Stepper(dtype='bfloat16')
    outputs, means = [], []
    for stepper in (tiny, bfloat16):
        images = stepper.task.train_batch(0)['cancer'][:, :32, :32]
        network = generator.network(stepper.config)
        params = {'params': stepper.first.gen.params['to_covid']}
        outputs.append(np.asarray(jax.jit(network.apply)(params, augment.to_float(images))))
        state, log = stepper.train(STEPS)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {'float32', 'int32'}
        half = log[STEPS // 2 :]
        means.append({name: np.mean([terms[name] for terms in half]) for name in log[0]})
    error = np.linalg.norm(outputs[0] - outputs[1]) / np.linalg.norm(outputs[0])
    assert 0 < error < 0.03
    assert means[1] == pytest.approx(means[0], rel=0.1)


def test_one_call_on_all_images_is_the_same(with_identity, monkeypatch):
    """Off the CPU a network sees all its images of a loss in one call, in other formulations."""
    monkeypatch.setattr(layers, 'on_cpu', lambda: False)
    together = Stepper(gen_filters=8, disc_filters=8, lambda_identity=0.5)
    (_, log), (_, log_together) = with_identity.train(2), together.train(2)
    for terms, terms_together in zip(log, log_together):
        assert terms_together == pytest.approx(terms, rel=1e-3)


SIZES = ('image_size', 'load_size', 'gen_filters', 'disc_filters', 'steps', 'batch_size')
SWITCHES = {
    name: {key: value for key, value in fields.items() if key not in SIZES}
    for name, fields in config_file.VARIANTS.items()
    if name not in ('original', 'small')  # which `tiny` is
}
SWITCHES['rest'] = {
    'pool_size': 0,
    'upsample': 'resize',
    'norm': 'affine',
    'loss': 'bce',
    'lambda_identity': 0.5,
}


@pytest.mark.parametrize(
    'fields',
    [
        pytest.param(fields, id=name, marks=[pytest.mark.slow] if name == 'paper_text' else [])
        for name, fields in SWITCHES.items()
    ],
)
def test_every_switch_trains(tmp_path, fields):
    """Two steps, checkpoint and all: finite, in the right dtypes, with the terms of the config."""
    config, task = task_of(steps=2, log_every=1, **fields)
    state = loop.fit(task, config, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} <= {'float32', 'int32'}
    terms = json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[0])
    assert ('train/identity_covid' in terms) == (config.lambda_identity > 0)
    variables, _ = checkpoint.split_state(state)
    run = trained.Trained(tmp_path, config, variables, 2, 'latest', '')
    translate = generator.apply(generator.of_run(run, 'to_cancer'))
    assert translate(jnp.zeros((1, 48, 48, 1))).shape == (1, 48, 48, 1)


# Devices and processes.


class Result(NamedTuple):
    """What a run leaves."""

    steps: list  # of the lines of metrics.jsonl
    losses: list  # numbers of each line, without those that follow from the images
    kernels: np.ndarray  # all of the generators' and discriminators', as one vector
    images: np.ndarray  # int [N, 32, 32, 1], translated by the final generator


def devices_config(data_dir):
    return config_of(
        data_dir=data_dir,
        val='luna16_patches/nodules:validation,covid_ct:validation',
        batch_size=4,
        steps=6,
        log_every=1,
        eval_every=3,
    )


def result_of(folder, data_dir):
    run = trained.open_run(folder, 'cyclegan', 'generator')
    assert run.step == 6
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    follows_from_images = ('kid', 'checkerboard')
    kernels = [leaf.ravel() for leaf in jax.tree.leaves(run.variables) if leaf.ndim > 1]
    translate = generator.apply_uint8(generator.of_run(run, 'to_covid'))
    images = datasets.read('luna16_patches/nodules:test', data_dir, 32).images
    return Result(
        steps=[line['step'] for line in lines],
        losses=[
            [value for key, value in line.items() if not key.endswith(follows_from_images)]
            for line in lines
        ],
        kernels=np.concatenate(kernels),
        images=batches.predict(translate, images, 4).astype(int),
    )


@pytest.fixture(scope='module')
def alone(data_dir, tmp_path_factory):
    """The Result of one device."""
    config = devices_config(data_dir)
    with workdir.claimed(config, tmp_path_factory.mktemp('runs') / 'alone') as folder:
        train.run(config, folder)
    return result_of(folder, data_dir)


def test_a_run_logs_each_step_and_each_evaluation(alone):
    assert alone.steps == [1, 2, 3, 3, 4, 5, 6, 6]


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def flags_of(processes):
    """The flags of each process of a run."""
    if processes == 1:
        return [[]]
    together = [f'--coordinator=127.0.0.1:{free_port()}', f'--processes={processes}']
    return [[*together, f'--process={i}'] for i in range(processes)]


@pytest.mark.parametrize(
    'count, processes',
    [
        (4, 1),
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(2, 2, marks=pytest.mark.slow),
    ],
    ids=['four', 'two', 'two processes of two'],
)
def test_devices_and_processes_equal_one(alone, data_dir, tmp_path, launch, count, processes):
    """The same losses step by step, pools included, and the same images of the final generator."""
    config = devices_config(data_dir)
    changed = [*TINY, 'data_dir', 'steps', 'log_every', 'eval_every']
    keys = [f'--config.{key}={config[key]}' for key in changed]
    start = lambda flags: launch(
        '--config=configs/cyclegan.py:small',
        f'--workdir={tmp_path}',
        *keys,
        *flags,
        devices=count,
        timeout=300,
    )
    with ThreadPoolExecutor(processes) as pool:
        for result in pool.map(start, flags_of(processes)):
            assert result.returncode == 0, result.stderr
            assert f'{count * processes} x ' in result.stdout
    other = result_of(tmp_path, data_dir)
    assert other.steps == alone.steps
    for i, (line, other_line) in enumerate(zip(alone.losses, other.losses, strict=True)):
        # Rounding alone, which the two players then amplify.
        np.testing.assert_allclose(line, other_line, rtol=5e-4 if i < 3 else 3e-2)
    assert np.abs(alone.images - other.images).max() <= 5
    difference = np.linalg.norm(alone.kernels - other.kernels)
    assert difference < 1e-2 * np.linalg.norm(alone.kernels)


def test_divergence_is_one_line(data_dir, tmp_path, launch):
    fields = TINY | {'data_dir': data_dir, 'steps': 9, 'learning_rate': 1e30}
    keys = [f'--config.{key}={value}' for key, value in fields.items()]
    result = launch('--config=configs/cyclegan.py:small', f'--workdir={tmp_path / "run"}', *keys)
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    assert re.search(
        r'covjax: (adversarial|cycle|discriminator)_(cancer|covid) is (nan|inf) at step [23]; '
        r'lower config.learning_rate',
        result.stderr,
    ), result.stderr


# Configs.


@pytest.mark.fast
@pytest.mark.parametrize('variant', config_file.VARIANTS)
def test_variants_differ_only_in_what_they_name(variant):
    base, config = config_file.get_config(), config_file.get_config(variant)
    different = {key for key in config if config[key] != base[key]}
    assert different <= set(config_file.VARIANTS[variant])
    assert set(config) == set(base)


@pytest.mark.fast
@pytest.mark.parametrize(
    'sizes, fields, expected',
    [
        ([700, 7], {}, (140_000, 70_000)),
        ([1000, 349], {'batch_size': 4}, (50_000, 25_000)),
        ([1000, 349], {'batch_size': 4, 'epoch_images': 3000}, (150_000, 75_000)),
        ([10, 3], {'batch_size': 4, 'constant_epochs': 1, 'decay_epochs': 2}, (9, 3)),
        ([10, 3], {'steps': 600}, (600, 300)),
        ([10, 3], {'steps': 600, 'decay_epochs': 0}, (600, 600)),
    ],
    ids=str,
)
def test_epochs_are_those_of_the_larger_domain(sizes, fields, expected):
    config = config_file.get_config()
    config.update(fields)
    assert cyclegan.length(config, sizes) == expected


@pytest.mark.fast
def test_no_epochs_are_refused():
    config = config_file.get_config()
    config.update({'constant_epochs': 0, 'decay_epochs': 0})
    with pytest.raises(InputError, match='both 0'):
        cyclegan.length(config, [10, 3])


@pytest.mark.fast
@pytest.mark.parametrize('cancer, covid', [(1, 4), (70, 7), (1, 1)])
def test_an_epoch_shows_each_image_of_the_larger_domain_once(cancer, covid):
    """And those of the smaller one as often as one another."""
    _, task = task_of(cancer, covid)
    steps = max(cancer, covid)  # twice an epoch: the batch is 2
    for domain, n in (('cancer', cancer), ('covid', covid)):
        seen = np.concatenate([task.train_batch(step)[domain] for step in range(steps)])
        _, counts = np.unique(seen.reshape(len(seen), -1), axis=0, return_counts=True)
        assert len(counts) == n and counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'covid': 'covid_ct:train@noncovid'}, 'no covid image'),
        ({'cancer': ''}, 'config.cancer is empty'),
        ({'val': 'covid_ct:validation'}, 'config.val=covid_ct:validation: give two'),
        ({'image_size': 66}, 'multiple of 4'),
        ({'loss': 'hinge'}, 'lsgan, bce'),
        ({'norm': 'batch'}, 'instance, affine'),
        ({'upsample': 'bilinear'}, 'transposed, resize'),
        ({'dtype': 'float16'}, 'bfloat16'),
    ],
    ids=str,
)
def test_wrong_configs(data_dir, fields, message):
    with pytest.raises(InputError, match=message):
        cyclegan.make(config_of(data_dir=data_dir, **fields))

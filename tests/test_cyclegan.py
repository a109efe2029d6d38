"""The CycleGAN task: its pool against a plain one, its step on every parameter, its devices against one another."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PlainPool

from configs import cyclegan as config_file
from covjax import InputError, generator
from covjax.data import augment, batches, datasets, domains
from covjax.models import layers
from covjax.training import cyclegan, devices, loop
from covjax.training.cyclegan import Pool, query_pool
from covjax.weights import checkpoint

TINY = dict(
    image_size=32,
    load_size=36,
    gen_filters=4,
    gen_blocks=1,
    disc_filters=4,
    batch_size=2,
    pool_size=3,
)


def tiny(data_dir, **fields):
    config = config_file.get_config('small')
    config.update({**TINY, 'data_dir': data_dir, 'val': '', **fields})
    return config


@pytest.mark.parametrize('size', [1, 5])
def test_pool_equals_a_plain_one(size):
    """Same choices, same images: after every query, shown and stored agree."""
    pool, plain = Pool(jnp.zeros((size, 1, 1, 1)), jnp.zeros((), jnp.int32)), PlainPool(size)
    query = jax.jit(query_pool)
    for i in range(20):
        fakes = jnp.arange(3 * i + 1.0, 3 * i + 4.0).reshape(3, 1, 1, 1)
        rng = jax.random.key(i)
        pool, shown = query(pool, fakes, rng)
        expected = []
        for fake, r in zip(fakes.ravel().tolist(), jax.random.split(rng, 3)):
            slot_rng, swap_rng = jax.random.split(r)
            slot = int(jax.random.randint(slot_rng, (), 0, size))
            expected.append(plain.query(fake, slot, bool(jax.random.bernoulli(swap_rng))))
        assert shown.ravel().tolist() == expected
        assert pool.images.ravel().tolist()[: len(plain.images)] == plain.images


def test_pool_swaps_half_the_time():
    pool = Pool(jnp.zeros((50, 1, 1, 1)), jnp.int32(50))
    fakes = jnp.arange(1.0, 401.0).reshape(400, 1, 1, 1)
    _, shown = query_pool(pool, fakes, jax.random.key(0))
    assert 0.4 < (shown != fakes).mean() < 0.6


def test_every_parameter_moves(data_dir, tmp_path):
    config = tiny(data_dir, steps=2, log_every=1)
    task = cyclegan.make(config)
    first = jax.device_get(
        task.init(jax.random.split(jax.random.key(config.seed))[0], task.train_batch(0))
    )
    last = loop.fit(task, config, tmp_path)
    for before, after in ((first.gen, last.gen), (first.disc, last.disc)):
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(before.params),
            jax.tree.leaves(after.params),
            strict=True,
        ):
            assert np.isfinite(b).all() and (a != b).any(), jax.tree_util.keystr(path)
    assert last.step == 2 and {domain: int(pool.count) for domain, pool in last.pools.items()} == {
        'cancer': 3,
        'covid': 3,
    }
    terms = json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[0])
    assert set(terms) == {
        'step',
        *(
            f'train/{term}_{domain}'
            for term in ('adversarial', 'cycle', 'discriminator')
            for domain in domains.DOMAINS
        ),
    }


def test_constant_images_are_harmless(data_dir, tmp_path):
    """A slice of pure air has no variance to normalise by."""
    config = tiny(data_dir, steps=2)
    task = cyclegan.make(config)
    black = {domain: np.zeros_like(images) for domain, images in task.train_batch(0).items()}
    state = loop.fit(task._replace(train_batch=lambda step: black), config, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.fixture(scope='module')
def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def test_devices_and_processes_equal_one(data_dir, tmp_path, launch, free_port):
    """1, 2 and 4 devices and two processes of 2: same losses step by step, same pictures of the final generator, pools included; one checkpoint each."""
    keys = [
        '--config=configs/cyclegan.py:small',
        *(
            f'--config.{key}={value}'
            for key, value in {
                **TINY,
                'data_dir': data_dir,
                'val': 'luna16_patches/nodules:validation,covid_ct:validation',
                'batch_size': 4,
                'steps': 6,
                'log_every': 1,
                'eval_every': 3,
            }.items()
        ),
    ]
    results, images = [], datasets.read('luna16_patches/nodules:test', data_dir, 32).images
    for name, count, processes in (
        ('one', 1, 1),
        ('two', 2, 1),
        ('four', 4, 1),
        ('processes', 2, 2),
    ):
        workdir = tmp_path / name
        together = (
            [[]]
            if processes == 1
            else [
                [
                    f'--coordinator=127.0.0.1:{free_port}',
                    f'--processes={processes}',
                    f'--process={i}',
                ]
                for i in range(processes)
            ]
        )
        with ThreadPoolExecutor(processes) as pool:
            for result in pool.map(
                lambda flags: launch(
                    *keys, f'--workdir={workdir}', *flags, devices=count, timeout=300
                ),
                together,
            ):
                assert result.returncode == 0 and f'{devices * processes} x ' in result.stdout, (
                    result.stderr
                )
        lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
        config, model, step = checkpoint.load_model(workdir, 'cyclegan', 'generator')
        assert [line['step'] for line in lines] == [1, 2, 3, 3, 4, 5, 6, 6] and step == 6
        pictures = batches.predict(
            generator.apply_uint8(generator.of_run(config, model, 'to_covid')), images, 4
        ).astype(int)
        results.append(
            (
                [
                    [
                        value
                        for key, value in line.items()
                        if not key.endswith(('kid', 'checkerboard'))
                    ]
                    for line in lines
                ],
                model,
                pictures,
            )
        )  # those follow from pictures
    (losses, params, pictures), *others = results
    for other_losses, other_params, other_pictures in others:
        for step, (line, other) in enumerate(zip(losses, other_losses)):
            np.testing.assert_allclose(
                line, other, rtol=5e-4 if step < 3 else 3e-2
            )  # rounding alone, which the two players then amplify
        assert np.abs(pictures - other_pictures).max() <= 5
        kernels = [
            np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree) if leaf.ndim > 1])
            for tree in (params, other_params)
        ]
        assert np.linalg.norm(kernels[0] - kernels[1]) < 1e-2 * np.linalg.norm(kernels[0])


def examples(**sizes):
    """Random images of each domain, of the size that TINY loads."""
    rng = np.random.default_rng(0)
    return {
        domain: datasets.Examples(
            rng.integers(0, 256, (n, 36, 36, 1), np.uint8), np.zeros(n, np.int32), [{}] * n
        )
        for domain, n in sizes.items()
    }


def task_of(sizes=dict(cancer=5, covid=3), **fields):
    config = config_file.get_config('small')
    config.update({**TINY, **fields})
    return config, cyclegan.task_on(config, examples(**sizes), {})


@pytest.mark.parametrize('variant', config_file.VARIANTS)
def test_variants_differ_only_in_what_they_name(variant):
    base, config = config_file.get_config(), config_file.get_config(variant)
    assert {key for key in config if config[key] != base[key]} <= set(
        config_file.VARIANTS[variant]
    ) and set(config) == set(base)


SIZES = ('image_size', 'load_size', 'gen_filters', 'disc_filters', 'steps', 'batch_size')
SWITCHES = {
    **{
        name: {key: value for key, value in fields.items() if key not in SIZES}
        for name, fields in config_file.VARIANTS.items()
        if name != 'small'
    },
    'rest': dict(
        pool_size=0,
        upsample='resize',
        norm='affine',
        dtype='bfloat16',
        loss='bce',
        lambda_identity=0.5,
    ),
}


@pytest.mark.parametrize('fields', SWITCHES.values(), ids=SWITCHES)
def test_every_switch_trains(tmp_path, fields):
    """Two steps with each, checkpoint and all: finite, and the terms are those that are asked for."""
    config, task = task_of(
        **{'image_size': 48, 'load_size': 36, 'steps': 2, 'log_every': 1, **fields}
    )
    state = loop.fit(task, config, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)) and {
        leaf.dtype.name for leaf in jax.tree.leaves(state)
    } <= {'float32', 'int32'}
    terms = json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[0])
    assert ('train/identity_covid' in terms) == (config.lambda_identity > 0)
    loaded = generator.of_run(config, checkpoint.split_state(state)[0], 'to_cancer')
    assert generator.apply(loaded)(jnp.zeros((1, 48, 48, 1))).shape == (1, 48, 48, 1)


def test_epochs_are_those_of_the_larger_domain():
    def length(sizes, **fields):
        config = config_file.get_config()
        config.update(fields)
        return cyclegan.length(config, sizes)

    assert length([700, 7]) == (140_000, 70_000)
    assert length([1000, 349], batch_size=4) == (50_000, 25_000)
    assert length([1000, 349], batch_size=4, epoch_images=3000) == (150_000, 75_000)
    assert length([10, 3], batch_size=4, constant_epochs=1, decay_epochs=2) == (9, 3)
    assert length([10, 3], steps=600) == (600, 300) and length(
        [10, 3], steps=600, decay_epochs=0
    ) == (600, 600)
    with pytest.raises(InputError, match='both 0'):
        length([10, 3], constant_epochs=0, decay_epochs=0)


@pytest.mark.parametrize(
    'sizes', [dict(cancer=1, covid=4), dict(cancer=70, covid=7), dict(cancer=1, covid=1)], ids=str
)
def test_tiny_and_unequal_domains(sizes):
    """In an epoch of the larger domain each of its images is seen once, those of the smaller as often as one another."""
    config, task = task_of(sizes)
    larger = max(sizes, key=sizes.get)
    steps = sizes[larger]  # twice an epoch: the batch is 2
    for domain, n in sizes.items():
        seen = np.concatenate([task.train_batch(step)[domain] for step in range(steps)])
        _, counts = np.unique(seen.reshape(len(seen), -1), axis=0, return_counts=True)
        assert len(counts) == n and counts.max() - counts.min() <= 1


def test_augmentation_is_new_in_every_step():
    """The same batch in two steps meets the networks as two different ones, and what a step draws depends on nothing but seed and step."""
    config, task = task_of(dict(cancer=2, covid=2), learning_rate=0.0, pool_size=0)
    step_fn, _ = devices.parallel(task)
    state, batch, terms = (
        task.init(jax.random.key(0), task.train_batch(0)),
        devices.my_share(task.train_batch(0)),
        [],
    )
    for step in (0, 1, 0):
        start = devices.replicated(state.replace(step=jnp.int32(step)))
        terms.append(float(step_fn(start, batch, jax.random.key(1))[1]['cycle_cancer'][0]))
    assert terms[0] == terms[2] != terms[1]


def test_bfloat16_trains_as_float32_does(tmp_path):
    """Forty steps from the same weights on the same batches: outputs at the start within 3 % and every term's mean over the last twenty within 10 %."""
    curves, outputs = {}, {}
    for dtype in ('float32', 'bfloat16'):
        config, task = task_of(
            dict(cancer=6, covid=6),
            dtype=dtype,
            steps=40,
            log_every=1,
            gen_filters=8,
            disc_filters=8,
            lambda_identity=0.5,
        )
        state = task.init(jax.random.key(0), task.train_batch(0))
        images = augment.to_float(jnp.asarray(task.train_batch(0)['cancer'][:, :32, :32]))
        outputs[dtype] = np.asarray(
            generator.network(config).apply({'params': state.gen.params['to_covid']}, images)
        )
        loop.fit(task, config, tmp_path / dtype)
        lines = [
            json.loads(line)
            for line in (tmp_path / dtype / 'metrics.jsonl').read_text().splitlines()
        ]
        curves[dtype] = {
            name: np.mean([line[name] for line in lines[-20:]])
            for name in lines[0]
            if name != 'step'
        }
    error = np.linalg.norm(outputs['float32'] - outputs['bfloat16']) / np.linalg.norm(
        outputs['float32']
    )
    assert 0 < error < 0.03
    for name, value in curves['float32'].items():
        assert abs(curves['bfloat16'][name] - value) < 0.1 * value, (
            name,
            value,
            curves['bfloat16'][name],
        )


def test_one_call_on_all_images_is_the_same(monkeypatch):
    """Off the CPU each network sees all its images of a loss in one call, in other formulations: same losses, same step."""
    config, task = task_of(lambda_identity=0.5, gen_filters=8)
    batch, results = devices.my_share(task.train_batch(0)), []
    state = task.init(jax.random.key(0), task.train_batch(0))
    for cpu in (True, False):
        monkeypatch.setattr(layers, 'on_cpu', lambda: cpu)
        step_fn, _ = devices.parallel(task)
        first, terms = step_fn(devices.replicated(state), batch, jax.random.key(1))
        _, later = step_fn(first, batch, jax.random.key(1))
        results.append({name: [float(terms[name][0]), float(later[name][0])] for name in terms})
    for name in results[0]:
        np.testing.assert_allclose(*(result[name] for result in results), rtol=1e-3, err_msg=name)


def test_divergence_is_one_line(data_dir, tmp_path, launch):
    keys = [
        f'--config.{key}={value}'
        for key, value in {
            **TINY,
            'data_dir': data_dir,
            'val': '',
            'steps': 9,
            'learning_rate': 1e30,
        }.items()
    ]
    result = launch('--config=configs/cyclegan.py:small', f'--workdir={tmp_path / "run"}', *keys)
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    assert re.search(
        r'covjax: (adversarial|cycle|discriminator)_(cancer|covid) is (nan|inf) at step [23]; lower config.learning_rate',
        result.stderr,
    ), result.stderr


def test_wrong_domains(data_dir):
    for fields, message in (
        (dict(covid='covid_ct:train@noncovid'), 'no covid image'),
        (dict(cancer=''), 'config.cancer is empty'),
        (dict(image_size=66), 'multiple of 4'),
        (dict(loss='hinge'), 'lsgan, bce'),
        (dict(norm='batch'), 'instance, affine'),
        (dict(upsample='bilinear'), 'transposed, resize'),
        (dict(dtype='float16'), 'bfloat16'),
    ):
        with pytest.raises(InputError, match=message):
            cyclegan.make(tiny(data_dir, **fields))

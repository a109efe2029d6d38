"""Data sets named by strings, batches by steps, evaluation once each."""

import numpy as np
import pytest
from jax.tree_util import Partial

from covjax import InputError
from covjax.data import batches, datasets, specs


@pytest.mark.fast
def test_parse():
    assert specs.parse('a/b:train') == [('a/b', 'train', None)]
    assert specs.parse('covid_ct:train[:80%]@covid+validation + luna16_patches/nodules:test') == [
        ('covid_ct', 'train[:80%]', 'covid'),
        ('covid_ct', 'validation', None),
        ('luna16_patches/nodules', 'test', None),
    ]


@pytest.mark.fast
@pytest.mark.parametrize(
    'spec', ['', 'covid_ct', 'train', 'covid_ct:', 'covid_ct:train@', ':train']
)
def test_what_is_no_spec(spec):
    with pytest.raises(InputError, match='is not a data set'):
        specs.parse(spec)


@pytest.mark.fast
@pytest.mark.parametrize('n, batch', [(1, 4), (7, 3), (12, 4), (5, 12)])
def test_every_epoch_is_a_permutation(n, batch):
    drawn = np.concatenate([batches.batch_indices(step, n, batch, seed=3) for step in range(4 * n)])
    for epoch in drawn[: len(drawn) // n * n].reshape(-1, n):
        assert sorted(epoch) == list(range(n))


@pytest.mark.fast
@pytest.mark.parametrize('sizes, batch', [((3, 40), 8), ((1, 2, 30), 7), ((5,), 4), ((2, 2), 1)])
def test_parts_are_shown_equally_often_and_each_in_epochs_of_its_own(sizes, batch):
    parts = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(0).shuffle(parts)
    draw = lambda step: batches.batch_indices(step, len(parts), batch, 3, parts)
    steps = -(-2 * max(sizes) * len(sizes) // batch)
    shown = np.concatenate([draw(step) for step in range(steps)])
    assert np.ptp(np.bincount(parts[shown], minlength=len(sizes))) <= 1
    for part, size in enumerate(sizes):
        of_part = shown[parts[shown] == part]
        for epoch in of_part[: len(of_part) // size * size].reshape(-1, size):
            assert sorted(epoch) == np.flatnonzero(parts == part).tolist()
    assert draw(5).tolist() == draw(5).tolist()


def test_examples_know_their_part_of_the_spec(data_dir):
    """A part of which a share is nothing leaves no gap."""
    spec = 'covid_ct:train[:1%]+covid_ct:test@covid+covid_ct:train'
    examples = datasets.read(spec, data_dir, 32)
    assert examples.parts.tolist() == [0] * 6 + [1] * 16


@pytest.mark.fast
def test_batches_depend_on_step_and_seed_only():
    draw = lambda step, seed: batches.batch_indices(step, 50, 8, seed).tolist()
    assert draw(9, 0) == draw(9, 0)
    assert draw(9, 0) != draw(9, 1)
    assert draw(9, 0) != draw(10, 0)


@pytest.mark.fast
@pytest.mark.parametrize('n, batch', [(1, 4), (8, 4), (9, 4)])
def test_padded_batches_show_every_example_once(n, batch):
    padded = list(batches.padded_batches({'x': np.arange(n)}, batch))
    assert all(len(b['x']) == batch for b in padded)
    assert np.concatenate([b['x'][b['mask']] for b in padded]).tolist() == list(range(n))


@pytest.mark.fast
def test_predict_equals_one_forward_pass():
    images = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1), np.uint8)
    mean = lambda x: x.astype('float32').mean((1, 2, 3))
    predicted = batches.predict(mean, images, 4)
    np.testing.assert_allclose(predicted, images.mean((1, 2, 3)), rtol=1e-5)


def test_read(data_dir):
    examples = datasets.read('covid_ct:train@covid+covid_ct:test@noncovid', data_dir, 32)
    assert examples.images.shape == (8 + 6, 32, 32, 1)
    assert examples.images.dtype == np.uint8
    assert examples.labels.tolist() == [1] * 8 + [0] * 6
    assert all(row.group and row.sha256 for row in examples.rows)
    assert len({row.id for row in examples.rows}) == 14


def test_slices_have_boxes_and_no_label(data_dir):
    nodules = datasets.read('luna16_patches/nodules:test', data_dir, 32)
    assert set(nodules.labels) == {-1}
    assert all(row.boxes for row in nodules.rows)


def test_a_share_of_few_examples_may_be_none_beside_another_part(data_dir):
    """1 % of 16 examples is none of them; in a spec of one part that is an error, see below."""
    rows = datasets.read_rows('covid_ct:train[:1%]+covid_ct:test', data_dir)
    assert len(rows) == 2 * 6


def test_a_drawn_subset_is_a_function_of_its_seed_and_grows_with_its_number(data_dir):
    drawn = lambda count, seed: [
        row.id for row in datasets.read_rows(f'covid_ct:train[{count}~{seed}]@covid', data_dir)
    ]
    every = [row.id for row in datasets.read_rows('covid_ct:train@covid', data_dir)]
    assert drawn(3, 0) == drawn(3, 0)
    assert len({tuple(drawn(3, seed)) for seed in range(8)}) > 1
    for seed in range(4):
        subsets = [drawn(count, seed) for count in range(1, len(every) + 1)]
        assert [len(subset) for subset in subsets] == list(range(1, len(every) + 1))
        assert all(set(few) < set(more) for few, more in zip(subsets, subsets[1:]))
        assert subsets[-1] == every


def test_every_example_is_drawn_as_often_as_any_other(data_dir):
    every = [row.id for row in datasets.read_rows('covid_ct:train', data_dir)]
    counts, n = dict.fromkeys(every, 0), 200
    for seed in range(n):
        for row in datasets.read_rows(f'covid_ct:train[4~{seed}]', data_dir):
            counts[row.id] += 1
    share = 4 / len(every)
    spread = 4 * np.sqrt(n * share * (1 - share))
    assert all(abs(count - n * share) < spread for count in counts.values())


@pytest.mark.parametrize(
    'spec, message',
    [
        ('covid_ct:train[99~0]', 'train.99~0.: has 16 examples; draw no more'),
        ('covid_ct:train[99~0]@covid', 'train.99~0.@covid: has 8 examples'),
        ('covid_ct:train[0~0]', 'is empty'),
        ('covid_ct:nope[1~0]', 'no such split'),
        ('covid_ct:train[1~x]', 'write .NUMBER~SEED.'),
        ('covid_ct:nope', 'no such split; it has .*train'),
        ('covid_ct:train@nope', 'noncovid, covid'),
        ('unknown_set:train', 'configs/prepare.py'),
        ('luna16_patches/nodule:train', 'configs/prepare.py'),
        ('covid_ct:train[:0%]', 'nothing to read'),
    ],
)
def test_a_wrong_name_comes_with_the_remedy(data_dir, spec, message):
    with pytest.raises(InputError, match=message):
        datasets.read_rows(spec, data_dir)


def test_a_data_set_in_two_folders_is_refused(data_dir):
    with pytest.raises(InputError, match='leave one of the two out'):
        specs.locate('covid_ct', f'{data_dir},{data_dir}')


@pytest.mark.fast
def test_networks_that_differ_in_their_weights_alone_share_a_program():
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    compiled = batches._called._cache_size()
    for number in range(3):
        apply = Partial(scaled, np.float32(number))
        np.testing.assert_array_equal(batches.predict(apply, images, 2), images * number)
    assert batches._called._cache_size() == compiled + 1


def scaled(factor, images):
    return images * factor

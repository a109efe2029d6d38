"""Data sets named by strings, batches by steps, evaluation once each."""

import numpy as np
import pytest

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


@pytest.mark.parametrize(
    'spec, message',
    [
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

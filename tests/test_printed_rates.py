"""Printed rates give away the size of their test set."""

import itertools
import json

import numpy as np
import pytest

from configs import printed_rates as config
from covjax import InputError
from covjax.runs import printed_rates

pytestmark = pytest.mark.fast

TABLE = printed_rates.read_table('docs/jiang2020_table2.csv')
FIT_ALL = {
    'synthetic test': {(228, 236), (228, 237)},
    'real test': {(228, 348), (228, 349)},
}


def percentages(p, n, tp, fp):
    """The four rates of a confusion matrix of p positives and n negatives."""
    return {
        'recall': 100 * tp / p,
        'precision': 100 * tp / (tp + fp),
        'accuracy': 100 * (tp + n - fp) / (p + n),
        'f1': 200 * tp / (p + tp + fp),
    }


def one_by_one(printed, tolerance, bound):
    """The matrices that fit, of all that there are."""
    sizes = itertools.product(range(1, bound + 1), range(1, bound + 1))
    tried = ((p, n, tp, fp) for p, n in sizes for tp in range(1, p + 1) for fp in range(n + 1))
    fits = lambda rates: all(abs(rates[key] - printed[key]) <= tolerance for key in printed)
    return {matrix for matrix in tried if fits(percentages(*matrix))}


@pytest.mark.parametrize('p, n, tp, fp', [(7, 9, 5, 2), (11, 6, 11, 0), (12, 12, 3, 1)])
def test_finds_what_it_was_made_from_and_nothing_that_does_not_fit(p, n, tp, fp):
    printed = {name: round(rate, 2) for name, rate in percentages(p, n, tp, fp).items()}
    found = set(printed_rates.matrices(printed, 0.0101, 14))
    assert (p, n, tp, fp) in found and found == one_by_one(printed, 0.0101, 14)


@pytest.fixture(scope='module')
def sizes():
    """{(model, test): {(positives, negatives)}} that fit the published table."""
    found = {(row['model'], row['test']): printed_rates.matrices(row, 0.0101, 400) for row in TABLE}
    return {key: {matrix[:2] for matrix in matrices} for key, matrices in found.items()}


def test_no_row_of_the_published_table_is_of_300_and_300(sizes):
    assert len(sizes) == 10 and not any((300, 300) in fitting for fitting in sizes.values())


@pytest.mark.parametrize('test', FIT_ALL)
def test_few_sizes_fit_every_row_of_a_published_test(sizes, test):
    of_test = [fitting for (_, name), fitting in sizes.items() if name == test and fitting]
    assert set.intersection(*of_test) == FIT_ALL[test]


def test_one_published_row_contradicts_itself(sizes):
    """Its F1 does not follow from its precision and recall."""
    assert [key for key, fitting in sizes.items() if not fitting] == [('densenet169', 'real test')]


def test_the_command_prints_and_keeps_what_it_finds(tmp_path, capsys):
    printed_rates.run(config.get_config(), tmp_path)
    printed = capsys.readouterr().out
    assert '228 / 348, 228 / 349' in printed and '300/300 fits 0 of 5 rows' in printed
    assert (tmp_path / 'printed_rates.md').read_text() == printed
    common = json.loads((tmp_path / 'printed_rates.json').read_text())['common']
    assert {test: set(map(tuple, pairs)) for test, pairs in common.items()} == FIT_ALL


@pytest.mark.parametrize(
    'content, message',
    [
        ('model,test\na,b\n', 'columns'),
        ('', 'columns'),
        ('model,test,accuracy,recall,precision,f1\na,b,1,2,x,4\n', 'numbers'),
    ],
)
def test_wrong_tables_are_refused(tmp_path, content, message):
    (tmp_path / 'table.csv').write_text(content)
    with pytest.raises(InputError, match=message):
        printed_rates.read_table(tmp_path / 'table.csv')


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        printed_rates.read_table(tmp_path / 'none.csv')


def test_rounding_is_not_lost_to_floating_point():
    """k / n printed to two decimals is always found, whatever k and n."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 400))
        k = int(rng.integers(0, n + 1))
        assert k in printed_rates._whole(round(100 * k / n, 2), 0.005, n)

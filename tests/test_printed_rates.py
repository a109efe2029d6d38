"""Printed rates give away the size of their test set."""

import json

import numpy as np
import pytest

from covjax import InputError
from covjax.runs import printed_rates

TABLE = printed_rates.read_table('docs/jiang2020_table2.csv')


def brute(printed, tolerance, bound):
    """Every matrix tried, one by one."""
    return {
        (p, n, tp, fp)
        for p in range(1, bound + 1)
        for n in range(1, bound + 1)
        for tp in range(1, p + 1)
        for fp in range(n + 1)
        if all(
            abs(100 * value - printed[name]) <= tolerance
            for name, value in (
                ('recall', tp / p),
                ('precision', tp / (tp + fp)),
                ('accuracy', (tp + n - fp) / (p + n)),
                ('f1', 2 * tp / (p + tp + fp)),
            )
        )
    }


@pytest.mark.parametrize('p, n, tp, fp', [(7, 9, 5, 2), (11, 6, 11, 0), (12, 12, 3, 1)])
def test_finds_what_it_was_made_from_and_nothing_that_does_not_fit(p, n, tp, fp):
    printed = {
        'recall': round(100 * tp / p, 2),
        'precision': round(100 * tp / (tp + fp), 2),
        'accuracy': round(100 * (tp + n - fp) / (p + n), 2),
        'f1': round(200 * tp / (p + tp + fp), 2),
    }
    found = printed_rates.matrices(printed, 0.0101, 14)
    assert (p, n, tp, fp) in found and set(found) == brute(printed, 0.0101, 14)


def test_the_published_table_is_not_of_300_and_300():
    fits = {
        (row['model'], row['test']): {
            fit[:2]
            for fit in printed_rates.matrices(
                {name: row[name] for name in printed_rates.PERCENT}, 0.0101, 400
            )
        }
        for row in TABLE
    }
    assert len(fits) == 10 and not any((300, 300) in sizes for sizes in fits.values())
    synthetic, real = (
        [sizes for (_, test), sizes in fits.items() if test == name]
        for name in ('synthetic test', 'real test')
    )
    assert set.intersection(*synthetic) == {(228, 236), (228, 237)}
    assert fits['densenet169', 'real test'] == set()  # its F1 contradicts its precision and recall
    assert set.intersection(*(sizes for sizes in real if sizes)) == {(228, 348), (228, 349)}


def test_the_command_tells_it(launch, tmp_path):
    result = launch('--config=configs/printed_rates.py', f'--workdir={tmp_path / "run"}')
    assert (
        result.returncode == 0
        and '228 / 348, 228 / 349' in result.stdout
        and '300/300 fits 0 of 5 rows' in result.stdout
    )
    assert json.loads((tmp_path / 'run' / 'printed_rates.json').read_text())['common'] == {
        'synthetic test': [[228, 236], [228, 237]],
        'real test': [[228, 348], [228, 349]],
    }


@pytest.mark.parametrize(
    'content, told',
    [
        ('model,test\na,b\n', 'columns'),
        ('', 'columns'),
        ('model,test,accuracy,recall,precision,f1\na,b,1,2,x,4\n', 'numbers'),
    ],
)
def test_wrong_tables(tmp_path, content, told):
    (tmp_path / 'table.csv').write_text(content)
    with pytest.raises(InputError, match=told):
        printed_rates.read_table(tmp_path / 'table.csv')
    with pytest.raises(InputError, match='no such file'):
        printed_rates.read_table(tmp_path / 'none.csv')


def test_rounding_is_not_lost_to_floating_point():
    """k / n printed to two decimals is always found, whatever k and n."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 400))
        k = int(rng.integers(0, n + 1))
        assert k in printed_rates._whole(round(100 * k / n, 2), 0.005, n)

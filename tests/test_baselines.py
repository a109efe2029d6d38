"""What the baselines reach on the published split, on the real files."""

import pytest

from covjax.audit import metadata_baseline, pixel_baseline
from covjax.data import datasets
from covjax.metrics import rates
from covjax.runs import prepare


@pytest.fixture(scope='module')
def published(real, tmp_path_factory):
    """(train, test) of COVID-CT, [(uint8 [H, W], Row)] each."""
    folder = str(tmp_path_factory.mktemp('data'))
    prepare.build('covid_ct', str(real / 'covid_ct'), folder)
    return [datasets.read_native(f'covid_ct:{split}', folder) for split in ('train', 'test')]


# Accuracy and AUC as measured independently of this code.
@pytest.mark.parametrize(
    'probe, accuracy, auc',
    [
        (metadata_baseline.PROBE, (0.88, 0.89), (0.929, 0.935)),
        (pixel_baseline.PROBE, (0.673, 0.677), (0.708, 0.718)),
    ],
)
def test_a_baseline_reaches_what_was_measured(published, probe, accuracy, auc):
    train, test = published
    labels = [row.label for _, row in test]
    found = rates.rates(labels, probe.scores(train, test))
    assert accuracy[0] < found['accuracy'] < accuracy[1]
    assert auc[0] < found['auc'] < auc[1]

"""Results of patients, from the scores of their images: several ways side by side."""

import numpy as np

from covjax import InputError, choice
from covjax.data.lineage import document
from covjax.data.results import Interval, PatientResult, ScoredPatient
from covjax.metrics.aggregate import AGGREGATES, HALF, by_patient
from covjax.metrics.intervals import bootstrap
from covjax.metrics.rates import rates
from covjax.metrics.roc import operating_point
from covjax.workdir import without_nan

# {key: (what several are called, function from a group of data.rows.Row to the name of one)}.
UNITS = {
    'patient': ('patients', lambda group: group),
    'document': ('source documents', document),
}


def ways(config):
    """The names that config.aggregate has, keys of AGGREGATES.

    Raises:
        InputError: there is no such way.
    """
    names = [name.strip() for name in config.aggregate.split(',') if name.strip()]
    for name in names:
        if name not in AGGREGATES:
            raise InputError(
                f'config.aggregate={config.aggregate}: {name} is no way to a score of a patient; '
                f'choose from {", ".join(AGGREGATES)}'
            )
    if config.aggregate and not names:
        raise InputError(
            f'config.aggregate={config.aggregate}: names no way to a score of a patient; choose '
            f'from {", ".join(AGGREGATES)}'
        )
    return list(dict.fromkeys(names))


def units(config, rows):
    """Whose image each is: names of the patients or source documents of Rows, by config.unit.

    Raises:
        InputError: there is no such unit, or the images name no documents.
    """
    _, unit_of = UNITS[choice(config, 'unit', UNITS)]
    if config.unit == 'document' and not config.aggregate:
        raise InputError(
            'config.unit=document: no scores of documents are asked for; name a way to them in '
            'config.aggregate, or leave config.unit=patient'
        )
    found = [unit_of(row.group) for row in rows]
    if config.unit == 'document' and rows and found == [row.group for row in rows]:
        raise InputError(
            f'config.unit=document: {rows[0].id} and all others name no source document, as images '
            'of covid_ct do; leave config.unit=patient'
        )
    return found


def results(names, about, positive, tested, validated):
    """The PatientResults of a test set, one for each way.

    Thresholds are chosen on validation: that of an image for 'share', that of a patient for all but
    'majority', of which at least half of the images is the vote itself.

    Args:
        names: keys of AGGREGATES.
        about: {field of PatientResult: value} of the network and the test set.
        positive: name of the positive class.
        tested, validated: (labels int [N], scores float [N], patients [N]) of the images of the
            test and of the validation set, labels 1 of the positive class.

    Returns:
        [PatientResult].
    """
    return [_result(name, about, positive, tested, validated) for name in names]


def _result(name, about, positive, tested, validated):
    of_image = operating_point(*validated[:2]) if name == 'share' else None
    known = HALF if of_image is None or np.isnan(of_image) else of_image
    _, labels, scores, _ = by_patient(*validated, name, known)
    threshold = HALF if name == 'majority' else operating_point(labels, scores)
    used = HALF if np.isnan(threshold) else threshold
    patients, labels, scores, counts = by_patient(*tested, name, known)
    intervals = bootstrap(labels, scores, patients, used)
    return PatientResult(
        **about,
        aggregate=name,
        image_threshold=of_image,
        threshold=None if np.isnan(threshold) else float(threshold),
        metrics=without_nan(rates(labels, scores, used, positive)),
        intervals={key: Interval(*without_nan(ends)) for key, ends in intervals.items()},
        patients=[
            ScoredPatient(patient, int(label), float(np.float32(score)), int(count))
            for patient, label, score, count in zip(patients, labels, scores, counts)
        ],
    )

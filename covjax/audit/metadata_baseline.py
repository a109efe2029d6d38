"""What the file alone gives away: a logistic regression on size, container, mode and grey statistics, without looking at anatomy.

On the published COVID-CT split it reaches about 0.89 accuracy and 0.93 AUC, so a network's score means little without it beside it.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from covjax.audit.probe import Probe
from covjax.audit.verdict import RED, Verdict, area

NAME = 'file metadata (logistic regression)'


def features(examples):
    """[(uint8 [H, W] at stored size, row with `file` facts)] -> (numbers float [N, 8], modes str [N, 1])."""
    numbers, modes = [], []
    for grey, row in examples:
        height, width = row.file['height'], row.file['width']
        numbers.append(
            [
                height,
                width,
                width / height,
                grey.mean(),
                grey.std(),
                row.file['container'] == 'JPEG',
                (grey <= 5).mean(),
                (grey >= 250).mean(),
            ]
        )
        modes.append([row.file['mode']])
    return np.array(numbers, float), np.array(modes)


def scores(train, test):
    """P(covid) float [len(test)], fitted on train; both as `features` takes them (data.read_native), rows with `label`."""
    (train_numbers, train_modes), (test_numbers, test_modes) = features(train), features(test)
    one_hot = OneHotEncoder(handle_unknown='ignore', sparse_output=False).fit(train_modes)
    join = lambda numbers, modes: np.hstack([numbers, one_hot.transform(modes)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    model.fit(join(train_numbers, train_modes), [row.label for _, row in train])
    return model.predict_proba(join(test_numbers, test_modes))[:, 1]


PROBE = Probe(NAME, 'metadata', scores, needs_file=True)


def check(subject):
    """Whether files give the class away, in every test set of real pictures."""
    known = lambda images: all(row.file for row in images.rows)
    asked = {
        name: images
        for name, images in {**subject.tests, 'validation': subject.validation}.items()
        if known(images)
    }
    if not known(subject.real) or not set(asked) & set(subject.tests):
        return Verdict(NAME, None, 'No test set has facts of original files.')
    found = {
        name: area(scores(subject.real.native, images.native), images)
        for name, images in asked.items()
    }
    told = [
        f'{one} on {name}' for name, one in found.items() if name in subject.tests and one.tells()
    ]
    finding = (
        f'Size, container and grey statistics alone reach AUC {"; ".join(told)}.'
        if told
        else 'Size, container and grey statistics do not tell the classes apart.'
    )
    return Verdict(
        NAME,
        bool(told),
        finding,
        f'Red flag when files alone reach AUC {RED} on a test set, with an interval above 0.5: a score on it proves little.',
        ('test', 'AUC'),
        tuple((name, str(one)) for name, one in found.items()),
    )

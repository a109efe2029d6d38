"""Probes: regressions that see little of an image, fitted to show how far that little goes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from covjax.audit.verdict import RED, TestedArea, Verdict, area, gain
from covjax.metrics.intervals import auc_difference
from covjax.pages.figures import Estimate

BETTER = 0.05  # AUC by which a network is to be better than a probe, with its whole interval
NETWORK = 'the network'  # its name among the areas of a test set
FOLDS = 5
# What a regression is fitted on; the second where no training images are known.
TRAINING = 'what the network was trained on'
OTHERS = 'the other patients of the test set'
COLUMNS = (
    *('test', 'fitted on', 'AUC of the network', 'AUC of the regression'),
    'network better by',
)
COLUMNS_ALONE = ('classes', 'what is seen', 'AUC')


class Probe(NamedTuple):
    """A regression that is fitted on examples and scores others.

    Examples are pairs (uint8 grey [H, W], Row) at the size in which the data set stores them, which
    may differ from image to image and is not what a network sees. Label 1 of a Row is the positive
    class, 0 any other.
    """

    name: str  # as tables print it
    scores: Callable  # (train, test), lists of examples -> P(positive) float [len(test)]
    kind: str = ''  # one of data.results.KINDS where an evaluation reports it, '' elsewhere
    needs_file: bool = False  # whether rows must have facts of the original file


def regression(describe):
    """The `scores` of a Probe: a logistic regression on a few numbers of each image.

    Args:
        describe: function from examples to float [N, D].
    """

    def scores(train, test):
        model = fitted(describe(train), [row.label for _, row in train])
        return model.predict_proba(describe(test))[:, 1]

    return scores


def regression_with_words(describe):
    """The same on a few numbers and one word of each image, which becomes one number a word.

    Args:
        describe: function from examples to (numbers float [N, D], words str [N, 1]).
    """

    def scores(train, test):
        (train_numbers, train_words), (test_numbers, test_words) = describe(train), describe(test)
        one_hot = OneHotEncoder(handle_unknown='ignore', sparse_output=False).fit(train_words)
        join = lambda numbers, words: np.hstack([numbers, one_hot.transform(words)])
        model = fitted(join(train_numbers, train_words), [row.label for _, row in train])
        return model.predict_proba(join(test_numbers, test_words))[:, 1]

    return scores


def fitted(numbers, labels):
    """The logistic regression of labels [N] on numbers float [N, D], each scaled."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    return model.fit(numbers, labels)


def out_of_fold(probe, images):
    """The scores of a probe of images that it is fitted on in turn, whole groups held out.

    Args:
        probe: Probe.
        images: verdict.Images.

    Returns:
        float [N], or None where a class has fewer than FOLDS groups.
    """
    groups = np.unique(images.groups, return_inverse=True)[1]
    if min(len(np.unique(groups[images.labels == label])) for label in (0, 1)) < FOLDS:
        return None
    found = np.empty(len(images.native))
    for fit, held in StratifiedGroupKFold(FOLDS).split(images.native, images.labels, groups):
        train, test = ([images.native[i] for i in indices] for indices in (fit, held))
        found[held] = probe.scores(train, test)
    return found


def scores_after(probe, train, images):
    """The scores of a probe of images, fitted on others, or on their own `out_of_fold`.

    Args:
        probe: Probe.
        train: verdict.Images, or None where none are known.
        images: verdict.Images.

    Returns:
        float [N], or None where it cannot be fitted.
    """
    if train is None:
        return out_of_fold(probe, images)
    return probe.scores(train.native, images.native)


def short(name):
    """The name of a probe as figures show it: without its kind in brackets."""
    return name.partition(' (')[0]


def rule_for(what):
    """When the comparison of a probe with the network raises a flag, as a sentence.

    Args:
        what: the probe in words, such as 'a regression on grey levels'.
    """
    return (
        f'Red flag when {what} reaches AUC {RED} on a test set, its interval above 0.5, and the '
        f'network is not shown to be better by {BETTER} (interval of the difference).'
    )


def versus(subject, probe, rule):
    """The Verdict of a probe beside the network, on every test set and on validation.

    It is fitted on what the network was trained on, and on real images; where neither is known, on
    the test set itself, whole patients held out.

    Args:
        subject: verdict.Subject.
        probe: Probe.
        rule: when it raises a flag, as a sentence; `rule_for` makes one.
    """
    rows, as_good, tested, compared = [], [], [], False
    for test, images in subject.tests_and_validation.items():
        network = subject.scores(images)
        of_network = area(network, images)
        tested.append(TestedArea(test, Estimate(NETWORK, *of_network)))
        for fitted_on, train in _fitted_on(subject).items():
            scores = scores_after(probe, train, images)
            if scores is None:
                continue
            reached = area(scores, images)
            low, high = auc_difference(images.labels, network, scores, images.groups)
            compared |= not math.isnan(reached.low)
            rows.append((test, fitted_on, str(of_network), str(reached), gain(low, high)))
            label = f'{short(probe.name)},\nfitted on {fitted_on}'
            tested.append(TestedArea(test, Estimate(label, *reached, kind='regression')))
            if test in subject.tests and reached.tells() and low <= BETTER:
                as_good.append(f'{reached} on {test}, fitted on {fitted_on}')
    if not compared:
        finding = 'Intervals need several patients or series of each class in a test set.'
        return Verdict(name=probe.name, flag=None, finding=finding)
    if as_good:
        reached = '; '.join(as_good)
        finding = (
            f'Tells the classes apart nearly as well as the network, or better: AUC {reached}.'
        )
    else:
        finding = (
            'On no test set is it shown to tell the classes apart about as well as the network.'
        )
    return Verdict(
        name=probe.name,
        flag=bool(as_good),
        finding=finding,
        rule=rule,
        columns=COLUMNS,
        rows=tuple(rows),
        areas=tuple(tested),
    )


def alone(subject, name, rule, probes):
    """The Verdict of what probes reach by themselves, on every test set, out of fold.

    Args:
        subject: verdict.Subject, whose classifier is not asked.
        name: of the check.
        rule: when it raises a flag, as a sentence.
        probes: [Probe]; one that reaches too much is enough.
    """
    found = [
        (test, probe, area(scores, images))
        for test, images in subject.tests.items()
        for probe in probes
        if (scores := out_of_fold(probe, images)) is not None
    ]
    if not found:
        finding = f'A regression needs {FOLDS} patients or series of each class.'
        return Verdict(name=name, flag=None, finding=finding)
    test, best, most = max(found, key=lambda each: (each[2].tells(), each[2].value))
    reached = f'{short(best.name)} at AUC {most} ({test})'
    tells = most.tells()
    finding = f'The classes are told apart by {reached}.'
    if not tells:
        finding = f'The classes are not shown to be told apart; the most is {reached}.'
    return Verdict(
        name=name,
        flag=tells,
        finding=finding,
        rule=rule,
        columns=COLUMNS_ALONE,
        rows=tuple((test, probe.name, str(of)) for test, probe, of in found),
        areas=tuple(
            TestedArea(test, Estimate(f'{name},\n{short(probe.name)}', *of, kind='regression'))
            for test, probe, of in found
        ),
    )


def _fitted_on(subject):
    """{description: Images} that a probe is fitted on; one where both would be the same images.

    Where none are known it is {OTHERS: None}.
    """
    known = {TRAINING: subject.train, 'real images': subject.real}
    sets, hashes = {}, []
    for description, images in known.items():
        if images is None or len(set(images.labels)) < 2:
            continue
        of_images = {row.sha256 for row in images.rows}
        if of_images not in hashes:
            sets[description] = images
            hashes.append(of_images)
    return sets or {OTHERS: None}

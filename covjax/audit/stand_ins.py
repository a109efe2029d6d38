"""Whether the generator's images teach a classifier more than simpler changes of its slices do.

Classifiers trained on the images of the generator and of every stand-in are compared on real ones.
"""

from typing import NamedTuple

from covjax import stand_ins
from covjax.audit.verdict import RED, Area, TestedArea, Verdict, gain
from covjax.metrics.intervals import auc_difference
from covjax.pages.figures import Estimate

NAME = 'stand-ins in place of the generator'
RULE = (
    "Red flag when the generator's images give a classifier that tells real images apart "
    f'(AUC {RED}, interval above 0.5) and a stand-in gives as good a one (interval of the '
    'difference not above 0).'
)
COLUMNS = ('test', 'trained on slices changed by', 'AUC', 'generator better by')
# The folder of the experiments and the prefix of their names, after what 0.5.0 called stand-ins:
# its experiments, which took hours, are found there and need not be trained again.
FOLDER = 'controls'


class Outcome(NamedTuple):
    """The scores of the classifier of an experiment on one test set."""

    area: Area
    images: list  # data.results.ScoredImage of each image


def outcomes(subject, experiment):
    """The Outcome of an experiment on every test set that can prove something.

    It needs both classes, several groups, and no image that was trained on.

    Args:
        subject: verdict.Subject.
        experiment: key of subject.experiments.

    Returns:
        {test: Outcome}.
    """
    found = {}
    for result in subject.experiments[experiment]:
        value, ends = result.metrics['auc'], result.intervals['auc']
        if None not in (value, *ends) and not result.overlap['images']:
            found[result.test_name] = Outcome(Area(value, *ends), result.images)
    return found


def difference(first, second):
    """(low, high) of the area of one Outcome less that of another on the same images."""
    labels = [image.label for image in first.images]
    groups = [image.group for image in first.images]
    scores, others = ([image.score for image in each.images] for each in (first, second))
    return auc_difference(labels, scores, others, groups)


def check(subject):
    """The Verdict of every stand-in beside the generator, on every test set of real images."""
    trained = [name for name in stand_ins.METHODS if f'{FOLDER}/{name}' in subject.experiments]
    if len(trained) < 2 or 'translated' not in trained:
        finding = (
            'No stand-ins were trained: name a synthesize run (config.synthetic) and a test set of '
            'real images.'
        )
        return Verdict(name=NAME, flag=None, finding=finding)
    found = {name: outcomes(subject, f'{FOLDER}/{name}') for name in trained}
    generator = found.pop('translated')
    if not generator:
        finding = 'The generator has learned from images of every test set.'
        return Verdict(name=NAME, flag=None, finding=finding)
    useful = [test for test, outcome in generator.items() if outcome.area.tells()]
    rows, as_good = [], []
    for test, outcome in generator.items():
        rows.append((test, 'the generator', str(outcome.area), ''))
        for name, others in found.items():
            other = others[test]
            low, high = difference(outcome, other)
            rows.append((test, name, str(other.area), gain(low, high)))
            if test in useful and not low > 0:
                areas = f'{other.area.value:.3f} against {outcome.area.value:.3f}'
                as_good.append(f'{name} on {test} ({areas})')
    return Verdict(
        name=NAME,
        flag=bool(as_good) if useful else None,
        finding=_finding(generator, useful, as_good),
        rule=RULE,
        columns=COLUMNS,
        rows=tuple(rows),
        areas=tuple(_areas(generator, found)),
    )


def _areas(generator, found):
    """Yields the TestedAreas of the generator and of every stand-in."""
    for test, outcome in generator.items():
        label = "one trained anew on the generator's images"
        yield TestedArea(test, Estimate(label, *outcome.area))
        for name, others in found.items():
            label = f'one trained on slices changed by {name}'
            yield TestedArea(test, Estimate(label, *others[test].area, 'stand-in'))


def _finding(generator, useful, as_good):
    if not useful:
        areas = '; '.join(f'{outcome.area} on {test}' for test, outcome in generator.items())
        return (
            "A classifier trained on the generator's images does not tell real ones apart "
            f'(AUC {areas}), so there is nothing that a stand-in could explain.'
        )
    if as_good:
        return f'The generator is not shown to be better than {"; ".join(as_good)}.'
    return 'The generator is better than every stand-in.'

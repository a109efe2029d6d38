"""Whether a classifier trained on the generator's images does better on real ones than one trained on slices that something simpler has changed."""

from covjax import stand_ins
from covjax.audit.verdict import RED, Area, Verdict
from covjax.metrics.intervals import auc_difference
from covjax.pages.tables import interval

NAME = 'controls in place of the generator'
FOLDER = 'controls'


def test_results(subject, experiment):
    """{test: (area, (low, high), images of results.json)} of the network of an experiment, where there are both classes, an interval, and no image that was trained on."""
    results = [
        result
        for result in subject.experiments[experiment]
        if None not in (result['metrics']['auc'], *result['intervals']['auc'].values())
        and not result['overlap']['images']
    ]
    return {
        result['test_name']: (
            result['metrics']['auc'],
            tuple(result['intervals']['auc'].values()),
            result['images'],
        )
        for result in results
    }


def difference(first, second):
    """(low, high) of the area of the first less that of the second, results of the same images."""
    labels, groups, scores = (
        [image[key] for image in first] for key in ('label', 'group', 'score')
    )
    return auc_difference(labels, scores, [image['score'] for image in second], groups)


def check(subject):
    """Every control beside the generator, on every test set of real images."""
    done = [name for name in stand_ins.METHODS if f'{FOLDER}/{name}' in subject.experiments]
    if len(done) < 2 or 'translated' not in done:
        return Verdict(
            NAME,
            None,
            'No controls were trained: name a synthesize run (config.synthetic) and a test set of real images.',
        )
    generator = test_results(subject, f'{FOLDER}/translated')
    rows, equal, useful = (
        [],
        [],
        [test for test, (value, (low, _), _) in generator.items() if Area(value, low, 1.0).tells()],
    )
    for test, (value, ends, images) in generator.items():
        rows.append((test, 'the generator', interval(value, *ends), ''))
        for name in done[1:]:
            other, other_ends, other_images = test_results(subject, f'{FOLDER}/{name}')[test]
            gain = difference(images, other_images)
            rows.append(
                (test, name, interval(other, *other_ends), f'{gain[0]:+.3f} to {gain[1]:+.3f}')
            )
            if test in useful and not gain[0] > 0:
                equal.append(f'{name} on {test} ({other:.3f} against {value:.3f})')
    if not generator:
        return Verdict(NAME, None, 'The generator has learned from images of every test set.')
    finding = (
        f'The generator is not shown to be better than {"; ".join(equal)}.'
        if equal
        else 'The generator is better than every control.'
    )
    if not useful:
        areas = '; '.join(
            f'{interval(value, *ends)} on {test}' for test, (value, ends, _) in generator.items()
        )
        finding = f"A classifier trained on the generator's images does not tell real ones apart (AUC {areas}), so there is nothing that a control could explain."
    return Verdict(
        NAME,
        bool(equal) if useful else None,
        finding,
        f"Red flag when the generator's images give a classifier that tells real images apart (AUC {RED}, interval above 0.5) and a control gives as good a one (interval of the difference not above 0).",
        ('test', 'trained on slices changed by', 'AUC', 'generator better by'),
        tuple(rows),
    )

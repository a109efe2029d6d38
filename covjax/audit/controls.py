"""Whether a classifier trained on the generator's images does better on real ones than one trained on slices that were changed without knowing any disease."""
from covjax import controls
from covjax.audit.verdict import RED, Verdict, interval
from covjax.metrics.intervals import auc_difference

NAME = 'controls in place of the generator'
FOLDER = 'controls'


def test_results(subject, experiment):
    """{test: (area, (low, high), images of results.json)} of the network of an experiment, where there are both classes."""
    results = [result for result in subject.experiments[experiment] if result['metrics']['auc'] is not None]
    return {result['test_name']: (result['metrics']['auc'], tuple(result['intervals']['auc'].values()), result['images']) for result in results}


def difference(first, second):
    """(low, high) of the area of the first less that of the second, results of the same images."""
    labels, groups, scores = ([image[key] for image in first] for key in ('label', 'group', 'score'))
    return auc_difference(labels, scores, [image['score'] for image in second], groups)


def check(subject):
    """Every control beside the generator, on every test set of real images."""
    done = [name for name in controls.METHODS if f'{FOLDER}/{name}' in subject.experiments]
    if len(done) < 2 or 'translated' not in done:
        return Verdict(NAME, None, 'No controls were trained: name a synthesize run (config.synthetic) and a test set of real images.')
    generator = test_results(subject, f'{FOLDER}/translated')
    rows, equal = [], []
    for test, (value, ends, images) in generator.items():
        rows.append((test, 'the generator', interval(value, *ends), ''))
        for name in done[1:]:
            other, other_ends, other_images = test_results(subject, f'{FOLDER}/{name}')[test]
            gain = difference(images, other_images)
            rows.append((test, name, interval(other, *other_ends), f'{gain[0]:+.3f} to {gain[1]:+.3f}'))
            if gain[0] <= 0:
                equal.append(f'{name} on {test} ({other:.3f} against {value:.3f})')
    best = max(value for value, _, _ in generator.values())
    finding = f'The generator is not shown to be better than {"; ".join(equal)}. ' if equal else 'The generator is better than every control. '
    if best < RED:
        finding += f'No classifier trained on its images reaches AUC {RED} on real ones, so there is little to explain.'
    return Verdict(NAME, bool(equal), finding.strip(), 'Red flag when a control gives as good a classifier of real images (interval of the difference not above 0).',
                   ('test', 'trained on slices changed by', 'AUC', 'generator better by'), tuple(rows))

"""Which slices decide on a scan: their weights, held against the slices that show a lesion.

Where a doctor has marked lesions, the weight of the slices that have one is compared with their
share of the slices, which weights at random would reach.
"""

import numpy as np

from covjax.audit.verdict import Verdict
from covjax.metrics.intervals import mean_interval
from covjax.pages import figures
from covjax.pages.html import Figure
from covjax.pages.tables import interval

NAME = 'attribution by slice'
RULE = (
    'Red flag when, in scans of the class, slices with a lesion get less weight than their share '
    'of the slices (whole interval of the difference below 0).'
)
COLUMNS = (
    *('test', 'scans with marks', 'weight of slices with a lesion', 'their share'),
    *('difference', 'heaviest slice has one'),
)
CAPTION = (
    'The mean weight of slices by where they are in the scan, from foot (0) to head (1), for '
    'either class'
)
ROUNDING = 1e-5  # of a sum of float32 weights
BINS = 10  # of the height of a scan, in the figure


def check(subject):
    """The Verdict of the weights of slices on every test set."""
    rows, below, curves = [], [], {}
    for test, images in subject.tests.items():
        weights = subject.weigh(images.images)
        curves[test] = by_height(images, weights)
        weight, share, hit, groups = on_lesions(images, weights)
        if not groups:
            continue
        low, high = mean_interval(weight - share, groups)
        gained = interval((weight - share).mean(), low, high)
        hits = interval(hit.mean(), *mean_interval(hit, groups))
        means = f'{weight.mean():.3f}', f'{share.mean():.3f}'
        rows.append((test, f'{len(groups)} of {len(images.rows)}', *means, gained, hits))
        if high < -ROUNDING:
            below.append(f'{weight.mean():.0%} on {test}, of which they are {share.mean():.0%}')
    path = subject.folder / 'slice_attribution.png'
    draw(path, curves, subject.titles)
    pictures = (Figure(path, CAPTION),)
    if not rows:
        finding = 'No test set says which slices have a lesion; the figure shows where weights lie.'
        return Verdict(name=NAME, flag=None, finding=finding, figures=pictures)
    if below:
        finding = f'Slices with a lesion get less weight than others: {"; ".join(below)}.'
    else:
        finding = 'Slices with a lesion get at least the weight of others.'
    return Verdict(
        name=NAME,
        flag=bool(below),
        finding=finding,
        rule=RULE,
        columns=COLUMNS,
        rows=tuple(rows),
        figures=pictures,
    )


def on_lesions(images, weights):
    """Weights on slices with a lesion, in scans of the class with some slices of either kind.

    Args:
        images: verdict.Images of scans.
        weights: [float [k]] of each bag.

    Returns:
        (weight float [M]; share of the slices float [M]; whether the heaviest slice has a lesion,
        float [M]; groups [M]) of M scans.
    """
    found = []
    for i, marks in enumerate(images.lesions):
        if images.labels[i] == 1 and marks is not None and marks.any() and not marks.all():
            part = weights[i]
            hit = float(marks[int(np.argmax(part))])
            found.append((part[marks].sum(), marks.mean(), hit, images.groups[i]))
    if not found:
        return np.empty(0), np.empty(0), np.empty(0), []
    weight, share, hit, groups = zip(*found)
    return np.array(weight), np.array(share), np.array(hit), list(groups)


def by_height(images, weights):
    """{label: (middle of each bin, mean weight in it)} of scans, relative to equal weights."""
    curves = {}
    for label in (0, 1):
        heights, values = [], []
        for i in np.flatnonzero(images.labels == label):
            last = max(images.rows[i].others['slices'] - 1, 1)
            heights += (images.places[i] / last).tolist()
            values += (weights[i] * len(weights[i])).tolist()
        bins = np.minimum((np.array(heights) * BINS).astype(int), BINS - 1)
        known = [b for b in range(BINS) if (bins == b).any()]
        means = [np.array(values)[bins == b].mean() for b in known]
        curves[label] = [(b + 0.5) / BINS for b in known], means
    return curves


def draw(path, curves, titles):
    """Draws the curves of `by_height` of each test set into a PNG (pathlib.Path)."""
    figure, axes = figures.subplots(columns=len(curves), squeeze=False)
    for ax, (test, of_test) in zip(axes.ravel(), curves.items()):
        for label, style in ((1, '-'), (0, '--')):
            ax.plot(*of_test[label], style, marker='o', label=titles[1 - label])
        ax.axhline(1.0, color=figures.COLOURS['reference'], linewidth=0.8)
        ax.set(xlabel='height in the scan', title=test, ylim=(0, None), xlim=(0, 1))
        ax.legend()
    axes.ravel()[0].set_ylabel('weight, of an equal one')
    figures.save(figure, path)

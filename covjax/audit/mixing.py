"""What synthetic images are worth beside real ones.

Classifiers are trained on equally many COVID-19 images, of which a growing share is synthetic.
"""

import numpy as np

from covjax.audit.stand_ins import difference, outcomes
from covjax.audit.verdict import Verdict, gain
from covjax.pages import figures
from covjax.pages.html import Figure

NAME = 'synthetic in place of real images'
RULE = (
    'Red flag when synthetic images alone give a worse classifier of real images than as many real '
    'ones (whole interval of the difference below 0).'
)
COLUMNS = ('test', 'synthetic', 'AUC', 'better than real ones alone by')
CAPTION = 'AUC by the share of synthetic images, with intervals'
FOLDER = 'mixing'  # of the experiments, and the prefix of their names


def check(subject):
    """The Verdict of the area on real tests by share of synthetic images.

    The flag is about the ends of the curve.
    """
    names = [name for name in subject.experiments if name.startswith(FOLDER + '/')]
    shares = sorted(int(name.partition('/')[2]) for name in names)
    if len(shares) < 2 or shares[0] != 0 or shares[-1] != 100:
        finding = (
            'No mixtures were trained: name a synthesize run (config.synthetic) and a test set of '
            'real images, and 0 and 100 in config.shares.'
        )
        return Verdict(name=NAME, flag=None, finding=finding)
    found = {share: outcomes(subject, f'{FOLDER}/{share}') for share in shares}
    if not all(found.values()):
        finding = 'The classifiers, or the generator, have learned from images of every test set.'
        return Verdict(name=NAME, flag=None, finding=finding)
    tests = [test for test in found[0] if all(test in outcomes for outcomes in found.values())]
    curves = {test: {share: found[share][test] for share in shares} for test in tests}
    worse = [test for test, curve in curves.items() if difference(curve[100], curve[0])[1] < 0]
    if worse:
        finding = 'Synthetic images do not stand in for real ones'
    else:
        finding = 'Synthetic images are not shown to be worse than real ones'
    areas = [
        f'{curve[100].area} on {test} with synthetic ones alone, {curve[0].area} with real ones'
        for test, curve in curves.items()
    ]
    return Verdict(
        name=NAME,
        flag=bool(worse),
        finding=f'{finding}: AUC {"; ".join(areas)}.',
        rule=RULE,
        columns=COLUMNS,
        rows=tuple(_rows(curves)),
        figures=(Figure(draw(curves, subject.folder / 'mixing.png'), CAPTION),),
    )


def _rows(curves):
    """Yields the rows of the table."""
    for test, curve in curves.items():
        for share, outcome in curve.items():
            better_by = gain(*difference(outcome, curve[0])) if share else ''
            yield test, f'{share} %', str(outcome.area), better_by


def draw(curves, path):
    """Plots areas with intervals by share of synthetic images as PNG -> its path.

    Args:
        curves: {test: {share in per cent: stand_ins.Outcome}}.
        path: pathlib.Path of the file.
    """
    figure, ax = figures.subplots(figsize=(6, 4.5))
    for test, curve in curves.items():
        areas, lows, highs = np.transpose([outcome.area for outcome in curve.values()])
        bars = np.maximum([areas - lows, highs - areas], 0)
        ax.errorbar(list(curve), areas, bars, marker='o', capsize=3, label=test)
    ax.axhline(0.5, color='grey', lw=0.8, ls=':')
    ax.set(xlabel='share of synthetic among COVID-19 training images, %', ylabel='AUC', ylim=(0, 1))
    ax.legend()
    figures.save(figure, path)
    return path

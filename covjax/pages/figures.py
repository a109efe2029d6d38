"""Plots, without a screen: forest plots, ROC curves and reliability curves."""

import itertools
import math
import textwrap
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from covjax import drafts
from covjax.classes import named_in_title, titles
from covjax.metrics import roc
from covjax.metrics.calibration import reliability
from covjax.pages import tables

# Of the kinds of estimates, told apart by colour-blind people and in print.
COLOURS = {
    'network': '#0b559f',
    'regression': '#c1601a',
    'stand-in': '#5b8c3a',
    'reference': '#7a7f86',
}
CHANCE = 0.5  # area under the ROC curve
LINE = 0.3  # inches of a line of a forest plot
WIDE, NARROW = 76, 44  # characters after which titles and labels go on in another line
LEGEND = {'fontsize': 7, 'loc': 'upper center', 'bbox_to_anchor': (0.5, -0.15), 'frameon': False}


class Panel(NamedTuple):
    """What a panel shows."""

    protocol: str
    test: str  # and of more than two classes that which is set against the rest
    positive: str  # what people read of that class


class Estimate(NamedTuple):
    """A number with its interval, a line of a forest plot."""

    label: str
    value: float
    low: float  # NaN, like high, where there is no interval
    high: float
    kind: str = 'network'  # a key of COLOURS
    seeds: tuple[float, ...] = ()  # the value of each seed, where it is the mean of several


class Curve(NamedTuple):
    """What has a curve, or one for each seed, of its own in a panel."""

    model: str
    train_set: str
    checkpoint: str | None


def subplots(rows=1, columns=1, squeeze=True, **options):
    """A figure that needs no screen and no pyplot, and its axes.

    Args:
        rows, columns: the grid of axes.
        squeeze: whether a single place gives one Axes instead of an array.
        options: of matplotlib.figure.Figure, such as figsize in inches.

    Returns:
        (Figure, axes [rows, columns]).
    """
    figure = Figure(layout='constrained', **options)
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


def save(figure, path, **options):
    """Writes a figure as PNG; makes the folder.

    Args:
        figure: matplotlib Figure.
        path: pathlib.Path.
        options: of Figure.savefig, such as bbox_inches.
    """
    with drafts.file(path) as draft:
        figure.savefig(draft, dpi=110, **options)


def draw_forest(panels, label, limits=(0.0, 1.0), reference=CHANCE):
    """A forest plot: numbers with their intervals, one below the other.

    Args:
        panels: {title: [Estimate]}, one axis each.
        label: of the horizontal axis.
        limits: of that axis; None where the numbers choose them.
        reference: where a dotted line stands, such as chance.

    Returns:
        A Figure. An interval that leaves the axis ends at its edge.
    """
    panels = {
        _in_lines(title, WIDE): [
            line._replace(label=_in_lines(line.label, NARROW)) for line in lines
        ]
        for title, lines in panels.items()
    }
    lines_of = lambda texts: sum(1 + text.count('\n') for text in texts)
    heights = [LINE * lines_of(each.label for each in lines) for lines in panels.values()]
    height = 0.7 + sum(heights) + 0.45 * lines_of(panels)
    figure = Figure(layout='constrained', figsize=(7.5, height))
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)
    for ax, (title, lines) in zip(axes[:, 0], panels.items()):
        for place, estimate in enumerate(lines):
            _forest_line(ax, place, estimate)
        ax.axvline(reference, color='black', lw=0.9, ls=':')
        ax.set_yticks(range(len(lines)), [each.label for each in lines], fontsize=9)
        ax.set_ylim(len(lines) - 0.4, -0.6)
        if limits:
            ax.set_xlim(limits)
        ax.set_title(title, fontsize=10, loc='left', weight='bold')
        ax.spines[['top', 'right']].set_visible(False)
    axes[-1, 0].set_xlabel(label)
    return figure


def draw_curves(curves, label, value, reference=None):
    """Numbers by how many of something they took, with their intervals and every seed.

    Args:
        curves: {name: {count: {'mean', 'low', 'high', 'seeds'}}}; counts are texts, written as they
            are at equal distances, '0' and whole numbers in their order before all others.
        label: of what is counted.
        value: of the vertical axis.
        reference: (name, where its dotted line lies), or None.

    Returns:
        A Figure.
    """
    size = lambda count: int(count) if count.isdigit() else math.inf
    counts = sorted({count for curve in curves.values() for count in curve}, key=size)
    figure = Figure(layout='constrained', figsize=(7.5, 4.4))
    ax = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        aside = 0.06 * (number - (len(curves) - 1) / 2)  # so that intervals do not hide each other
        places = [counts.index(count) + aside for count in curve]
        means, low, high, seeds = (
            [each[key] for each in curve.values()] for key in ('mean', 'low', 'high', 'seeds')
        )
        (line,) = ax.plot(places, means, 'D-', ms=5, lw=1.6, label=_in_lines(name, NARROW))
        ax.vlines(places, low, high, color=line.get_color(), lw=2.2, alpha=0.5)
        for place, of_seeds in zip(places, seeds):
            ax.plot([place] * len(of_seeds), of_seeds, '_', color='black', ms=6)
    if reference:
        name, height = reference
        ax.axhline(height, color='black', lw=0.9, ls=':', label=name)
    ax.set_xticks(range(len(counts)), counts)
    ax.set_xlabel(label)
    ax.set_ylabel(value)
    ax.spines[['top', 'right']].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc='lower right')
    return figure


def _in_lines(text, width):
    """Text whose lines have at most `width` characters, and whose dollars begin no formula."""
    lines = [textwrap.wrap(line, width) or [''] for line in text.split('\n')]
    return '\n'.join(itertools.chain(*lines)).replace('$', r'\$')


def _forest_line(ax, place, estimate):
    """Draws an Estimate at a height; its value is printed at the right edge."""
    colour = COLOURS[estimate.kind]
    ax.plot((estimate.low, estimate.high), (place, place), color=colour, lw=2.2)
    ax.plot(estimate.value, place, 'D', color=colour, ms=5, clip_on=False)
    ax.plot(estimate.seeds, [place] * len(estimate.seeds), '|', color='black', ms=9)
    where = {'transform': ax.get_yaxis_transform(), 'va': 'center', 'fontsize': 9}
    ax.text(1.03, place, f'{estimate.value:.3f}', color=colour, **where)


def draw_roc(evaluations):
    """ROC curves, one for each seed, with the mean area in the legend (the paper's Figure 3).

    Args:
        evaluations: [data.results.Evaluation].

    Returns:
        A Figure with one panel for each protocol, test set and positive class, and one colour for
        each model and training set.
    """
    panels = _panels(evaluations)
    figure, axes, colours = _axes(panels)
    for ax, (panel, curves) in zip(axes, panels.items()):
        for curve, results in curves.items():
            style, colour = '--' if results[0].is_baseline else '-', colours[_who(curve)]
            label = _roc_label(curve, results)
            for result in results:
                points = roc.curve(np.array(result.labels), np.array(result.scores))
                ax.plot(*points, color=colour, lw=1.3, ls=style, label=label)
                label = None  # one entry for all seeds
        ax.set(xlabel='1 - specificity', ylabel=f'recall of {panel.positive}')
        ax.legend(**LEGEND)
    return figure


def _roc_label(curve, results):
    """The entry of a Curve in the legend, with the area of all its seeds."""
    areas = [result.metrics['auc'] for result in results]
    label = f'{_in_lines(_label(curve), WIDE)}: AUC {np.mean(areas):.3f}'
    if len(areas) == 1:
        return label
    return f'{label} ({min(areas):.3f} to {max(areas):.3f}, {len(areas)} runs)'


def _who(curve):
    """What has a colour of its own: a model and what it learned from."""
    return curve.model, curve.train_set


def _label(curve):
    """A Curve in words: model, checkpoint and what it learned from."""
    model = tables.NAMES.get(curve.model, curve.model)
    checkpoint = f', {curve.checkpoint} checkpoint' if curve.checkpoint else ''
    return f'{model}{checkpoint}, {tables.in_words(curve.train_set)}'


def draw_reliability(evaluations):
    """Reliability curves: the share of positive images among those of a score, of all seeds.

    Args:
        evaluations: [data.results.Evaluation]; of their results only those of networks are drawn.

    Returns:
        A Figure with one panel for each protocol, test set and positive class, and one colour for
        each model and training set.
    """
    panels = {
        panel: {curve: results for curve, results in curves.items() if not results[0].is_baseline}
        for panel, curves in _panels(evaluations).items()
    }
    figure, axes, colours = _axes(panels)
    for ax, (panel, curves) in zip(axes, panels.items()):
        for curve, results in curves.items():
            labels = np.concatenate([result.labels for result in results])
            scores = np.concatenate([result.scores for result in results])
            score, share, count = reliability(labels, scores)
            label, colour = _label(curve), colours[_who(curve)]
            ax.plot(score, share, color=colour, lw=1.2, label=label)
            ax.scatter(score, share, s=3 + 60 * count / count.sum(), color=colour)
        positive = panel.positive
        ax.set(xlabel=f'score, P({positive})', ylabel=f'share of {positive}')
        ax.legend(**LEGEND)
    return figure


def _panels(evaluations):
    """{Panel: {Curve: [Result of each seed]}}.

    Test sets with one class, and those that no network was given, are left out.
    """
    panels = {}
    for evaluation in evaluations:
        for result in evaluation.results:
            if result.metrics['auc'] is None:
                continue
            test = result.test_name or _wrapped(result.test_set)
            positive, _ = titles(evaluation.classes, result.positive_class)
            test += named_in_title(evaluation.classes, result.positive_class)
            panel = Panel(evaluation.protocol, test, positive)
            curve = Curve(result.model, result.train_set, result.checkpoint)
            curves = panels.setdefault(panel, {})
            results = curves.setdefault(curve, [])
            if result not in results:  # several evaluations bring the same baseline
                results.append(result)
    has_network = lambda curves: any(not results[0].is_baseline for results in curves.values())
    return {panel: curves for panel, curves in panels.items() if has_network(curves)}


def _axes(panels):
    """(figure, [Axes of each panel], {_who: colour}) of {Panel: {Curve: results}}."""
    shown = dict.fromkeys(_who(curve) for curves in panels.values() for curve in curves)
    palette = matplotlib.colormaps['tab10' if len(shown) <= 10 else 'tab20']
    colours = {who: palette(i % palette.N) for i, who in enumerate(shown)}
    widest = 3 if len(panels) % 3 == 0 else 2
    columns = min(max(len(panels), 1), widest)
    rows = max(-(-len(panels) // columns), 1)
    legend = 0.25 * max(map(len, panels.values()), default=0)
    size = (4.8 * columns, (5 + legend) * rows)
    figure, axes = subplots(rows, columns, squeeze=False, figsize=size)
    for ax in axes.ravel()[len(panels) :]:
        ax.axis('off')
    for ax, panel in zip(axes.ravel(), panels):
        ax.plot([0, 1], [0, 1], color='grey', lw=0.8, ls=':')
        ax.set(aspect='equal', xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        ax.set_title(_in_lines(f'{panel.protocol} protocol\n{panel.test}', NARROW), fontsize=9)
    return figure, axes.ravel(), colours


def _wrapped(spec):
    """A spec with each part on a line of its own."""
    return spec.replace('+', '\n  + ')

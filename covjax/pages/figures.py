"""Plots, without a screen: ROC curves and reliability curves of evaluations."""

from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from covjax.classes import named_in_title, titles
from covjax.metrics import roc
from covjax.metrics.calibration import reliability
from covjax.pages import tables

LEGEND = {'fontsize': 7, 'loc': 'upper center', 'bbox_to_anchor': (0.5, -0.15), 'frameon': False}


class Panel(NamedTuple):
    """What a panel shows."""

    protocol: str
    test: str  # and of more than two classes that which is set against the rest
    positive: str  # what people read of that class


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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, **options)


def draw_roc(evaluations, letters):
    """ROC curves, one for each seed, with the mean area in the legend (the paper's Figure 3).

    Args:
        evaluations: [data.results.Evaluation].
        letters: short names of the training sets, of `tables.labels_of_training_sets`.

    Returns:
        A Figure with one panel for each protocol, test set and positive class, and one colour for
        each model.
    """
    panels = _panels(evaluations)
    figure, axes, colours = _axes(panels)
    for ax, (panel, curves) in zip(axes, panels.items()):
        seen = set()
        for curve, results in curves.items():
            style = _style(results[0], curve.model in seen)
            seen.add(curve.model)
            label = _roc_label(curve, results, letters[curve.train_set])
            for result in results:
                points = roc.curve(np.array(result.labels), np.array(result.scores))
                ax.plot(*points, color=colours[curve.model], lw=1.3, ls=style, label=label)
                label = None  # one entry for all seeds
        ax.set(xlabel='1 - specificity', ylabel=f'recall of {panel.positive}')
        ax.legend(**LEGEND)
    return figure


def _style(result, seen):
    """How a curve is dashed; `seen`: whether its model has another curve in the panel before it."""
    if seen:
        return ':'
    return '--' if result.is_baseline else '-'


def _roc_label(curve, results, letter):
    """The entry of a Curve in the legend, with the area of all its seeds."""
    areas = [result.metrics['auc'] for result in results]
    model = tables.NAMES.get(curve.model, curve.model)
    checkpoint = f', {curve.checkpoint}' if curve.checkpoint else ''
    label = f'{model}, {letter}{checkpoint}: AUC {np.mean(areas):.3f}'
    if len(areas) == 1:
        return label
    return f'{label} ({min(areas):.3f} to {max(areas):.3f}, {len(areas)} runs)'


def draw_reliability(evaluations):
    """Reliability curves: the share of positive images among those of a score, of all seeds.

    Args:
        evaluations: [data.results.Evaluation]; of their results only those of networks are drawn.

    Returns:
        A Figure with one panel for each protocol, test set and positive class, and one colour for
        each model.
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
            model, colour = tables.NAMES.get(curve.model, curve.model), colours[curve.model]
            label = f'{model}, {curve.checkpoint} checkpoint'
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
    """(figure, [Axes of each panel], {model: colour}) of {Panel: {Curve: results}}."""
    models = dict.fromkeys(curve.model for curves in panels.values() for curve in curves)
    colours = {model: matplotlib.colormaps['tab10'](i % 10) for i, model in enumerate(models)}
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
        ax.set_title(f'{panel.protocol} protocol\n{panel.test}', fontsize=9)
    return figure, axes.ravel(), colours


def _wrapped(spec):
    """A spec with each part on a line of its own."""
    return spec.replace('+', '\n  + ')

"""Plots of evaluations: ROC curves and reliability curves."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from covjax.metrics.calibration import reliability
from covjax.metrics.roc import curve
from covjax.pages import tables


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
    """Writes a figure as PNG; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, **options)


def _panels(evaluations):
    """{(protocol, test): {(model, training set, checkpoint): its results}} of the tests that a network was given, where both classes are there; several evaluations bring the same baseline."""
    panels = {}
    for evaluation in evaluations:
        for result in evaluation['results']:
            if result['metrics']['auc'] is not None:
                name = result.get('test_name') or _wrapped(result['test_set'])
                curves = panels.setdefault((evaluation['protocol'], name), {}).setdefault(
                    (result['model'], result['train_set'], result['checkpoint']), []
                )
                if result not in curves:
                    curves.append(result)
    return {
        test: groups
        for test, groups in panels.items()
        if not all(tables.is_baseline(model) for model, _, _ in groups)
    }


def _axes(panels):
    """One panel a protocol and test, one colour a model."""
    models = dict.fromkeys(model for groups in panels.values() for model, _, _ in groups)
    colours = {model: matplotlib.colormaps['tab10'](i % 10) for i, model in enumerate(models)}
    columns = min(max(len(panels), 1), 3 if len(panels) % 3 == 0 else 2)
    rows = max(-(-len(panels) // columns), 1)
    height = 5 + 0.25 * max(map(len, panels.values()), default=0)  # room for the legend
    figure, axes = subplots(rows, columns, squeeze=False, figsize=(4.8 * columns, height * rows))
    for ax in axes.ravel()[len(panels) :]:
        ax.axis('off')
    for ax, (protocol, test) in zip(axes.ravel(), panels):
        ax.plot([0, 1], [0, 1], color='grey', lw=0.8, ls=':')
        ax.set(aspect='equal', xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        ax.set_title(f'{protocol} protocol\n{test}', fontsize=9)
    return figure, axes.ravel(), colours


def draw_roc(evaluations, letters):
    """A curve for each seed, and the mean area in the legend (the paper's Figure 3); `letters` names the training sets."""
    panels = _panels(evaluations)
    figure, axes, colours = _axes(panels)
    for ax, groups in zip(axes, panels.values()):
        styles = {
            key: ':'
            if sum(one[0] == key[0] for one in list(groups)[:i])
            else '--'
            if tables.is_baseline(key[0])
            else '-'
            for i, key in enumerate(groups)
        }
        for (model, train_set, which), curves in groups.items():
            areas = [result['metrics']['auc'] for result in curves]
            spread = (
                f' ({min(areas):.3f} to {max(areas):.3f}, {len(areas)} runs)'
                if len(areas) > 1
                else ''
            )
            label = f'{tables.NAMES.get(model, model)}, {letters[train_set]}{f", {which}" if which else ""}: AUC {np.mean(areas):.3f}{spread}'
            for result in curves:
                labels, scores = zip(
                    *((image['label'], image['score']) for image in result['images'])
                )
                ax.plot(
                    *curve(np.array(labels), np.array(scores)),
                    color=colours[model],
                    lw=1.3,
                    ls=styles[model, train_set, which],
                    label=label,
                )
                label = None  # one entry for all seeds
        ax.set(xlabel='1 - specificity', ylabel='recall of COVID')
        ax.legend(fontsize=7, loc='upper center', bbox_to_anchor=(0.5, -0.15), frameon=False)
    return figure


def draw_reliability(evaluations):
    """The share of COVID among images of a score, of all seeds together; networks only."""
    panels = {
        test: {
            group: curves for group, curves in groups.items() if not tables.is_baseline(group[0])
        }
        for test, groups in _panels(evaluations).items()
    }
    figure, axes, colours = _axes(panels)
    for ax, groups in zip(axes, panels.values()):
        for (model, train_set, which), curves in groups.items():
            labels, scores = zip(
                *(
                    (image['label'], image['score'])
                    for result in curves
                    for image in result['images']
                )
            )
            score, share, count = reliability(labels, scores)
            ax.plot(
                score,
                share,
                color=colours[model],
                lw=1.2,
                label=f'{tables.NAMES.get(model, model)}, {which} checkpoint',
            )
            ax.scatter(score, share, s=3 + 60 * count / count.sum(), color=colours[model])
        ax.set(xlabel='score, P(COVID)', ylabel='share of COVID')
        ax.legend(fontsize=7, loc='upper center', bbox_to_anchor=(0.5, -0.15), frameon=False)
    return figure


def _wrapped(spec):
    return spec.replace('+', '\n  + ')

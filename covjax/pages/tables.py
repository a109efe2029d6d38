"""Evaluations as tables.

They are the published Table 2 with intervals, as CSV, Markdown and LaTeX, and the comparison of
every network with the baselines.
"""

import itertools
import string
from typing import NamedTuple

import numpy as np

from covjax import drafts
from covjax.classes import named_in_title, titles
from covjax.data.results import KINDS, Interval
from covjax.metrics.intervals import bootstrap
from covjax.metrics.significance import delong, holm, mcnemar
from covjax.workdir import write_csv

# The first four are the published ones.
PRINTED = ('accuracy', 'recall', 'precision', 'f1', 'specificity', 'auc')
NAMES = {
    'vgg16': 'VGG16',
    'resnet18': 'ResNet-18',
    'plain8': 'Plain-8',
    'resnet50': 'ResNet-50',
    'resnet50_torch': 'ResNet-50 (torchvision)',
    'inception_v3': 'Inception-v3',
    'inception_resnet_v2': 'Inception-ResNet-v2',
    'densenet169': 'DenseNet-169',
    'dre_net': 'DRE-Net',
}
HEADS = {
    'accuracy': 'Accuracy',
    'recall': 'Recall',
    'precision': 'Precision',
    'f1': 'F1',
    'specificity': 'Specificity',
    'auc': 'AUC',
}
LEAD = ('Model', 'Trained on', 'Checkpoint', 'Seeds', 'Overlap')
# What table2.csv has of every row and every rate.
DESCRIPTION = ('protocol', 'test', 'test_set', 'model', 'train_set', 'checkpoint')
SHARED = ('images', 'groups', 'documents', 'validation')
ENDS = {
    '': 'mean',
    '_low': 'low',
    '_high': 'high',
    '_least_seed': 'least',
    '_greatest_seed': 'most',
}
LEGEND = (
    'Trained on {training_sets}. {positive}; threshold 0.5; mean over seeds with '
    'its 95 % interval over patients, documents or series. Not for diagnosis.'
)
ONE_POSITIVE = '{positive} is the positive class'
SEVERAL_POSITIVE = 'The title of each table says which class is positive'
LATEX = string.Template(r"""\begin{table}
\caption{$caption. $positive is the positive class; mean over seeds and 95\,\% interval.}
\begin{tabular}{$alignment}
\hline
$head \\
\hline
$body
\hline
\end{tabular}
\end{table}""")
LATEX_SPECIAL = str.maketrans(
    {
        **{character: f'\\{character}' for character in '%_&#${}'},
        '\\': r'\textbackslash{}',
        '~': r'\textasciitilde{}',
        '^': r'\textasciicircum{}',
        '<': r'\textless{}',
        '>': r'\textgreater{}',
        **dict.fromkeys([*map(chr, range(32)), '\x7f', '\u2028', '\u2029'], ' '),
    }
)


class Row(NamedTuple):
    """All seeds of one model on one test set, about one class against the rest."""

    protocol: str
    test: str
    test_set: str
    model: str
    kind: str  # one of data.results.KINDS
    train_set: str
    checkpoint: str
    seeds: tuple[int, ...]
    n_positive: int
    n_negative: int
    overlap: dict[str, int]  # the greatest of the seeds
    mean: dict[str, float | None]  # of PRINTED over seeds, None where there is no value
    low: dict[str, float | None]  # 95 % interval of that mean
    high: dict[str, float | None]
    least: dict[str, float | None]  # of the seeds
    most: dict[str, float | None]
    positive_class: str  # its name in the data set
    titles: tuple[str, str]  # what people read of it and of all other classes
    named: str  # what a title says of it behind the test set: '', or ', cap against the rest'


class ComparisonRow(NamedTuple):
    """A network beside a baseline on the same images."""

    protocol: str
    test: str
    model: str
    seed: int
    trained_on: str
    baseline: str
    fitted_on: str
    auc_difference: float  # network less baseline
    delong_p: float
    delong_p_holm: float
    accuracy_difference: float
    mcnemar_p: float
    mcnemar_p_holm: float
    positive_class: str


def table2(evaluations):
    """The rows of Table 2: means over seeds.

    Several evaluations bring the same baseline; it counts once.

    Args:
        evaluations: [data.results.Evaluation].

    Returns:
        [Row] in the order of the evaluations, baselines last.
    """
    grouped = {}
    for evaluation in evaluations:
        for result in evaluation.results:
            key = (
                evaluation.protocol,
                result.name,
                result.test_set,
                result.model,
                result.train_set,
                result.checkpoint,
                result.positive_class,
                evaluation.classes,
            )
            grouped.setdefault(key, {})[result.seed] = result
    rows = [
        _row(protocol, classes, list(seeds.values()))
        for (protocol, *_, classes), seeds in grouped.items()
    ]
    return sorted(rows, key=lambda row: KINDS.index(row.kind))


def _row(protocol, classes, results):
    """The Row of the results of all seeds; `classes` are the names of all."""
    first = results[0]
    values = {name: [result.metrics[name] for result in results] for name in PRINTED}
    low, high = _interval(results)
    return Row(
        protocol=protocol,
        test=first.name,
        test_set=first.test_set,
        model=first.model,
        kind=first.kind,
        train_set=first.train_set,
        checkpoint=first.checkpoint or '',
        seeds=tuple(result.seed for result in results if result.seed is not None),
        n_positive=first.metrics['n_positive'],
        n_negative=first.metrics['n_negative'],
        overlap={kind: max(result.overlap[kind] for result in results) for kind in first.overlap},
        mean=_over_seeds(np.mean, values),
        low=low,
        high=high,
        least=_over_seeds(min, values),
        most=_over_seeds(max, values),
        positive_class=first.positive_class,
        titles=titles(classes, first.positive_class),
        named=named_in_title(classes, first.positive_class),
    )


def _over_seeds(function, values):
    """{name: function(values of the seeds)}, None where one of them has no value."""
    return {
        name: None if None in of_seeds else float(function(of_seeds))
        for name, of_seeds in values.items()
    }


def _interval(results):
    """({name: low}, {name: high}) of the mean over seeds; of one seed the stored ones."""
    first = results[0]
    if len(results) == 1:
        ends = first.intervals
    elif first.images[0].group is None:
        ends = {}
    else:
        groups = [image.group for image in first.images]
        ends = bootstrap(first.labels, [result.scores for result in results], groups)
    ends = {name: Interval(*ends.get(name, ())) for name in PRINTED}
    known = lambda value: None if value is None or np.isnan(value) else value
    low = {name: known(ends[name].low) for name in PRINTED}
    high = {name: known(ends[name].high) for name in PRINTED}
    return low, high


def interval(value, low, high):
    """A value and its interval as text, such as '0.812 (0.755 to 0.861)'."""
    return f'{value:.3f} ({low:.3f} to {high:.3f})'


def over_seeds(found):
    """The standard deviation over seeds in found['deviation'] as text; '' of a single seed."""
    deviation = found['deviation']
    return '' if deviation is None or np.isnan(deviation) else f'{deviation:.3f}'


def cell(row, name):
    """The text of one rate of a Row: '0.812 (0.755 to 0.861)', '0.812', or '' without a value."""
    if row.mean[name] is None:
        return ''
    if row.low[name] is None:
        return f'{row.mean[name]:.3f}'
    return interval(row.mean[name], row.low[name], row.high[name])


def in_words(spec):
    """The data sets of a spec as people read them: 'covid_ct:train@covid' is 'covid_ct covid'.

    Of other splits than train the split is said.
    """
    words = lambda part: part.strip().replace(':train', '').replace('@', ' ').replace(':', ' ')
    return ' + '.join(map(words, spec.split('+')))


def caption(row):
    """What the table of a Row is about, in a phrase."""
    positive, others = row.titles
    counts = f'{row.n_positive} {positive}, {row.n_negative} {others}'
    return f'{row.protocol} protocol, {row.test}{row.named}: {counts}'


def by_test(rows):
    """{caption: [Row]} in the order of the rows, one table for each."""
    tables = {}
    for row in rows:
        tables.setdefault(caption(row), []).append(row)
    return tables


def titles_of(rows):
    """The different `titles` of [Row]: (what people read of a positive class, of all others)."""
    return list(dict.fromkeys(row.titles for row in rows))


def labels_of_training_sets(rows):
    """{spec of a training set: 'A', 'B', ...}, the short names under which tables list them."""
    train_sets = dict.fromkeys(row.train_set for row in rows)
    return {
        train_set: chr(ord('A') + i) if i < 26 else str(i) for i, train_set in enumerate(train_sets)
    }


def columns(row, letters=None):
    """The cells under LEAD, before the rates: model, training set, checkpoint, seeds, overlap.

    Args:
        row: Row.
        letters: of `labels_of_training_sets`; None says the training set in words.

    Returns:
        [str].
    """
    overlap = ', '.join(f'{count} {kind}' for kind, count in row.overlap.items() if count)
    return [
        NAMES.get(row.model, row.model),
        letters[row.train_set] if letters else in_words(row.train_set),
        row.checkpoint,
        ', '.join(map(str, row.seeds)),
        overlap or 'none',
    ]


def write(folder, rows):
    """Writes [Row] as table2.csv, table2.md and table2.tex into a folder (pathlib.Path)."""
    letters = labels_of_training_sets(rows)
    tables = by_test(rows).items()
    markdown = [_markdown(title, of_test, letters) for title, of_test in tables]
    latex = [_latex(title, of_test, letters) for title, of_test in tables]
    _write_csv(folder / 'table2.csv', rows)
    _write_parts(folder / 'table2.md', [*markdown, _legend(rows, letters)])
    _write_parts(folder / 'table2.tex', latex)


def _write_parts(path, parts):
    drafts.write_text(path, '\n\n'.join(parts) + '\n')


def _write_csv(path, rows):
    """One line for each Row, with one column for each end of each rate."""
    header = [
        *DESCRIPTION,
        'seeds',
        'positive_class',
        'n_positive',
        'n_negative',
        *(f'overlap_{kind}' for kind in SHARED),
        *(f'{name}{end}' for name in PRINTED for end in ENDS),
    ]
    write_csv(path, [header, *map(_csv_line, rows)])


def _csv_line(row):
    return [
        *(getattr(row, name) for name in DESCRIPTION),
        ' '.join(map(str, row.seeds)),
        row.positive_class,
        row.n_positive,
        row.n_negative,
        *(row.overlap.get(kind) for kind in SHARED),
        *(getattr(row, field)[name] for name in PRINTED for field in ENDS.values()),
    ]


def _legend(rows, letters):
    training_sets = '; '.join(f'{letter}: {name}' for name, letter in letters.items())
    (positive, _), *more = titles_of(rows)
    sentence = SEVERAL_POSITIVE if more else ONE_POSITIVE.format(positive=positive)
    return LEGEND.format(training_sets=training_sets, positive=sentence)


def _markdown(title, rows, letters):
    line = lambda cells: '| ' + ' | '.join(cells) + ' |'
    head = [*LEAD, *HEADS.values()]
    body = [line([*columns(row, letters), *(cell(row, name) for name in PRINTED)]) for row in rows]
    return '\n'.join([f'**{title}**', '', line(head), '|' + '---|' * len(head), *body])


def _latex(title, rows, letters):
    head = [*LEAD, *HEADS.values()]
    body = [
        [*map(escaped, columns(row, letters)), *(cell(row, name) for name in PRINTED)]
        for row in rows
    ]
    return LATEX.substitute(
        caption=escaped(title),
        positive=escaped(rows[0].titles[0]),
        alignment='l' * len(head),
        head=' & '.join(head),
        body='\n'.join(' & '.join(cells) + r' \\' for cells in body),
    )


def escaped(text):
    """Text with the characters escaped that LaTeX would interpret."""
    return text.translate(LATEX_SPECIAL)


def comparisons(evaluations):
    """Every network of the first seed beside every baseline, on the same images and classes.

    DeLong's test compares the areas, McNemar's the decisions at 0.5; each p value is also adjusted
    (Holm) for the number of networks that are compared with a baseline on a test set, about one
    positive class. Images count as independent, which patients with several images are not: the p
    values are too small.

    Args:
        evaluations: [data.results.Evaluation].

    Returns:
        [ComparisonRow], baseline by baseline.
    """
    rows = []
    for (protocol, test, *_), pairs in _pairs(evaluations).items():
        areas, decisions = zip(*(_compare(network, baseline) for network, baseline in pairs))
        area_ps = holm([area.p for area in areas])
        decision_ps = holm([decision.p for decision in decisions])
        for i, (network, baseline) in enumerate(pairs):
            comparison = ComparisonRow(
                protocol=protocol,
                test=test,
                model=network.model,
                seed=network.seed,
                trained_on=network.train_set,
                baseline=baseline.model,
                fitted_on=baseline.train_set,
                auc_difference=areas[i].difference,
                delong_p=areas[i].p,
                delong_p_holm=area_ps[i],
                accuracy_difference=decisions[i].difference,
                mcnemar_p=decisions[i].p,
                mcnemar_p_holm=decision_ps[i],
                positive_class=network.positive_class,
            )
            rows.append(comparison)
    return rows


def comparison_columns(rows):
    """The fields of [ComparisonRow] that a table has: without the positive class if all are of one.

    Args:
        rows: [ComparisonRow].

    Returns:
        [str].
    """
    one = len({row.positive_class for row in rows}) < 2
    return [name for name in ComparisonRow._fields if not (one and name == 'positive_class')]


def _pairs(evaluations):
    """The Results that are compared, [(of a network, of a baseline)], by what they share.

    Keys are (protocol, test, baseline, its training set, positive class).
    """
    groups = {}
    for evaluation in evaluations:
        networks = [result for result in evaluation.results if not result.is_baseline]
        baselines = [result for result in evaluation.results if result.is_baseline]
        for network, baseline in itertools.product(networks, baselines):
            positive = network.positive_class
            if (network.test_set, positive) == (baseline.test_set, baseline.positive_class):
                about = (network.name, baseline.model, baseline.train_set, positive)
                group = groups.setdefault((evaluation.protocol, *about), {})
                # Later seeds are left out.
                model = (network.model, network.train_set, network.checkpoint)
                group.setdefault(model, (network, baseline))
    return {key: list(group.values()) for key, group in groups.items()}


def _compare(first, second):
    """The significance.Comparison of the areas and of the decisions of two Results."""
    if [image.id for image in first.images] != [image.id for image in second.images]:
        raise ValueError('two results of one test set are of other images')
    decide = lambda scores: (np.asarray(scores) >= 0.5).astype(int)
    areas = delong(first.labels, first.scores, second.scores)
    return areas, mcnemar(first.labels, decide(first.scores), decide(second.scores))

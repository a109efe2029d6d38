"""Evaluations -> one self-contained page, report.html, and what it shows as files of their own.

The others are table.csv, table2.csv, table2.md, table2.tex, comparisons.csv, roc.png,
reliability.png, panels.png and images/.
"""

import contextlib
import dataclasses
import pathlib
import string
from importlib import resources
from typing import Any

from covjax import InputError, __version__
from covjax.audit.verdict import FLAGS, AuditJson
from covjax.classes import titles
from covjax.ct import picture
from covjax.data import datasets, lineage, results, specs
from covjax.data.results import Background
from covjax.pages import figures, html, pictures, tables
from covjax.trained import data_dir_of
from covjax.workdir import duration, read_config, read_json, write_csv

METRICS = ('accuracy', 'recall', 'precision', 'specificity', 'f1', 'auc')
NEGATIVE = ('precision_negative', 'f1_negative')
# Of table.csv, in which every result is a line. New columns come last.
COLUMNS = (
    'model',
    'train_set',
    'test_set',
    'positive_class',
    'n_positive',
    'n_negative',
    *METRICS,
    'seed',
    'protocol',
    'overlap_images',
    'overlap_groups',
    'overlap_documents',
    'checkpoint',
    'step',
    'overlap_validation',
    *(f'{name}_{end}' for name in METRICS for end in ('low', 'high')),
    'test_name',
    *('tp', 'fp', 'fn', 'tn'),
    *NEGATIVE,
    *(f'{name}_{end}' for name in NEGATIVE for end in ('low', 'high')),
)
ABOUT = ('model', 'train_set', 'test_set', 'seed', 'checkpoint', 'step')
VERSIONS = ('covjax', 'jax', 'flax', 'python')

# The tables of the page.
RUNS = (
    'protocol',
    'model',
    'seed',
    'checkpoint',
    'images',
    'devices',
    'training time',
    'versions',
    'workdir',
)
CALIBRATED = {
    'ece': 'calibration error',
    'ece_scaled': 'after scaling',
    'brier': 'Brier',
    'brier_scaled': 'after scaling',
    'temperature': 'temperature',
}
CHOSEN = ('threshold', 'accuracy', 'recall', 'specificity')
LINEAGE = ('protocol', 'data set', 'as', 'how', 'images', 'patients or series')

# The prose of the page; what stands around it is report_template.html.
BODY = resources.files('covjax.pages') / 'report_template.html'
POSITIVE = (
    '{positive} is the positive class: recall is the share of {positive} images found, specificity '
    'the share of {others} images left alone.'
)
EACH_POSITIVE = (
    'Each class in turn is the positive one, against all others, and the title of each table names '
    'it: recall is the share of its images found, specificity the share of all others left alone. '
    'Baselines are regressions of two classes, fitted to each one and the rest.'
)
CONFUSION = (
    '{protocol} protocol, {test}: images of a class (row) by the class of their highest score '
    '(column), {model}, {checkpoint} checkpoint, seed {seed}'
)
ROC = (
    'ROC curves, one panel for each {panels}; '
    'areas are means over seeds, letters are training sets as above'
)
RELIABILITY = 'Reliability curves, one panel for each {panels}; the errors are in the table above'
PANELS = (
    'Lung-cancer slices beside their synthetic COVID-19 translations, with close-ups of the nodules'
)
NO_PANELS = '<p>No synthesize run was given (config.synthetic), so there are no panels.</p>'
NO_BASELINE = '<p>There is no baseline.</p>'
NO_AUDIT = (
    '<p>No audit was given (config.audits), '
    'so nothing here says whether the scores rest on disease.</p>'
)
AUDITED = '{model}, seed {seed}, trained on {train}'
TEST_SET = '{name}: {counts} of {groups} patients, documents or series ({spec})'
GONE = '<p>{text}. The data set is not there any more.</p>'
# The contact sheet of a test set.
READ = 12  # examples that are read of each part of the set
SHOWN = 16  # images at most
TILE = 128  # pixels a side of an image
COLUMNS_SHOWN = 8


def run(config, workdir):
    """Writes the report of config.evaluations, with panels of config.synthetic.

    Raises:
        InputError: a folder that config.evaluations, config.audits or config.synthetic names holds
            no such run, or one of its files is missing or damaged.
    """
    evaluations = [read_evaluation(folder) for folder in _split(config.evaluations)]
    rows = _table_rows(evaluations)
    _write_panels(workdir / 'panels.png', config.synthetic, evaluations)
    _write_rows(workdir / 'table.csv', COLUMNS, rows)
    audits = [_read_audit(folder) for folder in _split(config.audits) if folder]
    summary, compared = tables.table2(evaluations), tables.comparisons(evaluations)
    tables.write(workdir, summary)
    columns = tables.comparison_columns(compared)
    _write_rows(workdir / 'comparisons.csv', columns, [row._asdict() for row in compared])
    letters = tables.labels_of_training_sets(summary)
    roc, reliability = figures.draw_roc(evaluations, letters), figures.draw_reliability(evaluations)
    figures.save(roc, workdir / 'roc.png', bbox_inches='tight')
    figures.save(reliability, workdir / 'reliability.png', bbox_inches='tight')
    page = _page(config.title, workdir, evaluations, summary, compared, audits)
    (workdir / 'report.html').write_text(page, encoding='utf-8')
    print(f'report of {len(rows)} results in {workdir / "report.html"}')


def _split(folders):
    return [folder.strip() for folder in folders.split(',')]


def _unique(rows):
    """Rows without repetitions: several evaluations bring the same baseline."""
    kept = []
    for row in rows:
        if row not in kept:
            kept.append(row)
    return kept


def _write_rows(path, columns, rows):
    """Writes dicts as CSV."""
    write_csv(path, [columns, *([row.get(column, '') for column in columns] for row in rows)])


def read_evaluation(folder):
    """The Evaluation, with its background, in the workdir of a run of `evaluate`.

    Raises:
        InputError: the folder holds no such run, or one of its files is missing or damaged.
    """
    config = read_config(folder, 'evaluate', 'evaluations')
    evaluation = results.read(folder)
    classifier = pathlib.Path(evaluation.classifier)
    background = Background(
        lineage=lineage.read(pathlib.Path(folder)),
        data_dir=data_dir_of(config),
        config=_read_if_there(classifier / 'config.json'),
        environment=_read_if_there(classifier / 'environment.json'),
    )
    return dataclasses.replace(evaluation, background=background)


def _read_if_there(path):
    return read_json(path, dict[str, Any]) if path.is_file() else {}


def _read_audit(folder):
    """The content of audit.json in the workdir of a run of `audit`."""
    read_config(folder, 'audit', 'audits')
    return read_json(pathlib.Path(folder) / 'audit.json', AuditJson)


def _table_rows(evaluations):
    """The lines of table.csv, without repetitions."""
    rows = []
    for evaluation in evaluations:
        rows += [_table_row(result, evaluation.protocol) for result in evaluation.results]
    return _unique(rows)


def _table_row(result, protocol):
    """The line of table.csv of a Result, {column: value}."""
    intervals = {
        f'{name}_{end}': value
        for name, ends in result.intervals.items()
        for end, value in ends._asdict().items()
    }
    return {
        **{name: getattr(result, name) for name in ABOUT},
        'test_name': result.name,
        **result.metrics,
        **intervals,
        'protocol': protocol,
        **{f'overlap_{kind}': count for kind, count in result.overlap.items()},
    }


def _write_panels(path, synthetic, evaluations):
    """Draws synthetic images beside real ones, or removes the picture where none are given."""
    if not synthetic:
        path.unlink(missing_ok=True)
        return
    read_config(synthetic, ('synthesize', 'synthesize_pairs'), 'synthetic')
    real = _real_covid(evaluations, pictures.PANELS)
    panels = pictures.draw_panels(pathlib.Path(synthetic) / 'synthetic', real)
    picture.save(path, panels)


def _real_covid(evaluations, count):
    """The first real COVID-19 images of the first test set that has some and is still there.

    Returns:
        [uint8 [H, W]], at most `count`.
    """
    for evaluation in evaluations:
        parts = [part for result in evaluation.results for part in specs.parse(result.test_set)]
        for dataset, split, label in parts:
            if dataset == 'synthetic_covid_ct' or label not in (None, 'covid'):
                continue
            with contextlib.suppress(InputError):
                spec, data_dir = f'{dataset}:{split}@covid', evaluation.background.data_dir
                return [grey for grey, _ in datasets.read_native(spec, data_dir, count)]
    return []


def _page(title, workdir, evaluations, summary, compared, audits):
    """The HTML page; pictures are embedded, nothing is loaded from elsewhere."""
    letters, several = tables.labels_of_training_sets(summary), tables.titles_of(summary)[1:]
    panels = 'protocol, test set and positive class' if several else 'protocol and test set'
    protocols = sorted({evaluation.protocol for evaluation in evaluations})
    body = string.Template(BODY.read_text(encoding='utf-8')).substitute(
        version=__version__,
        protocols=html.text(', '.join(protocols)),
        runs=_runs(evaluations),
        positive=_positive(summary),
        table2=_table2(summary, letters),
        legend=html.table(['', 'trained on'], [(letter, name) for name, letter in letters.items()]),
        confusions=''.join(f'\n{table}' for table in _confusions(evaluations)),
        roc=html.figure(workdir / 'roc.png', ROC.format(panels=panels)),
        panels=_panels(workdir / 'panels.png'),
        reliability=html.figure(workdir / 'reliability.png', RELIABILITY.format(panels=panels)),
        of_positive='the positive class' if several else html.text(tables.titles_of(summary)[0][0]),
        calibration=_calibration(evaluations, several),
        compared=_compared(compared, letters),
        audits=_audits(audits),
        data=_data(workdir, evaluations),
        lineage=_lineage(evaluations),
    )
    return html.document(title, body)


def _runs(evaluations):
    """One row for each classifier: how it was trained."""
    return html.table(RUNS, _unique(map(_run, evaluations)))


def _run(evaluation):
    result = evaluation.results[0]
    config, environment = evaluation.background.config, evaluation.background.environment
    setting = {'steps': '?', 'image_size': '?', 'batch_size': '?', **config}
    versions = [f'{name} {environment[name]}' for name in VERSIONS if name in environment]
    return [
        evaluation.protocol,
        tables.NAMES.get(result.model, result.model),
        result.seed,
        f'{result.checkpoint}, step {result.step} of {setting["steps"]}',
        f'{setting["image_size"]} px, batch {setting["batch_size"]}',
        environment.get('devices'),
        duration(environment['seconds']) if environment else None,
        ', '.join(versions),
        evaluation.classifier,
    ]


def _positive(summary):
    """The HTML of which class the tables are about."""
    first, *more = tables.titles_of(summary)
    if more:
        return EACH_POSITIVE
    positive, others = map(html.text, first)
    return POSITIVE.format(positive=positive, others=others)


def _confusions(evaluations):
    """Yields the HTML of the confusion matrices of more than two classes."""
    for evaluation in evaluations:
        for confusion in evaluation.confusions:
            title = CONFUSION.format(
                protocol=evaluation.protocol,
                test=confusion.test_name or confusion.test_set,
                model=tables.NAMES.get(confusion.model, confusion.model),
                checkpoint=confusion.checkpoint,
                seed=confusion.seed,
            )
            rows = [(name, *counts) for name, counts in zip(evaluation.classes, confusion.counts)]
            yield html.table(['', *evaluation.classes], rows, title)


def _table2(summary, letters):
    """Table 2, one HTML table for each protocol and test set."""
    head = [*tables.LEAD, *tables.HEADS.values()]
    line = lambda row: [
        *tables.columns(row, letters),
        *(tables.cell(row, name) for name in tables.PRINTED),
    ]
    by_test = tables.by_test(summary).items()
    return '\n'.join(html.table(head, map(line, rows), title) for title, rows in by_test)


def _panels(path):
    return html.figure(path, PANELS) if path.is_file() else NO_PANELS


def _compared(compared, letters):
    """The comparisons with the baselines, training sets by their letters."""
    if not compared:
        return NO_BASELINE
    columns = tables.comparison_columns(compared)
    shown = [
        row._replace(
            model=tables.NAMES.get(row.model, row.model),
            fitted_on=letters[row.fitted_on],
        )
        for row in compared
    ]
    rows = [[getattr(row, column) for column in columns] for row in shown]
    return html.table([column.replace('_', ' ') for column in columns], rows)


def _calibration(evaluations, several):
    """Calibration, and rates at the threshold of validation, one row for each network's Result.

    Where there are several positive classes, each row names its own.
    """
    rows = []
    for evaluation in evaluations:
        for result in evaluation.results:
            if 'temperature' in result.calibration:
                named = [result.positive_class] if several else []
                rows.append([*named, *_calibration_row(result, evaluation.protocol)])
    columns = ['protocol', 'test', 'model', 'seed', *CALIBRATED.values(), *CHOSEN]
    return html.table(['positive class', *columns] if several else columns, rows)


def _calibration_row(result, protocol):
    return [
        protocol,
        result.name,
        tables.NAMES.get(result.model, result.model),
        result.seed,
        *(result.calibration[name] for name in CALIBRATED),
        *(result.at_validation_threshold[name] for name in CHOSEN),
    ]


def _audits(audits):
    """The verdicts of every audit, one table for each."""
    return '\n'.join(map(_audit, audits)) or NO_AUDIT


def _audit(audit):
    model = tables.NAMES.get(audit['model'], audit['model'])
    title = AUDITED.format(model=model, seed=audit['seed'], train=audit['train'])
    if 'positive_class' in audit:  # of more than two classes
        title += f', {audit["positive_class"]} against the rest'
    rows = [
        (FLAGS[verdict['flag']], verdict['name'], verdict['finding'])
        for verdict in audit['verdicts']
    ]
    return html.table(['', 'question', 'finding'], rows, title)


def _data(workdir, evaluations):
    """Counts of every test set, and some of its images where the data are still there."""
    parts, shown = [], set()
    for evaluation in evaluations:
        for result in evaluation.results:
            if result.test_set not in shown:
                shown.add(result.test_set)
                sheet = workdir / 'images' / f'test_{len(shown)}.png'
                parts.append(_test_set(sheet, result, evaluation))
    return '\n'.join(parts)


def _counts(result, evaluation):
    """How many images of each class the test set of a Result has, as text."""
    if len(evaluation.classes) > 2:
        of_test = [each for each in evaluation.results if each.test_set == result.test_set]
        counts = {each.positive_class: each.metrics['n_positive'] for each in of_test}
    else:
        both = result.metrics['n_positive'], result.metrics['n_negative']
        counts = dict(zip(titles(evaluation.classes, result.positive_class), both))
    return ', '.join(f'{count} {name}' for name, count in counts.items())


def _test_set(sheet, result, evaluation):
    """The HTML of one test set; its contact sheet is written to a path."""
    text = TEST_SET.format(
        name=result.name,
        counts=_counts(result, evaluation),
        groups='?' if result.groups is None else result.groups,
        spec=result.test_set,
    )
    try:
        data_dir = evaluation.background.data_dir
        examples = datasets.read_native(result.test_set, data_dir, READ)
    except InputError:
        return GONE.format(text=html.text(text))
    every = max(len(examples) // SHOWN, 1)
    chosen = examples[::every][:SHOWN]
    tiles = [pictures.draw_boxes(grey, row.boxes, TILE) for grey, row in chosen]
    picture.save(sheet, pictures.contact_sheet(tiles, COLUMNS_SHOWN))
    return html.figure(sheet, f'Contact sheet of {result.name}', text)


def _lineage(evaluations):
    """What trained the classifiers and picked checkpoints, one row for each use of a data set."""
    rows = []
    for evaluation in evaluations:
        for record in evaluation.background.lineage:
            rows.append(_lineage_row(record, evaluation.protocol))
    return html.table(LINEAGE, _unique(rows))


def _lineage_row(record, protocol):
    return (
        protocol,
        record['dataset'],
        record['role'],
        _how(record),
        len(record['images']),
        len({image[1] for image in record['images']}),
    )


def _how(record):
    through = record['through'].replace('_', ' ')
    if record['role'] not in lineage.TRAINED:
        return f'picked the checkpoint of the {through}' if through else 'picked the checkpoint'
    return f'through the {through}' if through else 'directly'

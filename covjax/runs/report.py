"""Evaluations -> one self-contained page, report.html, and what it shows as files of their own.

The others are table.csv, table2.csv, table2.md, table2.tex, comparisons.csv, areas.png, roc.png,
reliability.png, panels.png and images/.
"""

import contextlib
import dataclasses
import math
import pathlib
from typing import Any

from covjax import InputError, counted, joined, provenance, require
from covjax.audit import page as audit_page
from covjax.audit.verdict import AuditJson
from covjax.classes import POSITIVE, positive_classes, titles
from covjax.ct import picture
from covjax.data import datasets, lineage, results, specs
from covjax.data.results import Background
from covjax.pages import figures, html, pictures, prose, tables
from covjax.pages.figures import Estimate
from covjax.pages.html import Figure
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
# The number that the page is about, before those that depend on a threshold.
AUC_FIRST = ('auc', *(name for name in tables.PRINTED if name != 'auc'))
LEAD = ('model', 'trained on', 'checkpoint', 'seeds', 'overlap')

# What the page says where the words depend on what was found (the rest is prose/report.toml).
TESTED = 'Tested: {models} on {tests}, under the {protocols} protocol.'
REACHED = 'On {test} the area under the ROC curve is {areas}.'
OF_NETWORKS = '{area} after training on {train}'
OF_BASELINES = '{area} for regressions that see no anatomy'
FLAGGED = 'The audit of {model}, trained on {train}, raised {flags}.'
NO_AUDIT = 'No audit was given, so nothing here says whether the scores rest on disease.'
ABOUT_POSITIVE = (
    '{positive} is the positive class: recall is the share of {positive} images found, specificity '
    'the share of {others} images left alone.'
)
EACH_POSITIVE = (
    'Each class in turn is the positive one, against all others, and the title of each table names '
    'it: recall is the share of its images found, specificity the share of all others left alone. '
    'Baselines are regressions of two classes, fitted to each one and the rest.'
)
ASKED = ', {positive} against the rest'
GONE = ' The data set is no longer there.'
AREAS = 'Areas under the ROC curve, one panel for each {panels}'
ROC = 'ROC curves, one panel for each {panels}; areas are means over seeds'
RELIABILITY = 'Reliability curves, one panel for each {panels}; the errors are in the table below'
PANELS = 'Slices beside their translations, with close-ups of nodules where they are known'
KID = 'KID of {part}, {features}'
# The contact sheet of a test set.
READ = 12  # examples that are read of each part of the set
SHOWN = 16  # images at most
TILE = 128  # pixels a side of an image
COLUMNS_SHOWN = 8


def run(config, workdir):
    """Writes the report of config.evaluations, with panels of config.synthetic.

    Raises:
        InputError: a folder that config.evaluations, config.audits, config.quality or
            config.synthetic names holds no such run, or one of its files is missing or damaged.
    """
    require(config, {'evaluations': 'give workdirs of evaluate runs, separated by commas'})
    evaluations = [read_evaluation(folder) for folder in _split(config.evaluations)]
    audits = [_read_audit(folder) for folder in _split(config.audits)]
    quality = _read_quality(config.quality) if config.quality else None
    rows, summary = _table_rows(evaluations), tables.table2(evaluations)
    compared = tables.comparisons(evaluations)
    _write_panels(workdir / 'panels.png', config.synthetic, evaluations)
    _write_rows(workdir / 'table.csv', COLUMNS, rows)
    tables.write(workdir, summary)
    columns = tables.comparison_columns(compared)
    _write_rows(workdir / 'comparisons.csv', columns, [row._asdict() for row in compared])
    page, opening = prose.read('report'), _opening(evaluations, summary, audits)
    sections = [
        *_pictures(page, workdir, evaluations, summary),
        *_audits(page, audits),
        *([_quality(page, quality)] if quality else []),
        *_results(page, evaluations, summary),
        _compared(page, compared),
        *_curves(page, workdir, evaluations, summary),
        page.section('data'),
        *_data(page, workdir, evaluations),
        _lineage(page, evaluations),
        page.section('runs', RUNS, _unique(map(_run, evaluations))),
        page.section('limits'),
        *([page.section('limits_of_synthetic')] if config.synthetic else []),
    ]
    html.write(workdir / 'report.html', config.title, page.opening.format(**opening), sections)
    print(f'report of {counted(len(rows), "result")} in {workdir / "report.html"}')


def _split(folders):
    return [folder.strip() for folder in folders.split(',') if folder.strip()]


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
    return provenance.read(folder, 'audit.json', AuditJson)


def _read_quality(folder):
    """The content of quality.json in the workdir of a run of `quality`."""
    read_config(folder, 'quality', 'quality')
    return provenance.read(folder, 'quality.json', dict[str, Any])


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
    real = _real_positive(evaluations, pictures.PANELS)
    panels = pictures.draw_panels(pathlib.Path(synthetic) / 'synthetic', real)
    picture.save(path, panels)


def _real_positive(evaluations, count):
    """The first real images of the positive class of the first test set that is still there.

    Returns:
        [uint8 [H, W]], at most `count`.
    """
    for evaluation in evaluations:
        known = evaluation.classes
        positive = POSITIVE if POSITIVE in known else positive_classes(known)[0]
        parts = [part for result in evaluation.results for part in specs.parse(result.test_set)]
        for dataset, split, label in parts:
            if dataset.startswith(lineage.SYNTHETIC) or label not in (None, positive):
                continue
            with contextlib.suppress(InputError):
                spec = specs.part(dataset, split, positive)
                return [
                    grey
                    for grey, _ in datasets.read_native(spec, evaluation.background.data_dir, count)
                ]
    return []


def _opening(evaluations, summary, audits):
    """The places of the opening: what was tested, who reaches what, what audits say."""
    named = lambda rows: joined(dict.fromkeys(map(_model, rows)))
    networks = [row for row in summary if row.kind == 'network']
    protocols = dict.fromkeys(evaluation.protocol for evaluation in evaluations)
    return {
        'tested': TESTED.format(
            models=named(networks),
            tests=joined(dict.fromkeys(row.test for row in networks)),
            protocols=joined(protocols),
        ),
        'areas': ' '.join(_reached(rows) for rows in tables.by_test(summary).values()),
        'audited': ' '.join(map(_flagged, audits)) or NO_AUDIT,
    }


def _reached(rows):
    """A sentence on the areas of one test set, by what networks learned from."""
    networks, baselines = {}, []
    for row in rows:
        if row.mean['auc'] is None:
            continue
        if row.kind == 'network':
            networks.setdefault(row.train_set, []).append(row.mean['auc'])
        else:
            baselines.append(row.mean['auc'])
    if not networks:
        return ''
    areas = [
        OF_NETWORKS.format(area=_range(values), train=tables.in_words(train))
        for train, values in networks.items()
    ]
    areas += [OF_BASELINES.format(area=_range(baselines))] if baselines else []
    return REACHED.format(test=f'{rows[0].test}{rows[0].named}', areas=joined(areas))


def _range(values):
    """'0.512', or '0.314 to 0.571' of several values."""
    low, high = min(values), max(values)
    return f'{low:.3f}' if len(values) == 1 else f'{low:.3f} to {high:.3f}'


def _flagged(audit):
    return FLAGGED.format(**_audited(audit), flags=_red_flags(audit))


def _red_flags(audit):
    return counted(sum(verdict['flag'] is True for verdict in audit['verdicts']), 'red flag')


def _audited(audit):
    return {
        'model': tables.NAMES.get(audit['model'], audit['model']),
        'train': tables.in_words(audit['train']),
    }


def _model(row):
    return tables.NAMES.get(row.model, row.model)


def _pictures(page, workdir, evaluations, summary):
    """Yields the sections of the forest plot and of the panels."""
    panels = {}
    for title, rows in tables.by_test(summary).items():
        known = [row for row in rows if row.mean['auc'] is not None]
        if any(row.kind == 'network' for row in known):
            panels[title] = list(map(_estimate, known))
    if panels:
        areas = workdir / 'areas.png'
        figures.save(figures.draw_forest(panels, 'area under the ROC curve'), areas)
        caption = AREAS.format(panels=_panels(summary))
        yield page.section('areas', figures=[Figure(areas, caption)])
    if (workdir / 'panels.png').is_file():
        yield page.section('panels', figures=[Figure(workdir / 'panels.png', PANELS)])


def _estimate(row):
    """The area of a tables.Row as a line of a forest plot, with what it learned from."""
    verb, kind = ('trained', 'network') if row.kind == 'network' else ('fitted', 'regression')
    name = _model(row).partition(' (')[0]
    label = f'{name}, {verb} on\n{tables.in_words(row.train_set)}'
    known = lambda value: math.nan if value is None else value
    return Estimate(label, row.mean['auc'], known(row.low['auc']), known(row.high['auc']), kind)


def _panels(summary):
    several = tables.titles_of(summary)[1:]
    return 'protocol, test set and positive class' if several else 'protocol and test set'


def _audits(page, audits):
    """Yields the verdicts of every audit, a table each."""
    yield page.section('audits' if audits else 'no_audits')
    for audit in audits:
        asked = audit.get('positive_class')  # of more than two classes
        rows = [
            (audit_page.flag(verdict['flag']), verdict['name'], verdict['finding'])
            for verdict in audit['verdicts']
        ]
        section = page.section(
            'audit',
            ['', 'question', 'finding'],
            rows,
            **_audited(audit),
            seed=audit['seed'],
            asked=ASKED.format(positive=asked) if asked else '',
            flags=_red_flags(audit),
        )
        yield section._replace(level=3)


def _quality(page, quality):
    """The section of what a run of `quality` measured, without FID."""
    rows = [
        (KID.format(part=part, features=space), f'{what} ({n} images)', kernel)
        for space, part, what, n, kernel, *_ in quality['distances']['rows']
    ]
    rows += [('anatomy', f'{what} ({n})', value) for what, n, value in quality['anatomy']['rows']]
    rows += [
        ('copies', f'{row[0]} ({row[1]} images)', row[-1]) for row in quality['copies']['rows']
    ]
    return page.section('quality', ['measure', 'of', 'value'], rows, **quality)


def _results(page, evaluations, summary):
    """Yields Table 2, a table for each protocol and test set, and confusion matrices."""
    yield page.section('results', positive=_positive(summary))
    for title, rows in tables.by_test(summary).items():
        lines = [
            [*tables.columns(row), *(tables.cell(row, name) for name in AUC_FIRST)] for row in rows
        ]
        columns = [*LEAD, *(tables.HEADS[name] for name in AUC_FIRST)]
        section = page.section('result', columns, lines, test=title)
        yield section._replace(level=3)
    for evaluation in evaluations:
        yield from _confusions(page, evaluation)


def _positive(summary):
    """Which class the tables are about."""
    (positive, others), *more = tables.titles_of(summary)
    return EACH_POSITIVE if more else ABOUT_POSITIVE.format(positive=positive, others=others)


def _confusions(page, evaluation):
    """Yields the confusion matrices of more than two classes."""
    for confusion in evaluation.confusions:
        rows = [(name, *counts) for name, counts in zip(evaluation.classes, confusion.counts)]
        section = page.section(
            'confusion',
            ['', *evaluation.classes],
            rows,
            protocol=evaluation.protocol,
            test=confusion.test_name or confusion.test_set,
            model=tables.NAMES.get(confusion.model, confusion.model),
            checkpoint=confusion.checkpoint,
            seed=confusion.seed,
        )
        yield section._replace(level=3)


def _compared(page, compared):
    """The comparisons with the baselines."""
    if not compared:
        return page.section('no_baseline')
    columns = tables.comparison_columns(compared)
    shown = [
        row._replace(
            model=tables.NAMES.get(row.model, row.model),
            trained_on=tables.in_words(row.trained_on),
            fitted_on=tables.in_words(row.fitted_on),
        )
        for row in compared
    ]
    rows = [[getattr(row, column) for column in columns] for row in shown]
    return page.section('compared', [column.replace('_', ' ') for column in columns], rows)


def _curves(page, workdir, evaluations, summary):
    """Yields the sections of ROC curves, and of calibration with its curves."""
    of_panels, several = _panels(summary), tables.titles_of(summary)[1:]
    roc, reliability = workdir / 'roc.png', workdir / 'reliability.png'
    figures.save(figures.draw_roc(evaluations), roc, bbox_inches='tight')
    figures.save(figures.draw_reliability(evaluations), reliability, bbox_inches='tight')
    yield page.section('roc', figures=[Figure(roc, ROC.format(panels=of_panels))])
    columns = ['protocol', 'test', 'model', 'trained on', 'seed', *CALIBRATED.values(), *CHOSEN]
    yield page.section(
        'calibration',
        ['positive class', *columns] if several else columns,
        list(_calibration(evaluations, several)),
        [Figure(reliability, RELIABILITY.format(panels=of_panels))],
        of_positive='the positive class' if several else tables.titles_of(summary)[0][0],
    )


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


def _calibration(evaluations, several):
    """Yields calibration, and rates at the threshold of validation, of each network's Result.

    Where there are several positive classes, each row names its own.
    """
    for evaluation in evaluations:
        for result in evaluation.results:
            if 'temperature' in result.calibration:
                named = [result.positive_class] if several else []
                yield [*named, *_calibration_row(result, evaluation.protocol)]


def _calibration_row(result, protocol):
    return [
        protocol,
        result.name,
        tables.NAMES.get(result.model, result.model),
        tables.in_words(result.train_set),
        result.seed,
        *(result.calibration[name] for name in CALIBRATED),
        *(result.at_validation_threshold[name] for name in CHOSEN),
    ]


def _data(page, workdir, evaluations):
    """Yields every test set, with some of its images where the data are still there."""
    shown = set()
    for evaluation in evaluations:
        for result in evaluation.results:
            if result.test_set not in shown:
                shown.add(result.test_set)
                sheet = workdir / 'images' / f'test_{len(shown)}.png'
                yield _test_set(page, sheet, result, evaluation)


def _counts(result, evaluation):
    """How many images of each class the test set of a Result has, as text."""
    if len(evaluation.classes) > 2:
        of_test = [each for each in evaluation.results if each.test_set == result.test_set]
        counts = {each.positive_class: each.metrics['n_positive'] for each in of_test}
    else:
        both = result.metrics['n_positive'], result.metrics['n_negative']
        counts = dict(zip(titles(evaluation.classes, result.positive_class), both))
    return ', '.join(f'{count} {name}' for name, count in counts.items())


def _test_set(page, sheet, result, evaluation):
    """The section of one test set; its contact sheet is written to a path."""
    drawn = _contact_sheet(sheet, result.test_set, evaluation.background.data_dir)
    section = page.section(
        'test_set',
        figures=[Figure(sheet, f'Contact sheet of {result.name}')] if drawn else (),
        name=result.name,
        counts=_counts(result, evaluation),
        groups='?' if result.groups is None else result.groups,
        spec=result.test_set,
        gone='' if drawn else GONE,
    )
    return section._replace(level=3)


def _contact_sheet(path, spec, data_dir):
    """Writes some images of a data set as PNG -> whether it is still there."""
    try:
        examples = datasets.read_native(spec, data_dir, READ)
    except InputError:
        return False
    every = max(len(examples) // SHOWN, 1)
    tiles = [pictures.draw_boxes(grey, row.boxes, TILE) for grey, row in examples[::every][:SHOWN]]
    picture.save(path, pictures.contact_sheet(tiles, COLUMNS_SHOWN))
    return True


def _lineage(page, evaluations):
    """What trained the classifiers and picked checkpoints, one row for each use of a data set."""
    rows = []
    for evaluation in evaluations:
        for record in evaluation.background.lineage:
            rows.append(_lineage_row(record, evaluation.protocol))
    return page.section('lineage', LINEAGE, _unique(rows))


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
        return f'chose the checkpoint of the {through}' if through else 'chose the checkpoint'
    return f'through the {through}' if through else 'directly'

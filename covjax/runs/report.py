"""Evaluations -> one self-contained page, the tables, roc.png, reliability.png and panels.png."""

import contextlib
import csv
import pathlib
import string

from covjax import InputError, __version__
from covjax.audit.verdict import FLAGS
from covjax.ct import picture
from covjax.data import datasets, specs
from covjax.data.lineage import TRAINED
from covjax.pages import figures, html, pictures, tables
from covjax.trained import data_dir_of
from covjax.workdir import duration, read_config, read_json

METRICS = ('accuracy', 'recall', 'precision', 'specificity', 'f1', 'auc')
NEGATIVE = ('precision_negative', 'f1_negative')
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
    'tp',
    'fp',
    'fn',
    'tn',
    *NEGATIVE,
    *(f'{name}_{end}' for name in NEGATIVE for end in ('low', 'high')),
)
BODY = pathlib.Path(__file__).with_name('report_template.html')


def run(config, workdir):
    """Writes the report of config.evaluations, with panels of config.synthetic."""
    evaluations = [_read_evaluation(folder.strip()) for folder in config.evaluations.split(',')]
    rows = unique(
        [
            _table_row(result, evaluation['protocol'])
            for evaluation in evaluations
            for result in evaluation['results']
        ]
    )
    if config.synthetic:
        read_config(config.synthetic, 'synthesize', 'synthetic')
        picture.save(
            workdir / 'panels.png',
            pictures.draw_panels(
                pathlib.Path(config.synthetic) / 'synthetic',
                _real_covid(evaluations, pictures.PANELS),
            ),
        )
    else:
        (workdir / 'panels.png').unlink(missing_ok=True)
    _write_rows(workdir / 'table.csv', COLUMNS, rows)
    audits = [
        _read_audit(folder.strip())
        for folder in config.get('audits', '').split(',')
        if folder.strip()
    ]
    summary, compared = tables.table2(evaluations), tables.comparisons(evaluations)
    tables.write(workdir, summary)
    _write_rows(workdir / 'comparisons.csv', tables.COMPARED, compared)
    roc = figures.draw_roc(evaluations, tables.labels_of_training_sets(summary))
    figures.save(roc, workdir / 'roc.png', bbox_inches='tight')
    reliability = figures.draw_reliability(evaluations)
    figures.save(reliability, workdir / 'reliability.png', bbox_inches='tight')
    (workdir / 'report.html').write_text(
        _page(config, workdir, evaluations, summary, compared, audits), encoding='utf-8'
    )
    print(f'report of {len(rows)} results in {workdir / "report.html"}')


def _write_rows(path, columns, rows):
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _read_evaluation(folder):
    config = read_config(folder, 'evaluate', 'evaluations')
    read = lambda run, name: (
        read_json(pathlib.Path(run) / name) if (pathlib.Path(run) / name).is_file() else {}
    )
    results = read_json(pathlib.Path(folder) / 'results.json')
    return results | {
        'lineage': read_json(pathlib.Path(folder) / 'lineage.json'),
        'data_dir': data_dir_of(config),
        'trained': read(results['classifier'], 'config.json'),
        'environment': read(results['classifier'], 'environment.json'),
    }


def _read_audit(folder):
    read_config(folder, 'audit', 'audits')
    return read_json(pathlib.Path(folder) / 'audit.json')


def _table_row(result, protocol):
    overlap = {f'overlap_{kind}': count for kind, count in result['overlap'].items()}
    intervals = {
        f'{name}_{end}': value
        for name, ends in result.get('intervals', {}).items()
        for end, value in ends.items()
    }
    about = {
        key: result[key] for key in ('model', 'train_set', 'test_set', 'seed', 'checkpoint', 'step')
    } | {'test_name': result.get('test_name', result['test_set'])}
    return about | result['metrics'] | intervals | {'protocol': protocol} | overlap


def unique(rows):
    """Rows without repetitions: several evaluations bring the same baseline."""
    return [row for i, row in enumerate(rows) if row not in rows[:i]]


def _real_covid(evaluations, count):
    """The first real COVID-19 images, uint8 [H, W], of the first test set that has some and is still there."""
    for evaluation in evaluations:
        specs = [
            part for result in evaluation['results'] for part in specs.parse(result['test_set'])
        ]
        for dataset, split, label in specs:
            if dataset != 'synthetic_covid_ct' and label in (None, 'covid'):
                with contextlib.suppress(InputError):
                    return [
                        grey
                        for grey, _ in datasets.read_native(
                            f'{dataset}:{split}@covid',
                            evaluation['data_dir'],
                            count,
                        )
                    ]
    return []


def _page(config, workdir, evaluations, summary, compared, audits):
    """The HTML page; pictures are embedded, nothing is loaded from elsewhere."""
    letters = tables.labels_of_training_sets(summary)
    table2 = [
        html.table(
            [*tables.LEAD, *tables.HEADS.values()],
            [
                [
                    *tables.columns(row, letters),
                    *(tables.cell(row, name) for name in tables.PRINTED),
                ]
                for row in rows
            ],
            title,
        )
        for title, rows in tables.by_test(summary).items()
    ]
    legend = html.table(['', 'trained on'], [(letter, name) for name, letter in letters.items()])
    panels = (
        html.figure(
            workdir / 'panels.png',
            'Lung-cancer slices beside their synthetic COVID-19 translations, with close-ups of the nodules',
        )
        if (workdir / 'panels.png').is_file()
        else '<p>No synthesize run was given (config.synthetic), so there are no panels.</p>'
    )
    names = [column.replace('_', ' ') for column in tables.COMPARED]
    compared = [
        row
        | {
            'model': tables.NAMES.get(row['model'], row['model']),
            'fitted_on': letters[row['fitted_on']],
        }
        for row in compared
    ]
    body = string.Template(BODY.read_text(encoding='utf-8')).substitute(
        version=__version__,
        protocols=html.text(
            ', '.join(sorted({evaluation['protocol'] for evaluation in evaluations}))
        ),
        runs=_runs(evaluations),
        table2='\n'.join(table2),
        legend=legend,
        roc=html.figure(
            workdir / 'roc.png',
            'ROC curves, one panel for each protocol and test set; areas are means over seeds, letters are training sets as above',
        ),
        panels=panels,
        reliability=html.figure(
            workdir / 'reliability.png',
            'Reliability curves, one panel for each protocol and test set; the errors are in the table above',
        ),
        calibration=_calibration(evaluations),
        compared=html.table(
            names, [[row[column] for column in tables.COMPARED] for row in compared]
        )
        if compared
        else '<p>There is no baseline.</p>',
        audits=_audits(audits),
        data=_data(workdir, evaluations),
        lineage=_lineage(evaluations),
    )
    return html.document(config.title, body)


def _runs(evaluations):
    rows = []
    for evaluation in evaluations:
        result, trained, environment = (
            evaluation['results'][0],
            evaluation['trained'],
            evaluation['environment'],
        )
        rows.append(
            [
                evaluation['protocol'],
                tables.NAMES.get(result['model'], result['model']),
                result['seed'],
                f'{result["checkpoint"]}, step {result["step"]} of {trained.get("steps", "?")}',
                f'{trained.get("image_size", "?")} px, batch {trained.get("batch_size", "?")}',
                environment.get('devices'),
                duration(environment['seconds']) if environment else None,
                ', '.join(
                    f'{name} {environment[name]}'
                    for name in ('covjax', 'jax', 'flax', 'python')
                    if name in environment
                ),
                evaluation['classifier'],
            ]
        )
    return html.table(
        [
            'protocol',
            'model',
            'seed',
            'checkpoint',
            'images',
            'devices',
            'training time',
            'versions',
            'workdir',
        ],
        unique(rows),
    )


def _calibration(evaluations):
    rows = []
    for evaluation in evaluations:
        for result in evaluation['results']:
            values, chosen = (
                result.get('calibration', {}),
                result.get('at_validation_threshold', {}),
            )
            if 'temperature' in values:
                rows.append(
                    [
                        evaluation['protocol'],
                        result['test_name'],
                        tables.NAMES.get(result['model'], result['model']),
                        result['seed'],
                        *(
                            values[name]
                            for name in (
                                'ece',
                                'ece_scaled',
                                'brier',
                                'brier_scaled',
                                'temperature',
                            )
                        ),
                        *(
                            chosen[name]
                            for name in ('threshold', 'accuracy', 'recall', 'specificity')
                        ),
                    ]
                )
    return html.table(
        [
            'protocol',
            'test',
            'model',
            'seed',
            'calibration error',
            'after scaling',
            'Brier',
            'after scaling',
            'temperature',
            'threshold',
            'accuracy',
            'recall',
            'specificity',
        ],
        rows,
    )


def _audits(audits):
    if not audits:
        return '<p>No audit was given (config.audits), so nothing here says whether the scores rest on disease.</p>'
    return '\n'.join(
        html.table(
            ['', 'question', 'finding'],
            [(FLAGS[one['flag']], one['name'], one['finding']) for one in audit['verdicts']],
            f'{tables.NAMES.get(audit["model"], audit["model"])}, seed {audit["seed"]}, trained on {audit["train"]}',
        )
        for audit in audits
    )


def _data(workdir, evaluations):
    """Counts of every test set, and some of its images where the data are still there."""
    parts, shown = [], set()
    for evaluation in evaluations:
        for result in evaluation['results']:
            if result['test_set'] in shown:
                continue
            shown.add(result['test_set'])
            name, metrics = result.get('test_name', result['test_set']), result['metrics']
            text = f'{name}: {metrics["n_positive"]} COVID, {metrics["n_negative"]} non-COVID of {result.get("groups", "?")} patients, documents or series ({result["test_set"]})'
            try:
                examples = datasets.read_native(
                    result['test_set'],
                    evaluation['data_dir'],
                    12,
                )
            except InputError:
                parts.append(f'<p>{html.text(text)}. The data set is not there any more.</p>')
                continue
            sheet = workdir / 'images' / f'test_{len(shown)}.png'
            picture.save(
                sheet,
                pictures.contact_sheet(
                    [
                        pictures.draw_boxes(grey, row.boxes, 128)
                        for grey, row in examples[:: max(len(examples) // 16, 1)][:16]
                    ],
                    8,
                ),
            )
            parts.append(html.figure(sheet, f'Contact sheet of {name}', text))
    return '\n'.join(parts)


def _lineage(evaluations):
    trained = [
        (
            evaluation['protocol'],
            record['dataset'],
            record['role'],
            ('through the generator' if record['through'] else 'directly')
            if record['role'] in TRAINED
            else 'picked the checkpoint',
            len(record['images']),
            len({group for _, group, _ in record['images']}),
        )
        for evaluation in evaluations
        for record in evaluation['lineage']
    ]
    return html.table(
        ['protocol', 'data set', 'as', 'how', 'images', 'patients or series'], unique(trained)
    )

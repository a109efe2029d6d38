"""Evaluations -> one self-contained page, the tables, roc.png, reliability.png and panels.png."""

import contextlib
import csv
import pathlib
import string

import matplotlib
import numpy as np

from covjax import InputError, __version__, data, page, pictures, tables
from covjax.audit.verdict import FLAGS
from covjax.lineage import TRAINED
from covjax.log import duration
from covjax.metrics.calibration import reliability
from covjax.metrics.roc import curve
from covjax.synthesize import read_manifest
from covjax.workdir import read_config, read_json

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402  after the backend that needs no screen

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
PANELS = 5  # rows of the picture
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
        pictures.save(
            workdir / 'panels.png',
            draw_panels(
                pathlib.Path(config.synthetic) / 'synthetic', _real_covid(evaluations, PANELS)
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
    draw_roc(evaluations, tables.labels_of_training_sets(summary)).savefig(
        workdir / 'roc.png', dpi=110, bbox_inches='tight'
    )
    draw_reliability(evaluations).savefig(workdir / 'reliability.png', dpi=110, bbox_inches='tight')
    plt.close('all')
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
    read_config(folder, 'evaluate', 'evaluations')
    read = lambda run, name: (
        read_json(pathlib.Path(run) / name) if (pathlib.Path(run) / name).is_file() else {}
    )
    results = read_json(pathlib.Path(folder) / 'results.json')
    return results | {
        'lineage': read_json(pathlib.Path(folder) / 'lineage.json'),
        'data_dir': read(folder, 'config.json')['data_dir'],
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
    colours = {model: plt.get_cmap('tab10')(i % 10) for i, model in enumerate(models)}
    columns = min(max(len(panels), 1), 3 if len(panels) % 3 == 0 else 2)
    rows = max(-(-len(panels) // columns), 1)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.8 * columns, (5 + 0.25 * max(map(len, panels.values()), default=0)) * rows),
        squeeze=False,
        layout='constrained',
    )
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


def _real_covid(evaluations, count):
    """The first real COVID-19 images, uint8 [H, W], of the first test set that has some and is still there."""
    for evaluation in evaluations:
        specs = [
            part for result in evaluation['results'] for part in data.parse(result['test_set'])
        ]
        for dataset, split, label in specs:
            if dataset != 'synthetic_covid_ct' and label in (None, 'covid'):
                with contextlib.suppress(InputError):
                    return [
                        grey
                        for grey, _ in data.read_native(
                            f'{dataset}:{split}@covid',
                            evaluation['data_dir'] or evaluation['trained'].get('data_dir', ''),
                            count,
                        )
                    ]
    return []


def draw_panels(folder, real=(), count=PANELS, size=256):
    """Columns input, synthetic, a real COVID-19 image (of someone else), and close-ups of the first nodule in the first two; one row an example of the test split -> uint8 RGB.

    The paper's Figure 2. Columns without anything to show are left out.
    """
    rows = read_manifest(folder)
    rows = [row for row in rows if row['split'] == 'test'] or rows
    rows = sorted(rows, key=lambda row: -len(row['nodules']))[:count]
    captions, rows = ['input', 'synthetic'], rows[: len(real) or count]
    if real:
        captions.append('real, someone else')
    if any(row['nodules'] for row in rows):
        captions += ['nodule in the input', 'the same place, synthetic']
        rows = [row for row in rows if row['nodules']]
    tiles = []
    for i, row in enumerate(rows):
        boxes = [nodule['box'] for nodule in row['nodules']]
        pair = [pictures.read(folder / row[key]) for key in ('input', 'file')]
        tiles += [pictures.draw_boxes(grey, boxes, size) for grey in pair] + [
            pictures.draw_boxes(grey, (), size) for grey in real[i : i + 1]
        ]
        tiles += [pictures.close_up(grey, boxes[0], size) for grey in pair if boxes]
    return np.vstack(
        [pictures.header(captions, size), pictures.contact_sheet(tiles, len(captions))]
    )


def _page(config, workdir, evaluations, summary, compared, audits):
    """The HTML page; pictures are embedded, nothing is loaded from elsewhere."""
    letters = tables.labels_of_training_sets(summary)
    table2 = [
        page.table(
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
    legend = page.table(['', 'trained on'], [(letter, name) for name, letter in letters.items()])
    panels = (
        page.figure(
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
        protocols=page.text(
            ', '.join(sorted({evaluation['protocol'] for evaluation in evaluations}))
        ),
        runs=_runs(evaluations),
        table2='\n'.join(table2),
        legend=legend,
        roc=page.figure(
            workdir / 'roc.png',
            'ROC curves, one panel for each protocol and test set; areas are means over seeds, letters are training sets as above',
        ),
        panels=panels,
        reliability=page.figure(
            workdir / 'reliability.png',
            'Reliability curves, one panel for each protocol and test set; the errors are in the table above',
        ),
        calibration=_calibration(evaluations),
        compared=page.table(
            names, [[row[column] for column in tables.COMPARED] for row in compared]
        )
        if compared
        else '<p>There is no baseline.</p>',
        audits=_audits(audits),
        data=_data(workdir, evaluations),
        lineage=_lineage(evaluations),
    )
    return page.document(config.title, body)


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
    return page.table(
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
    return page.table(
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
        page.table(
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
                examples = data.read_native(
                    result['test_set'],
                    evaluation['data_dir'] or evaluation['trained'].get('data_dir', ''),
                    12,
                )
            except InputError:
                parts.append(f'<p>{page.text(text)}. The data set is not there any more.</p>')
                continue
            sheet = workdir / 'images' / f'test_{len(shown)}.png'
            pictures.save(
                sheet,
                pictures.contact_sheet(
                    [
                        pictures.draw_boxes(grey, row.get('nodules', {}).get('box', ()), 128)
                        for grey, row in examples[:: max(len(examples) // 16, 1)][:16]
                    ],
                    8,
                ),
            )
            parts.append(page.figure(sheet, f'Contact sheet of {name}', text))
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
    return page.table(
        ['protocol', 'data set', 'as', 'how', 'images', 'patients or series'], unique(trained)
    )

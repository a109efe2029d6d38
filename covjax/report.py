"""Evaluations -> one self-contained page, table.csv, roc.png and panels.png."""
import csv
import json
import pathlib
import string

import matplotlib
import numpy as np

from covjax import InputError, __version__, page, pictures
from covjax.lineage import TRAINED
from covjax.metrics.roc import curve
from covjax.workdir import read_config, read_json

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402  after the backend that needs no screen

METRICS = ('accuracy', 'recall', 'precision', 'specificity', 'f1', 'auc')
COLUMNS = ('model', 'train_set', 'test_set', 'positive_class', 'n_positive', 'n_negative', *METRICS,
           'seed', 'protocol', 'overlap_images', 'overlap_groups', 'overlap_documents', 'checkpoint', 'step', 'overlap_validation',
           *(f'{name}_{end}' for name in METRICS for end in ('low', 'high')))
SHOWN = tuple(column for column in COLUMNS if not column.endswith(('_low', '_high')))      # the page shows intervals beside their metric
BODY = pathlib.Path(__file__).with_name('report_template.html')


def run(config, workdir):
    """Writes the report of config.evaluations, with panels of config.synthetic."""
    evaluations = [_read_evaluation(folder.strip()) for folder in config.evaluations.split(',')]
    rows = unique([_table_row(result, evaluation['protocol']) for evaluation in evaluations for result in evaluation['results']])
    if config.synthetic:
        read_config(config.synthetic, 'synthesize', 'synthetic')
        pictures.save(workdir / 'panels.png', draw_panels(pathlib.Path(config.synthetic) / 'synthetic'))
    else:
        (workdir / 'panels.png').unlink(missing_ok=True)
    with (workdir / 'table.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    draw_roc([result for evaluation in evaluations for result in evaluation['results']]).savefig(workdir / 'roc.png', dpi=110, bbox_inches='tight')
    plt.close('all')
    (workdir / 'report.html').write_text(_page(config, workdir, evaluations, rows))
    print(f'report of {len(rows)} results in {workdir / "report.html"}')


def _read_evaluation(folder):
    read_config(folder, 'evaluate', 'evaluations')
    return read_json(pathlib.Path(folder) / 'results.json') | {'lineage': read_json(pathlib.Path(folder) / 'lineage.json')}


def _table_row(result, protocol):
    overlap = {f'overlap_{kind}': count for kind, count in result['overlap'].items()}
    intervals = {f'{name}_{end}': value for name, ends in result.get('intervals', {}).items() for end, value in ends.items()}
    about = {key: result[key] for key in ('model', 'train_set', 'test_set', 'seed', 'checkpoint', 'step')}
    return about | result['metrics'] | intervals | {'protocol': protocol} | overlap


def unique(rows):
    """Rows without repetitions: several evaluations bring the same baseline."""
    return [row for i, row in enumerate(rows) if row not in rows[:i]]


def draw_roc(results):
    """One panel a test set; one colour a model and training set, with a curve for each seed and the mean area in the legend."""
    panels = {}
    for result in results:
        if result['metrics']['auc'] is not None:                               # both classes are there
            curves = panels.setdefault(result['test_set'], {}).setdefault((result['model'], result['train_set'], result['checkpoint']), [])
            if result not in curves:                                           # several evaluations bring the same baseline
                curves.append(result)
    colours = {group: plt.get_cmap('tab20')(i % 20) for i, group in enumerate(dict.fromkeys(group for groups in panels.values() for group in groups))}
    figure, axes = plt.subplots(1, max(len(panels), 1), figsize=(4.8 * max(len(panels), 1), 5 + .5 * len(colours)), squeeze=False, layout='constrained')
    for ax, (test_set, groups) in zip(axes[0], panels.items()):
        for (model, train_set, which), curves in groups.items():
            areas = [result['metrics']['auc'] for result in curves]
            spread = f' ({min(areas):.3f} to {max(areas):.3f}, {len(areas)} runs)' if len(areas) > 1 else ''
            label = f'{model}{f", {which} checkpoint" if which else ""}\n  trained on {_wrapped(train_set)}\n  AUC {np.mean(areas):.3f}{spread}'
            for result in curves:
                labels, scores = zip(*((image['label'], image['score']) for image in result['images']))
                ax.plot(*curve(np.array(labels), np.array(scores)), color=colours[model, train_set, which], lw=1.3, ls='-' if which else '--', label=label)
                label = None                                                   # one entry for all seeds
        ax.plot([0, 1], [0, 1], color='grey', lw=.8, ls=':')
        ax.set(xlabel='1 - specificity', ylabel='recall of COVID', aspect='equal', xlim=(-.01, 1.01), ylim=(-.01, 1.01))
        ax.set_title(_wrapped(test_set), fontsize=9)
        ax.legend(fontsize=7, loc='upper center', bbox_to_anchor=(.5, -.15), frameon=False)
    return figure


def _wrapped(spec):
    return spec.replace('+', '\n  + ')


def draw_panels(folder, count=5, size=256):
    """Columns input, synthetic, and close-ups of the first nodule in both; one row an example of the test split -> uint8 RGB."""
    manifest = folder / 'manifest.jsonl'
    if not manifest.is_file():
        raise InputError(f'{manifest}: no such file; let that synthesize run come to its end first')
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows = [row for row in rows if row['split'] == 'test'] or rows
    rows = sorted(rows, key=lambda row: -len(row['nodules']))[:count]
    captions = ['input', 'synthetic']
    if any(row['nodules'] for row in rows):
        captions += ['nodule in the input', 'the same place, synthetic']
        rows = [row for row in rows if row['nodules']]
    tiles = []
    for row in rows:
        boxes = [nodule['box'] for nodule in row['nodules']]
        pair = [pictures.read(folder / row[key]) for key in ('input', 'file')]
        tiles += [pictures.draw_boxes(grey, boxes, size) for grey in pair]
        tiles += [pictures.close_up(grey, boxes[0], size) for grey in pair if boxes]
    return np.vstack([pictures.header(captions, size), pictures.contact_sheet(tiles, len(captions))])


def _page(config, workdir, evaluations, rows):
    """The HTML page; pictures are embedded, nothing is loaded from elsewhere."""
    trained = unique([(record['dataset'], record['role'], ('through the generator' if record['through'] else 'directly') if record['role'] in TRAINED else 'picked the checkpoint',
                       len(record['images'])) for evaluation in evaluations for record in evaluation['lineage']])
    panels = (page.figure(workdir / 'panels.png', 'Lung-cancer slices beside their synthetic COVID-19 translations, with close-ups of the nodules')
              if (workdir / 'panels.png').is_file() else '<p>No synthesize run was given (config.synthetic), so there are no panels.</p>')
    body = string.Template(BODY.read_text()).substitute(
        version=__version__, protocols=', '.join(sorted({evaluation['protocol'] for evaluation in evaluations})),
        table=page.table([column.replace('_', ' ') for column in SHOWN], [[_cell(row, column) for column in SHOWN] for row in rows]),
        roc=page.figure(workdir / 'roc.png', 'ROC curves, one panel for each test set'), panels=panels, lineage=page.table(['data set', 'as', 'how', 'images'], trained))
    return page.document(config.title, body)


def _cell(row, column):
    value, low, high = (row.get(key) for key in (column, f'{column}_low', f'{column}_high'))
    return value if low is None else page.raw(f'{value:.3f} <small>({low:.3f} to {high:.3f})</small>')

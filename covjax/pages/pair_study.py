"""The page of a study of pairs: what classifiers make of real lesions, as tables and a figure."""

import numpy as np

from covjax import __version__
from covjax.pages import figures, html
from covjax.pages.tables import interval

BODY = """\
<p class="quiet">covjax {version}</p>
<p class="warning"><strong>Not for diagnosis.</strong> Synthetic images show no patient with \
COVID-19; the scans are those of three people.</p>
<p>Classifiers learned to tell lesions from shams of one maker, in {seeds} seeds, and were read on \
real images of the {read} split. A row counts where the mean area on unseen pairs of its own maker \
is at least {learned}. Images that share a picture, patient or source with what was trained on \
were left out: {left_out}.</p>
{figure}
<h2>Lesion against healthy lung of the same pictures</h2>
{lesions}
<h2>Scan against scan, and inside a scan</h2>
{scans}
<h2>Figure against figure</h2>
{papers}
<h2>How bright lesions are</h2>
{effects}"""


def write(results, workdir):
    """Writes pair_study.html and the figure in it; prints the tables.

    Args:
        results: what pair_study.json holds (runs.pair_study), NaN where there is no number.
        workdir: pathlib.Path.
    """
    rows, rules, path = results['rows'], results['rules'], workdir / 'images' / 'lesions.png'
    draw(rows, path)
    better, faint = f'better than {rules["stand_in"]}', f'less than {rules["faint"]}'
    tables = {
        'lesions': ((*LESION_COLUMNS, better), [_lesion_line(row) for row in rows]),
        'scans': (SCAN_COLUMNS, [line for row in rows for line in _scan_lines(row)]),
        'papers': (PAPER_COLUMNS, [line for row in rows for line in _paper_lines(row)]),
        'effects': ((*EFFECT_COLUMNS, faint), _effect_lines(results['effects'])),
    }
    body = BODY.format(
        version=__version__,
        read=results['read'],
        seeds=len(rows[0]['unseen']['seeds']),
        learned=rules['learned'],
        left_out=', '.join(f'{n} of {key}' for key, n in results['left_out'].items()),
        figure=html.figure(path, 'Areas under the ROC curve on real lesions, with intervals'),
        **{name: html.table(*table) for name, table in tables.items()},
    )
    page = html.document('What classifiers learn from pairs', body)
    (workdir / 'pair_study.html').write_text(page, encoding='utf-8')
    for columns, lines in tables.values():
        print('', ' | '.join(columns), *(' | '.join(line) for line in lines), sep='\n')
    print(f'\n{workdir / "pair_study.html"}')


LESION_COLUMNS = ('pairs of', 'seen', 'unseen pairs', 'counts', 'real lesions', 'over seeds')
SCAN_COLUMNS = (
    *('pairs of', 'seen', 'scan', 'mean score, a seed each', 'above the healthy scan'),
    *('infected above not, comparable slices', 'comparable pairs'),
)
PAPER_COLUMNS = ('pairs of', 'seen', 'non-COVID from', 'area', 'over seeds')
EFFECT_COLUMNS = ('lesions', 'kind', 'count', 'brighter by, grey levels')


def _lesion_line(row):
    unseen, lesions = row['unseen'], row['lesions']
    low, high = row.get('better', (None, None))
    return (
        *(row['maker'], row['part']),
        f'{unseen["mean"]:.3f} (over seeds {unseen["deviation"]:.3f})',
        'yes' if row['counts'] else 'no',
        interval(lesions['mean'], lesions['low'], lesions['high']),
        f'{lesions["deviation"]:.3f}',
        '' if low is None else f'{low:+.3f} to {high:+.3f}',
    )


def _scan_lines(row):
    numbers = lambda values: ' '.join(f'{value:.3f}' for value in values)
    for scan, found in row.get('scans', {}).items():
        above = found.get('above', ())
        yield (
            *(row['maker'], row['part'], scan, numbers(found['mean'])),
            f'{numbers(above)} ({sum(np.array(above) > 0)} of {len(above)} above 0)'
            if above
            else '',
            numbers(found.get('inside', ())),
            str(found.get('pairs', '')),
        )


def _paper_lines(row):
    for source, found in row['figures'].items():
        yield (
            *(row['maker'], row['part'], source),
            interval(found['mean'], found['low'], found['high']),
            f'{found["deviation"]:.3f}',
        )


def _effect_lines(effects):
    return [
        (
            *(maker, kind, str(found['lesions'])),
            f'{found["mean"]:.1f} ({found["low"]:.1f} to {found["high"]:.1f})',
            f'{found["faint"]:.1%}',
        )
        for maker, kinds in effects.items()
        for kind, found in kinds.items()
    ]


def draw(rows, path):
    """Writes a forest plot of the areas on real lesions, with every seed as a dot.

    Args:
        rows: of pair_study.json.
        path: pathlib.Path of a PNG.
    """
    figure, axes = figures.subplots(figsize=(7, 0.5 * len(rows) + 1.2))
    for place, row in enumerate(rows):
        found, colour = row['lesions'], 'C0' if row['counts'] else 'C7'
        axes.plot((found['low'], found['high']), (place, place), color=colour, linewidth=2)
        axes.plot(found['mean'], place, 'D', color=colour)
        axes.plot(found['seeds'], [place] * len(found['seeds']), '|', color='black', markersize=9)
    axes.axvline(0.5, color='gray', linestyle=':')
    axes.set_yticks(range(len(rows)), [f'{row["maker"]}, {row["part"]}' for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel('area under the ROC curve, lesion against healthy lung of the same pictures')
    figures.save(figure, path)

"""The page of a study of pairs: how classifiers score real lesions, as tables and a figure."""

import numpy as np

from covjax.pages import figures, html, prose
from covjax.pages.figures import Estimate
from covjax.pages.html import Figure
from covjax.pages.tables import interval, over_seeds

FIGURE = 'Areas under the ROC curve on real lesions, with intervals and every seed'
BEST = 'Those of {maker}, shown {part}, tell real lesions from healthy lung best: AUC {area}.'
LABEL = 'area under the ROC curve, lesion against healthy lung of the same pictures'


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
        'scans': (SCAN_COLUMNS, [line for row in rows for line in scan_lines(row, _of(row))]),
        'papers': (PAPER_COLUMNS, [line for row in rows for line in _paper_lines(row)]),
        'effects': ((*EFFECT_COLUMNS, faint), _effect_lines(results['effects'])),
    }
    left_out = ', '.join(f'{n} of {key}' for key, n in results['left_out'].items())
    about = {'learned': rules['learned'], 'left_out': left_out}
    page, of_lesions = prose.read('pair_study'), {'lesions': [Figure(path, FIGURE)]}
    sections = [
        page.section(name, *table, of_lesions.get(name, ()), **about)
        for name, table in tables.items()
    ]
    opening = page.opening.format(
        read=results['read'], seeds=len(rows[0]['unseen']['seeds']), best=_best(rows)
    )
    html.write(workdir / 'pair_study.html', page.title, opening, sections)
    for columns, lines in tables.values():
        print('', ' | '.join(columns), *(' | '.join(line) for line in lines), sep='\n')
    print(f'\n{workdir / "pair_study.html"}')


def _best(rows):
    """A sentence on the row with the greatest area on real lesions."""
    row = max(rows, key=lambda row: row['lesions']['mean'])
    area = interval(*(row['lesions'][end] for end in ('mean', 'low', 'high')))
    return BEST.format(maker=row['maker'], part=row['part'], area=area)


LESION_COLUMNS = (
    *('pairs of', 'seen', 'unseen pairs', 'over seeds', 'counts', 'real lesions', 'over seeds'),
)
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
        f'{unseen["mean"]:.3f}',
        over_seeds(unseen),
        'yes' if row['counts'] else 'no',
        interval(lesions['mean'], lesions['low'], lesions['high']),
        over_seeds(lesions),
        '' if low is None else f'{low:+.3f} to {high:+.3f}',
    )


def _of(row):
    return row['maker'], row['part']


def scan_lines(row, about):
    """The lines of a table of scans; none where they were not read.

    Args:
        row: of pair_study.json, or of another study that reads scans.
        about: the first cells, which say what row it is.

    Yields:
        [str] for each scan.
    """
    numbers = lambda values: ' '.join(f'{value:.3f}' for value in values)
    for scan, found in row.get('scans', {}).items():
        above = found.get('above', ())
        yield (
            *(*about, scan, numbers(found['mean'])),
            f'{numbers(above)} ({sum(np.array(above) > 0)} of {len(above)} above 0)'
            if above
            else '',
            numbers(found['inside']) if found.get('pairs') else '',
            str(found.get('pairs', '')),
        )


def _paper_lines(row):
    for source, found in row['figures'].items():
        yield (
            *(row['maker'], row['part'], source),
            interval(found['mean'], found['low'], found['high']),
            over_seeds(found),
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
    """Writes a forest plot of the areas on real lesions, with every seed as a mark.

    Args:
        rows: of pair_study.json.
        path: pathlib.Path of a PNG.
    """
    lines = [
        Estimate(
            f'{row["maker"]}, {row["part"]}',
            *(row['lesions'][end] for end in ('mean', 'low', 'high')),
            'network' if row['counts'] else 'reference',
            tuple(row['lesions']['seeds']),
        )
        for row in rows
    ]
    figures.save(figures.draw_forest({'': lines}, LABEL, limits=None), path)

"""The page of a study of segmenters: Dice on real slices, as tables and a figure."""

from covjax.pages import figures, html, prose
from covjax.pages.figures import Estimate
from covjax.pages.html import Figure
from covjax.pages.tables import interval

FIGURE = 'Dice on real slices, with intervals and every seed'
LABEL = 'mean Dice at 0.5 on real slices'
BEST = 'Without one real mask the best of them reach {alone}; {real} real masks alone {all}.'
COLUMNS = (
    *('learned from', 'real masks', 'Dice', 'over seeds', 'better than real masks alone by'),
    *('better than painted by', 'Dice on every slice'),
)
OTHER_COLUMNS = ('', 'Dice')
NEGATIVE_COLUMNS = ('learned from', 'real masks', 'called a lesion', 'slices with over 1 %')
MODES = {
    'real': 'real lesions',
    'alone': '{source} lesions',
    'together': '{source} and real lesions together',
    'fine_tuned': '{source} lesions, then real ones',
}


def write(results, workdir):
    """Writes segmentation_study.html and the figure in it; prints the tables.

    Args:
        results: what segmentation_study.json holds (runs.segmentation_study).
        workdir: pathlib.Path.
    """
    rows, path = results['rows'], workdir / 'images' / 'dice.png'
    figures.save(figures.draw_forest(forest(results), LABEL, limits=None, reference=0.5), path)
    tables = {
        'dice': (COLUMNS, [_dice_line(row) for row in rows]),
        'others': (
            OTHER_COLUMNS,
            [(each['name'], _of(each['dice'])) for each in results['others']],
        ),
        'negatives': (NEGATIVE_COLUMNS, [_negative_line(row) for row in rows if row['negatives']]),
    }
    page = prose.read('segmentation_study')
    sections = [
        page.section(name, *table, [Figure(path, FIGURE)] if name == 'dice' else ())
        for name, table in tables.items()
        if table[1]
    ]
    seeds = len(rows[0]['dice']['seeds'])
    opening = page.opening.format(read=results['read'], seeds=seeds, best=_best(rows))
    html.write(workdir / 'segmentation_study.html', page.title, opening, sections)
    for columns, lines in tables.values():
        print('', ' | '.join(columns), *(' | '.join(line) for line in lines), sep='\n')
    print(f'\n{workdir / "segmentation_study.html"}')


def _best(rows):
    """A sentence on the best row without real masks, and on all real masks alone."""
    alone = [row for row in rows if row['mode'] == 'alone']
    best = max(alone, key=lambda row: row['dice']['mean'])
    real = [row for row in rows if row['mode'] == 'real'][-1]
    return BEST.format(
        alone=f'{_of(best["dice"])} ({best["source"]})', real=real['budget'], all=_of(real['dice'])
    )


def forest(results):
    """{title: [Estimate]} of a figure: networks, and what needs none of this study."""
    networks = [
        Estimate(
            f'{_name(row)}, {row["budget"]} real',
            *(row['dice'][end] for end in ('mean', 'low', 'high')),
            'network' if row['source'] else 'stand-in',
            tuple(row['dice']['seeds']),
        )
        for row in results['rows']
    ]
    rest = [
        Estimate(each['name'], *(each['dice'][end] for end in ('mean', 'low', 'high')), 'reference')
        for each in results['others']
    ]
    return {'networks of this study': networks} | ({'others': rest} if rest else {})


def _name(row):
    return MODES[row['mode']].format(source=row['source'].replace('_', ' '))


def _of(mean):
    return interval(*(mean[end] for end in ('mean', 'low', 'high')))


def _gain(difference):
    if difference is None:
        return ''
    return '{mean:+.3f} ({low:+.3f} to {high:+.3f})'.format(**difference)


def _dice_line(row):
    dice = row['dice']
    deviation = '' if dice['deviation'] is None else f'{dice["deviation"]:.3f}'
    gains = (_gain(row[f'better_than_{other}']) for other in ('real', 'painted'))
    return (_name(row), row['budget'], _of(dice), deviation, *gains, _of(row['every_slice']))


def _negative_line(row):
    found = row['negatives']
    shares = ' '.join(f'{each["mean share"]:.1%}' for each in found)
    counts = ' '.join(f'{each["slices with over 1 %"]}/{each["slices"]}' for each in found)
    return _name(row), row['budget'], shares, counts

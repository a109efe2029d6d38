"""The page of a study of segmenters: Dice on real slices, as tables and a figure."""

from covjax.pages import by_budget, figures, html, prose
from covjax.pages.by_budget import estimate, forest, name_of
from covjax.pages.html import Figure
from covjax.pages.tables import interval, over_seeds

FIGURE = (
    'Dice on real slices, with intervals and every seed: networks of real masks alone (green) and '
    'with synthetic lesions (blue); dotted, the best rule without a network'
)
LABEL = 'mean Dice at 0.5 on real slices'
BEST = 'Without one real mask the best of them reach {alone}; {real} real masks alone {all}.'
ONLY = '{real} real masks alone reach {all}.'
COLUMNS = (
    *('learned from', 'real masks', 'Dice', 'over seeds', 'better than real masks alone by'),
    *('better than painted by', 'than the best rule by', 'Dice on every slice'),
)
OTHER_COLUMNS = ('', 'Dice')
NEGATIVE_COLUMNS = ('learned from', 'real masks', 'called a lesion', 'slices with over 1 %')
SOURCES = {
    'painted': 'lesions painted in blobs',
    'painted_drawn': 'lesions painted in drawn masks',
    'drawn': 'lesions made in drawn masks',
    'predicted': 'lesions made in predicted masks',
    'procedural': 'lesions made in blobs',
}
MASKS = 'real masks'
RULE = 'best rule without a network'
CURVES_FIGURE = (
    'Mean Dice on real slices by how many real masks were learned from, with intervals: alone, and '
    'with synthetic lesions; dotted, the best rule without a network'
)


def write(results, workdir):
    """Writes segmentation_study.html and the figure in it; prints the tables.

    Args:
        results: what segmentation_study.json holds (runs.segmentation_study).
        workdir: pathlib.Path.
    """
    rows, images = results['rows'], workdir / 'images'
    shown = {images / 'curves.png': CURVES_FIGURE, images / 'dice.png': FIGURE}
    for path, figure in zip(shown, (draw_curves(results), draw(results))):
        figures.save(figure, path)
    tables = {
        'dice': (COLUMNS, [_dice_line(row) for row in rows]),
        'others': (
            OTHER_COLUMNS,
            [(each['name'], _of(each['dice'])) for each in results['others']],
        ),
        'negatives': (NEGATIVE_COLUMNS, [_negative_line(row) for row in rows if row['negatives']]),
    }
    page, drawn = prose.read('segmentation_study'), [Figure(*each) for each in shown.items()]
    sections = [
        page.section(name, *table, drawn if name == 'dice' else ())
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
    real = [row for row in rows if row['mode'] == 'real'][-1]
    facts = {'real': real['budget'], 'all': _of(real['dice'])}
    if not alone:
        return ONLY.format(**facts)
    best = max(alone, key=lambda row: row['dice']['mean'])
    return BEST.format(alone=f'{_of(best["dice"])} ({_name(best)})', **facts)


def draw_curves(results):
    """Dice by number of real masks, with and without synthetic lesions of one maker."""
    rule = _rule(results['rows'])
    curves = by_budget.curves(results['rows'], 'dice', SOURCES, MASKS)
    return figures.draw_curves(curves, MASKS, LABEL, (RULE, rule) if rule else None)


def _rule(rows):
    """The Dice of the best rule on the slices that networks are compared on, or 0."""
    found = [row for row in rows if row['better_than_rule']]
    return found[0]['dice']['mean'] - found[0]['better_than_rule']['mean'] if found else 0.0


def draw(results):
    """The figure of the study: networks by their number of real masks, and what needs none.

    The dotted line is the best of the rules that need no network, fitted on all real masks.
    """
    estimate_of = lambda row: estimate(
        _name(row), row['dice'], 'network' if row['source'] else 'stand-in'
    )
    panels = forest(results['rows'], estimate_of, MASKS)
    others = results['others']
    if others:
        panels['not of this study'] = [
            estimate(each['name'], each['dice'] | {'seeds': ()}, 'reference') for each in others
        ]
    return figures.draw_forest(panels, LABEL, limits=None, reference=_rule(results['rows']))


def _name(row):
    return name_of(row, SOURCES, MASKS)


def _of(mean):
    return interval(*(mean[end] for end in ('mean', 'low', 'high')))


def _gain(difference):
    if difference is None:
        return ''
    return '{mean:+.3f} ({low:+.3f} to {high:+.3f})'.format(**difference)


def _dice_line(row):
    dice = row['dice']
    gains = (_gain(row[f'better_than_{other}']) for other in ('real', 'painted', 'rule'))
    return (_name(row), row['budget'], _of(dice), over_seeds(dice), *gains, _of(row['every_slice']))


def _negative_line(row):
    found = row['negatives']
    shares = ' '.join(f'{each["mean share"]:.1%}' for each in found)
    counts = ' '.join(f'{each["slices with over 1 %"]}/{each["slices"]}' for each in found)
    return _name(row), row['budget'], shares, counts

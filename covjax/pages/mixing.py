"""The page of a study of mixtures: what synthetic slices add to few real pictures."""

from covjax.pages import figures, html, prose
from covjax.pages.by_budget import estimate, forest, name_of
from covjax.pages.html import Figure
from covjax.pages.pair_study import scan_lines
from covjax.pages.tables import interval, over_seeds

FIGURES = {
    'lesions': 'Areas under the ROC curve on real lesions, with intervals and every seed',
    'figures': 'Areas under the ROC curve on real figures, with intervals and every seed',
}
LABELS = {
    'lesions': 'area under the ROC curve, lesion against healthy lung of the same pictures',
    'figures': 'area under the ROC curve, COVID-19 against other pictures',
}
COLUMNS = (
    *('learned from', 'real COVID pictures', 'learned', 'counts', 'area', 'over seeds'),
    *('better than real pictures alone by', 'better than painted by'),
)
BY_SOURCE = ('against crawled pictures', 'against MedPix')
SCANS = (
    *('learned from', 'real COVID pictures', 'scan', 'mean score, a seed each'),
    *('above the healthy scan', 'infected above not, comparable slices', 'comparable pairs'),
)
SOURCES = {'painted': 'painted pairs', 'made': 'made pairs', 'cyclegan': 'CycleGAN slices'}
PICTURES = 'real pictures'
NO_GAIN = 'No mixture is better than real pictures alone by an interval above 0 on {test}.'
GAIN = 'On {test} {names} are better than real pictures alone by an interval above 0.'


def write(results, workdir):
    """Writes mixing.html and the figures in it; prints the tables.

    Args:
        results: what mixing.json holds (runs.mixing), NaN where there is no number.
        workdir: pathlib.Path.
    """
    rows, page = results['rows'], prose.read('mixing')
    left_out = ', '.join(f'{n} of {key}' for key, n in results['left_out'].items())
    about = {'learned': results['learned'], 'left_out': left_out}
    tables = {
        'lesions': (COLUMNS, [_line(row, 'lesions') for row in rows]),
        'figures': (
            (*COLUMNS, *BY_SOURCE),
            [(*_line(row, 'figures'), *_by_source(row)) for row in rows],
        ),
        'scans': (SCANS, [line for row in rows for line in scan_lines(row, about_row(row))]),
    }
    sections = []
    for name, table in tables.items():
        if table[1]:
            drawn = [_figure(rows, name, workdir)] if name in FIGURES else []
            sections.append(page.section(name, *table, drawn, **about))
    gains = ' '.join(_gains(rows, test) for test in FIGURES)
    seeds = len(rows[0]['lesions']['seeds'])
    opening = page.opening.format(read=results['read'], seeds=seeds, gains=gains)
    html.write(workdir / 'mixing.html', page.title, opening, sections)
    for columns, lines in tables.values():
        print('', ' | '.join(columns), *(' | '.join(line) for line in lines), sep='\n')
    print(f'\n{workdir / "mixing.html"}')


def _name(row):
    return name_of(row, SOURCES, PICTURES)


def about_row(row):
    """The first cells of a row: what it learned from, and how many real COVID pictures."""
    return _name(row), row['budget']


def _figure(rows, test, workdir):
    """The Figure of a forest plot of a test, which is written."""
    kind_of = lambda row: 'network' if row['counts'] else 'reference'
    estimate_of = lambda row: estimate(_name(row), row[test], kind_of(row))
    panels = forest(rows, estimate_of, PICTURES)
    path = workdir / 'images' / f'{test}.png'
    figures.save(figures.draw_forest(panels, LABELS[test], limits=None), path)
    return Figure(path, FIGURES[test])


def _gains(rows, test):
    """A sentence on which rows are better than real pictures alone."""
    names = [
        f'{_name(row)} ({row["budget"]} real)'
        for row in rows
        if row['counts'] and row[test].get('better_than_real', {'low': 0})['low'] > 0
    ]
    return (GAIN if names else NO_GAIN).format(test=test, names='; '.join(names))


def _gain(difference):
    return '{mean:+.3f} ({low:+.3f} to {high:+.3f})'.format(**difference) if difference else ''


def _line(row, test):
    found, learned = row[test], row['learned']
    return (
        *about_row(row),
        f'{sum(learned) / len(learned):.3f}',
        'yes' if row['counts'] else 'no',
        interval(found['mean'], found['low'], found['high']),
        over_seeds(found),
        *(_gain(found.get(f'better_than_{other}')) for other in ('real', 'painted')),
    )


def _by_source(row):
    areas = (row['by_source'].get(source) for source in ('crawled', 'medpix'))
    return [interval(a['mean'], a['low'], a['high']) if a else '' for a in areas]

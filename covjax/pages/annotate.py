"""annotate.html of a project in rounds: how much a person still had to correct, round by round."""

from covjax.pages import figures, html, prose
from covjax.pages.html import Figure

COLUMNS = ('round', 'segmenter', 'order', 'files', 'edited', 'Dice', 'minutes a file')
PICTURE = 'What was drawn for the last round, in colour'
CURVES = 'Dice of drafts and final masks (up is better), and the share that was edited'


def write(workdir, summaries, found):
    """Writes annotate.html and rounds.png.

    Args:
        workdir: pathlib.Path of the project.
        summaries: [dict] of rounds.summary.
        found: [rounds.Round].
    """
    page = prose.read('annotate')
    curves = workdir / 'rounds.png'
    draw(curves, summaries)
    last = summaries[-1]
    opening = page.opening.format(
        count=len(summaries),
        files=sum(each['files'] for each in summaries),
        dice='not known' if last['dice'] is None else f'{last["dice"]:.3f}',
        edited='not known' if last['edited'] is None else f'{last["edited"]:.1%}',
    )
    rows = [[each[name] for name in each] for each in summaries]
    sections = [
        page.section('rounds', COLUMNS, rows, figures=[Figure(curves, CURVES)]),
        page.section('drafts', figures=[Figure(found[-1].folder / 'overlay.png', PICTURE)]),
    ]
    html.write(workdir / 'annotate.html', page.title, opening, sections)


def draw(path, summaries):
    """Draws Dice and the edited share of each round into a PNG (pathlib.Path)."""
    figure, ax = figures.subplots()
    numbers = [each['round'] for each in summaries]
    for key, label, marker in (('dice', 'Dice', 'o'), ('edited', 'share edited', 's')):
        known = [(n, each[key]) for n, each in zip(numbers, summaries) if each[key] is not None]
        if known:
            ax.plot(*zip(*known), marker=marker, label=label)
    ax.set(xlabel='round', ylim=(0, None), xticks=numbers)
    ax.legend()
    figures.save(figure, path)

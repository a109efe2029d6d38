"""audit.html: the verdicts of all checks as a page."""

import math

from covjax.audit.probe import NETWORK
from covjax.audit.regions import NAME as REGIONS
from covjax.audit.verdict import FLAGS
from covjax.pages import figures, html, prose, tables
from covjax.pages.html import Figure, Mark

AREAS = 'Areas under the ROC curve of the network and of what sees no anatomy, for each test set'
ASKED = ' Every question is about one class of {classes}: {positive}, against the rest.'
REACHES = 'On {test} it reaches AUC {network}'
BEST = '; the best of {count} regressions that see no anatomy reaches {best}'
TONES = {True: 'bad', False: 'good', None: 'none'}


def write(path, title, about, verdicts, command='', prose_name='audit'):
    """Writes the page, and the forest plot in it as areas.png beside the pictures of the checks.

    Args:
        path: pathlib.Path of the page.
        title: of the page.
        about: dict of what was audited, with `tests`; the others fill the places of the prose.
        verdicts: [verdict.Verdict].
        command: what would train the experiments that are missing; '' where there are none.
        prose_name: of the file with the text of the page.
    """
    page = prose.read(prose_name)
    panels = forest(verdicts, about['tests'])
    sections = [
        page.section('areas', figures=drawn(panels, path.parent / 'images' / 'areas.png')),
        page.section('verdicts', ['', 'question', 'finding'], verdict_rows(verdicts)),
        *(_section(page, verdict) for verdict in sorted(verdicts, key=_order)),
        *([page.section('command', command=command)] if command else []),
        page.section('about', ['test', 'data set'], about['tests'].items(), **about),
    ]
    html.write(path, title, page.opening.format(**_opening(about, verdicts, panels)), sections)


def as_json(about, verdicts):
    """The content of audit.json: `about` (dict), and the verdicts."""
    lines = [verdict._asdict() for verdict in verdicts]
    for line in lines:
        del line['figures']
        line['areas'] = [{'test': test, **_numbers(each)} for test, each in line['areas']]
    return {**about, 'verdicts': lines}


def _numbers(estimate):
    """What audit.json has of an Estimate; NaN, which JSON does not have, is null."""
    label = estimate.label.replace('\n', ' ')
    ends = {name: getattr(estimate, name) for name in ('value', 'low', 'high')}
    known = {name: None if math.isnan(value) else value for name, value in ends.items()}
    return {'label': label, 'kind': estimate.kind, **known}


def flag(value):
    """The flag of a verdict as a cell, coloured and in words."""
    return Mark(FLAGS[value], TONES[value])


def verdict_rows(verdicts):
    """The rows of the table of verdicts: flag, name, finding."""
    return [(flag(verdict.flag), verdict.name, verdict.finding) for verdict in verdicts]


def red_flags(verdicts):
    """How many of the verdicts are red flags."""
    return sum(verdict.flag is True for verdict in verdicts)


def forest(verdicts, tests):
    """The areas that checks found, by test set, each once: the network first.

    Args:
        verdicts: [verdict.Verdict].
        tests: names of the test sets; the others, such as validation, are left out.

    Returns:
        {test: [pages.figures.Estimate]}, only of those with any.
    """
    panels = {test: {} for test in tests}
    for verdict in verdicts:
        for test, estimate in verdict.areas:
            if test in panels:
                panels[test].setdefault(estimate.label, estimate)
    first = lambda estimate: estimate.label != NETWORK
    return {test: sorted(found.values(), key=first) for test, found in panels.items() if found}


def drawn(panels, path, caption=AREAS):
    """The forest plot of some panels, as the figures of a section.

    Args:
        panels: of `forest`.
        path: pathlib.Path of the PNG file.
        caption: of the figure.
    """
    if not panels:
        return ()
    figures.save(figures.draw_forest(panels, 'area under the ROC curve'), path)
    return (Figure(path, caption),)


def _order(verdict):
    """The regions come first: they are the picture that says most."""
    return verdict.name != REGIONS


def _section(page, verdict):
    shown = page.section(
        'verdict',
        verdict.columns if verdict.rows else (),
        verdict.rows,
        verdict.figures,
        name=verdict.name[0].upper() + verdict.name[1:],
        flag=FLAGS[verdict.flag],
        finding=verdict.finding,
        rule=verdict.rule,
    )
    return shown._replace(level=3)


def _opening(about, verdicts, panels):
    """The places of the opening."""
    asked = ''
    if 'positive_class' in about:
        asked = ASKED.format(classes=', '.join(about['classes']), positive=about['positive_class'])
    return {
        **about,
        'model': tables.NAMES.get(about['model'], about['model']),
        'train': tables.in_words(about['train']) if about['train'] else 'images that are not known',
        'questions': sum(verdict.flag is not None for verdict in verdicts),
        'flags': red_flags(verdicts),
        'areas': ' '.join(_reached(test, lines) for test, lines in panels.items()),
        'asked': asked,
        'unanswered': _unanswered(verdicts),
    }


def _unanswered(verdicts):
    """A sentence on the questions without an answer, or ''."""
    names = [verdict.name for verdict in verdicts if verdict.flag is None]
    return f' There is no answer to these: {"; ".join(names)}.' if names else ''


def _reached(test, lines):
    """A sentence on the network and the best regression on a test set."""
    of_network = next((line for line in lines if line.label == NETWORK), None)
    if of_network is None:
        return ''
    regressions = [line for line in lines if line.kind == 'regression']
    said = REACHES.format(test=test, network=_interval(of_network))
    if regressions:
        best = max(regressions, key=lambda line: line.value)
        said += BEST.format(count=len(regressions), best=_interval(best))
    return said + '.'


def _interval(line):
    return tables.interval(line.value, line.low, line.high)

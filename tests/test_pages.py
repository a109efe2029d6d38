"""Pages: what any of them is made of, whatever it shows."""

import re
import string
import tomllib
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import ROOT

from configs import report as report_config
from covjax import InputError, joined
from covjax.ct import picture
from covjax.pages import figures, html, prose, tables
from covjax.pages.figures import Estimate
from covjax.pages.html import Figure, Mark, Section
from covjax.runs import report

pytestmark = pytest.mark.fast
PROSE = sorted(path.stem for path in (ROOT / 'covjax' / 'pages' / 'prose').glob('*.toml'))
HOSTILE = '<script>"a" & \'b\'</script>'


class Outline(HTMLParser):
    """What a page has: [(tag, attributes)] as they open, and text by the tag around it."""

    def __init__(self, page):
        super().__init__()
        self.opened, self.inside, self.texts = [], [], {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.opened.append((tag, dict(attributes)))
        if tag not in ('meta', 'img', 'wbr'):
            self.inside.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.inside[-1][0] == tag, (tag, self.inside)
        self.inside.pop()

    def handle_data(self, data):
        if self.inside:
            self.texts.setdefault(self.inside[-1][0], []).append(data)


@pytest.fixture
def page(tmp_path):
    """A page with everything that a section can have, all of it hostile."""
    path = tmp_path / 'grey.png'
    picture.save(path, np.zeros((4, 4), np.uint8))
    section = Section(
        title=HOSTILE,
        text=f'{HOSTILE}\n\n- one\n- two\n  lines',
        columns=[HOSTILE, 'number', 'none', 'mark'],
        rows=[[HOSTILE * 3, 0.12345, None, Mark(HOSTILE, 'bad')]],
        figures=[Figure(path, HOSTILE)],
    )
    return html.page(HOSTILE, HOSTILE, [section, section._replace(level=3)])


def test_whatever_is_named_stays_text(page):
    outline = Outline(page)
    assert '<script' not in page and not outline.inside
    # A long cell may be broken at a slash, which is no change of its text.
    for tag in ('h1', 'h2', 'h3', 'p', 'th', 'span', 'figcaption'):
        assert HOSTILE in ''.join(outline.texts[tag]), tag
    assert HOSTILE * 3 in ''.join(outline.texts['td'])
    assert '0.123' in outline.texts['td'] and 'None' not in page
    assert ''.join(outline.texts['li']) == 'onetwo\n  lines' * 2


def test_a_page_shows_pictures_before_tables_and_asks_for_nothing(page):
    outline = Outline(page)
    tags = [tag for tag, _ in outline.opened]
    assert tags.index('img') < tags.index('table')
    for tag, attributes in outline.opened:
        assert attributes.get('src', 'data:').startswith('data:') and 'href' not in attributes
        assert tag != 'img' or attributes['alt'] == HOSTILE
    assert 'url(' not in html.STYLE and '@import' not in html.STYLE
    assert 'Not for diagnosis' in page and html.DRAWN not in page
    assert html.DRAWN in html.page('Phantoms: x', '', [])


def test_every_table_scrolls_in_a_box_of_its_own(page):
    boxes = re.findall(r'<div class="wide" tabindex="0"><table>', page)
    assert len(boxes) == page.count('<table>') == 2
    assert re.search(r'\.wide \{ overflow-x: auto;', html.STYLE)


@pytest.mark.parametrize('scheme', ['light dark', 'prefers-color-scheme: dark', 'print'])
def test_the_style_knows_light_dark_and_print(scheme):
    assert scheme in html.STYLE


@pytest.mark.parametrize('name', PROSE)
def test_prose_has_an_opening_and_sections(name):
    page = prose.read(name)
    assert page.opening.strip() and page.sections
    for part in page.sections.values():
        assert set(part) == {'title', 'text'}
    raw = (ROOT / 'covjax' / 'pages' / 'prose' / f'{name}.toml').read_text(encoding='utf-8')
    assert max(map(len, raw.splitlines())) <= 100 and tomllib.loads(raw)
    places = [field for _, field, *_ in string.Formatter().parse(raw) if field is not None]
    assert all(field.isidentifier() for field in places)


def test_a_forest_plot_has_a_panel_a_title_and_a_line_an_estimate():
    lines = [Estimate('one', 0.7, 0.6, 0.8), Estimate('two', 0.5, np.nan, np.nan, 'regression')]
    axes = figures.draw_forest({'a': lines, 'b': lines[:1]}, 'area').axes
    assert [ax.get_title(loc='left') for ax in axes] == ['a', 'b']
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ['one', 'two']
    assert [text.get_text() for text in axes[0].texts] == ['0.700', '0.500']
    intervals = [line.get_xdata() for line in axes[0].lines if len(line.get_xdata()) == 2]
    assert [0.6, 0.8] in [list(ends) for ends in intervals]


@pytest.mark.parametrize('name', [r'dose $5 \foo to $10', '$a_{b}$', '$', '{x} %d'])
def test_names_in_figures_are_no_formulas(name, tmp_path):
    figure = figures.draw_forest({name: [Estimate(name, 0.7, 0.6, 0.8)]}, 'area')
    figures.save(figure, tmp_path / 'forest.png')
    (ax,) = figure.axes
    shown = [ax.get_title(loc='left'), *(text.get_text() for text in ax.get_yticklabels())]
    assert [text.replace(r'\$', '$') for text in shown] == [name] * 2


def test_a_report_of_nothing_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match='config.evaluations is empty; give workdirs'):
        report.run(report_config.get_config(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings('error')
def test_a_forest_plot_of_long_names_keeps_room_for_its_lines(tmp_path):
    name = 'a/long/folder' * 12
    lines = [Estimate(f'{name},\nfitted on {name} + {name}', 0.7, 0.6, 0.8)]
    figure = figures.draw_forest({name: lines}, 'area')
    figures.save(figure, tmp_path / 'forest.png')
    (ax,) = figure.axes
    assert ax.get_position().width > 0.3 and ax.get_position().height > 0.3


@pytest.mark.parametrize(
    'spec, words',
    [
        ('covid_ct:train', 'covid_ct'),
        ('covid_ct:train@covid', 'covid_ct covid'),
        ('covid_ct/clean:test', 'covid_ct/clean test'),
        (
            'synthetic_covid_ct:train+covid_ct:train@noncovid',
            'synthetic_covid_ct + covid_ct noncovid',
        ),
    ],
)
def test_training_sets_are_named_in_words(spec, words):
    assert tables.in_words(spec) == words


@pytest.mark.parametrize(
    'names, words', [('a', 'a'), ('ab', 'a and b'), ('abc', 'a, b and c')], ids=len
)
def test_names_are_listed_as_english_lists_them(names, words):
    assert joined(iter(names)) == words

"""What is under its name is whole: files and folders that fail half-way leave what was there."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from covjax import drafts
from covjax.ct import picture
from covjax.pages import figures, html
from covjax.weights import safetensors
from covjax.workdir import write_csv, write_json

pytestmark = pytest.mark.fast
GREY = np.zeros((4, 4), np.uint8)
# Every function that writes a file under its final name.
WRITERS = {
    'text': lambda path: drafts.write_text(path, 'new'),
    'json': lambda path: write_json(path, {'new': 1}),
    'csv': lambda path: write_csv(path, [('new',)]),
    'png': lambda path: picture.save(path, GREY),
    'figure': lambda path: figures.save(figures.subplots()[0], path),
    'html': lambda path: html.write(path, 'new', '', []),
    'safetensors': lambda path: safetensors.write(path, {'a': {'b': GREY}}, {}),
}


def named(folder, kind):
    return folder / 'new' / f'a.{"png" if kind == "figure" else kind}'


@pytest.mark.parametrize('kind', WRITERS)
def test_a_file_gets_its_name_when_it_is_whole(tmp_path, kind, monkeypatch):
    path, seen, replace = named(tmp_path, kind), [], drafts.os.replace

    def noted(draft, final):
        seen.append((pathlib.Path(draft).stat().st_size > 0, pathlib.Path(final).exists()))
        replace(draft, final)

    monkeypatch.setattr(drafts.os, 'replace', noted)
    WRITERS[kind](path)
    assert seen == [(True, False)] and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize('kind', WRITERS)
def test_a_file_that_fails_leaves_the_one_before(tmp_path, kind, monkeypatch):
    path = named(tmp_path, kind)
    drafts.write_text(path, 'before')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(drafts.os, 'replace', full)
    with pytest.raises(OSError, match='No space left'):
        WRITERS[kind](path)
    assert path.read_text() == 'before' and [*path.parent.iterdir()] == [path]


def test_a_folder_replaces_another_when_it_is_whole(tmp_path):
    final = tmp_path / 'a'
    for text in ('one', 'two'):
        with drafts.folder(final) as draft:
            (draft / text).touch()
    assert [path.name for path in final.iterdir()] == ['two']
    with pytest.raises(KeyError), drafts.folder(final) as draft:
        (draft / 'three').touch()
        raise KeyError
    assert [path.name for path in tmp_path.rglob('*')] == ['a', 'two']


def test_files_are_what_they_say(tmp_path):
    WRITERS['json'](tmp_path / 'a.json')
    assert json.loads((tmp_path / 'a.json').read_text()) == {'new': 1}
    WRITERS['png'](tmp_path / 'a.png')
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'a.png')), GREY)

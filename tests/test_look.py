"""The page about a data set shows what is planted in it."""

import csv
import json
import pathlib
import re
import shutil

import pytest
from PIL import Image, ImageEnhance

from configs import look as config_file
from covjax.data import datasets
from covjax.runs import look, prepare

SPLITS = ('train', 'validation', 'test')
YELLOW = (255, 210, 60)


def darker_copy(source, target):
    image = Image.open(source).convert('L')
    ImageEnhance.Brightness(image).enhance(0.7).save(target)


def plant(raw, folder):
    """COVID-CT phantoms with a copy between classes and a source document in two splits.

    A training picture is also a test picture of the other class, darker. A test picture is renamed
    to a document that has pictures in train.

    Returns:
        (raw folder, name of the picture that is copied, document).
    """
    source = pathlib.Path(shutil.copytree(raw / 'covid_ct', folder / 'covid_ct'))
    lists = {path.name: path for path in (source / 'Data-split').rglob('*.txt')}
    names = {name: path.read_text().split() for name, path in lists.items()}
    copied = names['trainCT_NonCOVID.txt'][0]
    document = names['trainCT_COVID.txt'][0].split('-p')[0]
    *test, renamed = names['testCT_COVID.txt']
    covid = source / 'CT_COVID'
    darker_copy(source / 'CT_NonCOVID' / copied, covid / '2021.01.01.1-p1-1.png')
    darker_copy(covid / renamed, covid / f'{document}-p9-99.png')
    (covid / renamed).unlink()  # or it would be a copy of the second too
    test += ['2021.01.01.1-p1-1.png', f'{document}-p9-99.png']
    lists['testCT_COVID.txt'].write_text('\n'.join(test))
    return source, copied, document


def page_of(workdir, data_dir, dataset, **fields):
    """Runs `look` -> the text of its page."""
    config = config_file.get_config()
    config.update({'dataset': dataset, 'data_dir': str(data_dir), **fields})
    workdir.mkdir()
    look.run(config, workdir)
    return (workdir / 'look.html').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def planted(raw, tmp_path_factory):
    """(workdir of look, its page, data folder, copied picture, document) of a planted data set."""
    folder = tmp_path_factory.mktemp('planted')
    source, copied, document = plant(raw, folder)
    prepare.build('covid_ct', source, str(folder / 'data'))
    html = page_of(folder / 'look', folder / 'data', 'covid_ct')
    return folder / 'look', html, folder / 'data', copied, document


def test_a_planted_copy_is_the_only_pair(planted):
    workdir, _, _, copied, _ = planted
    with (workdir / 'near_duplicates.csv').open() as file:
        (pair,) = csv.DictReader(file)
    expected = {f'noncovid/{copied}', 'covid/2021.01.01.1-p1-1.png'}
    assert {pair['id_1'], pair['id_2']} == expected
    assert float(pair['correlation']) > 0.97


def test_a_planted_document_is_the_only_one_in_two_splits(planted):
    _, html, _, _, document = planted
    assert '1 source documents or series are in more than one split' in html
    assert '1 pairs of different groups' in html
    assert document in html


def test_every_split_and_class_is_counted_and_drawn(planted):
    workdir, html, data_dir, _, _ = planted
    for split in SPLITS:
        rows = datasets.read_rows(f'covid_ct:{split}', str(data_dir))
        for label in ('covid', 'noncovid'):
            n = sum(row.label_name == label for row in rows)
            assert f'<td>{split}, {label}</td><td>{n}</td>' in html
            assert (workdir / 'images' / f'sheet_{split}_{label}.png').is_file()


def test_the_page_needs_nothing_else(planted):
    """Every picture is embedded, and described."""
    workdir, html, *_ = planted
    assert not re.search(r'(src|href)="(?!data:)', html)
    pictures = list((workdir / 'images').glob('*.png'))
    assert html.count('<figure>') == html.count('alt="') == len(pictures)


def test_slices_have_boxes_and_diameters(data_dir, tmp_path):
    html = page_of(tmp_path / 'look', data_dir, 'luna16_patches/nodules', limit=2)
    assert 'Only the first 2 of train' in html
    assert 'diameter' in html
    sheet = Image.open(tmp_path / 'look' / 'images' / 'sheet_train.png').convert('RGB')
    assert YELLOW in {colour for _, colour in sheet.getcolors(1 << 20)}


def test_the_shown_command(data_dir, launch, tmp_path):
    """Through launch.py, which keeps the config."""
    result = launch(
        '--config=configs/look.py',
        '--config.dataset=covid_ct:test',
        f'--config.data_dir={data_dir}',
        f'--workdir={tmp_path / "look"}',
    )
    assert result.returncode == 0, result.stderr
    counts = '0 documents or series in two splits, 0 near-duplicates'
    assert f'12 examples of covid_ct:test, {counts}' in result.stdout
    assert json.loads((tmp_path / 'look' / 'config.json').read_text())['dataset'] == 'covid_ct:test'

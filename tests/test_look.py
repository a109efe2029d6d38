"""The page about a data set shows what is planted in it."""

import csv
import json
import re
import shutil

from PIL import Image, ImageEnhance

from covjax.data import datasets
from covjax.runs import prepare


def plant(raw, folder):
    """COVID-CT phantoms in which one training picture is also a test picture of the other class, darker, and one source document has pictures in two splits."""
    source = shutil.copytree(raw / 'covid_ct', folder / 'covid_ct')
    lists = {path.name: path for path in (source / 'Data-split').rglob('*.txt')}
    names = {name: path.read_text().split() for name, path in lists.items()}
    copied, straddling = names['trainCT_NonCOVID.txt'][0], names['trainCT_COVID.txt'][0]
    document = straddling.split('-p')[0]
    for kind, name, origin in (
        ('COVID', '2021.01.01.1-p1-1.png', source / 'CT_NonCOVID' / copied),
        ('COVID', f'{document}-p9-99.png', source / 'CT_COVID' / names['testCT_COVID.txt'][-1]),
    ):
        ImageEnhance.Brightness(Image.open(origin).convert('L')).enhance(0.7).save(
            source / f'CT_{kind}' / name
        )
        lists['testCT_COVID.txt'].write_text('\n'.join([*names['testCT_COVID.txt'], name]))
        names['testCT_COVID.txt'].append(name)
    (
        source / 'CT_COVID' / names['testCT_COVID.txt'][-3]
    ).unlink()  # or it would be a copy of the second too
    lists['testCT_COVID.txt'].write_text(
        '\n'.join(
            name
            for i, name in enumerate(names['testCT_COVID.txt'])
            if i != len(names['testCT_COVID.txt']) - 3
        )
    )
    return source, copied, document


def test_what_is_planted_is_shown(launch, raw, tmp_path):
    source, copied, document = plant(raw, tmp_path)
    prepare.build('covid_ct', source, str(tmp_path / 'data'))
    result = launch(
        '--config=configs/look.py',
        '--config.dataset=covid_ct',
        f'--config.data_dir={tmp_path / "data"}',
        f'--workdir={tmp_path / "look"}',
    )
    assert result.returncode == 0, result.stderr
    assert '1 documents or series in two splits, 1 near-duplicates' in result.stdout
    (pair,) = csv.DictReader((tmp_path / 'look' / 'near_duplicates.csv').open())
    assert {pair['id_1'], pair['id_2']} == {
        f'noncovid/{copied}',
        'covid/2021.01.01.1-p1-1.png',
    } and float(pair['correlation']) > 0.97
    html = (tmp_path / 'look' / 'look.html').read_text()
    assert document in html and not re.search(r'(src|href)="(?!data:)', html)
    for split, label, n in (
        (
            split,
            label,
            sum(
                row['label_name'] == label
                for row in datasets.read_rows(f'covid_ct:{split}', str(tmp_path / 'data'))
            ),
        )
        for split in ('train', 'validation', 'test')
        for label in ('covid', 'noncovid')
    ):
        assert f'<td>{split}, {label}</td><td>{n}</td>' in html
        assert (tmp_path / 'look' / 'images' / f'sheet_{split}_{label}.png').is_file()
    assert (
        html.count('<figure>')
        == len(list((tmp_path / 'look' / 'images').glob('*.png')))
        == html.count('alt="')
    )


def test_slices_with_boxes(launch, data_dir, tmp_path):
    result = launch(
        '--config=configs/look.py',
        '--config.dataset=luna16_patches/nodules',
        f'--config.data_dir={data_dir}',
        f'--workdir={tmp_path / "look"}',
        '--config.limit=2',
    )
    assert result.returncode == 0, result.stderr
    html = (tmp_path / 'look' / 'look.html').read_text()
    assert 'Only the first 2 of train' in html and 'diameter' in html
    sheet = Image.open(tmp_path / 'look' / 'images' / 'sheet_train.png').convert('RGB')
    assert (255, 210, 60) in {colour for _, colour in sheet.getcolors(1 << 20)}


def test_config_is_kept(data_dir, launch, tmp_path):
    launch(
        '--config=configs/look.py',
        '--config.dataset=covid_ct:test',
        f'--config.data_dir={data_dir}',
        f'--workdir={tmp_path / "look"}',
    )
    assert json.loads((tmp_path / 'look' / 'config.json').read_text())['dataset'] == 'covid_ct:test'

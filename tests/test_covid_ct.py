"""COVID-CT: the published splits, the mended ones, where the files may lie, and what is told of them."""

import collections
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from covjax import InputError
from covjax.data import datasets, lineage
from covjax.data.near_duplicates import SIZE, across_groups, near_duplicates
from covjax.runs import prepare
from tfds_builders.covid_ct.covid_ct_dataset_builder import (
    COPIES,
    Row,
    document_and_patient,
    mended,
)
from tfds_builders.covid_ct.covid_ct_dataset_builder import _read_patients as read_patients

SPLITS = ('train', 'validation', 'test')


def rows_of(name, data_dir):
    return {split: datasets.read_rows(f'{name}:{split}', str(data_dir)) for split in SPLITS}


def row(name, split, label='covid'):
    return Row(pathlib.Path(name), label, split, *document_and_patient(name, label, {}), split)


def zipped(source, target, layout):
    """The raw folder with its picture folders as .zip files, as the authors publish it, or as one .zip."""
    target.mkdir()
    if layout == 'one archive':
        with zipfile.ZipFile(target / 'COVID-CT-master.zip', 'w') as file:
            for path in source.rglob('*.*'):
                file.write(path, f'COVID-CT-master/{path.relative_to(source)}')
        return target
    shutil.copytree(source / 'Data-split', target / 'Data-split')
    (target / 'Images-processed').mkdir()
    for name in ('CT_COVID', 'CT_NonCOVID'):
        with zipfile.ZipFile(target / 'Images-processed' / f'{name}.zip', 'w') as file:
            for path in (source / name).iterdir():
                file.write(path, f'{name}/{path.name}')
                file.writestr(f'__MACOSX/{name}/{path.name}', b'resource fork')
    return target


@pytest.mark.parametrize('layout', ['two archives', 'one archive'])
def test_archives_give_the_same_examples(raw, data_dir, tmp_path, layout):
    prepare.build(
        'covid_ct', zipped(raw / 'covid_ct', tmp_path / 'zipped ü', layout), str(tmp_path / 'data')
    )
    assert rows_of('covid_ct', tmp_path / 'data') == rows_of('covid_ct', data_dir)


def test_pixels_are_those_of_the_file(raw, data_dir):
    for grey, example in datasets.read_native('covid_ct:test', data_dir):
        label, name = example['id'].split('/')
        image = Image.open(
            raw / 'covid_ct' / {'covid': 'CT_COVID', 'noncovid': 'CT_NonCOVID'}[label] / name
        )
        np.testing.assert_array_equal(grey, np.asarray(image.convert('L')))
        assert (example['file']['container'], example['file']['mode']) == (image.format, image.mode)


@pytest.mark.parametrize(
    'label, name, expected',
    [
        (
            'covid',
            '2020.03.22.20040782-p25-1542.png',
            ('2020.03.22.20040782', '2020.03.22.20040782-p25-1542'),
        ),
        ('covid', '2020.02.10.20021584-p6-52%10.png', ('2020.02.10.20021584', 'Patient 7')),
        ('noncovid', '71%0.jpg', ('crawled_71', 'crawled_71')),
        ('noncovid', '71%1.jpg', ('crawled_71', 'crawled_71')),
        ('noncovid', '71.png', ('71', '71')),
        ('noncovid', '14.png', ('medpix_patient_38', 'medpix_patient_38')),
    ],
)
def test_document_and_patient(label, name, expected):
    tables = {
        ('covid', '2020.02.10.20021584-p6-52%10.png'): 'Patient 7',
        ('noncovid', '14.png'): 'medpix_patient_38',
    }
    assert document_and_patient(name, label, tables) == expected


def test_a_straddling_document_goes_where_most_of_it_is():
    rows = [
        row('a-p1-1.png', 'train'),
        row('a-p1-2.png', 'train'),
        row('a-p2-3.png', 'test'),
        row('b-p1-1.png', 'validation'),
        row('b-p1-2.png', 'test'),
        row('c-p1-1.png', 'train'),
        row('7%0.jpg', 'test', 'noncovid'),
    ]
    assert [r.split for r in mended(rows)] == ['train'] * 3 + ['test'] * 2 + ['train', 'test']
    assert [r.published for r in mended(rows)] == [r.published for r in rows]


def test_copies_are_left_out_only_beside_what_they_copy():
    (copy, original), *_ = COPIES.items()
    rows = [row(copy[1], 'train', copy[0]), row('8.png', 'train', 'noncovid')]
    assert mended(rows) == rows
    assert [r.key for r in mended([*rows, row(original[1], 'test', original[0])])] == [
        ('noncovid', '8.png'),
        original,
    ]


def test_real_published_splits(real, tmp_path, capsys):
    prepare.build('covid_ct', real / 'covid_ct', str(tmp_path))
    assert 'byte for byte those published' in capsys.readouterr().out
    rows = rows_of('covid_ct', tmp_path)
    counts = {split: np.bincount([r['label'] for r in rows[split]]).tolist() for split in SPLITS}
    assert counts == {'train': [234, 191], 'validation': [58, 60], 'test': [105, 98]}
    groups = {r['id']: r['group'] for split in SPLITS for r in rows[split]}
    assert (
        groups['noncovid/14.png'] != groups['noncovid/14%0.jpg']
        and groups['noncovid/591.png'] == groups['noncovid/592.png']
    )
    records = lineage.record({'train': 'covid_ct:train'}, str(tmp_path), {'train': rows['train']})
    counts, ids = lineage.overlap(
        records, rows['test']
    )  # the published split shares one paper, and no patient
    assert counts == {'images': 0, 'groups': 0, 'documents': 2, 'validation': 0} and all(
        '2020.03.12.20034686' in name for name in ids
    )


def test_real_mended_splits(real, tmp_path):
    """No document in two splits, no copy between patients; the test split is part of the published one."""
    prepare.build('covid_ct/clean', real / 'covid_ct', str(tmp_path))
    rows = rows_of('covid_ct/clean', tmp_path)
    counts = {split: np.bincount([r['label'] for r in rows[split]]).tolist() for split in SPLITS}
    assert counts == {'train': [233, 190], 'validation': [58, 68], 'test': [104, 91]}
    assert (
        max(
            collections.Counter(
                document
                for split in SPLITS
                for document in {lineage.document(r['group']) for r in rows[split]}
            ).values()
        )
        == 1
    )
    assert {r['published_split'] for r in rows['test']} == {'test'}
    examples = datasets.read('covid_ct/clean:train+validation+test', str(tmp_path), SIZE)
    assert across_groups(near_duplicates(examples.images), examples.rows) == []


def test_real_tables_as_published(real, tmp_path):
    """The table of COVID patients is published as .xlsx: it says what the .csv says; without the other table, clean is refused."""
    tables = real / 'covid_ct' / 'meta'
    shutil.copy(tables / 'COVID-CT-MetaInfo.xlsx', tmp_path)
    shutil.copy(tables / 'NonCOVID-CT-MetaInfo.csv', tmp_path)
    sheet, text = read_patients(tmp_path), read_patients(tables)
    for label, folder in (('covid', 'CT_COVID'), ('noncovid', 'CT_NonCOVID')):
        for path in (real / 'covid_ct' / folder).iterdir():
            assert document_and_patient(path.name, label, sheet) == document_and_patient(
                path.name, label, text
            )
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('CT_COVID', 'CT_NonCOVID', 'Data-split'):
        (source / name).symlink_to(real / 'covid_ct' / name, target_is_directory=True)
    with pytest.raises(InputError, match='NonCOVID-CT-MetaInfo.csv'):
        prepare.build('covid_ct/clean', source, str(tmp_path / 'data'))


def test_phantoms_are_told_from_the_published_pictures(raw, tmp_path, capsys):
    prepare.build('covid_ct', raw / 'covid_ct', str(tmp_path))
    assert 'NOT those published' in capsys.readouterr().out

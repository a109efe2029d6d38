"""COVID-CT: the published splits, the mended ones, and where the files may lie."""

import collections
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from covjax import InputError
from covjax.audit import metadata_baseline, pixel_baseline
from covjax.data import datasets, lineage
from covjax.data.near_duplicates import (
    SAME_DETAIL,
    SIZE,
    across_groups,
    detail,
    near_duplicates,
)
from covjax.metrics import rates
from covjax.runs import prepare
from tfds_builders.covid_ct.covid_ct_dataset_builder import (
    COPIES,
    Picture,
    document_and_patient,
    mended,
    read_patients,
)

SPLITS = ('train', 'validation', 'test')
FOLDERS = {'covid': 'CT_COVID', 'noncovid': 'CT_NonCOVID'}


def rows_of(name, data_dir):
    """{split: [Row]}."""
    return {split: datasets.read_rows(f'{name}:{split}', str(data_dir)) for split in SPLITS}


def class_counts(rows):
    """{split: [non-COVID, COVID]}."""
    return {split: np.bincount([row.label for row in rows[split]]).tolist() for split in SPLITS}


def listed(name, split, label='covid'):
    """A Picture as a split file lists it, without meta tables."""
    origin = document_and_patient(name, label, {})
    return Picture(pathlib.Path(name), label, split, *origin, split)


def zip_all(source, target):
    """One archive, as GitHub gives it."""
    with zipfile.ZipFile(target / 'COVID-CT-master.zip', 'w') as file:
        for path in source.rglob('*.*'):
            file.write(path, f'COVID-CT-master/{path.relative_to(source)}')


def zip_folders(source, target):
    """The picture folders as .zip files, as the authors publish them, made on a Mac."""
    shutil.copytree(source / 'Data-split', target / 'Data-split')
    (target / 'Images-processed').mkdir()
    for name in FOLDERS.values():
        with zipfile.ZipFile(target / 'Images-processed' / f'{name}.zip', 'w') as file:
            for path in (source / name).iterdir():
                file.write(path, f'{name}/{path.name}')
                file.writestr(f'__MACOSX/{name}/{path.name}', b'resource fork')


@pytest.mark.parametrize('pack', [zip_all, zip_folders])
def test_archives_give_the_same_examples(raw, data_dir, tmp_path, pack):
    source = tmp_path / 'zipped ü'
    source.mkdir()
    pack(raw / 'covid_ct', source)
    prepare.build('covid_ct', source, str(tmp_path / 'data'))
    assert rows_of('covid_ct', tmp_path / 'data') == rows_of('covid_ct', data_dir)


def test_pixels_are_those_of_the_file(raw, data_dir):
    for grey, row in datasets.read_native('covid_ct:test', data_dir):
        label, name = row.id.split('/')
        image = Image.open(raw / 'covid_ct' / FOLDERS[label] / name)
        np.testing.assert_array_equal(grey, np.asarray(image.convert('L')))
        assert (row.file['container'], row.file['mode']) == (image.format, image.mode)


PATIENTS = {
    ('covid', '2020.02.10.20021584-p6-52%10.png'): 'Patient 7',
    ('noncovid', '14.png'): 'medpix_patient_38',
}


@pytest.mark.fast
@pytest.mark.parametrize(
    'label, name, document, patient',
    [
        (
            'covid',
            '2020.03.22.20040782-p25-1542.png',
            '2020.03.22.20040782',
            '2020.03.22.20040782-p25-1542',
        ),
        ('covid', '2020.02.10.20021584-p6-52%10.png', '2020.02.10.20021584', 'Patient 7'),
        ('noncovid', '71%0.jpg', 'crawled_71', 'crawled_71'),
        ('noncovid', '71%1.jpg', 'crawled_71', 'crawled_71'),
        ('noncovid', '71.png', '71', '71'),
        ('noncovid', '14.png', 'medpix_patient_38', 'medpix_patient_38'),
    ],
)
def test_document_and_patient(label, name, document, patient):
    assert document_and_patient(name, label, PATIENTS) == (document, patient)


@pytest.mark.fast
def test_a_straddling_document_goes_where_most_of_it_is():
    pictures = [
        listed('a-p1-1.png', 'train'),
        listed('a-p1-2.png', 'train'),
        listed('a-p2-3.png', 'test'),
        listed('b-p1-1.png', 'validation'),
        listed('b-p1-2.png', 'test'),
        listed('c-p1-1.png', 'train'),
        listed('7%0.jpg', 'test', 'noncovid'),
    ]
    splits = [picture.split for picture in mended(pictures)]
    assert splits == ['train'] * 3 + ['test'] * 2 + ['train', 'test']
    published = [picture.published for picture in mended(pictures)]
    assert published == [picture.published for picture in pictures]


@pytest.mark.fast
def test_copies_are_left_out_only_beside_what_they_copy():
    ((label, name), original), *_ = COPIES.items()
    pictures = [listed(name, 'train', label), listed('8.png', 'train', 'noncovid')]
    assert mended(pictures) == pictures
    original_label, original_name = original
    kept = mended([*pictures, listed(original_name, 'test', original_label)])
    assert [picture.key for picture in kept] == [('noncovid', '8.png'), original]


def test_phantoms_are_known_not_to_be_the_published_pictures(raw, data_dir, capsys):
    prepare.build('covid_ct', raw / 'covid_ct', data_dir)
    assert 'NOT those published' in capsys.readouterr().out


@pytest.fixture(scope='module')
def published(real, tmp_path_factory):
    """A folder with the published pictures, prepared as covid_ct and covid_ct/clean."""
    folder = str(tmp_path_factory.mktemp('published'))
    prepare.build('covid_ct', real / 'covid_ct', folder)
    prepare.build('covid_ct/clean', real / 'covid_ct', folder)
    return folder


def test_real_pictures_are_known_to_be_those_published(real, published, capsys):
    prepare.build('covid_ct', real / 'covid_ct', published)
    assert 'byte for byte those published' in capsys.readouterr().out


def test_real_published_splits(published):
    rows = rows_of('covid_ct', published)
    assert class_counts(rows) == {'train': [234, 191], 'validation': [58, 60], 'test': [105, 98]}
    groups = {row.id: row.group for split in SPLITS for row in rows[split]}
    assert groups['noncovid/14.png'] != groups['noncovid/14%0.jpg']
    assert groups['noncovid/591.png'] == groups['noncovid/592.png']


def test_real_published_splits_share_one_paper_and_no_patient(published):
    rows = rows_of('covid_ct', published)
    records = lineage.record({'train': 'covid_ct:train'}, published, {'train': rows['train']})
    counts, ids = lineage.overlap(records, rows['test'])
    assert counts == {'images': 0, 'groups': 0, 'documents': 2, 'validation': 0}
    assert all('2020.03.12.20034686' in name for name in ids)


def test_real_near_duplicates_between_patients_are_the_known_copies(published):
    """They are in train as non-COVID and in test as COVID, and agree in their fine structure."""
    examples = datasets.read('covid_ct:train+validation+test', published, SIZE)
    pairs = across_groups(near_duplicates(examples.images), examples.rows)
    found = {frozenset((examples.rows[i].id, examples.rows[j].id)) for _, i, j in pairs}
    assert found == {frozenset(map('/'.join, pair)) for pair in COPIES.items()}
    native = datasets.read_native('covid_ct:train+test', published)
    grey_of = {row.id: grey for grey, row in native}
    for first, second in found:
        assert detail(grey_of[first], grey_of[second]) > SAME_DETAIL


def test_real_mended_splits(published):
    """No document in two splits; the test split is part of the published one."""
    rows = rows_of('covid_ct/clean', published)
    assert class_counts(rows) == {'train': [233, 190], 'validation': [58, 68], 'test': [104, 91]}
    documents = collections.Counter()
    for split in SPLITS:
        documents.update({lineage.document(row.group) for row in rows[split]})
    assert max(documents.values()) == 1
    assert {row.others['published_split'] for row in rows['test']} == {'test'}


def test_real_mended_splits_have_no_copy_between_patients(published):
    examples = datasets.read('covid_ct/clean:train+validation+test', published, SIZE)
    assert across_groups(near_duplicates(examples.images), examples.rows) == []


def test_a_real_sheet_says_what_the_text_table_says(real, tmp_path):
    """The table of COVID patients is published as .xlsx."""
    tables = real / 'covid_ct' / 'meta'
    shutil.copy(tables / 'COVID-CT-MetaInfo.xlsx', tmp_path)
    shutil.copy(tables / 'NonCOVID-CT-MetaInfo.csv', tmp_path)
    sheet, text = read_patients(tmp_path), read_patients(tables)
    for label, folder in FOLDERS.items():
        for path in (real / 'covid_ct' / folder).iterdir():
            expected = document_and_patient(path.name, label, text)
            assert document_and_patient(path.name, label, sheet) == expected


@pytest.mark.fast
def test_a_picture_has_one_patient(tmp_path):
    """Rows that are there twice are one; two patients of one picture are refused."""
    table = tmp_path / 'NonCOVID-CT-MetaInfo.csv'
    rows = ['patient id,image name', '1,a.png', '1,a.png', '2,b.png']
    table.write_text('\n'.join(rows))
    assert read_patients(tmp_path) == {('noncovid', 'a.png'): '1', ('noncovid', 'b.png'): '2'}
    table.write_text('\n'.join([*rows, '3,b.png']))
    with pytest.raises(InputError, match='MetaInfo.csv: b.png is of the patients 2 and 3'):
        read_patients(tmp_path)


def test_real_pictures_without_their_table_are_not_mended(real, tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    for name in (*FOLDERS.values(), 'Data-split'):
        (source / name).symlink_to(real / 'covid_ct' / name, target_is_directory=True)
    with pytest.raises(InputError, match='NonCOVID-CT-MetaInfo.csv'):
        prepare.build('covid_ct/clean', source, str(tmp_path / 'data'))


# Accuracy and AUC as measured independently of this code.
@pytest.mark.parametrize(
    'probe, accuracy, auc',
    [
        (metadata_baseline.PROBE, (0.88, 0.89), (0.929, 0.935)),
        (pixel_baseline.PROBE, (0.673, 0.677), (0.708, 0.718)),
    ],
)
def test_real_baselines_reach_what_was_measured(published, probe, accuracy, auc):
    train, test = (
        datasets.read_native(f'covid_ct:{split}', published) for split in ('train', 'test')
    )
    labels = [row.label for _, row in test]
    found = rates.rates(labels, probe.scores(train, test))
    assert accuracy[0] < found['accuracy'] < accuracy[1]
    assert auc[0] < found['auc'] < auc[1]

"""What trained a model must not test it."""

import pathlib

import pytest

from covjax import InputError
from covjax.data import lineage
from covjax.data.rows import Row
from covjax.workdir import write_json

pytestmark = pytest.mark.fast

RECORDS = [
    {
        'role': 'train',
        'dataset': 'a:train',
        'through': '',
        'images': [['s1', 'doc1/p1', 'i1']],
    },
    {
        'role': 'cancer',
        'dataset': 'b:train',
        'through': 'generator',
        'images': [['s2', 'series2', 'i2']],
    },
    {
        'role': 'val',
        'dataset': 'a:validation',
        'through': '',
        'images': [['s3', 'doc3/p3', 'i3']],
    },
]
CLEAN = Row('y', 'doc7/p7', 's7')


@pytest.mark.parametrize(
    'row, kinds',
    [
        (Row('x', 'doc8/p8', 's1'), ['images']),
        (Row('x', 'doc1/p1', 's9'), ['groups', 'documents']),
        (Row('x', 'doc1/p9', 's9'), ['documents']),
        (Row('x', 'series2', 's9'), ['groups', 'documents']),
        (Row('x', 'other', 's9', source_sha256='s2'), ['images']),
        (Row('x', 'doc3/p3', 's3'), ['validation']),
        (Row('x', 'doc9/p1', 's9'), []),
    ],
    ids=[
        'the picture under another name',
        'another picture of the patient',
        'another patient of the document',
        'a series that trained the generator',
        'a translation of a picture',
        'a picture that picked a checkpoint',
        'nothing in common',
    ],
)
def test_overlap_counts_and_names_what_is_shared(row, kinds):
    counts, shared = lineage.overlap(RECORDS, [row, CLEAN])
    expected = dict.fromkeys(['images', 'groups', 'documents', 'validation'], 0)
    assert counts == expected | dict.fromkeys(kinds, 1)
    assert shared == ({'x': kinds} if kinds else {})


def test_the_clean_protocol_refuses_an_overlap_and_names_it():
    rows = [Row('leaked', 'doc1/p1', 's1')]
    with pytest.raises(InputError, match='leaked.*protocol') as refused:
        lineage.check(RECORDS, rows, 'a:test', 'clean')
    assert refused.value.details == ['leaked: images, groups, documents']


@pytest.mark.parametrize('protocol', ['official', 'paper'])
def test_other_protocols_count_an_overlap(protocol):
    rows = [Row('leaked', 'doc1/p1', 's1')]
    assert lineage.check(RECORDS, rows, 'a:test', protocol)['images'] == 1


def test_an_unknown_protocol_is_refused():
    with pytest.raises(InputError, match='config.protocol=lenient.*clean, official, paper'):
        lineage.check(RECORDS, [], 'a:test', 'lenient')


@pytest.fixture
def with_generator(tmp_path):
    """The data_dir of a synthetic data set, beside which the lineage of its generator lies."""
    folder = tmp_path / 'synthetic' / '1.0.0'
    folder.mkdir(parents=True)
    (folder / 'features.json').write_text('{}')
    (folder / 'dataset_info.json').write_text('{}')
    write_json(folder / 'lineage.json', [RECORDS[0] | {'role': 'covid'}])
    return str(tmp_path)


def test_lineage_of_a_generator_travels_with_its_data_set(with_generator):
    rows = [Row(f'i{i}', f'doc{i}/p', f's{i}') for i in range(16)]
    named = {'train': 'synthetic:train', 'val': 'synthetic:validation'}
    records = lineage.record(named, with_generator, {'train': rows, 'val': rows[:2]})
    assert [(record['role'], record['through'], len(record['images'])) for record in records] == [
        ('train', '', 16),
        ('covid', 'generator', 1),
        ('val', '', 2),
        ('val', 'generator', 1),  # it made the images that picked the checkpoint
    ]
    assert records[0]['images'][3] == ['s3', 'doc3/p', 'i3']


@pytest.mark.parametrize('role', ['train', 'val'])
def test_what_made_synthetic_images_must_be_known(with_generator, role):
    folder = pathlib.Path(with_generator)
    (folder / 'synthetic').rename(folder / 'synthetic_covid_ct')
    named = {role: 'synthetic_covid_ct:train'}
    assert len(lineage.record(named, with_generator, {role: []})) == 2
    (folder / 'synthetic_covid_ct' / '1.0.0' / 'lineage.json').unlink()
    with pytest.raises(InputError, match='lineage.json: no such file'):
        lineage.record(named, with_generator, {role: []})


def test_images_that_a_leaky_generator_made_for_validation_are_a_leak():
    records = [RECORDS[0] | {'role': 'val', 'through': 'generator'}]
    rows = [Row('leaked', 'doc1/p1', 's1')]
    assert lineage.overlap(records, rows)[0]['validation'] == 1


@pytest.mark.parametrize(
    'images, counts',
    [
        ([['s3', 'doc3/p3', 'i3']], None),
        (
            [['s1', 'doc1/p1', 'again'], ['s3', 'doc3/p3', 'i3']],
            '2 images 1 are in the training set and 1',
        ),
        ([['s3', 'doc1/p1', 'i3']], '1 images 0 are in the training set and 1 are of patients'),
        # What trained the generator of the training images is no training image itself.
        ([['s2', 'series2', 'i3']], None),
    ],
    ids=['others', 'a training image', 'another image of a training patient', 'of the generator'],
)
def test_validation_on_the_training_set_is_said(images, counts):
    picked = {'role': 'val', 'dataset': 'a:validation', 'through': '', 'images': images}
    lines = lineage.seen_twice([*RECORDS[:2], picked])
    assert len(lines) == (counts is not None)
    assert counts is None or counts in lines[0]
    assert counts is None or lines[0].startswith('config.val=a:validation: ')

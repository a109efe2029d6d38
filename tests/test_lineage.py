"""What trained a model must not test it."""

import pytest

from covjax import InputError
from covjax.data import lineage


def row(sha, group, name, **extra):
    return {'sha256': sha, 'group': group, 'id': name, **extra}


RECORDS = [
    {'role': 'train', 'dataset': 'a:train', 'through': '', 'images': [['s1', 'doc1/p1', 'i1']]},
    {
        'role': 'cancer',
        'dataset': 'b:train',
        'through': 'generator',
        'images': [['s2', 'series2', 'i2']],
    },
    {'role': 'val', 'dataset': 'a:validation', 'through': '', 'images': [['s3', 'doc3/p3', 'i3']]},
]


@pytest.mark.parametrize(
    'test_row, images, groups, documents',
    [
        (row('s1', 'doc8/p8', 'x'), 1, 0, 0),  # the same picture under another name
        (row('s9', 'doc1/p1', 'x'), 0, 1, 1),  # another picture of the same patient
        (row('s9', 'doc1/p9', 'x'), 0, 0, 1),  # another patient of the same document
        (row('s9', 'series2', 'x'), 0, 1, 1),  # a series the generator was trained on
        (
            row('s9', 'other', 'x', source_sha256='s2'),
            1,
            0,
            0,
        ),  # a translation of a training picture
        (row('s3', 'doc3/p3', 'x'), 0, 0, 0),  # validation picks checkpoints
        (row('s9', 'doc9/p1', 'x'), 0, 0, 0),
    ],
)
def test_overlap(test_row, images, groups, documents):
    counts, ids = lineage.overlap(RECORDS, [test_row, row('s7', 'doc7/p7', 'y')])
    validation = int(test_row['sha256'] == 's3')
    assert counts == {
        'images': images,
        'groups': groups,
        'documents': documents,
        'validation': validation,
    }
    assert list(ids) == (['x'] if images + groups + documents + validation else [])
    assert set(ids.get('x', ())) == {kind for kind, n in counts.items() if n}


def test_protocols():
    rows = [row('s1', 'doc1/p1', 'leaked')]
    with pytest.raises(InputError, match='leaked.*protocol') as refused:
        lineage.check(RECORDS, rows, 'a:test', 'clean')
    assert refused.value.details == ['leaked: images, groups, documents']
    for protocol in ('official', 'paper'):
        assert lineage.check(RECORDS, rows, 'a:test', protocol)['images'] == 1
    with pytest.raises(InputError, match='no such protocol'):
        lineage.check(RECORDS, [], 'a:test', 'lenient')


def test_lineage_of_a_generator_travels_with_its_data_set(data_dir):
    from covjax.data import datasets, specs
    from covjax.workdir import write_json

    rows = datasets.read_rows('covid_ct:train', data_dir)
    beside = specs.locate('luna16_patches/nodules', data_dir) / 'lineage.json'
    write_json(beside, [dict(RECORDS[0], role='covid')])
    try:
        records = lineage.record(
            {'train': 'luna16_patches/nodules:train+covid_ct:train'}, data_dir, {'train': rows}
        )
    finally:
        beside.unlink()
    assert [(record['role'], record['through'], len(record['images'])) for record in records] == [
        ('train', '', 16),
        ('covid', 'generator', 1),
    ]

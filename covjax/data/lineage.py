"""What every run was trained on, directly and through a generator, and the refusal to evaluate on it.

lineage.json is a list of records {role, dataset, through, images: [[sha256, group, id], ...]}: role is the config key (cancer, covid, train, val),
through is 'generator' for the images that trained the generator of a synthetic data set, else ''. It lies in every workdir and beside every
synthetic data set.
"""

from covjax import InputError
from covjax.data import specs
from covjax.workdir import read_json

TRAINED = ('cancer', 'covid', 'train')  # val only picks checkpoints
PROTOCOLS = ('clean', 'official', 'paper')


def record(named, data_dir, sources):
    """The lineage of a training run: `sources` is {role: rows}, what its task draws from, `named` the data sets these are from, by role.

    Records of upstream runs come from beside the data sets.
    """
    records = []
    for role, rows in sources.items():
        records.append(
            {
                'role': role,
                'dataset': named[role],
                'through': '',
                'images': [[row.sha256, row.group, row.id] for row in rows],
            }
        )
        if role in TRAINED:
            records += [
                dict(upstream, through='generator')
                for upstream in read_lineage(named[role], data_dir)
            ]
    return records


def overlap(records, rows):
    """How a test set overlaps with what trained a model: the number of its images whose picture, group or source document was
    trained on, or whose picture picked a checkpoint, of the generator too; and {id: what is shared} of each such image."""
    trained = [
        image for record in records if record['role'] in TRAINED for image in record['images']
    ]
    known = {
        'images': {sha for sha, _, _ in trained},
        'groups': {group for _, group, _ in trained},
        'documents': {document(group) for _, group, _ in trained},
    }
    validation = {
        sha for record in records if record['role'] == 'val' for sha, _, _ in record['images']
    }
    hits = {
        'images': [
            row.sha256 in known['images'] or row.source_sha256 in known['images'] for row in rows
        ],
        'groups': [row.group in known['groups'] for row in rows],
        'documents': [document(row.group) in known['documents'] for row in rows],
        'validation': [row.sha256 in validation for row in rows],
    }
    shared = {
        row.id: [kind for kind, hit in zip(hits, hit) if hit]
        for row, *hit in zip(rows, *hits.values())
        if any(hit)
    }
    return {kind: sum(hit) for kind, hit in hits.items()}, shared


def document(group):
    """The coarsest unit of a group: the source document of 'document/patient', or the series."""
    return group.partition('/')[0]


def check(records, rows, test_set, protocol):
    """The overlap counts of a test set; under the clean protocol any overlap is an error."""
    if protocol not in PROTOCOLS:
        raise InputError(
            f'config.protocol={protocol}: no such protocol; choose one of {", ".join(PROTOCOLS)}'
        )
    counts, ids = overlap(records, rows)
    if ids and protocol == 'clean':
        raise InputError(
            f'{test_set}: {len(ids)} of {len(rows)} images share a picture, patient, document or series with what trained the model or picked it '
            f"(first: {next(iter(ids))}); choose another test set, or set config.protocol='official' to print the overlap beside the numbers",
            [f'{name}: {", ".join(kinds)}' for name, kinds in ids.items()],
        )
    return counts


def read_lineage(spec, data_dir):
    """The lineage records stored beside the data sets of a spec: what trained the generator that made them."""
    folders = dict.fromkeys(specs.locate(dataset, data_dir) for dataset, _, _ in specs.parse(spec))
    return [
        record
        for folder in folders
        if (folder / 'lineage.json').is_file()
        for record in read_json(folder / 'lineage.json')
    ]

"""What a run was trained on, directly and through a generator, and the refusal to test it on that.

lineage.json lies in every workdir and beside every synthetic data set. It is a list of records
{role, dataset, through, images: [[sha256, group, id], ...]}: role is the config key (cancer, covid,
train, val); through is 'generator' for the images that trained the generator of a synthetic data
set, 'lung_segmenter' for those of the segmenter that shows a classifier the lungs,
'lesion_segmenter' for those of the one that finds lesions for a generator, 'near_copies' for what
is nearly the same as these, 'pretraining' for those of the run that a training began with, else
''. Where a mask was the target, its hash
follows the id.
"""

from typing import Annotated, TypedDict

import msgspec

from covjax import InputError, choice, counted
from covjax.data import specs
from covjax.workdir import read_json

TRAINED = ('cancer', 'covid', 'slices', 'pictures', 'train')
PICKED = ('val', 'val_pictures')  # only pick checkpoints
# [sha256, group, id] of an image, and [..., sha256] of its mask where that was the target.
IMAGE = Annotated[list[str], msgspec.Meta(min_length=3, max_length=4)]
SYNTHETIC = 'synthetic_'  # how the names of data sets begin whose images a generator made
PROTOCOLS = ('clean', 'official', 'paper')


class Record(TypedDict):
    """One entry of lineage.json."""

    role: str  # key of the config that named the data set
    dataset: str  # as the config named it
    # How a run knows them, or '' for what it was trained on itself.
    through: str
    images: list[IMAGE]


def read(folder):
    """The [Record] of a lineage.json.

    Args:
        folder: pathlib.Path of a workdir, or of a synthetic data set.

    Raises:
        InputError: it is missing or damaged.
    """
    return read_json(folder / 'lineage.json', list[Record])


def record(named, data_dir, sources):
    """The lineage of a training run: its own images, and those behind its synthetic data sets.

    Args:
        named: {role: data sets as covjax.data.specs takes them}, for example the config of the run.
        data_dir: where the data sets lie, as covjax.data.specs takes it.
        sources: {role: rows of the examples that the task draws from}.

    Returns:
        [record] as lineage.json holds them.

    Raises:
        InputError: the lineage of a synthetic data set is missing or damaged.
    """
    records = []
    for role, rows in sources.items():
        images = [image(row) for row in rows]
        records.append({'role': role, 'dataset': named[role], 'through': '', 'images': images})
        for upstream in read_lineage(named[role], data_dir):
            # What made the images that pick a checkpoint has a part in the choice.
            other = {'role': role} if role in PICKED else {}
            records.append({**upstream, 'through': 'generator', **other})
    return records


def image(row):
    """What lineage.json holds of a Row."""
    return [row.sha256, row.group, row.id, *filter(None, [row.mask_sha256])]


def overlap(records, rows):
    """How a test set overlaps with what trained a model and its generator.

    Args:
        records: the lineage of the model.
        rows: of the examples of the test set.

    Returns:
        ({kind: number of images}, {id: [kind]} of the images with any overlap). The kinds are
        'images', the image or the one it was made from was trained on; 'groups', its patient or
        series was; 'documents', its source document was; 'validation', it or another one of its
        patient or series picked a checkpoint.
    """
    trained_images, groups = _known(records, TRAINED)
    picked_by, groups_picked_by = _known(records, PICKED)
    documents = {document(group) for group in groups}

    counts = dict.fromkeys(('images', 'groups', 'documents', 'validation'), 0)
    shared = {}
    for row in rows:
        hits = {
            'images': row.sha256 in trained_images or row.source_sha256 in trained_images,
            'groups': row.group in groups,
            'documents': document(row.group) in documents,
            'validation': row.sha256 in picked_by
            or row.source_sha256 in picked_by
            or row.group in groups_picked_by,
        }
        kinds = [kind for kind, hit in hits.items() if hit]
        if kinds:
            shared[row.id] = kinds
        for kind in kinds:
            counts[kind] += 1
    return counts, shared


def _known(records, roles):
    """({sha256 of images}, {groups}) of the records of some roles."""
    images = [image for record in records if record['role'] in roles for image in record['images']]
    return {image[0] for image in images}, {image[1] for image in images}


def document(group):
    """The coarsest unit of a group: the source document of 'document/patient', or the series."""
    return group.partition('/')[0]


def check(records, rows, test_set, protocol):
    """Counts the overlap of a test set with what trained a model; the clean protocol allows none.

    Args:
        records: the lineage of the model.
        rows: of the examples of the test set.
        test_set: its name, for the message.
        protocol: one of PROTOCOLS; 'clean' allows no overlap.

    Returns:
        {kind: number of images} as `overlap` counts them.

    Raises:
        InputError: there is an overlap under the clean protocol, or no such protocol.
    """
    choice({'protocol': protocol}, 'protocol', PROTOCOLS)
    counts, shared = overlap(records, rows)
    if shared and protocol == 'clean':
        first = next(iter(shared))
        raise InputError(
            f'{test_set}: {len(shared)} of {len(rows)} images share a picture, patient, document '
            f'or series with what trained the model or picked it (first: {first}); choose another '
            "test set, or set config.protocol='official' to print the overlap beside the numbers",
            [f'{name}: {", ".join(kinds)}' for name, kinds in shared.items()],
        )
    return counts


def seen_twice(records):
    """Says which validation pictures of a training are of its training set.

    Such pictures choose checkpoints and thresholds for what the network remembers. Published
    protocols do that, so it is said and not refused.

    Args:
        records: the lineage of the run.

    Returns:
        A list of lines, one for each role of PICKED and data set that has any.
    """
    own = [record for record in records if not record['through']]
    trained_images, groups = _known(own, TRAINED)
    lines = []
    for record in own:
        if record['role'] in PICKED:
            same = sum(digest in trained_images for digest, *_ in record['images'])
            near = sum(group in groups for _, group, *_ in record['images'])
            if near or same:
                lines.append(
                    f'config.{record["role"]}={record["dataset"]}: of its '
                    f'{len(record["images"])} images {same} are in the training set and {near} are '
                    'of patients or series of it; they choose checkpoints and thresholds for what '
                    'the network remembers'
                )
    return lines


def check_same(records, role, rows, spec):
    """Refuses a data set that is no longer what a run was trained on, or chosen by.

    A threshold or a temperature would be chosen on images that may be anyone's, such as those of a
    test set that was prepared under the same name.

    Args:
        records: the lineage of the run.
        role: 'train' or 'val'.
        rows: of the data set as it is read now.
        spec: its name, for the message.

    Raises:
        InputError: its images are not those of the records.
    """
    own = [record for record in records if not record['through']]
    known, _ = _known(own, (role,))
    if {row.sha256 for row in rows} != known:
        raise InputError(
            f'{spec}: does not hold the images that the run recorded in its lineage.json; '
            'give the config.data_dir that it was trained with'
        )


def check_apart(config, first, second):
    """Refuses two data sets of a config that are to differ in kind and have pictures in common.

    Args:
        config: that names them.
        first, second: (key, [Row]) of each.

    Raises:
        InputError: a picture is in both.
    """
    (one, rows), (other, others) = first, second
    if shared := {row.sha256 for row in rows} & {row.sha256 for row in others}:
        named = [f'config.{key}={config[key]}' for key in (one, other)]
        raise InputError(
            f'{", ".join(named)}: have {counted(len(shared), "picture")} in common; name images of '
            'another kind in each'
        )


def read_lineage(spec, data_dir):
    """The lineage beside the data sets of a spec: what trained the generator that made them.

    Args:
        spec: as covjax.data.specs takes it; a comma separates several.
        data_dir: where the data sets lie.

    Raises:
        InputError: that of a synthetic data set is missing or damaged.
    """
    records = []
    named = specs.parse(spec.replace(',', '+'))
    for dataset in dict.fromkeys(dataset for dataset, _, _ in named):
        folder = specs.locate(dataset, data_dir)
        if dataset.startswith(SYNTHETIC) or (folder / 'lineage.json').is_file():
            records += read(folder)
    return records

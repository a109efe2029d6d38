"""How CT data sets are laid out on disk: one small function each, from a folder to its scans.

A *scan* here is a picture, or a volume with all its slices. `covid_semiseg`, `covid_ct_md` and
`folder` were written against real files, the others against the documentation of their data sets
and of programs that read them.
"""

import csv
import io
import pathlib
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from covjax import CLASSES, InputError, joined
from covjax.ct import archive, contents, dicom, luna16, volume
from covjax.ct.masks import BACKGROUND, MOST_REGIONS
from covjax.data import csv_table
from tfds_builders.ct_scans import class_folders

SPLITS = ('train', 'validation', 'test')


class Scan(NamedTuple):
    """One picture or volume, with what is known of it."""

    id: str  # unique in the data set
    image: pathlib.Path  # a picture, a volume file, or a folder of DICOM files
    mask: pathlib.Path | None = None
    label: str = ''
    patient: str = ''  # '' where it is not known
    split: str = ''  # '' where the data set does not say
    by_slice: dict[str, Any] = {}  # {feature: array [slices, ...]}, from head to foot


class Layout(NamedTuple):
    """A data set on a disk."""

    scans: Callable  # folder -> [Scan]; raises an InputError where it has another layout
    give: str  # the end of the message when it has
    pictures: bool = False  # whether scans are pictures, otherwise they are volumes
    labels: tuple[str, ...] = ()  # of Scan.label; () where there are none
    regions: dict[int, str] = {}  # {value of a mask: region}; {} where there are no masks
    sideways: bool = False  # whether pictures lie on their side
    validation: int = 0  # how many images of the official training set are for validation
    by_slice: dict[str, tuple[int, ...]] = {}  # {feature of a slice: shape}; -1 is not known
    # The window whose grey levels a volume of values 0..255 holds, where there are such volumes.
    grey_window: str = ''
    homepage: str = ''
    remarks: tuple[str, ...] = ()  # what a person should know of how the folder was read


# ---- COVID-SemiSeg


def covid_semiseg(folder):
    """Imgs, GT and GT-multiclass below train and test, by equal names; patients are not known."""
    scans = []
    for split in ('train', 'test'):
        images = _pictures(folder, f'{split}/Imgs/*')
        if not images:
            return []
        for image in images:
            mask = image.parents[1] / 'GT-multiclass' / f'{image.stem}.png'
            scans.append(Scan(f'{split}/{image.stem}', image, mask, split=split))
    return scans


# ---- COVID-CT-MD

CASE = re.compile(r'(P|cap|normal)(\d{3})')
DIAGNOSES = {'P': 'covid', 'cap': 'cap', 'normal': 'normal'}
# Rows of the tables of labels are numbered without the index that Index.csv leaves out.
INDEX_LEFT_OUT = 43
# {feature: how its table is called, shape of what it has of a slice}.
LABELS_OF_SLICES = {'infected': ('Slice', ()), 'lobes': ('Lobe', (5,))}


def covid_ct_md(folder):
    """A folder of DICOM files or a NIfTI file per case, and tables of slices with infection.

    The tables run from head to foot, which the data set does not say: its slices are to be sorted
    by SliceLocation, and in the other order P001 and cap001 would have infections in clear lungs
    and none where anyone can see them.
    """
    tables = {feature: _label_table(folder, *kind) for feature, kind in LABELS_OF_SLICES.items()}
    tables = {feature: table for feature, table in tables.items() if table is not None}
    rows = _rows_of_cases(folder) if tables else {}
    scans = []
    for case, path in sorted(_cases(folder).items()):
        label = DIAGNOSES[CASE.fullmatch(case)[1]]
        if rows.get(case, 0) >= min(map(len, tables.values()), default=1):
            raise InputError(
                f'{folder}: Index.csv has {case} as row {rows[case]} of the tables of labels, '
                'which have fewer; give all as published'
            )
        by_slice = {
            feature: table[rows[case]].astype(np.int8)
            for feature, table in tables.items()
            if case in rows
        }
        scans.append(Scan(case, path, label=label, patient=case, by_slice=by_slice))
    return scans


def _cases(folder):
    """{case: its volume file, or the folder of its DICOM files}; an InputError where it has two."""
    cases = {}
    for path in archive.find(folder, '*'):
        if volume.suffix(path) and CASE.fullmatch(path.name.split('.')[0]):
            case, path = path.name.split('.')[0], path
        elif CASE.fullmatch(path.parent.name):
            case, path = path.parent.name, path.parent
        else:
            continue
        if cases.setdefault(case, path) != path:
            raise InputError(f'{path}: {case} is also at {cases[case]}; keep one of the two')
    return cases


def _label_table(folder, name, shape):
    """The newest NAME-level-labels*.npy, whose corrected versions have longer names, or None.

    It has the shape [cases, slices, *shape].
    """
    found = archive.find(folder, f'{name}-level-labels*.npy')
    if not found:
        return None
    file = max(found, key=lambda path: (len(path.name), path.name))
    try:
        table = np.load(io.BytesIO(archive.read(file)), allow_pickle=False)
    except (ValueError, EOFError):
        raise InputError(f'{file}: is no NumPy array; copy it again') from None
    if table.ndim < 2 or table.shape[2:] != shape:
        raise InputError(f'{file}: is an array {list(table.shape)}; give it as published')
    return table


def _rows_of_cases(folder):
    """{case: row of the tables of labels} by Index.csv."""
    file = _only(folder, 'Index.csv')
    rows = {}
    for line in csv.DictReader(archive.read_text(file).splitlines()):
        try:
            index = int(line['Label Index'])
            rows[line['Folder/ID'].strip()] = index - (index > INDEX_LEFT_OUT)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(
                f'{file}: needs the columns Label Index and Folder/ID; give it as published'
            ) from None
    return rows


# ---- LUNA16 lungs


def luna16_lungs(folder):
    """Volumes of LUNA16 beside seg-lungs-LUNA16, by series ids."""
    masks = {
        path.name: path
        for path in archive.find(folder, '*.mhd')
        if any(part.lower().startswith('seg-lungs') for part in path.relative_to(folder).parts)
    }
    return [
        Scan(series, path, masks.get(path.name), patient=series, split=luna16.series_split(series))
        for series, path in volume.find_volumes(folder).items()
    ]


# ---- COVID-19-CT-Seg

BOTH_MASKS = re.compile(r'lung_and_infection_mask', re.IGNORECASE)
RADIOPAEDIA = re.compile(r'radiopaedia_(\d+)_\d+_\d+')


def covid_ct_seg(folder):
    """Scans and Lung_and_Infection_Mask, whose names differ between copies of the data set."""
    files = [path for path in archive.find(folder, '*') if volume.suffix(path)]
    masks = {_case(path): path for path in files if BOTH_MASKS.search(path.parent.name)}
    scans = []
    for path in files:
        if path.parent.name.lower().endswith('_mask'):
            continue
        case = _case(path)
        match = RADIOPAEDIA.fullmatch(case)
        # Two pairs of these scans are of one patient, who has the first number.
        patient = f'radiopaedia_{match[1]}' if match else case
        scans.append(Scan(case, path, masks.get(case), patient=patient))
    return scans


def _case(path):
    """'radiopaedia_7_85703_0' of either way to write the name of its file."""
    name = path.name[: -len(volume.suffix(path))].removesuffix('-dcm')
    return name.replace('_org_covid-19-pneumonia-', '_').replace('_org_', '_')


# ---- MosMedData

MASK_OF_STUDY = re.compile(r'(study_\d{4})_mask')
SEVERITIES = ('CT-0', 'CT-1', 'CT-2', 'CT-3', 'CT-4')


def mosmed(folder):
    """studies/CT-0..CT-4 and masks/, which only some studies of CT-1 have."""
    files = [path for path in archive.find(folder, '*') if volume.suffix(path)]
    matches = {MASK_OF_STUDY.fullmatch(path.name.split('.')[0]): path for path in files}
    masks = {match[1]: path for match, path in matches.items() if match}
    return [scan._replace(mask=masks.get(scan.id)) for scan in _studies(files)]


def mosmed_severity(folder):
    """All of studies/CT-0..CT-4, with the severity as label and without masks."""
    return _studies([path for path in archive.find(folder, '*') if volume.suffix(path)])


def _studies(files):
    """The Scans of the files that lie in a folder of a severity."""
    studies = [path for path in files if path.parent.name in SEVERITIES]
    names = [path.name.split('.')[0] for path in studies]
    return [
        Scan(name, path, label=csv_table.word(path.parent.name), patient=name)
        for name, path in zip(names, studies)
    ]


# ---- COVNet

MASKED_CT, MASK = 'masked_ct.nii', 'mask.nii.gz'
LISTS = {'train': 'train.csv', 'validation': 'val.csv'}
NUMBERED = ('class_0', 'class_1', 'class_2')  # what each is only the owner knows


def covnet(folder):
    """A folder per case with masked_ct.nii and mask.nii.gz, listed in train.csv and val.csv."""
    scans = []
    for split, name in LISTS.items():
        file = _only(folder, name)
        for number, line in csv_table.read(file, ('case', 'label'), ('case',), AS_COVNET):
            label = f'class_{line["label"]}'
            if label not in NUMBERED:
                raise InputError(
                    f'{file}: line {number} has the label {line["label"]}; {AS_COVNET}'
                )
            case = file.parent / line['case']
            scans.append(Scan(line['case'], case / MASKED_CT, case / MASK, label, split=split))
    return scans


# ---- anyone's own

TABLE, REGIONS = 'scans.csv', 'regions.csv'
COLUMNS = ('file', 'mask', 'label', 'patient', 'split')
READABLE = f'one of {", ".join((*contents.PICTURES, *volume.FORMATS))} or DICOM'
MASK_OF_PICTURE = 'is a volume, and the mask of a picture is a picture; save it as PNG'
MASK_OF_VOLUME = f'is no volume, as masks of volumes are; save it as {" or ".join(volume.FORMATS)}'
LARGEST = 2**15 - 1  # value of a mask


def folder(source, named=''):
    """The Layout of a folder with scans.csv and, where masks have several regions, regions.csv.

    Without scans.csv it has a folder for each class instead.

    Args:
        source: the folder, below which the files are that a table names.
        named: a table in place of scans.csv; it may have further columns.
    """
    source = pathlib.Path(source)
    table = pathlib.Path(named).expanduser() if named else source / TABLE
    if not named and not archive.is_file(table):
        _check_no_other_table(table)
        if layout := _of_classes(table.parent):
            return layout
        if only := [path.name for path in table.parent.glob('[!.]*') if path.is_dir()]:
            raise InputError(
                f'{table}: no such table, and CT lies in fewer than two of the folders beside it '
                f'({", ".join(sorted(only)[:4])}), so they are no classes; {GIVE_FOLDER}'
            )
    lines = csv_table.read(table, COLUMNS, ('file',), GIVE_FOLDER, others=bool(named))
    scans = [_own_scan(source, f'{table}: line {number}', line) for number, line in lines]
    _words({line['label'] for _, line in lines}, f'{table}: its lines')
    for column in ('mask', 'label'):
        lacking = [scan.id for scan in scans if not getattr(scan, column)]
        if 0 < len(lacking) < len(scans):
            raise InputError(
                f'{table}: {lacking[0]} has no {column}, others have; '
                'fill in the column, or leave it out'
            )
    if twice := _twice(scan.mask for scan in scans if scan.mask):
        raise InputError(f'{table}: two lines have the mask {twice.name}; name that of each scan')
    _check_patients(table, scans)
    return Layout(
        lambda _: scans,
        GIVE_FOLDER,
        pictures=_are_pictures(table, scans),
        labels=_in_order({scan.label for scan in scans} - {''}),
        regions=_regions(source / REGIONS) if scans[0].mask else {},
    )


def _of_classes(source):
    """The Layout of a folder (pathlib.Path) with a folder for each class, or None."""
    found, remarks = class_folders.read(source)
    if not found:
        return None
    words = _words({each.label for each in found}, f'{source}: the folders')
    for word in sorted(set(words.values())):
        if len(names := sorted(name for name, its in words.items() if its == word)) > 1:
            remarks.append(f'the folders {joined(names)} are one class, {word}')
    scans = [
        Scan(
            each.path.relative_to(source).as_posix(),
            each.path,
            None,
            words[each.label],
            each.patient,
        )
        for each in found
    ]
    return Layout(
        lambda _: scans,
        GIVE_FOLDER,
        pictures=_are_pictures(source, scans),
        labels=_in_order({scan.label for scan in scans}),
        remarks=tuple(remarks),
    )


def _check_no_other_table(table):
    """Refuses a table whose name differs from that of `table` in capitals alone."""
    if table.parent.is_dir():
        for path in table.parent.iterdir():
            if path.name.lower() == table.name and path.name != table.name:
                raise InputError(f'{path}: is a table of another name; call it {table.name}')


def _words(names, where):
    """{name: its word} of labels; names that differ in more than case and spaces stay apart.

    Raises:
        InputError: a name has no letters or digits, or two names would become one word.
    """
    words = {}
    for name in sorted(filter(None, names)):
        word, plain = csv_table.word(name), re.sub(r'[\s_-]+(?=\w)', '_', name.strip().lower())
        if not word:
            raise InputError(f'{where} have the label {name}, without letters; give it a name')
        other = words.setdefault(word, (plain, name))
        if other[0] != plain:
            raise InputError(
                f'{where} have the labels {other[1]} and {name}, which would both be called '
                f'{word}; name them in letters'
            )
    return {name: csv_table.word(name) for name in names}


def _check_patients(table, scans):
    """Refuses a table that has a patient in two splits: that would train on whom it tests."""
    splits = {}
    for scan in scans:
        if scan.patient and scan.split:
            splits.setdefault(scan.patient, {})[scan.split] = scan.id
    divided = [(patient, found) for patient, found in splits.items() if len(found) > 1]
    if divided:
        patient, found = divided[0]
        listed = ' and '.join(f'{split} ({name})' for split, name in found.items())
        raise InputError(
            f'{table}: patient {patient} is in {listed}; put all scans of a patient into one split'
        )


def _are_pictures(table, scans):
    """Whether all scans are pictures; an InputError where only some are, or a file is neither."""
    kinds = {scan.image.suffix.lower() in contents.PICTURES for scan in scans}
    if len(kinds) > 1:
        raise InputError(f'{table}: names pictures and volumes; make a folder of each')
    (pictures,) = kinds
    for scan in scans:
        image, mask = scan.image, scan.mask
        if not (pictures or volume.suffix(image) or image.is_dir() or dicom.is_dicom(image)):
            raise InputError(f'{image}: is neither a picture nor a volume; save it as {READABLE}')
        if mask and bool(volume.suffix(mask)) == pictures:
            raise InputError(f'{mask}: {MASK_OF_PICTURE if pictures else MASK_OF_VOLUME}')
    return pictures


def _own_scan(source, where, line):
    """The Scan of a line of scans.csv, whose files are below a folder; `where` names the line."""
    name = csv_table.file_name(line['file'], source)  # one name, in whatever way it is written
    image = source / name
    mask = source / csv_table.file_name(line['mask'], source) if line['mask'] else None
    if not (archive.is_file(image) or image.is_dir()):
        raise InputError(f'{where} names {line["file"]}, which is not there; correct the table')
    if mask and not archive.is_file(mask):
        raise InputError(f'{where} names {line["mask"]}, which is no file; correct the table')
    if line['split'] and line['split'] not in SPLITS:
        raise InputError(
            f'{where} has the split {line["split"]}; write one of {", ".join(SPLITS)}, or nothing'
        )
    return Scan(name, image, mask, csv_table.word(line['label']), line['patient'], line['split'])


def _twice(values):
    """The first of several values that is there more than once, or None."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _in_order(labels):
    """Labels as a tuple: normal, then in the order of the alphabet, covid last.

    It is that of COVID-CT-MD too, so that networks of one data set are tested on another.
    """
    return tuple(sorted(labels, key=lambda label: (label == CLASSES[1], label != 'normal', label)))


def _regions(file):
    """{value: region} of regions.csv, or where there is none those of one region, 'lesion'."""
    if not file.is_file():
        _check_no_other_table(file)
        return {1: 'lesion', 255: 'lesion'}
    regions = {}
    for number, line in csv_table.read(file, ('value', 'region'), ('value',), GIVE_REGIONS):
        value, region = line['value'], csv_table.word(line['region'])
        if not re.fullmatch('[0-9]{1,5}', value) or int(value) > LARGEST or not region:
            raise InputError(f'{file}: line {number} is {value},{line["region"]}; {GIVE_REGIONS}')
        if regions.setdefault(int(value), region) != region:
            raise InputError(f'{file}: line {number} has {value} again; {GIVE_REGIONS}')
        if int(value) == 0 and region != BACKGROUND:
            raise InputError(
                f'{file}: line {number} calls 0 {region}, and 0 is the background; give the region '
                'another value in the masks'
            )
    if len({*regions.values()} - {BACKGROUND}) > MOST_REGIONS:
        raise InputError(
            f'{file}: names more than {MOST_REGIONS} regions; join some, by one name for several '
            'values'
        )
    if set(regions.values()) <= {BACKGROUND}:
        raise InputError(f'{file}: names no region; {GIVE_REGIONS}')
    return {value: region for value, region in regions.items() if value}


# ---- what several share


def _pictures(folder, pattern):
    """The pictures below a folder whose names match a pattern, in the order of their numbers."""
    found = [
        path for path in archive.find(folder, pattern) if path.suffix.lower() in contents.PICTURES
    ]
    in_order = lambda path: [int(part) for part in re.findall(r'\d+', path.stem)]
    return sorted(found, key=lambda path: (in_order(path), path.name))


def _only(folder, name):
    """The file of a name below a folder; an InputError where there is none."""
    found = archive.find(folder, name)
    if not found:
        raise InputError(f'{folder}: no {name} there; give it as published')
    return found[0]


GIVE_REGIONS = (
    f'write the columns value,region with a line for each value of the masks, 0 to {LARGEST}, '
    'such as 1,lung'
)
GIVE_FOLDER = (
    f'give a folder with {TABLE}: the columns file and, as far as known, mask, label, patient and '
    f'split (train, validation or test); and {REGIONS} (value,region) where masks have several '
    'regions; or a folder with the pictures or volumes of each class in a folder of its own'
)
AS_COVNET = 'write the columns case,label with a label from 0 to 2'
LUNG_AND_LESION = {1: 'lung', 2: 'lung', 3: 'lesion'}
# By the name of the config; folder, whose labels are its own, is described by its tables.
LAYOUTS = {
    'covid_semiseg': Layout(
        covid_semiseg,
        'give the folder of COVID-SemiSeg with train and test, each with Imgs and GT-multiclass',
        pictures=True,
        regions={1: 'ground_glass', 2: 'consolidation'},
        sideways=True,
        validation=10,
        homepage='https://github.com/DengPingFan/Inf-Net',
    ),
    'covid_ct_md': Layout(
        covid_ct_md,
        'give the folder of COVID-CT-MD with its cases (P001, cap001, normal001 ..., folders of '
        'DICOM files or volumes), Index.csv and the .npy tables of labels',
        labels=('normal', 'cap', 'covid'),
        by_slice={feature: shape for feature, (_, shape) in LABELS_OF_SLICES.items()},
        homepage='https://github.com/ShahinSHH/COVID-CT-MD',
    ),
    'luna16_lungs': Layout(
        luna16_lungs,
        'give the folder of LUNA16 with subset0 to subset9 and seg-lungs-LUNA16',
        regions={3: 'lung', 4: 'lung', 5: 'airway'},
        homepage='https://luna16.grand-challenge.org',
    ),
    'covid_ct_seg': Layout(
        covid_ct_seg,
        'give the folder of COVID-19-CT-Seg with COVID-19-CT-Seg_20cases and '
        'Lung_and_Infection_Mask',
        regions=LUNG_AND_LESION,
        grey_window='covid',
        homepage='https://zenodo.org/record/3757476',
    ),
    'mosmed': Layout(
        mosmed,
        'give the folder COVID19_1110 of MosMedData with studies and masks',
        regions={1: 'lesion'},
        homepage='https://mosmed.ai/en/datasets/covid191110',
    ),
    'covnet': Layout(
        covnet,
        f'give the data folder of COVNet: train.csv, val.csv and one folder per case with '
        f'{MASKED_CT} and {MASK}',
        labels=NUMBERED,
        regions={1: 'lung', 2: 'lung', 255: 'lung'},
        homepage='https://github.com/bkong999/COVNet',
    ),
    'mosmed_severity': Layout(
        mosmed_severity,
        'give the folder COVID19_1110 of MosMedData with studies',
        labels=tuple(map(csv_table.word, SEVERITIES)),
        homepage='https://mosmed.ai/en/datasets/covid191110',
    ),
}

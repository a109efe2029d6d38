"""How CT data sets lie on a disk: one small function each, from a folder to its scans.

A *scan* here is a picture, or a volume with all its slices. `covid_semiseg`, `covid_ct_md` and
`folder` were written against real files, the others against the documentation of their data sets
and of programs that read them.
"""

import csv
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from covjax import InputError
from covjax.ct import archive, contents, luna16, volume

SPLITS = ('train', 'validation', 'test')


class Scan(NamedTuple):
    """One picture or volume, with what is known of it."""

    id: str  # unique in the data set
    image: pathlib.Path  # a picture, a volume file, or a folder of DICOM files
    mask: pathlib.Path | None = None
    label: str = ''
    patient: str = ''  # '' where it is not known
    split: str = ''  # '' where the data set does not say
    by_slice: dict[str, Any] = {}  # {feature: array [slices, ...]}, from foot to head


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


# ---- COVID-SemiSeg


def covid_semiseg(folder):
    """Imgs, GT and GT-multiclass below train and test, by equal names; patients are not known."""
    scans = []
    for split in ('train', 'test'):
        for image in _pictures(folder, f'{split}/Imgs/*'):
            mask = image.parents[1] / 'GT-multiclass' / f'{image.stem}.png'
            scans.append(Scan(f'{split}/{image.stem}', image, mask, split=split))
    return scans


# ---- COVID-CT-MD

CASE = re.compile(r'(P|cap|normal)(\d{3})')
DIAGNOSES = {'P': 'covid', 'cap': 'cap', 'normal': 'normal'}
# Rows of the tables of labels are numbered without the index that Index.csv leaves out.
INDEX_LEFT_OUT = 43


def covid_ct_md(folder):
    """A folder of DICOM files or a NIfTI file a case, and tables of slices with infection."""
    cases = {}
    for path in archive.find(folder, '*'):
        for part in (path.name.split('.')[0], path.parent.name):
            if CASE.fullmatch(part) and (volume.suffix(path) or part == path.parent.name):
                cases.setdefault(part, path if volume.suffix(path) else path.parent)
    tables = {name: _label_table(folder, name) for name in ('Slice', 'Lobe')}
    rows = _rows_of_cases(folder) if any(table is not None for table in tables.values()) else {}
    scans = []
    for case, path in sorted(cases.items()):
        label, by_slice = DIAGNOSES[CASE.fullmatch(case)[1]], {}
        for feature, table in (('infected', tables['Slice']), ('lobes', tables['Lobe'])):
            if table is not None and case in rows:
                by_slice[feature] = table[rows[case]].astype(np.int8)
        scans.append(Scan(case, path, label=label, patient=case, by_slice=by_slice))
    return scans


def _label_table(folder, name):
    """The newest NAME-level-labels*.npy, whose corrected versions have longer names, or None."""
    found = archive.find(folder, f'{name}-level-labels*.npy')
    if not found:
        return None
    file = max(found, key=lambda path: (len(path.name), path.name))
    try:
        with archive.opened(file) as stream:
            return np.load(stream, allow_pickle=False)
    except ValueError:
        raise InputError(f'{file}: is no NumPy array; copy it again') from None


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
        if any(part.lower().startswith('seg-lungs') for part in path.parts)
    }
    return [
        Scan(series, path, masks[path.name], patient=series, split=luna16.series_split(series))
        for series, path in volume.find_volumes(folder).items()
        if path.name in masks
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
        if path.parent.name.lower().endswith('_mask') or _case(path) not in masks:
            continue
        case = _case(path)
        match = RADIOPAEDIA.fullmatch(case)
        # Two pairs of these scans are of one patient, who has the first number.
        patient = f'radiopaedia_{match[1]}' if match else case
        scans.append(Scan(case, path, masks[case], patient=patient))
    return scans


def _case(path):
    """'radiopaedia_7_85703_0' of either way to write the name of its file."""
    name = path.name[: -len(volume.suffix(path))].removesuffix('-dcm')
    return name.replace('_org_covid-19-pneumonia-', '_').replace('_org_', '_')


# ---- MosMedData

MASK_OF_STUDY = re.compile(r'(study_\d{4})_mask')
SEVERITIES = ('CT-0', 'CT-1', 'CT-2', 'CT-3', 'CT-4')


def mosmed(folder):
    """studies/CT-0..CT-4 and masks/, which only some studies of CT-1 have: those."""
    files = [path for path in archive.find(folder, '*') if volume.suffix(path)]
    matches = {MASK_OF_STUDY.fullmatch(path.name.split('.')[0]): path for path in files}
    masks = {match[1]: path for match, path in matches.items() if match}
    return [scan._replace(mask=masks[scan.id]) for scan in _studies(files) if scan.id in masks]


def mosmed_severity(folder):
    """All of studies/CT-0..CT-4, with the severity as label and without masks."""
    return _studies([path for path in archive.find(folder, '*') if volume.suffix(path)])


def _studies(files):
    """The Scans of the files that lie in a folder of a severity."""
    studies = [path for path in files if path.parent.name in SEVERITIES]
    names = [path.name.split('.')[0] for path in studies]
    return [
        Scan(name, path, label=_word(path.parent.name), patient=name)
        for name, path in zip(names, studies)
    ]


def _word(text):
    """A name as labels have it: lower case, without characters that specs use."""
    return re.sub(r'\W+', '_', text.strip().lower()).strip('_')


# ---- anyone's own

TABLE, REGIONS = 'scans.csv', 'regions.csv'
COLUMNS = ('file', 'mask', 'label', 'patient', 'split')


def folder(source):
    """The Layout of a folder with scans.csv and, where masks have several regions, regions.csv."""
    source = pathlib.Path(source)
    lines = _table(source / TABLE, COLUMNS, 'file')
    scans = [_own_scan(source, number, line) for number, line in enumerate(lines, 2)]
    with_mask = [scan for scan in scans if scan.mask]
    labelled = [scan for scan in scans if scan.label]
    for some, column in ((with_mask, 'mask'), (labelled, 'label')):
        if some and len(some) < len(scans):
            missing = next(scan for scan in scans if scan not in some)
            raise InputError(
                f'{source / TABLE}: {missing.id} has no {column}, others have; '
                'fill in the column, or leave it out'
            )
    pictures = {scan.image.suffix.lower() in contents.PICTURES for scan in scans}
    if len(pictures) > 1:
        raise InputError(f'{source / TABLE}: names pictures and volumes; make a folder of each')
    return Layout(
        lambda _: scans,
        GIVE_FOLDER,
        pictures=pictures.pop(),
        labels=tuple(sorted({scan.label for scan in labelled})),
        regions=_regions(source / REGIONS) if with_mask else {},
    )


def _own_scan(source, number, line):
    """The Scan of a line of scans.csv."""
    where = f'{source / TABLE}: line {number}'
    image = source / line['file']
    mask = source / line['mask'] if line['mask'] else None
    for path in (image, mask):
        if path and not (archive.is_file(path) or path.is_dir()):
            raise InputError(f'{where} names {path.name}, which is not there; correct the table')
    if line['split'] and line['split'] not in SPLITS:
        raise InputError(
            f'{where} has the split {line["split"]}; write one of {", ".join(SPLITS)}, or nothing'
        )
    label = _word(line['label'])
    return Scan(line['file'], image, mask, label, line['patient'], line['split'])


def _regions(file):
    """{value: region} of regions.csv, or where there is none those of one region, 'lesion'."""
    if not file.is_file():
        return {1: 'lesion', 255: 'lesion'}
    regions = {}
    for line in _table(file, ('value', 'region'), 'value'):
        if not line['value'].isdigit() or not _word(line['region']):
            raise InputError(f'{file}: {line["value"]},{line["region"]} is no value and region')
        regions[int(line['value'])] = _word(line['region'])
    return {value: region for value, region in regions.items() if value}


def _table(file, columns, required):
    """The lines of a CSV as dicts of stripped texts, '' where a column is missing."""
    try:
        reader = csv.DictReader(archive.read_text(file).splitlines())
        lines = list(reader)
    except FileNotFoundError:
        raise InputError(f'{file}: no such table; {GIVE_FOLDER}') from None
    except csv.Error as error:
        raise InputError(f'{file}: is no CSV table ({error}); {GIVE_FOLDER}') from None
    header = [name.strip().lower() for name in reader.fieldnames or []]
    unknown = [name for name in header if name not in columns]
    if required not in header or unknown:
        raise InputError(
            f'{file}: has the columns {", ".join(header) or "none"}; '
            f'expected {required} and any of {", ".join(columns)}'
        )
    rows = [
        {(key or '').strip().lower(): str(value or '').strip() for key, value in line.items()}
        for line in lines
    ]
    if not rows:
        raise InputError(f'{file}: has no lines; {GIVE_FOLDER}')
    return [{name: row.get(name, '') for name in columns} for row in rows]


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


GIVE_FOLDER = (
    f'give a folder with {TABLE}: columns file and, as far as known, mask, label, patient, split '
    f'(train, validation or test); and {REGIONS} (value,region) where masks have several regions'
)
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
        by_slice={'infected': (), 'lobes': (5,)},
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
    'mosmed_severity': Layout(
        mosmed_severity,
        'give the folder COVID19_1110 of MosMedData with studies',
        labels=tuple(map(_word, SEVERITIES)),
        homepage='https://mosmed.ai/en/datasets/covid191110',
    ),
}

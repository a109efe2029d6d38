"""COVID-CT (Zhao et al., arXiv 2003.13865): 746 CT pictures from papers and case collections.

Config `official` has the published splits, `clean` mended ones; `_framed` crops both to the lungs.
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import pathlib
import re
import string
import zipfile
from typing import NamedTuple
from xml.etree import ElementTree

import tensorflow_datasets as tfds

from covjax import InputError, counted
from covjax.ct import archive, framing
from tfds_builders import _base

# digest() of the published pictures in the published splits.
PUBLISHED = 'd1b5b11c1bf40ab661577ef010245c1d13db5ade1c9c72fc596f62c9b5e87249'
# TFDS name of a split -> what its published list is called.
SPLITS = {'train': 'train', 'validation': 'val', 'test': 'test'}
CLASSES = {'noncovid': 'NonCOVID', 'covid': 'COVID'}

# What the config `clean` knows beyond file names; covjax/data/near_duplicates.py finds the copies.
# Pictures in train as non-COVID -> the same pictures in test, COVID in their paper.
COPIES = {
    ('noncovid', '71%0.jpg'): ('covid', 'kjr-21-e24-p5-29.png'),
    ('noncovid', '71%1.jpg'): ('covid', 'kjr-21-e24-p5-31.png'),
}
# Slices of one scan: {a slice that is listed as another patient's: a slice of its scan}. That both
# are of one scan was found by looking at them.
SAME_SCAN = {
    ('noncovid', f'{n}.png'): ('noncovid', '1920.png') for n in (1919, 1921, 1922, 1923, 1924)
}

# Columns of the meta tables, in lower case: what a picture is called, and whose it is.
NAMED, PATIENT = ('file name', 'image name'), 'patient id'
MOST_XML = 1 << 25  # bytes of a part of an .xlsx file, unpacked; the published ones have 0.1 MB
SHEET = ('sharedStrings', 'worksheets/sheet1')  # the parts of an .xlsx file with the first sheet
# What reading a damaged .xlsx file raises.
DAMAGED = (
    *(zipfile.BadZipFile, ElementTree.ParseError),
    *(KeyError, ValueError, IndexError, TypeError),
)


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """What an example is.

    clean     whether splits are mended; otherwise they are those published
    framed    whether pictures show their lungs with a margin (ct/framing.py); those in which none
              are found, often because they are cropped to the lungs already, stay whole
    """

    clean: bool = False
    framed: bool = False


AS_PUBLISHED = 'Pictures and splits as published.'
MENDED = 'Copies under another label left out; every source document and scan in one split.'
CROPPED = 'Pictures are cropped to their lungs, where plausible ones are found.'


class Builder(_base.ArrayRecordBuilder):
    """One example per picture.

    `file` holds facts of the original file for audits only: they give the class away and must never
    reach a model.
    """

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {
        '1.0.0': 'The published pictures and splits.',
        '1.1.0': (
            'Configs official (what 1.0.0 was) and clean; reads .zip archives; downloads by itself.'
        ),
    }
    BUILDER_CONFIGS = [
        Config(name='official', description=AS_PUBLISHED),
        Config(name='clean', clean=True, description=MENDED),
        Config(name='official_framed', framed=True, description=f'{AS_PUBLISHED} {CROPPED}'),
        Config(name='clean_framed', clean=True, framed=True, description=f'{MENDED} {CROPPED}'),
    ]
    DOWNLOAD = 'https://github.com/UCSD-AI4H/COVID-CT/archive/refs/heads/master.zip'
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'get https://github.com/UCSD-AI4H/COVID-CT (the green button, Download ZIP), unpack it, '
        'and give its folder: CT_COVID and CT_NonCOVID may stay .zip files, '
        'Data-split/ must be there, and the meta tables (*MetaInfo.csv) if you have them'
    )

    def _info(self):
        features = {
            **_base.COMMON,
            'label': tfds.features.ClassLabel(names=_base.LABELS),
            'document': tfds.features.Text(),
            'patient': tfds.features.Text(),
            'published_split': tfds.features.Text(),
            'file': dict(_base.FILE),
        }
        if self.builder_config.framed:
            features['frame'] = tfds.features.BBoxFeature()  # in the picture
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=('image', 'label'),
            homepage='https://github.com/UCSD-AI4H/COVID-CT',
        )

    def source_files(self, folder):
        """Lists the pictures, the split files and the meta tables.

        Raises:
            InputError: a split file is missing or wrong, or a picture that it names is missing.
        """
        pictures = [picture.path for picture in read_lists(folder)]
        return pictures + archive.find(folder, '*CT_*COVID.txt') + _meta_tables(folder)

    def remark(self, folder):
        """Returns whether pictures and lists are those published, and patients known."""
        pictures = read_lists(folder)
        if digest(pictures) == PUBLISHED:
            remark = 'source pictures and lists are byte for byte those published'
        else:
            remark = (
                'source pictures or lists are NOT those published: '
                'compare results with published ones only where you know why'
            )
        patients = read_patients(folder)
        guessed = [picture for picture in pictures if not _listed(picture.key, patients)]
        if len(_meta_tables(folder)) < 2:
            remark += '; where a meta table is missing patients are guessed from file names'
        elif guessed:
            remark += (
                f'; patients of {counted(len(guessed), "picture")} are guessed from file names'
            )
        if unlisted := _unlisted(folder, pictures):
            shown = ', '.join(unlisted[:5]) + (', ...' if len(unlisted) > 5 else '')
            remark += f'; left out {counted(len(unlisted), "picture")} that no list names: {shown}'
        return remark

    def source_folder(self, dl_manager):
        """Returns the folder that TFDS was given, or the downloaded one where it was given none."""
        try:
            folder = super().source_folder(dl_manager)
        except AssertionError:
            return self.download(dl_manager)
        given = archive.find(folder, 'trainCT_COVID.txt')
        return folder if given else self.download(dl_manager)

    def _split_generators(self, dl_manager):
        folder = self.source_folder(dl_manager)
        pictures = read_lists(folder)
        if self.builder_config.clean:
            _check_patients_known(folder, pictures)
            pictures = mended(pictures)
        jobs = {split: [] for split in SPLITS}
        for picture in pictures:
            jobs[picture.split].append(picture)
        make = functools.partial(example, self.builder_config)
        return {split: self._generate_examples(make, jobs[split], split) for split in SPLITS}


class Picture(NamedTuple):
    """A picture that a split file lists."""

    path: pathlib.Path
    label: str
    published: str  # its split in the published lists
    document: str
    patient: str
    split: str

    @property
    def key(self):
        """What names it: (label, file name)."""
        return self.label, self.path.name


def example(config, picture):
    """Yields the one (key, example) of a Picture."""
    grey, facts = _base.read_grey(picture.path)
    key = '/'.join(picture.key)
    features = {
        'id': key,
        'group': f'{picture.document}/{picture.patient}',
        'label': picture.label,
        'document': picture.document,
        'patient': picture.patient,
        'published_split': picture.published,
        'file': facts,
    }
    if config.framed:
        part = framing.frame(grey) or framing.whole(grey.shape)
        features['frame'] = tfds.features.BBox(*framing.as_box(part, grey.shape))
        grey = grey[part]
    yield key, {**_base.stored(grey), **features}


def mended(pictures):
    """Makes the splits of the config `clean`.

    Copies are left out, a scan is of one patient, and each source document is whole in the split
    that had most of it: going with the majority moves the fewest pictures. A tie goes to the later
    of train, validation, test.

    Args:
        pictures: [Picture] as published.

    Returns:
        [Picture].
    """
    by_key = {picture.key: picture for picture in pictures}
    kept = [picture for picture in pictures if COPIES.get(picture.key) not in by_key]
    kept = [_of_its_scan(picture, by_key) for picture in kept]
    counts = collections.Counter((p.label, p.document, p.published) for p in kept)
    order = list(SPLITS)

    def home(picture):
        count = lambda split: counts[picture.label, picture.document, split]
        return max(order, key=lambda split: (count(split), order.index(split)))

    return [picture._replace(split=home(picture)) for picture in kept]


def _of_its_scan(picture, by_key):
    """A picture with the patient of the scan that it is known to be of."""
    other = by_key.get(SAME_SCAN.get(picture.key))
    if other is None:
        return picture
    return picture._replace(document=other.document, patient=other.patient)


def _check_patients_known(folder, pictures):
    """Refuses the published pictures without the table that names the non-COVID patients."""
    as_published = set(COPIES) <= {picture.key for picture in pictures}
    if as_published and not any(t.name.startswith('Non') for t in _meta_tables(folder)):
        raise InputError(
            f'{folder}: covid_ct/clean needs NonCOVID-CT-MetaInfo.csv, or it would not know '
            'which pictures are of one patient; copy it there'
        )


def digest(pictures):
    """Hashes the names, splits, labels and bytes of all pictures."""
    lines = []
    for picture in pictures:
        content = hashlib.sha256(archive.read(picture.path)).hexdigest()
        lines.append(f'{picture.published} {picture.label}/{picture.path.name} {content}\n')
    return hashlib.sha256(''.join(sorted(lines)).encode()).hexdigest()


def document_and_patient(name, label, patients):
    """Returns (source document, patient) of a picture.

    A COVID picture is named by the paper it is from, '2020.03.22.20040782-p25-1542.png', and
    patients are numbered within one. A non-COVID picture has only a number, and '14.png' is of
    another patient than '14%0.jpg': its patient stands for its document.

    Args:
        name: of the file.
        label: 'covid' or 'noncovid'.
        patients: {(label, file name): patient} of the meta tables, where they exist; they leave out
            some endings.
    """
    stem = name.split('%')[0].rsplit('.', 1)[0]
    known = _listed((label, name), patients)
    if label == 'covid':
        document = re.sub(r'(-p\d+.*|[_-]\d+(%\d+)?|%\d+)?\.\w+$', '', name)
        return document, known or stem
    crawled = '%' in name or name.endswith('.jpg')
    patient = known or (f'crawled_{stem}' if crawled else stem)
    return patient, patient


def read_lists(folder):
    """Reads the split files of a raw folder.

    Returns:
        [Picture] as published.

    Raises:
        InputError: a split file is missing or empty, or a picture that it names is missing or in
            two splits.
    """
    folder, patients = pathlib.Path(folder), read_patients(folder)
    # Reversed, so that of two of a name the one that is unpacked counts.
    found = reversed(archive.find(folder, 'CT_*COVID/*'))
    paths = {(path.parent.name, path.name): path for path in found}
    lists = {path.name: path for path in reversed(archive.find(folder, '*CT_*COVID.txt'))}
    listed_in, pictures = {}, []
    for split, label in itertools.product(SPLITS, CLASSES):
        part = f'CT_{CLASSES[label]}'
        file = lists.get(f'{SPLITS[split]}{part}.txt')
        if not file:
            raise InputError(
                f'{folder}: no split file {SPLITS[split]}{part}.txt; config.source must hold '
                'CT_COVID, CT_NonCOVID (folders or .zip) and Data-split/'
            )
        for name in _names_in(file):
            path = paths.get((part, name))
            if not path:
                raise InputError(
                    f'{file}: names {name}, which is not in a {part} of {folder}; '
                    'complete it or correct the list'
                )
            if path in listed_in:
                raise InputError(
                    f'{file}: {name} is already in {listed_in[path]}; '
                    'a picture belongs to one split'
                )
            listed_in[path] = file.name
            document, patient = document_and_patient(name, label, patients)
            pictures.append(Picture(path, label, split, document, patient, split))
    _check_tables_fit(folder, pictures, patients)
    return pictures


def _check_tables_fit(folder, pictures, patients):
    """Refuses a meta table that is there and names none of the pictures."""
    for table in _meta_tables(folder):
        keys = [picture.key for picture in pictures if picture.label == _label_of(table)]
        if keys and not any(_listed(key, patients) for key in keys):
            raise InputError(
                f'{table}: names none of the {len(keys)} pictures, such as {keys[0][1]}; '
                'give the table as published, or remove it: then patients are guessed'
            )


def _label_of(table):
    """The label of the pictures that a meta table is about."""
    return 'noncovid' if table.name.startswith('Non') else 'covid'


def _listed(key, patients):
    """The patient of a picture (label, file name) in the meta tables, or None.

    Some endings are left out there.
    """
    label, name = key
    return patients.get(key) or patients.get((label, name.rpartition('.')[0]))


def _unlisted(folder, pictures):
    """The names of the files beside the pictures that no split file lists, sorted."""
    listed = {picture.path.name for picture in pictures}
    beside = {path.name for path in archive.find(folder, 'CT_*COVID/*')}
    return sorted(beside - listed)


def _names_in(file):
    """The lines of a split file."""
    names = [line.strip() for line in archive.read_text(file).splitlines() if line.strip()]
    if not names:
        raise InputError(f'{file}: this split is empty; list its pictures, one name per line')
    return names


def _meta_tables(folder):
    """The authors' tables, NonCOVID-CT-MetaInfo.csv and COVID-CT-MetaInfo.xlsx, or a .csv of it."""
    found = {}
    for end in ('xlsx', 'csv'):
        tables = reversed(archive.find(folder, f'*MetaInfo.{end}'))
        found |= {path.stem: path for path in tables}
    return sorted(found.values())


def read_patients(folder):
    """Reads the meta tables of a raw folder, where they exist.

    Returns:
        {(label, file name): patient id}.

    Raises:
        InputError: a table is damaged.
    """
    patients = {}
    for table in _meta_tables(folder):
        label = _label_of(table)
        header, *rows = _cells(table) or [[]]
        columns = [cell.strip().lower() for cell in header]
        named = next((name for name in NAMED if name in columns), None)
        if not named or PATIENT not in columns:
            raise InputError(
                f'{table}: no columns {" or ".join(NAMED)}, and {PATIENT}, in its first row; '
                'give the comma-separated table as published, or remove it: '
                'then patients are guessed from file names'
            )
        for cells in rows:
            row = dict(zip(columns, cells))
            name, patient = row.get(named), row.get(PATIENT)
            if not name or not patient:
                continue
            key, patient = (label, name.strip()), patient.strip()
            if patients.setdefault(key, patient) != patient:
                raise InputError(
                    f'{table}: {name.strip()} is of the patients {patients[key]} and {patient}; '
                    'keep one of the two rows'
                )
    return patients


def _cells(table):
    """The cells of a table as text, row by row."""
    if table.suffix == '.csv':
        return list(csv.reader(archive.read_text(table).splitlines(keepends=True)))
    content = archive.read(table)
    try:
        return _sheet(content)
    except DAMAGED:
        raise InputError(f'{table}: cannot be read as a table; save it as .csv') from None


def _xml(book, name):
    """The root element of a part of an .xlsx file (zipfile.ZipFile)."""
    if name not in book.namelist():  # as shared strings, where all are written in their cells
        return ElementTree.Element('none')
    if book.getinfo(name).file_size > MOST_XML:
        raise ValueError(f'{name} is too large')
    return ElementTree.fromstring(book.read(name))


def _sheet(content):
    """The cells of the first sheet of an .xlsx file (bytes), columns A to Z."""
    space = '{http://schemas.openxmlformats.org/spreadsheetml/2006/main}'
    text = lambda element: ''.join(part.text or '' for part in element.iter(f'{space}t'))
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        strings, sheet = (_xml(book, f'xl/{part}.xml') for part in SHEET)
    shared = [text(item) for item in strings.iter(f'{space}si')]
    rows = []
    for row in sheet.iter(f'{space}row'):
        cells = {}
        for cell in row.iter(f'{space}c'):
            column, value = re.match('[A-Z]+', cell.get('r'))[0], cell.findtext(f'{space}v', '')
            if cell.get('t') == 's':
                cells[column] = shared[int(value)]
            else:
                cells[column] = value or text(cell)
        rows.append([cells.get(letter, '') for letter in string.ascii_uppercase])
    return rows

"""COVID-CT (Zhao et al., arXiv 2003.13865): 746 CT pictures clipped from papers and case collections, with the published splits or with mended ones."""

import collections
import csv
import hashlib
import io
import pathlib
import re
import string
import zipfile
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import tensorflow_datasets as tfds

from covjax import InputError
from covjax.ct import archive
from tfds_builders import _base

PUBLISHED = 'd1b5b11c1bf40ab661577ef010245c1d13db5ade1c9c72fc596f62c9b5e87249'  # digest() of the published pictures in the published splits
SPLITS = {
    'train': 'train',
    'validation': 'val',
    'test': 'test',
}  # TFDS name -> prefix of the published split file
CLASSES = {'noncovid': 'NonCOVID', 'covid': 'COVID'}

# What the config `clean` knows beyond file names; covjax/audit/near_duplicates.py finds the copies, and the first slice of the scan is there to see.
COPIES = {
    ('noncovid', '71%0.jpg'): (
        'covid',
        'kjr-21-e24-p5-29.png',
    ),  # in train as non-COVID -> the same picture in test, COVID in its paper
    ('noncovid', '71%1.jpg'): ('covid', 'kjr-21-e24-p5-31.png'),
}
SAME_SCAN = {
    ('noncovid', f'{n}.png'): ('noncovid', '1920.png') for n in (1919, 1921, 1922, 1923, 1924)
}  # the first is listed as another patient's


class Builder(_base.ArrayRecordBuilder):
    """One example a picture. `file` holds facts of the original file for audits only: they give the class away and must never reach a model."""

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {
        '1.0.0': 'The published pictures and splits.',
        '1.1.0': 'Configs official (what 1.0.0 was) and clean; reads .zip archives; downloads by itself.',
    }
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name='official', description='Pictures and splits as published.'),
        tfds.core.BuilderConfig(
            name='clean',
            description='Copies under another label left out; every source document and scan in one split.',
        ),
    ]
    DOWNLOAD = 'https://github.com/UCSD-AI4H/COVID-CT/archive/refs/heads/master.zip'
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'get https://github.com/UCSD-AI4H/COVID-CT (the green button, Download ZIP), unpack it, and give its folder: CT_COVID and CT_NonCOVID may stay '
        '.zip files, Data-split/ must be there, and the meta tables (*MetaInfo.csv) if you have them'
    )

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    **_base.COMMON,
                    'label': tfds.features.ClassLabel(names=_base.LABELS),
                    'document': tfds.features.Text(),
                    'patient': tfds.features.Text(),
                    'published_split': tfds.features.Text(),
                    'file': {
                        'container': tfds.features.Text(),
                        'mode': tfds.features.Text(),
                        'width': np.int32,
                        'height': np.int32,
                    },
                }
            ),
            supervised_keys=('image', 'label'),
            homepage='https://github.com/UCSD-AI4H/COVID-CT',
        )

    def source_files(self, folder):
        return (
            [row.path for row in _read(folder)]
            + archive.find(folder, '*CT_*COVID.txt')
            + _meta_tables(folder)
        )

    def remark(self, folder):
        same, known = digest(_read(folder)) == PUBLISHED, len(_meta_tables(folder)) == 2
        return (
            'source pictures and lists are byte for byte those published'
            if same
            else 'source pictures or lists are NOT those published: compare results with published ones only where you know why'
        ) + ('' if known else '; without both meta tables patients are guessed from file names')

    def source_folder(self, dl_manager):
        """The folder that TFDS is told, or what is downloaded where it is told none."""
        try:
            folder = super().source_folder(dl_manager)
        except AssertionError:
            folder = None
        return (
            folder
            if folder and archive.find(folder, 'trainCT_COVID.txt')
            else self.download(dl_manager)
        )

    def _split_generators(self, dl_manager):
        folder = self.source_folder(dl_manager)
        rows = _read(folder)
        if self.builder_config.name == 'clean':
            if set(COPIES) <= {row.key for row in rows} and not any(
                table.name.startswith('Non') for table in _meta_tables(folder)
            ):
                raise InputError(
                    f'{folder}: covid_ct/clean needs NonCOVID-CT-MetaInfo.csv, or it would not know which pictures are of one patient; copy it there'
                )
            rows = mended(rows)
        return {
            split: self._generate_examples(
                example, [row for row in rows if row.split == split], split
            )
            for split in SPLITS
        }


class Row(NamedTuple):
    """A listed picture."""

    path: pathlib.Path
    label: str
    published: str  # its split in the published lists
    document: str
    patient: str
    split: str

    @property
    def key(self):
        return self.label, self.path.name


def example(row):
    """Yields the one (key, example) of a row."""
    grey, facts = _base.read_grey(row.path)
    key = '/'.join(row.key)
    yield (
        key,
        {
            **_base.stored(grey),
            'id': key,
            'group': f'{row.document}/{row.patient}',
            'label': row.label,
            'document': row.document,
            'patient': row.patient,
            'published_split': row.published,
            'file': facts,
        },
    )


def mended(rows):
    """The rows of the config `clean`: without the copies, a scan under one patient, and each source document whole in the split that had most of it.

    Going with the majority moves the fewest pictures; a tie goes to the later of train, validation, test.
    """
    by_key = {row.key: row for row in rows}
    rows = [row for row in rows if COPIES.get(row.key) not in by_key]
    rows = [
        row._replace(document=other.document, patient=other.patient)
        if (other := by_key.get(SAME_SCAN.get(row.key)))
        else row
        for row in rows
    ]
    counts = collections.Counter((row.label, row.document, row.published) for row in rows)
    order = list(SPLITS)
    home = lambda row: max(
        order, key=lambda split: (counts[row.label, row.document, split], order.index(split))
    )
    return [row._replace(split=home(row)) for row in rows]


def digest(rows):
    """A hash of the names, splits, labels and bytes of all pictures."""
    lines = sorted(
        f'{row.published} {row.label}/{row.path.name} {hashlib.sha256(archive.read(row.path)).hexdigest()}\n'
        for row in rows
    )
    return hashlib.sha256(''.join(lines).encode()).hexdigest()


def document_and_patient(name, label, patients):
    """(source document, patient) of a picture; `patients` is {(label, file name): patient} of the meta tables, where they exist.

    A COVID picture is named by the paper it is from, '2020.03.22.20040782-p25-1542.png', and patients are numbered within one. A non-COVID
    picture has only a number, and '14.png' is of another patient than '14%0.jpg': its patient stands for its document.
    """
    stem, known = (
        name.split('%')[0].rsplit('.', 1)[0],
        patients.get((label, name)) or patients.get((label, name.rpartition('.')[0])),
    )  # the tables leave out some endings
    if label == 'covid':
        return re.sub(r'(-p\d+.*|[_-]\d+(%\d+)?|%\d+)?\.\w+$', '', name), known or stem
    crawled = '%' in name or name.endswith('.jpg')
    patient = known or (f'crawled_{stem}' if crawled else stem)
    return patient, patient


def _read(folder):
    """[Row] as published; a listed picture that does not exist, or is in two splits, is an error."""
    folder, seen, rows, patients = pathlib.Path(folder), {}, [], _read_patients(folder)
    pictures = {
        (path.parent.name, path.name): path
        for path in reversed(archive.find(folder, 'CT_*COVID/*'))
    }  # reversed: what is unpacked counts
    lists = {path.name: path for path in reversed(archive.find(folder, '*CT_*COVID.txt'))}
    for split, prefix in SPLITS.items():
        for label, part in CLASSES.items():
            file = lists.get(f'{prefix}CT_{part}.txt')
            if not file:
                raise InputError(
                    f'{folder}: no split file {prefix}CT_{part}.txt; config.source must hold CT_COVID, CT_NonCOVID (folders or .zip) and Data-split/'
                )
            names = [line.strip() for line in archive.read_text(file).splitlines() if line.strip()]
            if not names:
                raise InputError(f'{file}: this split is empty; list its pictures, one name a line')
            for name in names:
                path = pictures.get((f'CT_{part}', name))
                if not path:
                    raise InputError(
                        f'{file}: names {name}, which is not in a CT_{part} of {folder}; complete it or correct the list'
                    )
                if path in seen:
                    raise InputError(
                        f'{file}: {name} is already in {seen[path]}; a picture belongs to one split'
                    )
                seen[path] = file.name
                rows.append(
                    Row(path, label, split, *document_and_patient(name, label, patients), split)
                )
    return rows


def _meta_tables(folder):
    """The authors' tables, NonCOVID-CT-MetaInfo.csv and COVID-CT-MetaInfo.xlsx, or a .csv of it."""
    found = {
        path.stem: path
        for end in ('xlsx', 'csv')
        for path in reversed(archive.find(folder, f'*MetaInfo.{end}'))
    }
    return sorted(found.values())


def _read_patients(folder):
    """{(label, file name): patient id} from the meta tables where they exist."""
    patients = {}
    for table in _meta_tables(folder):
        label = 'noncovid' if table.name.startswith('Non') else 'covid'
        rows = (
            _sheet(table)
            if table.suffix == '.xlsx'
            else list(csv.reader(archive.read_text(table).splitlines(keepends=True)))
        )
        header = [cell.strip().lower() for cell in rows[0]] if rows else []
        for row in (dict(zip(header, cells)) for cells in rows[1:]):
            name, patient = row.get('file name') or row.get('image name'), row.get('patient id')
            if name and patient:
                patients[label, name.strip()] = patient.strip()
    return patients


def _sheet(path):
    """The cells of the first sheet of an .xlsx file, as text, row by row."""
    space = '{http://schemas.openxmlformats.org/spreadsheetml/2006/main}'
    text = lambda element: ''.join(part.text or '' for part in element.iter(f'{space}t'))
    try:
        with zipfile.ZipFile(io.BytesIO(archive.read(path))) as book:
            shared = [
                text(item)
                for item in ElementTree.fromstring(book.read('xl/sharedStrings.xml')).iter(
                    f'{space}si'
                )
            ]
            rows = []
            for row in ElementTree.fromstring(book.read('xl/worksheets/sheet1.xml')).iter(
                f'{space}row'
            ):
                cells = {}
                for cell in row.iter(f'{space}c'):
                    value = cell.findtext(f'{space}v', '')
                    cells[re.match('[A-Z]+', cell.get('r'))[0]] = (
                        shared[int(value)] if cell.get('t') == 's' else value or text(cell)
                    )
                rows.append([cells.get(letter, '') for letter in string.ascii_uppercase])
            return rows
    except (
        zipfile.BadZipFile,
        KeyError,
        ElementTree.ParseError,
        ValueError,
        IndexError,
        TypeError,
    ):
        raise InputError(f'{path}: can not be read as a table; save it as .csv') from None

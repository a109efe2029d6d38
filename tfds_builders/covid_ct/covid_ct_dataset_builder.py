"""COVID-CT (Zhao et al., arXiv 2003.13865): 746 CT pictures clipped from papers and case collections, with the published splits."""
import csv
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds

from covjax import InputError, ct
from tfds_builders import _base

SPLITS = {'train': 'train', 'validation': 'val', 'test': 'test'}              # TFDS name -> prefix of the published split file
CLASSES = {'noncovid': 'NonCOVID', 'covid': 'COVID'}


class Builder(_base.ArrayRecordBuilder):
    """One example a picture. `file` holds facts of the original file for audits only: they give the class away and must never reach a model."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'The published pictures and splits.'}
    MANUAL_DOWNLOAD_INSTRUCTIONS = ('Get https://github.com/UCSD-AI4H/COVID-CT, unzip Images-processed/CT_COVID.zip and CT_NonCOVID.zip, and give the folder '
                                    'that holds CT_COVID/, CT_NonCOVID/ and Data-split/ (and, if you like, the meta tables in meta/ or beside them).')

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({
                **_base.COMMON,
                'label': tfds.features.ClassLabel(names=_base.LABELS),
                'document': tfds.features.Text(),
                'patient': tfds.features.Text(),
                'file': {'container': tfds.features.Text(), 'mode': tfds.features.Text(), 'width': np.int32, 'height': np.int32},
            }),
            supervised_keys=('image', 'label'),
            homepage='https://github.com/UCSD-AI4H/COVID-CT')

    def source_files(self, folder):
        splits = _read_splits(folder)
        pictures = [path for rows in splits.values() for path, _ in rows]
        lists = list((pathlib.Path(folder) / 'Data-split').rglob('*.txt'))
        return pictures + lists + _meta_tables(folder)

    def _split_generators(self, dl_manager):
        patients = _read_patients(dl_manager.manual_dir)
        return {split: self._generate_examples(rows, patients) for split, rows in _read_splits(dl_manager.manual_dir).items()}

    def _generate_examples(self, rows, patients):
        for path, label in rows:
            grey, facts = _base.read_grey(path)
            document, patient = document_and_patient(path.name, label, patients)
            key = f'{label}/{path.name}'
            yield key, {**_base.encode_grey(grey), 'id': key, 'group': f'{document}/{patient}', 'label': label,
                        'document': document, 'patient': patient, 'file': facts}


def document_and_patient(name, label, patients):
    """(source document, patient) of a picture; `patients` is {(label, file name): patient} of the meta tables, where they exist.

    A COVID picture is named by the paper it is from, '2020.03.22.20040782-p25-1542.png', and patients are numbered within one. A non-COVID
    picture has only a number, and '14.png' is of another patient than '14%0.jpg': its patient stands for its document.
    """
    stem = name.split('%')[0].rsplit('.', 1)[0]
    if label == 'covid':
        return re.sub(r'(-p\d+.*|[_-]\d+(%\d+)?|%\d+)?\.\w+$', '', name), patients.get((label, name), stem)
    crawled = '%' in name or name.endswith('.jpg')
    patient = patients.get((label, name), f'crawled_{stem}' if crawled else stem)
    return patient, patient


def _read_splits(folder):
    """{split: [(picture path, label)]} as published; a listed picture that does not exist, or is in two splits, is an error."""
    folder, seen, splits = pathlib.Path(folder), {}, {}
    for split, prefix in SPLITS.items():
        splits[split] = []
        for label, part in CLASSES.items():
            file = folder / 'Data-split' / part / f'{prefix}CT_{part}.txt'
            if not file.is_file():
                raise InputError(f'{file}: no such split file; config.source must hold CT_COVID/, CT_NonCOVID/ and Data-split/')
            names = [line.strip() for line in ct.read_text(file).splitlines() if line.strip()]
            if not names:
                raise InputError(f'{file}: this split is empty; list its pictures, one name a line')
            for name in names:
                path = folder / f'CT_{part}' / name
                if not path.is_file():
                    raise InputError(f'{file}: names {name}, which is not in {path.parent}; complete the folder or correct the list')
                if path in seen:
                    raise InputError(f'{file}: {name} is already in {seen[path]}; a picture belongs to one split')
                seen[path] = file.name
                splits[split].append((path, label))
    return splits


def _meta_tables(folder):
    return sorted({*pathlib.Path(folder).glob('*MetaInfo.csv'), *pathlib.Path(folder).glob('meta/*MetaInfo.csv')})


def _read_patients(folder):
    """{(label, file name): patient id} from the meta tables where they exist."""
    patients = {}
    for table in _meta_tables(folder):
        label = 'noncovid' if table.name.startswith('Non') else 'covid'
        for row in csv.DictReader(ct.read_text(table).splitlines(keepends=True)):
            row = {(key or '').strip().lower(): value for key, value in row.items()}
            name, patient = row.get('file name') or row.get('image name'), row.get('patient id')
            if name and patient:
                patients[label, name.strip()] = patient.strip()
    return patients

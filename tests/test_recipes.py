"""The recipes of docs/data.md, run as they are printed in folders as their data sets have them."""

import csv
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import ROOT
from PIL import Image

from covjax.ct import windows
from covjax.phantom.chest import draw_chest, render
from covjax.runs import prepare

TEXT = (ROOT / 'docs' / 'data.md').read_text(encoding='utf-8')
RECIPES = dict(re.findall(r'^### (.+?)\n.*?```python\n(.*?)```', TEXT, re.MULTILINE | re.DOTALL))


def hu_of(seed):
    """A slice of a phantom, int [48, 48]."""
    rng = np.random.default_rng(seed)
    return np.round(render(draw_chest(rng), rng.uniform(-40, 40), 48, 7.3)).astype(int)


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(windows.to_grey(hu_of(seed))).save(path)


def cc_ccii(folder):
    """Five patients, one of a wrong scan, and slices that are not listed."""
    expected, listed = {}, ['imgpath']
    scans = {'NCP/96/1328': 'covid', 'NCP/97/1331': 'covid', 'CP/5/3001': 'pneumonia'}
    scans |= {'Normal/7/4001': 'normal', 'Normal/7/4002': 'normal', 'NCP/328/1805': None}
    for seed, (scan, label) in enumerate(scans.items()):
        for k in range(3):
            name = f'{scan}/{k:04d}.jpg'
            save(folder / name, 10 * seed + k)
            if k < 2:
                listed.append(name)
            if label == 'normal' or label and k < 2:
                kind, patient, _ = scan.split('/')
                expected[name] = (label, f'{kind} {patient}', '')
    listed = [line for line in listed if not line.startswith('Normal')]
    (folder / 'lesions_slices.csv').write_text('\n'.join(listed) + '\n')
    return expected


def covidx_ct(folder):
    """Three lists, of which one names a file that is missing."""
    expected, lines = {}, {'train': [], 'val': [], 'test': []}
    for seed in range(9):
        name, label = ('train', 'val', 'test')[seed % 3], seed // 3
        file = f'NCP_{seed}_132{seed}_0003.png'
        save(folder / '2A_images' / file, seed)
        lines[name].append(f'{file} {label} 3 4 40 41')
        word, split = ('normal', 'pneumonia', 'covid')[label], name.replace('val', 'validation')
        expected[f'2A_images/{file}'] = (word, file[:-9], split)
    lines['train'].append('CP_0_3137_0001.png 1 3 4 40 41')
    for name, listed in lines.items():
        (folder / f'{name}_COVIDx_CT-2A.txt').write_text('\n'.join(listed) + '\n')
    return expected


def sars_cov_2(folder):
    expected = {}
    for seed in range(12):
        kind, label = (('COVID', 'covid'), ('non-COVID', 'noncovid'))[seed % 2]
        name = f'{kind}/{kind.replace("COVID", "Covid")} ({7 * seed + 1}).png'
        save(folder / name, seed)
        expected[name] = (label, '', '')
    return expected


def covid_ctset(folder):
    expected, rows = {}, [['Patient ID', 'SEX', 'AGE', 'Date', 'COVID-19 Infection']]
    for patient in range(4):
        result, label = (('Positive', 'covid'), ('Negative', 'noncovid'))[patient % 2]
        rows.append([f'patient{patient}', 'F', '053Y', '20200407', result])
        for k in range(2):
            stem = f'patient{patient}/SR_2/{patient}{k}covid_patient{patient}_SR_2_IM0000{k}'
            path = folder / f'{stem}.tif'
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = np.maximum(hu_of(10 * patient + k), -1024) + 1024
            Image.fromarray(stored.astype(np.uint16)).save(path)
            expected[f'{stem}.png'] = (label, f'patient{patient}', '')
    with (folder / 'Patient_details.csv').open('w', newline='') as file:
        csv.writer(file).writerows(rows)
    return expected


WRITE = {
    'CC-CCII': cc_ccii,
    'COVIDx-CT': covidx_ct,
    'SARS-CoV-2 CT-scan': sars_cov_2,
    'COVID-CTset': covid_ctset,
}


def run(name, folder):
    """CompletedProcess of a recipe in a folder."""
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    command = [sys.executable, '-c', RECIPES[name]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_recipe_has_a_folder_and_the_other_way_round():
    assert set(RECIPES) == set(WRITE)


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_names_every_picture_with_what_is_known_of_it(name, tmp_path):
    folder, data_dir = tmp_path / 'raw', str(tmp_path / 'data')
    folder.mkdir()
    expected = WRITE[name](folder)
    result = run(name, folder)
    assert result.returncode == 0, result.stderr
    prepare.build('ct_scans/folder', folder, data_dir)
    builder = tfds.builder('ct_scans/folder', data_dir=data_dir)
    found = {}
    for split in builder.info.splits:
        for example in tfds.data_source('ct_scans/folder', split=split, data_dir=data_dir):
            key, patient = example['id'].decode(), example['patient'].decode()
            label = builder.info.features['label'].int2str(int(example['label']))
            found[key] = (label, patient, split if expected[key][2] else '')
    assert found == expected


def test_covid_ctset_is_seen_through_the_lung_window(tmp_path):
    covid_ctset(tmp_path)
    assert run('COVID-CTset', tmp_path).returncode == 0
    for patient in range(4):
        (path,) = tmp_path.rglob(f'{patient}1covid*.png')
        hu = np.maximum(hu_of(10 * patient + 1), -1024)
        np.testing.assert_array_equal(np.asarray(Image.open(path)), windows.to_grey(hu))


def test_files_that_were_divided_by_their_maximum_are_refused(tmp_path):
    covid_ctset(tmp_path)
    path = next(tmp_path.rglob('*.tif'))
    stored = np.asarray(Image.open(path)).astype(np.float32)
    Image.fromarray(stored / stored.max()).save(path)
    result = run('COVID-CTset', tmp_path)
    assert result.returncode == 1 and f'{path.name}: is not in HU' in result.stderr
    assert not (tmp_path / 'scans.csv').exists()

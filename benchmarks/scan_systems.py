"""The four surveyed systems that decide on scans: each is trained on phantoms, and applied.

python benchmarks/scan_systems.py FOLDER [--real=RAW_FOLDER] [--people=90,30,40]

Phantom people are normal, ill with faint opacities, here called covid, or with dense ones, here
called cap. From them learn small versions of Gozes et al. (ResNet-50 of slices), DRE-Net, COVNet
and location attention, whose lesion segmenter learns from the same people; all are evaluated on
scans of others, and candidates are compared with the painted opacities. With --real, a raw folder
in the layout covid_ct_md, they are applied to its scans too: networks of phantoms know nothing
about real chests, so that this shows that everything runs, and nothing else. What is finished is
kept.
"""

import argparse
import csv
import json
import pathlib

import numpy as np
import SimpleITK as sitk
from PIL import Image
from scan_phantoms import LEAST, LESION, finished, launch
from scipy import ndimage

from covjax import segmenter
from covjax.ct import windows
from covjax.data.candidates import TOUCHING, pieces
from covjax.phantom.ct_scans import write_volumes

SIZE, SLICES, MOST = 96, 32, 3
DENSER = 300  # HU that are added to the opacities of every second one who is ill
PICTURES, VOLUMES, PLANES = 'ct_scans/folder', 'ct_scans/folder_hu', 'ct_scans/folder_slices'
# Of the layout covid_ct_md: how networks of pictures see its scans, and those of volumes.
REAL = {PICTURES: 'ct_scans/covid_ct_md_slices', VOLUMES: 'ct_scans/covid_ct_md_hu'}
SPLITS = ('train', 'validation', 'test')


def masks_of(folder):
    """Yields (row of scans.csv, HU [z, y, x], where opacities are, bool) of each phantom scan."""
    for row in csv.DictReader((folder / 'scans' / 'scans.csv').open(encoding='utf-8')):
        images = [sitk.ReadImage(str(folder / 'scans' / row[key])) for key in ('file', 'mask')]
        hu, mask = map(sitk.GetArrayFromImage, images)
        yield row, hu, mask == LESION


def draw(folder, people):
    """Draws scans of three classes, and their slices as pictures, normal where nothing is seen."""
    scans, pictures = folder / 'scans', folder / 'pictures'
    if (pictures / 'scans.csv').is_file():
        return
    if not (scans / 'PHANTOM.txt').is_file():
        write_volumes(scans, 1, people, SIZE, SLICES, MOST, healthy=True)
    pictures.mkdir(exist_ok=True)
    rows, of_slices = [], []
    for i, (row, hu, lesion) in enumerate(masks_of(folder)):
        if lesion.any() and i % 4 == 1:
            row['label'] = 'cap'
            image = sitk.GetImageFromArray(hu + DENSER * lesion.astype(hu.dtype))
            image.CopyInformation(sitk.ReadImage(str(scans / row['file'])))
            sitk.WriteImage(image, str(scans / row['file']))
            hu = sitk.GetArrayFromImage(image)
        rows.append(row)
        for z, (plane, ill) in enumerate(zip(hu, lesion)):
            name = f'{row["patient"]}_{z:02d}.png'
            Image.fromarray(windows.to_grey(plane)).save(pictures / name)
            label = row['label'] if ill.sum() >= LEAST else 'normal'
            part = {'file': name, 'label': label}
            of_slices.append(part | {key: row[key] for key in ('patient', 'split')})
    for file, lines in ((scans, rows), (pictures, of_slices)):
        with (file / 'scans.csv').open('w', newline='', encoding='utf-8') as opened:
            writer = csv.DictWriter(opened, lines[0])
            writer.writeheader()
            writer.writerows(lines)


def prepare(folder, real):
    """Prepares phantoms and real scans -> words that say where data sets lie."""
    jobs = [(PICTURES, 'pictures'), (VOLUMES, 'scans'), (PLANES, 'scans')]
    jobs += [(dataset, real) for dataset in REAL.values() if real]
    for dataset, source in jobs:
        workdir = folder / f'prepare_{dataset.split("/")[1]}'
        if not finished(workdir):
            launch(
                *('--config=prepare', f'--config.dataset={dataset}', f'--workdir={workdir}'),
                *(f'--config.source={folder / source}', f'--config.data_dir={folder / "data"}'),
            )
    return f'--config.data_dir={folder / "data"}'


def systems(folder):
    """{name: (config, data set, words)} in the order in which they are trained."""
    small = ('--config.image_size=64', '--config.eval_every=100', '--config.class_weights=balanced')
    slices = (*small, '--config.load_size=64', '--config.batch_size=16', '--config.steps=800')
    bags = ('--config.batch_size=2', '--config.slices=16', '--config.steps=200')
    return {
        'gozes': ('gozes', PICTURES, slices),
        'resnet50_torch': ('classifier:resnet50_torch', PICTURES, slices),
        'lesions': (
            'segmentation:small',
            PLANES,
            ('--config.image_size=96', '--config.patch=(96,96)', '--config.regions=lesion'),
        ),
        'covnet': (
            'scans:covnet',
            VOLUMES,
            (*small, *bags, f'--config.start={folder / "resnet50_torch"}', '--config.mip=0',
             '--config.apart=0', '--config.learning_rate=1e-4'),
        ),
        'location': (
            'scans:location',
            VOLUMES,
            (f'--config.lesion_segmenter={folder / "lesions"}', '--config.steps=400'),
        ),
        'dre_net': (
            'dre_net:small',
            PICTURES,
            ('--config.steps=120', '--config.eval_every=40', '--config.warmup_steps=20',
             '--config.class_weights=balanced', '--config.learning_rate=1e-4',
             f'--config.start={folder / "resnet50_torch"}'),
        ),
    }  # fmt: skip


def train(folder, where):
    """Trains the systems and what they need."""
    for name, (config, dataset, words) in systems(folder).items():
        if not finished(folder / name):
            launch(
                *(f'--config={config}', f'--workdir={folder / name}', where, *words),
                *(f'--config.train={dataset}:train', f'--config.val={dataset}:validation'),
            )


def evaluate(folder, where, real):
    """Evaluates the systems and prints the area under the curve of each class, by patient."""
    ways = {'gozes': 'share', 'dre_net': 'mean', 'covnet': '', 'location': ''}
    for name, way in ways.items():
        dataset = systems(folder)[name][1]
        tests = f'{dataset}:test'
        if real:
            tests += ',' + '+'.join(f'{REAL[dataset]}:{split}' for split in SPLITS)
        target = folder / f'evaluate_{name}'
        if not finished(target):
            launch(
                *('--config=evaluate', f'--workdir={target}', where, '--config.baseline='),
                *(f'--config.classifier={folder / name}', f'--config.tests={tests}'),
                f'--config.aggregate={way}',
            )
        found = json.loads((target / 'results.json').read_text(encoding='utf-8'))
        for each in found['by_patient'] if way else found['results']:
            print(name, {key: each[key] for key in each if key not in ('metrics', 'intervals')})
            print(name, each['metrics'], each['intervals'])


def candidates(folder):
    """Prints how many painted opacities of test scans have a candidate, and how many are none."""
    network = segmenter.load(str(folder / 'lesions'))
    met = painted = wrong = 0
    for row, hu, lesion in masks_of(folder):
        if row['split'] != 'test':
            continue
        spacing = sitk.ReadImage(str(folder / 'scans' / row['file'])).GetSpacing()[::-1]
        predicted = segmenter.predict(network, windows.to_grey(hu), batch_size=8)
        found = np.stack([segmenter.decided(each) > 0 for each in predicted])
        middles = pieces(found, spacing)
        numbers, count = ndimage.label(lesion, TOUCHING)
        hit = {numbers[middle] for middle in middles}
        painted, met = painted + count, met + len(hit - {0})
        wrong += sum(not numbers[middle] for middle in middles)
    print(f'candidates: {met} of {painted} opacities have one; {wrong} candidates are none')


def corona(folder, real):
    """Applies Gozes et al. to all scans of phantoms and to the real ones."""
    for name, source in (('phantom', folder / 'scans' / 'scans'), ('real', real)):
        target = folder / f'corona_{name}'
        if source and not finished(target):
            launch(
                *('--config=corona', f'--workdir={target}', f'--config.input={source}'),
                *(f'--config.classifier={folder / "gozes"}',),
                *(f'--config.evaluation={folder / "evaluate_gozes"}',),
            )


def main():
    """Does what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--real', type=pathlib.Path)
    parser.add_argument('--people', default='90,30,40')
    words = parser.parse_args()
    folder, real = words.folder.resolve(), words.real and words.real.resolve()
    draw(folder, tuple(map(int, words.people.split(','))))
    where = prepare(folder, real)
    train(folder, where)
    evaluate(folder, where, real)
    candidates(folder)
    corona(folder, real)


if __name__ == '__main__':
    main()

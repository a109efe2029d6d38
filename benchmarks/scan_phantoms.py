"""Whole scans on phantoms: every pooling, a middle slice alone, and the corona score.

python benchmarks/scan_phantoms.py FOLDER [--people=120,40,80] [--steps=300]

Draws scans of people with and without opacities, trains a classifier of slices, whose labels come
from the masks, and from it networks of scans, one for each pooling; a classifier of the middle
slices stands beside them. All are evaluated on scans of other people. The corona score is compared
with the painted volume. What is finished is kept.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import SimpleITK as sitk
from PIL import Image
from scipy import stats

from covjax.ct import windows
from covjax.models.scans import POOLING
from covjax.phantom.ct_scans import write_volumes

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZE, SLICES, MOST = 96, 32, 3
LESION, LEAST = 2, 12  # value of the masks; pixels from which on a slice is ill
SCANS, PICTURES = 'ct_scans/folder', 'slices'
NETWORK = ('--config.model=plain8', '--config.image_size=64')


def launch(*words):
    """Runs launch.py; ends where it fails."""
    done = subprocess.run([sys.executable, ROOT / 'launch.py', *map(str, words)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def finished(workdir):
    """Whether a run has ended."""
    return (workdir / 'environment.json').is_file()


def mask_of(folder, name):
    """Where a phantom scan has opacities: bool [z, y, x]."""
    image = sitk.ReadImage(str(folder / 'scans' / 'masks' / f'{name}.nii.gz'))
    return sitk.GetArrayFromImage(image) == LESION


def draw(folder, people):
    """Draws the scans, and their slices as pictures that are ill or not by the mask."""
    scans = folder / 'scans'
    if not (scans / 'PHANTOM.txt').is_file():
        write_volumes(scans, 0, people, SIZE, SLICES, MOST, healthy=True)
    rows = [('file', 'label', 'patient', 'split')]
    if (folder / PICTURES / 'scans.csv').is_file():
        return
    for each in csv.DictReader((scans / 'scans.csv').open(encoding='utf-8')):
        name = pathlib.PurePath(each['file']).name.removesuffix('.nii.gz')
        hu = sitk.GetArrayFromImage(sitk.ReadImage(str(scans / each['file'])))
        for z, (plane, lesion) in enumerate(zip(hu, mask_of(folder, name))):
            file = folder / PICTURES / f'{name}_{z:02d}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(windows.to_grey(plane)).save(file)
            label = 'covid' if lesion.sum() >= LEAST else 'normal'
            rows.append((file.name, label, each['patient'], each['split']))
    with (folder / PICTURES / 'scans.csv').open('w', newline='', encoding='utf-8') as opened:
        csv.writer(opened).writerows(rows)


def prepare(folder):
    """Prepares scans and slices, in folders of their own: both are called ct_scans/folder."""
    for name in ('scans', PICTURES):
        workdir = folder / f'prepare_{name}'
        if not finished(workdir):
            launch(
                *('--config=prepare', f'--config.dataset={SCANS}', f'--workdir={workdir}'),
                *(
                    f'--config.source={folder / name}',
                    f'--config.data_dir={folder / "data" / name}',
                ),
            )


def sets(data):
    """The words that name training and validation."""
    return [
        f'--config.train={SCANS}:train',
        f'--config.val={SCANS}:validation',
        f'--config.data_dir={data}',
    ]


def train(folder, steps):
    """Trains all networks -> {name: workdir}."""
    found = {}
    slices = ('--config.load_size=64', '--config.eval_every=100')
    for name, data, count in (('slices', PICTURES, 1500), ('middle', 'scans', 800)):
        if not finished(folder / f'{name}_run'):
            launch(
                *('--config=classifier:plain8', f'--workdir={folder / f"{name}_run"}'),
                *(*sets(folder / 'data' / data), *NETWORK, *slices, f'--config.steps={count}'),
            )
        found[name] = folder / f'{name}_run'
    for pooling in POOLING:
        found[pooling] = folder / pooling
        if not finished(found[pooling]):
            launch(
                *(f'--config=scans:{pooling}', f'--workdir={found[pooling]}', *NETWORK),
                *(*sets(folder / 'data' / 'scans'), f'--config.start={found["slices"]}'),
                *(f'--config.steps={steps}', '--config.eval_every=50'),
            )
    return found


def evaluate(folder, networks):
    """Evaluates all networks on the test scans and slices, and prints areas under the curve."""
    for name, workdir in networks.items():
        data = folder / 'data' / (PICTURES if name == 'slices' else 'scans')
        target = folder / f'evaluate_{name}'
        if not finished(target):
            launch(
                *('--config=evaluate', f'--workdir={target}', f'--config.classifier={workdir}'),
                *(f'--config.tests={SCANS}:test', f'--config.baseline={SCANS}:train'),
                *(f'--config.data_dir={data}', '--config.aggregate=mean,max,share,noisy_or'),
            )
        found = json.loads((target / 'results.json').read_text(encoding='utf-8'))
        network = found['results'][0]
        print(name, 'each', said(network))
        if name == 'slices':
            for each in found['by_patient']:
                print(name, each['aggregate'], said(each))


def said(result):
    """'AUC (low to high)' of an entry of results.json."""
    ends = result['intervals']['auc']
    return f'{result["metrics"]["auc"]:.3f} ({ends["low"]:.3f} to {ends["high"]:.3f})'


def corona(folder, networks):
    """Compares corona scores of the test scans with the painted volumes."""
    target, tests = folder / 'corona', folder / 'tests'
    if not finished(target):
        tests.mkdir(exist_ok=True)
        for file in sorted((folder / 'scans' / 'scans').glob('test_*')):
            (tests / file.name).unlink(missing_ok=True)
            (tests / file.name).symlink_to(file)
        launch(
            *('--config=corona', f'--workdir={target}', f'--config.input={tests}'),
            *(f'--config.classifier={networks["slices"]}',),
            *(f'--config.evaluation={folder / "evaluate_slices"}',),
        )
    rows = list(csv.DictReader((target / 'table.csv').open(encoding='utf-8')))
    painted = [mask_of(folder, row['file'].removesuffix('.nii.gz')).sum() for row in rows]
    ill = np.array(painted) > 0
    for key in ('corona score (ml)', 'volume (ml)', 'share'):
        values = np.array([float(row[key]) for row in rows])
        everyone = stats.spearmanr(values, painted).statistic
        of_ill = stats.spearmanr(values[ill], np.array(painted)[ill]).statistic
        print(
            f'{key}: Spearman {everyone:.3f} of {len(rows)} scans, {of_ill:.3f} of {ill.sum()} ill'
        )


def main():
    """Does what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--people', default='120,40,80')
    parser.add_argument('--steps', type=int, default=300)
    words = parser.parse_args()
    folder = words.folder.resolve()
    draw(folder, tuple(map(int, words.people.split(','))))
    prepare(folder)
    networks = train(folder, words.steps)
    evaluate(folder, networks)
    corona(folder, networks)


if __name__ == '__main__':
    main()

"""A person in the loop who draws exact masks, on phantoms: does each round help, and which scans?

python benchmarks/annotate_phantoms.py FOLDER [--seeds=3] [--rounds=3]

Draws 16 scans to learn from, of which 4 are labelled at the start, 4 for validation, 12 to test,
and 24 that nobody has labelled. A small VB-Net learns the lesions of the four; then each round
takes the exact masks of four more, those that it is least certain of or a random pick, and it
trains on. Every network is evaluated on the test scans at the end. What is finished is kept.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import SimpleITK as sitk

from covjax import rounds
from covjax.phantom.ct_scans import write_volumes

ROOT = pathlib.Path(__file__).resolve().parents[1]
LESION = 2  # value of the masks of write_volumes
SETS = 'ct_scans/folder'
ORDERS = rounds.ORDERS


def launch(*words):
    """Runs launch.py; ends where it fails."""
    done = subprocess.run([sys.executable, ROOT / 'launch.py', *map(str, words)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def draw(folder):
    """Draws the scans and prepares those with labels."""
    for name, seed, people in (('raw', 0, (16, 4, 12)), ('pool', 1, (24, 0, 0))):
        if not (folder / name / 'PHANTOM.txt').is_file():
            write_volumes(folder / name, seed, people)
    launch(
        *('--config=prepare', f'--config.dataset={SETS}', f'--config.source={folder / "raw"}'),
        *(f'--config.data_dir={folder / "data"}', f'--workdir={folder / "prepare"}'),
    )


def begin(folder, seed):
    """The workdir of a network that learned from four scans."""
    workdir = folder / f'first_{seed}'
    if not (workdir / 'environment.json').is_file():
        launch(
            *('--config=segmentation:vbnet_small', f'--workdir={workdir}'),
            *(f'--config.data_dir={folder / "data"}', f'--config.train={SETS}:train[4~{seed}]'),
            *(f'--config.val={SETS}:validation', '--config.regions=lesion'),
            *('--config.spacing=0', '--config.steps=200', f'--config.seed={seed}'),
        )
    return workdir


def one_round(folder, workdir, first, words):
    """Predicts, draws exact masks, takes them and trains on."""
    step = lambda name, *more: launch(
        '--config=annotate', f'--workdir={workdir}', f'--config.step={name}', *more, *words
    )
    found = rounds.read(workdir)
    if not found:
        pool = folder / 'pool' / 'scans'
        step('predict', f'--config.input={pool}', f'--config.segmenter={first}')
    elif is_finished(found[-1]):
        step('predict')
    one = rounds.read(workdir)[-1]
    if one.taken is None:
        correct(folder, one)
        step('take')
    step('train')


def is_finished(one):
    """Whether the training of a round has ended."""
    return (one.network / 'environment.json').is_file()


def correct(folder, one):
    """Does what the exact person does with a round."""
    file = one.folder / 'worklist.csv'
    with file.open(encoding='utf-8') as opened:
        table = list(csv.DictReader(opened))
    for row in table:
        truth = sitk.ReadImage(str(folder / 'pool' / 'masks' / f'{row["file"]}.nii.gz'))
        sitk.WriteImage(truth == LESION, str(one.file('masks', row['file'])))
        row['done'] = 'x'
    with file.open('w', newline='', encoding='utf-8') as opened:
        writer = csv.DictWriter(opened, table[0])
        writer.writeheader()
        writer.writerows(table)


def score(folder, networks):
    """{workdir: mean Dice on the test scans}."""
    workdir = folder / 'evaluate'
    launch(
        *('--config=evaluate_masks', f'--config.segmenters={",".join(map(str, networks))}'),
        *(f'--config.tests={SETS}:test', f'--config.data_dir={folder / "data"}'),
        f'--workdir={workdir}',
    )
    found = json.loads((workdir / 'masks.json').read_text())['results']
    return {each['segmenter']: each['summary']['means']['dice']['value'] for each in found}


def main():
    """Runs what is not finished, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    draw(args.folder)
    networks = {}
    for seed in range(args.seeds):
        first = begin(args.folder, seed)
        for order in ORDERS:
            workdir = args.folder / f'{order}_{seed}'
            words = [f'--config.order={order}', f'--config.seed={seed}', '--config.number=4']
            words += ['--config.steps=120', '--config.learning_rate=5e-3', '--config.lungs=']
            words.append('--config.overlap=0')
            while sum(map(is_finished, rounds.read(workdir))) < args.rounds:
                one_round(args.folder, workdir, first, words)
            found = [first, *(one.network for one in rounds.read(workdir))]
            networks[order, seed] = [str(path) for path in found]
    dice = score(args.folder, sorted({path for paths in networks.values() for path in paths}))
    for order in ORDERS:
        table = np.array([[dice[p] for p in networks[order, s]] for s in range(args.seeds)])
        for seed, row in enumerate(table):
            print(f'{order}, seed {seed}: ' + ' '.join(f'{value:.3f}' for value in row))
        means, deviations = table.mean(0), table.std(0, ddof=1)
        print(f'{order}: ' + ' '.join(f'{m:.3f} ({d:.3f})' for m, d in zip(means, deviations)))


if __name__ == '__main__':
    main()

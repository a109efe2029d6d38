"""LUNA16 slice pictures with the lungs that Otsu's threshold finds, as a raw folder of ct_scans.

python benchmarks/otsu_lungs.py SLICES FOLDER

SLICES has pictures SERIESUID.mhd_K.png. A segmenter that learns from these masks can be no better
than they are, but it may go on where the threshold gives up: docs/segmentation.md says how it does.
"""

import argparse
import csv
import pathlib
import shutil

import numpy as np
from PIL import Image
from tqdm import tqdm

from covjax.ct import luna16, lungs, picture


def main():
    """Writes slices/, masks/, scans.csv and regions.csv; slices without plausible lungs are out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('slices', type=pathlib.Path)
    parser.add_argument('folder', type=pathlib.Path)
    args = parser.parse_args()
    for name in ('slices', 'masks'):
        (args.folder / name).mkdir(parents=True, exist_ok=True)
    rows = [('file', 'mask', 'patient', 'split')]
    for path in tqdm(sorted(args.slices.glob('*.png')), unit='slice', disable=None):
        mask = lungs.mask(picture.read(path))
        if lungs.plausible(mask[None])[0]:
            series = path.name.partition('.mhd')[0]
            shutil.copy(path, args.folder / 'slices' / path.name)
            Image.fromarray(mask.astype(np.uint8)).save(args.folder / 'masks' / path.name)
            files = f'slices/{path.name}', f'masks/{path.name}'
            rows.append((*files, series, luna16.series_split(series)))
    for name, lines in (('scans.csv', rows), ('regions.csv', [('value', 'region'), (1, 'lung')])):
        with (args.folder / name).open('w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows(lines)
    print(f'{len(rows) - 1} slices with plausible lungs in {args.folder}')


if __name__ == '__main__':
    main()

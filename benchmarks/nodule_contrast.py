"""What is left of real nodules after translation by a CycleGAN, in the outlines that readers drew.

python benchmarks/nodule_contrast.py DATA_DIR MASKS RUN [RUN ...]

DATA_DIR holds the slices that each RUN, a workdir of a CycleGAN, was trained on, MASKS has a PNG
SERIES.mhd_Z.png for each slice whose pixels count the readers that drew a nodule there. A nodule
stands out by the mean grey level inside its outline less that of the ring around it. Prints a
Markdown table with a row for each run and split: nodules, by how much they stand out before and
after translation, and the share that is left, with intervals over series.
"""

import argparse
import pathlib

import numpy as np
from absl import logging
from PIL import Image
from scipy import ndimage

from covjax import generator, trained
from covjax.ct import picture
from covjax.data import batches, datasets, specs
from covjax.metrics.intervals import ratio_interval

SPLITS = ('train', 'validation', 'test')
LEAST = 6  # pixels of a nodule at the size of the network
GAP, RING = 2, 5  # pixels from the outline to where the ring begins and ends


def nodules(mask):
    """[(bool inside, bool ring)] of the nodules in a mask bool [S, S]."""
    parts, count = ndimage.label(mask)
    away, found = ndimage.distance_transform_edt(~mask), []
    for i in range(1, count + 1):
        inside = parts == i
        apart = ndimage.distance_transform_edt(~inside)
        ring = (apart > GAP) & (apart <= RING) & (away > GAP)
        if inside.sum() >= LEAST and ring.any():
            found.append((inside, ring))
    return found


def read(spec, data_dir, folder, size):
    """(images uint8 [N, S, S, 1], nodules of each, series of each) of slices with an outline."""
    images, found, series = [], [], []
    for record in datasets.records(spec, data_dir):
        path = folder / f'{record.row.series}.mhd_{record.row.z}.png'
        if not path.is_file():
            continue
        mask = picture.read(path) > 0
        ymin, xmin, ymax, xmax = record.row.others.get('frame', (0, 0, 1, 1))
        height, width = mask.shape
        part = mask[
            round(ymin * height) : round(ymax * height), round(xmin * width) : round(xmax * width)
        ]
        resized = lambda grey: Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)
        soft = np.asarray(resized(part.astype(np.float32)))
        images.append(np.asarray(resized(datasets.decoded(record.image)))[..., None])
        found.append(nodules(soft > 0.5))
        series.append(record.row.group)
    if not images:
        raise SystemExit(f'{folder}: no SERIES.mhd_Z.png of a slice of {spec}')
    return np.stack(images), found, series


def standing_out(images, found):
    """By how much each nodule is brighter than the ring around it, float [nodules]."""
    return np.array(
        [
            image[inside, 0].mean() - image[ring, 0].mean()
            for image, of_image in zip(images.astype(float), found)
            for inside, ring in of_image
        ]
    )


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data_dir')
    parser.add_argument('masks', type=pathlib.Path)
    parser.add_argument('runs', nargs='+')
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # Orbax reports what it reads
    print('| run | split | nodules | before | after | left |\n|---|---|---|---|---|---|')
    for run in args.runs:
        size = trained.open_run(run, 'cyclegan', 'runs').config.image_size
        translate = generator.apply_uint8(generator.load(run, 'to_covid'))
        ((dataset, _, _),) = specs.parse(trained.open_run(run, 'cyclegan', 'runs').config.cancer)
        for split in SPLITS:
            images, found, series = read(f'{dataset}:{split}', args.data_dir, args.masks, size)
            after = batches.predict(translate, images, 16)
            before, after = standing_out(images, found), standing_out(after, found)
            groups = [name for name, of_image in zip(series, found) for _ in of_image]
            low, high = ratio_interval(after, before, groups)
            left = f'{after.mean() / before.mean():.0%} ({low:.0%} to {high:.0%})'
            print(
                f'| {run} | {split} | {len(before)} | {before.mean():.1f} | {after.mean():.1f} '
                f'| {left} |'
            )


if __name__ == '__main__':
    main()

"""Phantom data: drawn chests, written as raw files in the layouts of LUNA16 and COVID-CT.

They exercise the whole path and look like what they stand for; they are drawings, not patients:
nothing learned from them says anything about disease.
"""

import csv
import pathlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image
from tqdm import tqdm

from covjax import InputError
from covjax.ct import archive, luna16, windows
from covjax.phantom.chest import Chest, draw_chest, render

NOTE = (
    'Phantoms drawn by covjax.phantom from a seed. '
    'Not patients: no result obtained on them says anything about disease.\n'
)
SLICE_DISTANCE = 2.5  # mm
MOST_SLICES = 35
PICTURE_SPLITS = ('train', 'val', 'test')  # as the split files of COVID-CT call them


class Scan(NamedTuple):
    """How a phantom is scanned."""

    chest: Chest
    bottom: float  # height of the first slice, mm
    slices: int
    size: int  # pixels a side
    pixel: float  # mm
    outside: float  # HU beyond the field of view


def write_luna16(folder, seed=0, series=30, slices=8, size=512):
    """Writes phantom volumes and their tables in LUNA16 layout.

    The folder gets subset0 and subset1 with <series>.mhd beside .raw or .zraw (int16 HU),
    annotations.csv and candidates.csv. As in LUNA16, some series are compressed (every fifth) and
    some are stored turned by 180 degrees, with negative directions (every seventh). Ids are drawn
    so that every split of `luna16.series_split` gets some series.

    Args:
        folder: where to; made where there is none.
        seed: of everything that is drawn.
        series: how many, at least 3.
        slices: of each series.
        size: pixels a side of a slice.

    Returns:
        The folder as pathlib.Path.

    Raises:
        InputError: too few series, or too many slices.
    """
    if series < 3:
        raise InputError(
            f'config.phantom.luna16.series={series}: each of the three splits needs one; '
            'choose at least 3'
        )
    if slices > MOST_SLICES:
        raise InputError(
            f'config.phantom.luna16.slices={slices}: the chest is drawn 85 mm high and slices are '
            f'{SLICE_DISTANCE} mm apart; choose at most {MOST_SLICES}'
        )
    folder, rng = pathlib.Path(folder), np.random.default_rng([seed, 16])
    annotations, candidates = [], []
    names = tqdm(series_ids(rng, series), 'drawing volumes', series, disable=None)
    for i, name in enumerate(names):
        scan = _draw_scan(rng, slices, size)
        subset = folder / f'subset{i % 2}'
        subset.mkdir(parents=True, exist_ok=True)
        _write_volume(subset / f'{name}.mhd', scan, turned=i % 7 == 3, compressed=i % 5 == 2)
        nodules = scan.chest.nodules
        annotations += [[name, *nodule[:3], 2 * nodule[3]] for nodule in nodules]
        candidates += [[name, *nodule[:3], 1] for nodule in nodules]
        elsewhere = _places(np.random.default_rng([seed, 17, i]), scan, 2 * len(nodules))
        candidates += [[name, *place, 0] for place in elsewhere]
    _write_table(folder / 'annotations.csv', 'diameter_mm', annotations)
    _write_table(folder / 'candidates.csv', 'class', candidates)
    (folder / 'PHANTOM.txt').write_text(NOTE, encoding='utf-8')
    return folder


def _draw_scan(rng, slices, size):
    """A Scan of a person with one to three nodules."""
    pixel = float(rng.choice([0.66, 0.7, 0.74])) * 512 / size
    depth = (slices - 1) * SLICE_DISTANCE
    bottom = rng.uniform(-45, 40 - depth)
    chest = draw_chest(
        rng,
        nodules=int(rng.integers(1, 4)),
        z_range=(bottom + 0.2 * depth, bottom + 0.8 * depth),
    )
    outside = float(rng.choice([-2048, -3024]))
    return Scan(chest, bottom, slices, size, pixel, outside)


def _places(rng, scan, n):
    """n random places [x, y, z] in the volume of a scan, mm."""
    top = scan.bottom + (scan.slices - 1) * SLICE_DISTANCE
    return rng.uniform([-90, -60, scan.bottom], [90, 60, top], (n, 3)).tolist()


def _write_table(path, column, rows):
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['seriesuid', *luna16.PLACE, column])
        writer.writerows(rows)


def series_ids(rng, n):
    """Yields n ids under the UUID root 2.25.

    One in ten (at least one) is for validation, as many for test, the others for training.
    """
    few = max(round(n / 10), 1)
    wanted = {'validation': few, 'test': few, 'train': n - 2 * few}
    while any(wanted.values()):
        name = f'2.25.{uuid.UUID(bytes=rng.bytes(16)).int}'
        split = luna16.series_split(name)
        if wanted[split]:
            wanted[split] -= 1
            yield name


def _write_volume(path, scan, turned, compressed):
    """Draws a scan and writes it as MetaImage."""
    heights = scan.bottom + SLICE_DISTANCE * np.arange(scan.slices)
    draw = lambda z: render(scan.chest, z, scan.size, scan.pixel, scan.outside)
    with ThreadPoolExecutor() as threads:  # NumPy releases the interpreter lock
        hu = np.stack(list(threads.map(draw, heights)))
    sign = -1.0 if turned else 1.0
    image = sitk.GetImageFromArray(np.round(hu[:, :: int(sign), :: int(sign)]).astype(np.int16))
    corner = sign * (-(scan.size - 1) / 2 * scan.pixel)
    image.SetSpacing([scan.pixel, scan.pixel, SLICE_DISTANCE])
    image.SetOrigin([corner, corner, scan.bottom])
    image.SetDirection([sign, 0, 0, 0, sign, 0, 0, 0, 1])
    with archive.on_disk(path) as file:
        sitk.WriteImage(image, str(file), useCompression=bool(compressed))


def write_covid_ct(folder, seed=0, train=40, validation=10, test=16):
    """Writes phantom pictures in COVID-CT layout.

    CT_COVID has ground-glass opacity, CT_NonCOVID has none (normal, nodules or bullae). Size,
    margins, window, mode and container vary in both classes alike, names contain '%', some .png
    files are JPEG inside, and a patient has one to three pictures, all in one split.

    Args:
        folder: where to; made where there is none.
        seed: of everything that is drawn.
        train, validation, test: pictures of each class in each split.

    Returns:
        The folder as pathlib.Path.
    """
    folder, rng = pathlib.Path(folder), np.random.default_rng([seed, 19])
    counts = dict(zip(PICTURE_SPLITS, (train, validation, test)))
    total = 2 * sum(counts.values())
    with tqdm(desc='drawing pictures', total=total, disable=None) as bar:
        for label in ('COVID', 'NonCOVID'):
            _write_class(folder, label, counts, rng, bar)
    (folder / 'PHANTOM.txt').write_text(NOTE, encoding='utf-8')
    return folder


def _write_class(folder, label, counts, rng, bar):
    """The pictures of one class, and its three split files."""
    pictures, lists = folder / f'CT_{label}', folder / 'Data-split' / label
    pictures.mkdir(parents=True, exist_ok=True)
    lists.mkdir(parents=True, exist_ok=True)
    patient = 0
    for split, count in counts.items():
        names = []
        while len(names) < count:
            patient += 1
            chest = _draw_patient(rng, label)
            parts = min(int(rng.integers(1, 4)), count - len(names))
            for k in range(parts):
                stem = _stem(label, patient) + (f'%{k}' if parts > 1 else '')
                name = stem + ('.png' if rng.random() < 0.7 else '.jpg')
                _write_picture(pictures / name, chest, rng)
                names.append(name)
                bar.update()
        (lists / f'{split}CT_{label}.txt').write_text('\n'.join(names) + '\n', encoding='utf-8')


def _stem(label, patient):
    """What the names of a patient's pictures begin with: a preprint and a page, or a number."""
    if label == 'NonCOVID':
        return f'{patient}'
    document = f'2020.03.{patient % 28 + 1:02d}.{20030000 + patient}'
    return f'{document}-p{patient % 20 + 2}-{50 + patient}'


def _draw_patient(rng, label):
    """A Chest as the pictures of a class show it."""
    z_range = (-30.0, 30.0)
    if label == 'COVID':
        return draw_chest(rng, opacities=int(rng.integers(3, 8)), z_range=z_range)
    kind = rng.integers(3)  # healthy, nodules or bullae
    nodules = int(rng.integers(1, 3)) * (kind == 1)
    bullae = int(rng.integers(4, 12)) * (kind == 2)
    return draw_chest(rng, nodules=nodules, bullae=bullae, z_range=z_range)


def _write_picture(path, chest, rng):
    """One slice as a figure shows it: cropped by hand, windowed by taste, saved by any tool."""
    size = int(rng.integers(220, 420))
    hu = render(chest, rng.uniform(-25, 25), size, 345 / size)
    shares = rng.uniform([0.02, 0.02, 0, 0], [0.14, 0.14, 0.05, 0.05])
    top, bottom, left, right = (int(size * share) for share in shares)
    window = windows.Window(rng.uniform(-1350, -950), rng.uniform(150, 400))
    grey = windows.to_grey(hu[top : size - bottom, left : size - right], window)
    image = Image.fromarray(grey).convert(str(rng.choice(['L', 'RGB', 'RGBA'])))
    if path.suffix == '.jpg' or rng.random() < 0.1:  # some .png files are JPEG inside
        image.convert('RGB').save(path, format='JPEG', quality=90)
    else:
        image.save(path, format='PNG')

"""Phantom data: chests drawn by covjax.chest, written as raw files in the layouts of LUNA16 and COVID-CT.

They exercise the whole path and look like what they stand for; they are drawings, not patients: nothing learned from them says anything
about disease.
"""

import csv
import pathlib
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import SimpleITK as sitk
from PIL import Image
from tqdm import tqdm

from covjax import InputError
from covjax.ct import archive, luna16, windows
from covjax.phantom.chest import draw_chest, render

NOTE = 'Phantoms drawn by covjax.phantom from a seed. Not patients: no result obtained on them says anything about disease.\n'


def write_luna16(folder, seed=0, series=30, slices=8, size=512):
    """Writes phantom volumes, annotations.csv and candidates.csv in LUNA16 layout: subset0, subset1, <series>.mhd with .raw or .zraw, int16 HU.

    Every fifth series is compressed (.zraw) and every seventh is stored turned by 180 degrees (negative direction), as in LUNA16.
    Ids are drawn so that every split of `annotations.series_split` gets some series. Returns the folder.
    """
    if series < 3:
        raise InputError(
            f'config.phantom.luna16.series={series}: each of the three splits needs one; choose at least 3'
        )
    if slices > 35:
        raise InputError(
            f'config.phantom.luna16.slices={slices}: the chest is drawn 85 mm high and slices are 2.5 mm apart; choose at most 35'
        )
    folder, rng = pathlib.Path(folder), np.random.default_rng([seed, 16])
    rows, candidates = [], []
    for i, name in enumerate(
        tqdm(_series_ids(rng, series), 'drawing volumes', series, disable=None)
    ):
        spacing = (float(rng.choice([0.66, 0.7, 0.74])) * 512 / size, 2.5)
        depth = (slices - 1) * spacing[1]
        bottom = rng.uniform(-45, 40 - depth)
        chest = draw_chest(
            rng,
            nodules=int(rng.integers(1, 4)),
            z_range=(bottom + 0.2 * depth, bottom + 0.8 * depth),
        )
        outside = float(rng.choice([-2048, -3024]))
        heights = bottom + spacing[1] * np.arange(slices)
        with ThreadPoolExecutor() as threads:  # NumPy lets go of the interpreter lock
            hu = np.stack(
                list(threads.map(lambda z: render(chest, z, size, spacing[0], outside), heights))
            )
        corner = -(size - 1) / 2 * spacing[0]
        subset = folder / f'subset{i % 2}'
        subset.mkdir(parents=True, exist_ok=True)
        _write_volume(
            subset / f'{name}.mhd',
            hu,
            spacing,
            (corner, corner, bottom),
            turned=i % 7 == 3,
            compressed=i % 5 == 2,
        )
        rows += [[name, *nodule[:3], 2 * nodule[3]] for nodule in chest.nodules]
        elsewhere = np.random.default_rng([seed, 17, i]).uniform(
            [-90, -60, bottom], [90, 60, bottom + depth], (2 * len(chest.nodules), 3)
        )
        candidates += [[name, *nodule[:3], 1] for nodule in chest.nodules] + [
            [name, *place.tolist(), 0] for place in elsewhere
        ]
    _write_table(folder / 'annotations.csv', 'diameter_mm', rows)
    _write_table(folder / 'candidates.csv', 'class', candidates)
    (folder / 'PHANTOM.txt').write_text(NOTE)
    return folder


def _write_table(path, column, rows):
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['seriesuid', 'coordX', 'coordY', 'coordZ', column])
        writer.writerows(rows)


def _series_ids(rng, n):
    """n ids under the UUID root 2.25: one in ten (at least one) for validation, as many for test, the others for training."""
    few = max(round(n / 10), 1)
    wanted = {'validation': few, 'test': few, 'train': n - 2 * few}
    while any(wanted.values()):
        name = f'2.25.{uuid.UUID(bytes=rng.bytes(16)).int}'
        if wanted[luna16.series_split(name)]:
            wanted[luna16.series_split(name)] -= 1
            yield name


def _write_volume(path, hu, spacing, origin, turned, compressed):
    sign = -1.0 if turned else 1.0
    image = sitk.GetImageFromArray(np.round(hu[:, :: int(sign), :: int(sign)]).astype(np.int16))
    image.SetSpacing([spacing[0], spacing[0], spacing[1]])
    image.SetOrigin([sign * origin[0], sign * origin[1], origin[2]])
    image.SetDirection([sign, 0, 0, 0, sign, 0, 0, 0, 1])
    with archive.on_disk(path) as file:
        sitk.WriteImage(image, str(file), useCompression=bool(compressed))


def write_covid_ct(folder, seed=0, train=40, validation=10, test=16):
    """Writes phantom pictures in COVID-CT layout; the counts are per class and split. Returns the folder.

    CT_COVID has ground-glass opacity, CT_NonCOVID has none (normal, nodules or bullae). Size, margins, window, mode and container vary in both
    classes alike, names contain '%', some .png files are JPEG inside, and a patient has one to three pictures, all in one split.
    """
    folder, rng = pathlib.Path(folder), np.random.default_rng([seed, 19])
    bar = tqdm(desc='drawing pictures', total=2 * (train + validation + test), disable=None)
    for covid, label in ((True, 'COVID'), (False, 'NonCOVID')):
        (folder / f'CT_{label}').mkdir(parents=True, exist_ok=True)
        (folder / 'Data-split' / label).mkdir(parents=True, exist_ok=True)
        patient = 0
        for split, count in (('train', train), ('val', validation), ('test', test)):
            names = []
            while len(names) < count:
                patient += 1
                chest = _patient(rng, covid)
                pictures = min(int(rng.integers(1, 4)), count - len(names))
                for k in range(pictures):
                    part = f'%{k}' if pictures > 1 else ''
                    stem = (
                        f'2020.03.{patient % 28 + 1:02d}.{20030000 + patient}-p{patient % 20 + 2}-{50 + patient}{part}'
                        if covid
                        else f'{patient}{part}'
                    )
                    extension = '.png' if rng.random() < 0.7 else '.jpg'
                    _write_picture(folder / f'CT_{label}' / (stem + extension), chest, rng)
                    names.append(stem + extension)
                    bar.update()
            (folder / 'Data-split' / label / f'{split}CT_{label}.txt').write_text(
                '\n'.join(names) + '\n'
            )
    bar.close()
    (folder / 'PHANTOM.txt').write_text(NOTE)
    return folder


def _patient(rng, covid):
    if covid:
        return draw_chest(rng, opacities=int(rng.integers(3, 8)), z_range=(-30.0, 30.0))
    kind = rng.integers(3)
    return draw_chest(
        rng,
        nodules=int(rng.integers(1, 3)) * (kind == 1),
        bullae=int(rng.integers(4, 12)) * (kind == 2),
        z_range=(-30.0, 30.0),
    )


def _write_picture(path, chest, rng):
    """One slice as a figure would show it: cropped by hand, windowed by taste, saved by whatever tool was there."""
    size = int(rng.integers(220, 420))
    hu = render(chest, rng.uniform(-25, 25), size, 345 / size)
    top, bottom, left, right = (
        int(size * share) for share in rng.uniform([0.02, 0.02, 0, 0], [0.14, 0.14, 0.05, 0.05])
    )
    grey = windows.to_grey(
        hu[top : size - bottom, left : size - right],
        windows.Window(rng.uniform(-1350, -950), rng.uniform(150, 400)),
    )
    image = Image.fromarray(grey).convert(str(rng.choice(['L', 'RGB', 'RGBA'])))
    if path.suffix == '.jpg' or rng.random() < 0.1:  # some .png files are JPEG inside
        image.convert('RGB').save(path, format='JPEG', quality=90)
    else:
        image.save(path, format='PNG')

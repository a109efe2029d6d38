"""Chest phantoms: synthetic CT drawn from a seed, in the layouts of LUNA16 and COVID-CT.

Body, fat, muscle, lungs, heart, aorta, airways, vessels, ribs, spine, couch, nodules and ground-glass opacity are painted in HU, each as a
signed distance in mm (negative inside), so every edge is one pixel soft. They exercise the whole path and look like what they stand for;
they are drawings, not patients: nothing learned from them says anything about disease.

World axes in mm, origin in the middle of the chest: x to the patient's left, y to the back, z to the head. Right-handed radiological view:
the patient's right lung (x < 0) is drawn on the left of the picture.
"""
import csv
import pathlib
import uuid
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from covjax import ct

AIR, FAT, MUSCLE, BLOOD, MARROW, CORTEX, LUNG = -1000., -100., 50., 45., 220., 650., -860.
NOTE = 'Phantoms drawn by covjax.phantom from a seed. Not patients: no result obtained on them says anything about disease.\n'


class Chest(NamedTuple):
    """One phantom person."""
    body: tuple[float, float]             # half axes of the trunk, mm
    fat: float                            # thickness of the fat under the skin, mm
    lungs: tuple[float, float]            # half axes of one lung at its widest, mm
    heart: float                          # radius, mm
    rib_phase: float                      # mm
    vessels: np.ndarray                   # [N, 8] start xyz, end xyz, start radius, end radius; mm
    nodules: np.ndarray                   # [N, 5] centre xyz, radius (mm), HU
    opacities: np.ndarray                 # [N, 7] centre xyz, half axes xyz (mm), added HU
    bullae: np.ndarray                    # [N, 4] centre xyz, radius; mm
    noise: float                          # standard deviation, HU
    seed: int                             # of the textures


def draw_chest(rng, nodules=0, opacities=0, bullae=0, z_range=(-20., 20.)):
    """A random Chest; nodules, opacities and bullae are counts, placed with their centres in z_range (mm)."""
    fat = rng.uniform(8, 22)
    lungs = (rng.uniform(52, 60), rng.uniform(76, 88))
    body = (2 * lungs[0] + 30 + fat + rng.uniform(0, 6), lungs[1] + 22 + fat + rng.uniform(0, 6))
    return Chest(body, fat, lungs, rng.uniform(40, 48), rng.uniform(0, 28), _vessels(rng, lungs),
                 np.array([[*_in_lung(rng, lungs, z_range, .25, .8), rng.uniform(3, 11), rng.uniform(-40, 70)] for _ in range(nodules)]).reshape(-1, 5),
                 np.array([[*_in_lung(rng, lungs, z_range, .72, .97, back=.6), *rng.uniform(14, 34, 2), rng.uniform(15, 40), rng.uniform(230, 480)]
                           for _ in range(opacities)]).reshape(-1, 7),
                 np.array([[*_in_lung(rng, lungs, z_range, .5, .9), rng.uniform(5, 14)] for _ in range(bullae)]).reshape(-1, 4),
                 rng.uniform(14, 26), int(rng.integers(2 ** 31)))


def _in_lung(rng, lungs, z_range, inner, outer, back=0.):
    """A point in either lung, at a share inner..outer of the way to its outer wall; `back` is the chance of being pushed to the back."""
    side = rng.choice([-1, 1])
    angle = rng.uniform(-.35, 1.35) if rng.random() < back else rng.uniform(-1.25, 1.25)
    share = rng.uniform(inner, outer)
    return (side * (_lung_centre(lungs) + share * lungs[0] * .92 * np.cos(angle)), share * lungs[1] * .92 * np.sin(angle), rng.uniform(*z_range))


def _lung_centre(lungs):
    return lungs[0] + 12


def _vessels(rng, lungs):
    """Two trees that leave the hila, fork up to six times and thin out towards the pleura."""
    segments = []

    def grow(point, heading, radius, length, level):
        end = point + heading * length
        segments.append([*point, *end, radius, .8 * radius])
        if level == 0 or radius < .45:
            return
        for turn in (1, -1):
            bend = rng.normal(0, .25, 3) + turn * rng.uniform(.35, .7) * np.cross(heading, rng.normal(0, 1, 3))
            child = heading + bend
            grow(end, child / np.linalg.norm(child), radius * rng.uniform(.68, .86), length * rng.uniform(.66, .9), level - 1)

    for side in (-1, 1):
        for aim in np.linspace(-1.3, 1.3, 8):
            heading = np.array([side * np.cos(aim), np.sin(aim), rng.uniform(-.7, .7)])
            start = np.array([side * rng.uniform(24, 32), rng.uniform(-8, 14), rng.uniform(-25, 25)])
            grow(start, heading / np.linalg.norm(heading), rng.uniform(3., 4.8), lungs[0] * rng.uniform(.36, .48), 6)
    return np.array(segments)


def _ellipse(x, y, cx, cy, a, b, power=2.):
    """Approximate signed distance in mm to a (super)ellipse, negative inside."""
    return ((np.abs((x - cx) / a) ** power + np.abs((y - cy) / b) ** power) ** (1 / power) - 1) * np.minimum(a, b)


def _paint(hu, distance, value, pixel, where=None):
    """Lays a value over the inside of a shape, with an edge one pixel soft; `where` (0..1) limits it to another shape."""
    alpha = np.clip(.5 - distance / pixel, 0, 1)
    hu += (alpha if where is None else alpha * where) * (value - hu)


def _texture(rng, shape, *scales):
    """Smooth noise of unit standard deviation: the mean of white noise blurred at several scales in pixels."""
    total = 0.
    for scale in scales:
        step = max(int(scale / 3), 1)
        coarse = ndimage.gaussian_filter(rng.standard_normal([n // step + 2 for n in shape]).astype(np.float32), scale / step, mode='wrap')
        fine = ndimage.zoom(coarse, step, order=1)[:shape[0], :shape[1]] if step > 1 else coarse[:shape[0], :shape[1]]
        total = total + fine / fine.std()
    return total / np.sqrt(len(scales))


def render(chest, z, size=512, pixel=.7, outside=-2048.):
    """The axial slice at height z (mm) of a Chest -> HU [size, size] float32; `outside` fills what lies beyond the field of view."""
    rng = np.random.default_rng([chest.seed, int(round((z + 1000) * 100))])
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * pixel
    x, y = axis[None, :], axis[:, None]
    hu = np.full((size, size), AIR, np.float32)
    a, b = chest.body
    _paint(hu, np.abs(_ellipse(x, y, 0, -260, 330, b + 275)) - 2.5, -350., pixel)                    # the couch, a curved sheet
    _paint(hu, _ellipse(x, y, 0, 0, a, b, 2.4), 10., pixel)                                          # skin
    _paint(hu, _ellipse(x, y, 0, 0, a - 2, b - 2, 2.4), FAT, pixel)
    fibres = MUSCLE + 18 * _texture(rng, hu.shape, 3., 9.)
    _paint(hu, _ellipse(x, y, 0, 0, a - chest.fat, b - chest.fat, 2.4), fibres, pixel)
    _wall(hu, chest, x, y, z, pixel)
    lung = _lungs(hu, chest, x, y, z, pixel, rng)
    _mediastinum(hu, chest, x, y, z, pixel, lung)
    _spine(hu, chest, x, y, z, pixel)
    grain = ndimage.gaussian_filter(rng.standard_normal(hu.shape).astype(np.float32), .7)
    hu += chest.noise / grain.std() * grain
    hu[np.hypot(x, y) > size * pixel / 2] = outside
    return np.maximum(hu, outside)


def _wall(hu, chest, x, y, z, pixel):
    """Ribs run down and forward around the lungs, so a slice cuts each one obliquely: short bright arcs with a marrow core."""
    a, b = 2 * chest.lungs[0] + 20, chest.lungs[1] + 10
    angle = np.arctan2(np.abs(x) / a, y / b)                                                         # 0 at the back, pi at the front
    across = _ellipse(x, y, 0, 0, a, b, 2.2)
    along = (z + chest.rib_phase + 110 * angle / np.pi) % 28 - 14
    shape = (np.hypot(across / 4.5, along / 7.) - 1) * 4.5
    shape = np.where(angle > 2.7, 9., shape)                                                         # in front, cartilage and sternum
    _paint(hu, shape, CORTEX, pixel)
    _paint(hu, shape + 1.8, MARROW, pixel)
    sternum = _ellipse(x, y, 0, -b - 1, 19, 6.5, 3.)
    _paint(hu, sternum, CORTEX - 200, pixel)
    _paint(hu, sternum + 1.8, MARROW - 60, pixel)


def _lungs(hu, chest, x, y, z, pixel, rng):
    """Lung tissue, fissures, vessels and disease -> share of each pixel that is lung, 0..1."""
    a, b = (half * np.sqrt(max(1 - (z / 150) ** 2, .1)) for half in chest.lungs)
    taper = 1 + .16 * y / b                                                                          # narrower in front
    shapes = [_ellipse(x, y, side * (_lung_centre(chest.lungs) - 5 * (1 - taper)), 4, a * taper * (1.02 - .04 * side), b * (1 - .03 * side), 2.2)
              for side in (-1, 1)]
    cut = 11 + 9 * np.exp(-((y - 20) / 40) ** 2)                                                     # the hilum bulges into the lung
    distance = np.maximum(np.minimum(*shapes), cut - np.abs(x + 1.5 * np.sin(y / 13)))
    distance = np.maximum(distance, -_ellipse(x, y, *_heart(chest, z)))
    lung = np.clip(.5 - distance / pixel, 0, 1)
    tissue = LUNG + 55 * y / chest.lungs[1] + 22 * _texture(rng, hu.shape, 2., 8.)                   # denser at the back, where the patient lies
    for bx, by, bz, radius in chest.bullae:
        _paint(tissue, np.sqrt((x - bx) ** 2 + (y - by) ** 2 + (z - bz) ** 2) - radius, -975., pixel)
    fissure = np.abs(y - 12 + .35 * np.abs(x) - .5 * z) - .5
    _paint(tissue, fissure, -700., pixel)
    _opacities(tissue, chest, x, y, z, distance, rng, pixel)
    for segment in chest.vessels:
        _vessel(tissue, segment, x, y, z, pixel)
    for nx, ny, nz, radius, value in chest.nodules:
        angle = np.arctan2(y - ny, x - nx)
        bumpy = radius * (1 + .08 * np.sin(3 * angle + nx) + .05 * np.sin(7 * angle + ny))           # lobulated outline
        _paint(tissue, np.sqrt((x - nx) ** 2 + (y - ny) ** 2 + (z - nz) ** 2) - bumpy, value, 1.5 * pixel)
    hu += lung * (tissue - hu)
    return lung


def _opacities(tissue, chest, x, y, z, distance, rng, pixel):
    """Ground-glass opacity: patchy, at the edge of the lung, raising HU while vessels stay visible; some with septal lines or a solid core."""
    if not len(chest.opacities):
        return
    wobble = _texture(rng, tissue.shape, 6 / pixel, 14 / pixel)
    cobble = np.abs(_texture(rng, tissue.shape, 2.6 / pixel)) < .16
    peripheral = np.clip(1.1 + distance / 45, .25, 1)                                               # distance is negative inside the lung
    for cx, cy, cz, a, b, c, added in chest.opacities:
        reach = np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2)
        share = np.clip((1.05 - reach + .28 * wobble) / .35, 0, 1) * peripheral
        tissue += share * added * (1 + .12 * cobble * (added > 300))
        if added > 360:                                                                              # consolidation
            core = np.clip((.42 - reach + .2 * wobble) / .1, 0, 1)
            tissue += core * (MUSCLE - 40 - tissue)
    np.minimum(tissue, MUSCLE, out=tissue)


def _vessel(tissue, segment, x, y, z, pixel):
    """Paints where a tapered tube crosses the slice, in a window around it only."""
    start, end, (r0, r1) = segment[:3], segment[3:6], segment[6:]
    reach = max(r0, r1) + 1
    if not min(start[2], end[2]) - reach < z < max(start[2], end[2]) + reach:
        return
    along = end - start
    low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
    (x0, x1), (y0, y1) = np.searchsorted(x[0], (low[0], high[0])), np.searchsorted(y[:, 0], (low[1], high[1]))
    if x0 == x1 or y0 == y1:
        return
    px, py = x[:, x0:x1] - start[0], y[y0:y1] - start[1]
    pz = z - start[2]
    t = np.clip((px * along[0] + py * along[1] + pz * along[2]) / (along @ along), 0, 1)
    distance = np.sqrt((px - t * along[0]) ** 2 + (py - t * along[1]) ** 2 + (pz - t * along[2]) ** 2) - (r0 + t * (r1 - r0))
    alpha = np.clip(.5 - distance / pixel, 0, 1)
    patch = tissue[y0:y1, x0:x1]
    patch += alpha * np.maximum(BLOOD - 30 - patch, 0)


def _heart(chest, z):
    """Centre and half axes (x, y, a, b) of the heart, or of the great vessels above it."""
    grow = 1 / (1 + np.exp(z / 12))                                                                  # 1 below, 0 above
    return 22 * grow, -28 - 4 * grow, 22 + grow * chest.heart, 24 + .75 * grow * (chest.heart - 8)


def _mediastinum(hu, chest, x, y, z, pixel, lung):
    """Heart or great vessels in fat, descending aorta, airways with walls: everything between the lungs."""
    between = (1 - lung) * np.clip(.5 - _ellipse(x, y, 0, -4, 46, chest.lungs[1] * .86) / pixel, 0, 1)
    _paint(hu, np.full_like(hu, -9.), FAT + 20, pixel, between)
    cx, cy, a, b = _heart(chest, z)
    _paint(hu, _ellipse(x, y, cx, cy, a - 2, b - 2), BLOOD, pixel)
    if z > 0:                                                                                        # aortic root and superior vena cava
        _paint(hu, np.hypot(x + 4, y + 30) - 14, BLOOD + 15, pixel)
        _paint(hu, np.hypot(x + 26, y + 26) - 9, BLOOD + 15, pixel)
    for side in (-1, 1):                                                                             # pulmonary arteries
        _paint(hu, _ellipse(x, y, side * 26, 2, 15, 8), BLOOD + 5, pixel)
    _paint(hu, np.hypot(x - 16, y - 42) - 12, BLOOD + 10, pixel)                                     # descending aorta
    _paint(hu, np.hypot(x - 1, y - 36) - 6, MUSCLE - 15, pixel)                                      # oesophagus
    spread = np.clip((14 - z) * .9, 0, 26)                                                           # one trachea above, two bronchi below
    for side in (-1, 1):
        tube = np.hypot(x - side * spread, y - 16) - (8.5 if spread < 4 else 6.)
        _paint(hu, tube - 1.6, MUSCLE - 20, pixel)
        _paint(hu, tube, -990., pixel)


def _spine(hu, chest, x, y, z, pixel):
    """Vertebral body with a cortical rim, canal, and the arms towards the ribs."""
    back = chest.lungs[1] * .74
    arms = np.minimum(_ellipse(x, y, 0, back + 26, 36, 5, 2.5), _ellipse(x, y, 0, back + 38, 4.5, 14, 2.5))
    _paint(hu, arms, CORTEX - 250, pixel)
    body = _ellipse(x, y, 0, back + 2, 18, 15, 2.6)
    _paint(hu, body, CORTEX - 100, pixel)
    _paint(hu, body + 2, MARROW + 25 * np.sin(z / 4), pixel)
    canal = np.hypot(x, y - back - 24) - 9
    _paint(hu, canal - 3, CORTEX - 200, pixel)
    _paint(hu, canal, 30., pixel)


def write_luna16(folder, seed=0, series=30, slices=8, size=512):
    """Writes phantom volumes and annotations.csv in LUNA16 layout: subset0, subset1, <series>.mhd with .raw or .zraw, int16 HU.

    Every fifth series is compressed (.zraw) and every seventh is stored turned by 180 degrees (negative direction), as in LUNA16.
    Ids are drawn so that every split of `ct.series_split` gets some series. Returns the folder.
    """
    folder, rng = pathlib.Path(folder), np.random.default_rng([seed, 16])
    rows = []
    for i, name in enumerate(_series_ids(rng, series)):
        spacing = (float(rng.choice([.66, .7, .74])) * 512 / size, 2.5)
        depth = (slices - 1) * spacing[1]
        bottom = rng.uniform(-45, 40 - depth)
        chest = draw_chest(rng, nodules=int(rng.integers(1, 4)), z_range=(bottom + .2 * depth, bottom + .8 * depth))
        outside = float(rng.choice([-2048, -3024]))
        hu = np.stack([render(chest, bottom + k * spacing[1], size, spacing[0], outside) for k in range(slices)])
        corner = -(size - 1) / 2 * spacing[0]
        subset = folder / f'subset{i % 2}'
        subset.mkdir(parents=True, exist_ok=True)
        _write_volume(subset / f'{name}.mhd', hu, spacing, (corner, corner, bottom), turned=i % 7 == 3, compressed=i % 5 == 2)
        rows += [[name, *nodule[:3], 2 * nodule[3]] for nodule in chest.nodules]
    with (folder / 'annotations.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['seriesuid', 'coordX', 'coordY', 'coordZ', 'diameter_mm'])
        writer.writerows(rows)
    (folder / 'PHANTOM.txt').write_text(NOTE)
    return folder


def _series_ids(rng, n):
    """n ids under the UUID root 2.25: one in ten (at least one) for validation, as many for test, the others for training."""
    few = max(round(n / 10), 1)
    wanted = {'validation': few, 'test': few, 'train': n - 2 * few}
    while any(wanted.values()):
        name = f'2.25.{uuid.UUID(bytes=rng.bytes(16)).int}'
        if wanted[ct.series_split(name)]:
            wanted[ct.series_split(name)] -= 1
            yield name


def _write_volume(path, hu, spacing, origin, turned, compressed):
    sign = -1. if turned else 1.
    image = sitk.GetImageFromArray(np.round(hu[:, ::int(sign), ::int(sign)]).astype(np.int16))
    image.SetSpacing([spacing[0], spacing[0], spacing[1]])
    image.SetOrigin([sign * origin[0], sign * origin[1], origin[2]])
    image.SetDirection([sign, 0, 0, 0, sign, 0, 0, 0, 1])
    with ct.without_percent(path.parent) as folder:
        sitk.WriteImage(image, str(folder / path.name), useCompression=bool(compressed))


def write_covid_ct(folder, seed=0, train=40, validation=10, test=16):
    """Writes phantom pictures in COVID-CT layout; the counts are per class and split. Returns the folder.

    CT_COVID has ground-glass opacity, CT_NonCOVID has none (normal, nodules or bullae). Size, margins, window, mode and container vary in both
    classes alike, names contain '%', some .png files are JPEG inside, and a patient has one to three pictures, all in one split.
    """
    folder, rng = pathlib.Path(folder), np.random.default_rng([seed, 19])
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
                    stem = f'2020.03.{patient % 28 + 1:02d}.{20030000 + patient}-p{patient % 20 + 2}-{50 + patient}{part}' if covid else f'{patient}{part}'
                    extension = '.png' if covid or rng.random() < .6 else '.jpg'
                    _write_picture(folder / f'CT_{label}' / (stem + extension), chest, rng)
                    names.append(stem + extension)
            (folder / 'Data-split' / label / f'{split}CT_{label}.txt').write_text('\n'.join(names) + '\n')
    (folder / 'PHANTOM.txt').write_text(NOTE)
    return folder


def _patient(rng, covid):
    if covid:
        return draw_chest(rng, opacities=int(rng.integers(3, 8)), z_range=(-30., 30.))
    kind = rng.integers(3)
    return draw_chest(rng, nodules=int(rng.integers(1, 3)) * (kind == 1), bullae=int(rng.integers(4, 12)) * (kind == 2), z_range=(-30., 30.))


def _write_picture(path, chest, rng):
    """One slice as a figure would show it: cropped by hand, windowed by taste, saved by whatever tool was there."""
    size = int(rng.integers(220, 420))
    hu = render(chest, rng.uniform(-25, 25), size, 345 / size)
    top, bottom, left, right = (int(size * share) for share in rng.uniform([.02, .02, 0, 0], [.14, .14, .05, .05]))
    grey = ct.to_grey(hu[top:size - bottom, left:size - right], ct.Window(rng.uniform(-1350, -950), rng.uniform(150, 400)))
    image = Image.fromarray(grey).convert(str(rng.choice(['L', 'RGB', 'RGBA'])))
    if path.suffix == '.jpg' or rng.random() < .1:                                                   # some .png files are JPEG inside
        image.convert('RGB').save(path, format='JPEG', quality=90)
    else:
        image.save(path, format='PNG')

"""A phantom chest: a person drawn from a seed, and the axial CT slice through it at any height, in HU.

Body, fat, muscle, lungs, heart, aorta, airways, vessels, ribs, spine, couch, nodules and ground-glass opacity are painted in HU, each as a
signed distance in mm (negative inside), so every edge is one pixel soft.

World axes in mm, origin in the middle of the chest: x to the patient's left, y to the back, z to the head. Right-handed radiological view:
the patient's right lung (x < 0) is drawn on the left of the picture.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import ndimage

AIR, FAT, MUSCLE, BLOOD, MARROW, CORTEX, LUNG = -1000.0, -100.0, 50.0, 45.0, 220.0, 650.0, -860.0


class Chest(NamedTuple):
    """One phantom person."""

    body: tuple[float, float]  # half axes of the trunk, mm
    fat: float  # thickness of the fat under the skin, mm
    lungs: tuple[float, float]  # half axes of one lung at its widest, mm
    heart: float  # radius, mm
    rib_phase: float  # mm
    vessels: np.ndarray  # [N, 8] start xyz, end xyz, start radius, end radius; mm
    nodules: np.ndarray  # [N, 5] centre xyz, radius (mm), HU
    opacities: np.ndarray  # [N, 7] centre xyz, half axes xyz (mm), added HU
    bullae: np.ndarray  # [N, 4] centre xyz, radius; mm
    noise: float  # standard deviation, HU
    seed: int  # of the textures


def draw_chest(rng, nodules=0, opacities=0, bullae=0, z_range=(-20.0, 20.0)):
    """A random Chest; nodules, opacities and bullae are counts, placed with their centres in z_range (mm)."""
    fat = rng.uniform(8, 22)
    lungs = (rng.uniform(52, 60), rng.uniform(76, 88))
    body = (2 * lungs[0] + 30 + fat + rng.uniform(0, 6), lungs[1] + 22 + fat + rng.uniform(0, 6))
    heart, rib_phase, vessels = rng.uniform(40, 48), rng.uniform(0, 26), _vessels(rng, lungs)
    place = partial(_in_lung, rng, lungs, heart, z_range)
    return Chest(
        body,
        fat,
        lungs,
        heart,
        rib_phase,
        vessels,
        np.array(
            [[*place(0.25, 0.8), rng.uniform(3, 11), rng.uniform(-40, 70)] for _ in range(nodules)]
        ).reshape(-1, 5),
        np.array(
            [
                [
                    *place(0.72, 0.97, back=0.6, depth=0.0),
                    *rng.uniform(14, 34, 2),
                    rng.uniform(15, 40),
                    rng.uniform(230, 480),
                ]
                for _ in range(opacities)
            ]
        ).reshape(-1, 7),
        np.array([[*place(0.5, 0.9), rng.uniform(5, 14)] for _ in range(bullae)]).reshape(-1, 4),
        rng.uniform(14, 26),
        int(rng.integers(2**31)),
    )


def _in_lung(rng, lungs, heart, z_range, inner, outer, back=0.0, depth=6.0):
    """A point at least `depth` mm inside either lung, at a share inner..outer of the way to its outer wall; `back`: chance of being pushed to the back."""
    side = rng.choice(
        [-1, 1]
    )  # once: the heart leaves less room on the left, which is not to mean fewer findings
    while True:
        z = rng.uniform(*z_range)
        angle = rng.uniform(-0.35, 1.35) if rng.random() < back else rng.uniform(-1.25, 1.25)
        share = rng.uniform(inner, outer)
        x, y = (
            side * (_lung_centre(lungs) + share * lungs[0] * 0.92 * np.cos(angle)),
            share * lungs[1] * 0.92 * np.sin(angle),
        )
        if _lung_distance(lungs, heart, x, y, z) < -depth:
            return x, y, z


def _lung_centre(lungs):
    return lungs[0] + 12


def _vessels(rng, lungs):
    """Two trees that leave the hila, fork up to six times and thin out towards the pleura."""
    segments = []

    def grow(point, heading, radius, length, level):
        end = point + heading * length
        segments.append([*point, *end, radius, 0.8 * radius])
        if level == 0 or radius < 0.45:
            return
        for turn in (1, -1):
            bend = rng.normal(0, 0.25, 3) + turn * rng.uniform(0.35, 0.7) * np.cross(
                heading, rng.normal(0, 1, 3)
            )
            child = heading + bend
            grow(
                end,
                child / np.linalg.norm(child),
                radius * rng.uniform(0.68, 0.86),
                length * rng.uniform(0.66, 0.9),
                level - 1,
            )

    for side in (-1, 1):
        for aim in np.linspace(-1.3, 1.3, 8):
            heading = np.array([side * np.cos(aim), np.sin(aim), rng.uniform(-0.7, 0.7)])
            start = np.array(
                [side * rng.uniform(24, 32), rng.uniform(-8, 14), rng.uniform(-25, 25)]
            )
            grow(
                start,
                heading / np.linalg.norm(heading),
                rng.uniform(3.0, 4.8),
                lungs[0] * rng.uniform(0.36, 0.48),
                6,
            )
    return np.array(segments)


def _ellipse(x, y, cx, cy, a, b, power=2.0):
    """Approximate signed distance in mm to a (super)ellipse, negative inside."""
    return (
        (np.abs((x - cx) / a) ** power + np.abs((y - cy) / b) ** power) ** (1 / power) - 1
    ) * np.minimum(a, b)


def _paint(hu, distance, value, pixel, where=None):
    """Lays a value over the inside of a shape, with an edge one pixel soft; `where` (0..1) limits it to another shape."""
    alpha = np.clip(0.5 - distance / pixel, 0, 1)
    hu += (alpha if where is None else alpha * where) * (value - hu)


def _texture(rng, shape, *scales):
    """Smooth noise of unit standard deviation: the mean of white noise blurred at several scales in pixels."""
    total = 0.0
    for scale in scales:
        step = max(int(scale / 3), 1)
        coarse = ndimage.gaussian_filter(
            rng.standard_normal([n // step + 2 for n in shape]).astype(np.float32),
            scale / step,
            mode='wrap',
        )
        fine = (
            ndimage.zoom(coarse, step, order=1)[: shape[0], : shape[1]]
            if step > 1
            else coarse[: shape[0], : shape[1]]
        )
        total = total + fine / fine.std()
    return total / np.sqrt(len(scales))


def render(chest, z, size=512, pixel=0.7, outside=-2048.0):
    """The axial slice at height z (mm) of a Chest -> HU [size, size] float32; `outside` fills what lies beyond the field of view."""
    rng = np.random.default_rng([chest.seed, int(round((z + 1000) * 100))])
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * pixel
    x, y = axis[None, :], axis[:, None]
    hu = np.full((size, size), AIR, np.float32)
    a, b = chest.body
    _paint(
        hu, np.abs(_ellipse(x, y, 0, -260, 330, b + 275)) - 2.5, -350.0, pixel
    )  # the couch, a curved sheet
    _paint(hu, _ellipse(x, y, 0, 0, a, b, 2.4), 10.0, pixel)  # skin
    _paint(hu, _ellipse(x, y, 0, 0, a - 2, b - 2, 2.4), FAT, pixel)
    fibres = MUSCLE + 18 * _texture(rng, hu.shape, 3.0, 9.0)
    _paint(hu, _ellipse(x, y, 0, 0, a - chest.fat, b - chest.fat, 2.4), fibres, pixel)
    _wall(hu, chest, x, y, z, pixel)
    lung = _lungs(hu, chest, x, y, z, pixel, rng)
    _mediastinum(hu, chest, x, y, z, pixel, lung)
    _spine(hu, chest, x, y, z, pixel)
    grain = ndimage.gaussian_filter(rng.standard_normal(hu.shape).astype(np.float32), 0.7)
    hu += chest.noise / grain.std() * grain
    hu[np.hypot(x, y) > size * pixel / 2] = outside
    return np.maximum(hu, outside)


def _wall(hu, chest, x, y, z, pixel):
    """Ribs run down and forward around the lungs, so a slice cuts each one obliquely: short bright arcs with a marrow core."""
    a, b = 2 * chest.lungs[0] + 20, chest.lungs[1] + 10
    angle = np.arctan2(np.abs(x) / a, y / b)  # 0 at the back, pi at the front
    across = _ellipse(x, y, 0, 0, a, b, 2.2)
    along = (z + chest.rib_phase + 150 * angle / np.pi) % 26 - 13
    shape = (np.hypot(across / 4.5, along / 7.0) - 1) * 4.5
    shape = np.where(angle > 2.7, 9.0, shape)  # in front, cartilage and sternum
    _paint(hu, shape, CORTEX, pixel)
    _paint(hu, shape + 1.8, MARROW, pixel)
    sternum = _ellipse(x, y, 0, -b - 1, 19, 6.5, 3.0)
    _paint(hu, sternum, CORTEX - 200, pixel)
    _paint(hu, sternum + 1.8, MARROW - 60, pixel)


def _lung_distance(lungs, heart, x, y, z):
    """Signed distance in mm to the lungs at height z: two ellipses, narrower in front, with the hila and the heart pressed into them."""
    a, b = (half * np.sqrt(max(1 - (z / 150) ** 2, 0.1)) for half in lungs)
    taper = 1 + 0.16 * y / b
    shapes = [
        _ellipse(
            x,
            y,
            side * (_lung_centre(lungs) - 5 * (1 - taper)),
            4,
            a * taper * (1.02 - 0.04 * side),
            b * (1 - 0.03 * side),
            2.2,
        )
        for side in (-1, 1)
    ]
    cut = 11 + 9 * np.exp(-(((y - 20) / 40) ** 2))
    distance = np.maximum(np.minimum(*shapes), cut - np.abs(x + 1.5 * np.sin(y / 13)))
    return np.maximum(distance, -_ellipse(x, y, *_heart(heart, z)))


def _lungs(hu, chest, x, y, z, pixel, rng):
    """Lung tissue, fissures, vessels and disease -> share of each pixel that is lung, 0..1."""
    distance = _lung_distance(chest.lungs, chest.heart, x, y, z)
    lung = np.clip(0.5 - distance / pixel, 0, 1)
    tissue = (
        LUNG + 55 * y / chest.lungs[1] + 22 * _texture(rng, hu.shape, 2.0, 8.0)
    )  # denser at the back, where the patient lies
    for bx, by, bz, radius in chest.bullae:
        _paint(
            tissue, np.sqrt((x - bx) ** 2 + (y - by) ** 2 + (z - bz) ** 2) - radius, -975.0, pixel
        )
    fissure = np.abs(y - 12 + 0.35 * np.abs(x) - 0.5 * z) - 0.5
    _paint(tissue, fissure, -700.0, pixel)
    _opacities(tissue, chest, x, y, z, distance, rng, pixel)
    for segment in chest.vessels:
        _vessel(tissue, segment, x, y, z, pixel)
    for nx, ny, nz, radius, value in chest.nodules:
        angle = np.arctan2(y - ny, x - nx)
        bumpy = radius * (
            1 + 0.08 * np.sin(3 * angle + nx) + 0.05 * np.sin(7 * angle + ny)
        )  # lobulated outline
        _paint(
            tissue,
            np.sqrt((x - nx) ** 2 + (y - ny) ** 2 + (z - nz) ** 2) - bumpy,
            value,
            1.5 * pixel,
        )
    hu += lung * (tissue - hu)
    return lung


def _opacities(tissue, chest, x, y, z, distance, rng, pixel):
    """Ground-glass opacity: patchy, at the edge of the lung, raising HU while vessels stay visible; some with septal lines or a solid core."""
    if not len(chest.opacities):
        return
    wobble = _texture(rng, tissue.shape, 6 / pixel, 14 / pixel)
    cobble = np.abs(_texture(rng, tissue.shape, 2.6 / pixel)) < 0.16
    peripheral = np.clip(1.1 + distance / 45, 0.25, 1)  # distance is negative inside the lung
    for cx, cy, cz, a, b, c, added in chest.opacities:
        reach = np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2)
        share = np.clip((1.05 - reach + 0.28 * wobble) / 0.35, 0, 1) * peripheral
        tissue += share * added * (1 + 0.12 * cobble * (added > 300))
        if added > 360:  # consolidation
            core = np.clip((0.42 - reach + 0.2 * wobble) / 0.1, 0, 1)
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
    (x0, x1), (y0, y1) = (
        np.searchsorted(x[0], (low[0], high[0])),
        np.searchsorted(y[:, 0], (low[1], high[1])),
    )
    if x0 == x1 or y0 == y1:
        return
    px, py = x[:, x0:x1] - start[0], y[y0:y1] - start[1]
    pz = z - start[2]
    t = np.clip((px * along[0] + py * along[1] + pz * along[2]) / (along @ along), 0, 1)
    distance = np.sqrt(
        (px - t * along[0]) ** 2 + (py - t * along[1]) ** 2 + (pz - t * along[2]) ** 2
    ) - (r0 + t * (r1 - r0))
    alpha = np.clip(0.5 - distance / pixel, 0, 1)
    patch = tissue[y0:y1, x0:x1]
    patch += alpha * np.maximum(BLOOD - 30 - patch, 0)


def _heart(radius, z):
    """Centre and half axes (x, y, a, b) of the heart, or of the great vessels above it."""
    grow = 1 / (1 + np.exp(z / 12))  # 1 below, 0 above
    return 22 * grow, -28 - 4 * grow, 22 + grow * radius, 24 + 0.75 * grow * (radius - 8)


def _mediastinum(hu, chest, x, y, z, pixel, lung):
    """Heart or great vessels in fat, descending aorta, airways with walls: everything between the lungs."""
    between = (1 - lung) * np.clip(
        0.5 - _ellipse(x, y, 0, -4, 46, chest.lungs[1] * 0.86) / pixel, 0, 1
    )
    _paint(hu, np.full_like(hu, -9.0), FAT + 20, pixel, between)
    cx, cy, a, b = _heart(chest.heart, z)
    _paint(hu, _ellipse(x, y, cx, cy, a - 2, b - 2), BLOOD, pixel)
    if z > 0:  # aortic root and superior vena cava
        _paint(hu, np.hypot(x + 4, y + 30) - 14, BLOOD + 15, pixel)
        _paint(hu, np.hypot(x + 26, y + 26) - 9, BLOOD + 15, pixel)
    for side in (-1, 1):  # pulmonary arteries
        _paint(hu, _ellipse(x, y, side * 26, 2, 15, 8), BLOOD + 5, pixel)
    _paint(hu, np.hypot(x - 16, y - 42) - 12, BLOOD + 10, pixel)  # descending aorta
    _paint(hu, np.hypot(x - 1, y - 36) - 6, MUSCLE - 15, pixel)  # oesophagus
    spread = np.clip((14 - z) * 0.9, 0, 26)  # one trachea above, two bronchi below
    tubes = np.minimum(*(np.hypot(x - side * spread, y - 16) for side in (-1, 1))) - (
        8.5 if spread < 4 else 6.0
    )
    _paint(hu, tubes - 1.6, MUSCLE - 20, pixel)
    _paint(hu, tubes, -990.0, pixel)


def _spine(hu, chest, x, y, z, pixel):
    """Vertebral body with a cortical rim, canal, and the arms towards the ribs."""
    back = chest.lungs[1] * 0.74
    arms = np.minimum(
        _ellipse(x, y, 0, back + 26, 36, 5, 2.5), _ellipse(x, y, 0, back + 38, 4.5, 14, 2.5)
    )
    _paint(hu, arms, CORTEX - 250, pixel)
    body = _ellipse(x, y, 0, back + 2, 18, 15, 2.6)
    _paint(hu, body, CORTEX - 100, pixel)
    _paint(hu, body + 2, MARROW + 25 * np.sin(z / 4), pixel)
    canal = np.hypot(x, y - back - 24) - 9
    _paint(hu, canal - 3, CORTEX - 200, pixel)
    _paint(hu, canal, 30.0, pixel)

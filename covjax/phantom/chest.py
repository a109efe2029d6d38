"""A phantom chest: a person drawn from a seed, and the axial CT slice through it, in HU.

Body, fat, muscle, lungs, heart, aorta, airways, vessels, ribs, spine, couch, nodules and
ground-glass opacity are painted in HU, each as a signed distance in mm (negative inside), so every
edge is one pixel soft.

World axes in mm, origin in the middle of the chest: x to the patient's left, y to the back, z to
the head; they are right-handed. Slices are drawn in radiological view, with the patient's right
lung (x < 0) on the left.
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


class Parts(NamedTuple):
    """A slice with the truth about each pixel; shares are 0..1."""

    hu: np.ndarray  # float32 [size, size]
    lung: np.ndarray  # float32, share of the pixel that is lung, with its vessels and disease
    opacity: np.ndarray  # float32, share of the pixel that is opacity; nowhere more than lung


class Plane(NamedTuple):
    """The axial plane that a slice is drawn in."""

    x: np.ndarray  # [1, size] mm, of the columns
    y: np.ndarray  # [size, 1] mm, of the rows
    z: float  # mm
    pixel: float  # mm


def draw_chest(rng, nodules=0, opacities=0, bullae=0, z_range=(-20.0, 20.0)):
    """Draws a random person.

    Args:
        rng: numpy.random.Generator.
        nodules, opacities, bullae: how many of each.
        z_range: heights in mm between which their centres lie.

    Returns:
        Chest.
    """
    fat = rng.uniform(8, 22)
    lungs = (rng.uniform(52, 60), rng.uniform(76, 88))
    body = (2 * lungs[0] + 30 + fat + rng.uniform(0, 6), lungs[1] + 22 + fat + rng.uniform(0, 6))
    heart, rib_phase = rng.uniform(40, 48), rng.uniform(0, 26)
    vessels = _vessels(rng, lungs)
    place = partial(_place_in_lung, rng, lungs, heart, z_range)
    nodule = lambda: [*place(0.25, 0.8), rng.uniform(3, 11), rng.uniform(-40, 70)]
    bulla = lambda: [*place(0.5, 0.9), rng.uniform(5, 14)]
    return Chest(
        body=body,
        fat=fat,
        lungs=lungs,
        heart=heart,
        rib_phase=rib_phase,
        vessels=vessels,
        nodules=np.array([nodule() for _ in range(nodules)]).reshape(-1, 5),
        opacities=np.array([_opacity(rng, place) for _ in range(opacities)]).reshape(-1, 7),
        bullae=np.array([bulla() for _ in range(bullae)]).reshape(-1, 4),
        noise=rng.uniform(14, 26),
        seed=int(rng.integers(2**31)),
    )


def _opacity(rng, place):
    """A row of Chest.opacities: near the wall of a lung, often at the back."""
    centre = place(0.72, 0.97, back=0.6, depth=0.0)
    half_axes = [*rng.uniform(14, 34, 2), rng.uniform(15, 40)]
    return [*centre, *half_axes, rng.uniform(230, 480)]


def _place_in_lung(rng, lungs, heart, z_range, inner, outer, back=0.0, depth=6.0):
    """A point (x, y, z) at least `depth` mm inside either lung.

    It lies at a share inner..outer of the way to the outer wall; `back` is the chance of being
    pushed to the back.
    """
    # Drawn once: the heart leaves less room on the left, which is not to mean fewer findings there.
    side = rng.choice([-1, 1])
    while True:
        z = rng.uniform(*z_range)
        angle = rng.uniform(-0.35, 1.35) if rng.random() < back else rng.uniform(-1.25, 1.25)
        share = rng.uniform(inner, outer)
        x = side * (_lung_centre(lungs) + share * lungs[0] * 0.92 * np.cos(angle))
        y = share * lungs[1] * 0.92 * np.sin(angle)
        if lung_distance(lungs, heart, x, y, z) < -depth:
            return x, y, z


def _lung_centre(lungs):
    return lungs[0] + 12


def _vessels(rng, lungs):
    """[N, 8]: eight trees a side, which leave the hila, fork up to six times and thin out."""
    segments = []
    for side in (-1, 1):
        for aim in np.linspace(-1.3, 1.3, 8):
            heading = np.array([side * np.cos(aim), np.sin(aim), rng.uniform(-0.7, 0.7)])
            start = np.array(
                [side * rng.uniform(24, 32), rng.uniform(-8, 14), rng.uniform(-25, 25)]
            )
            heading = heading / np.linalg.norm(heading)
            radius, length = rng.uniform(3.0, 4.8), lungs[0] * rng.uniform(0.36, 0.48)
            segments += _branch(rng, start, heading, radius, length, 6)
    return np.array(segments)


def _branch(rng, start, heading, radius, length, forks):
    """Yields a segment of a vessel and all that grow out of it, depth first."""
    end = start + heading * length
    yield [*start, *end, radius, 0.8 * radius]
    if forks == 0 or radius < 0.45:
        return
    for turn in (1, -1):
        wobble = rng.normal(0, 0.25, 3)
        bend = turn * rng.uniform(0.35, 0.7) * _cross(heading, rng.normal(0, 1, 3))
        child = heading + (wobble + bend)
        child_radius = radius * rng.uniform(0.68, 0.86)
        child_length = length * rng.uniform(0.66, 0.9)
        child = child / np.linalg.norm(child)
        yield from _branch(rng, end, child, child_radius, child_length, forks - 1)


def _cross(first, second):
    """np.cross of two vectors of three numbers, ten times as fast."""
    (a, b, c), (d, e, f) = first.tolist(), second.tolist()
    return np.array([b * f - c * e, c * d - a * f, a * e - b * d])


def _ellipse(x, y, cx, cy, a, b, power=2.0):
    """Approximate signed distance in mm to a (super)ellipse, negative inside."""
    radius = (np.abs((x - cx) / a) ** power + np.abs((y - cy) / b) ** power) ** (1 / power)
    return (radius - 1) * np.minimum(a, b)


def _paint(hu, distance, value, pixel, where=None):
    """Lays a value over the inside of a shape, with an edge one pixel soft.

    `where` (0..1) limits it to another shape.
    """
    alpha = np.clip(0.5 - distance / pixel, 0, 1)
    hu += (alpha if where is None else alpha * where) * (value - hu)


def texture(rng, shape, *scales):
    """Smooth noise of unit standard deviation: white noise blurred at several scales in pixels."""
    total = 0.0
    for scale in scales:
        step = max(int(scale / 3), 1)
        white = rng.standard_normal([n // step + 2 for n in shape]).astype(np.float32)
        noise = ndimage.gaussian_filter(white, scale / step, mode='wrap')
        if step > 1:
            noise = ndimage.zoom(noise, step, order=1)
        noise = noise[: shape[0], : shape[1]]
        total = total + noise / noise.std()
    return total / np.sqrt(len(scales))


def render(chest, z, size=512, pixel=0.7, outside=-2048.0):
    """Draws the axial slice through a person.

    Args:
        chest: Chest.
        z: height of the slice, mm.
        size: pixels a side.
        pixel: mm.
        outside: HU of what lies beyond the round field of view.

    Returns:
        HU float32 [size, size].
    """
    return _draw(chest, _plane(z, size, pixel), outside)[0]


def render_parts(chest, z, size=512, pixel=0.7, outside=-2048.0):
    """Draws the slice that `render` draws, and says what is lung and what is opacity.

    Args:
        chest, z, size, pixel, outside: as for `render`.

    Returns:
        Parts.
    """
    plane = _plane(z, size, pixel)
    hu, lung, opacity = _draw(chest, plane, outside)
    # Painting is linear in what lies below, so this is the share that later paint leaves.
    empty, full = np.zeros(hu.shape), np.ones(hu.shape)
    for canvas in (empty, full):
        _mediastinum(canvas, chest, plane, lung)
        _spine(canvas, chest, plane)
    left = np.clip(full - empty, 0, 1) * ~_beyond(plane)
    return Parts(hu, np.float32(lung * left), np.float32(lung * left * opacity))


def _plane(z, size, pixel):
    """The Plane of a slice of size x size pixels with the chest in its middle."""
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * pixel
    return Plane(axis[None, :], axis[:, None], z, pixel)


def _beyond(plane):
    """bool [size, size]: what lies beyond the round field of view."""
    return np.hypot(plane.x, plane.y) > plane.x.size * plane.pixel / 2


def _draw(chest, plane, outside):
    """(HU, share of each pixel that was lung before the mediastinum, share of lung in opacity)."""
    rng = np.random.default_rng([chest.seed, int(round((plane.z + 1000) * 100))])
    hu = np.full((plane.y.size, plane.x.size), AIR, np.float32)
    _trunk(hu, chest, plane, rng)
    _wall(hu, chest, plane)
    lung, opacity = _lungs(hu, chest, plane, rng)
    _mediastinum(hu, chest, plane, lung)
    _spine(hu, chest, plane)
    grain = ndimage.gaussian_filter(rng.standard_normal(hu.shape).astype(np.float32), 0.7)
    hu += chest.noise / grain.std() * grain
    hu[_beyond(plane)] = outside
    return np.maximum(hu, outside), lung, opacity


def _trunk(hu, chest, plane, rng):
    """The couch, skin, fat and muscle."""
    x, y, _, pixel = plane
    a, b = chest.body
    couch = np.abs(_ellipse(x, y, 0, -260, 330, b + 275)) - 2.5  # a curved sheet
    _paint(hu, couch, -350.0, pixel)
    _paint(hu, _ellipse(x, y, 0, 0, a, b, 2.4), 10.0, pixel)  # skin
    _paint(hu, _ellipse(x, y, 0, 0, a - 2, b - 2, 2.4), FAT, pixel)
    fibres = MUSCLE + 18 * texture(rng, hu.shape, 3.0, 9.0)
    _paint(hu, _ellipse(x, y, 0, 0, a - chest.fat, b - chest.fat, 2.4), fibres, pixel)


def _wall(hu, chest, plane):
    """Ribs and sternum.

    Ribs run down and forward around the lungs, so a slice cuts each one obliquely: short bright
    arcs with a marrow core.
    """
    x, y, z, pixel = plane
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


def lung_distance(lungs, heart, x, y, z):
    """Returns the signed distance to the lungs at a height, negative inside.

    Two ellipses, narrower in front, with the hila and the heart pressed into them.

    Args:
        lungs, heart: of a Chest.
        x, y: mm, numbers or arrays that broadcast.
        z: height, mm.

    Returns:
        mm, of the broadcast shape of x and y.
    """
    a, b = (half * np.sqrt(max(1 - (z / 150) ** 2, 0.1)) for half in lungs)
    taper = 1 + 0.16 * y / b
    shapes = []
    for side in (-1, 1):
        centre = side * (_lung_centre(lungs) - 5 * (1 - taper))
        half_axes = a * taper * (1.02 - 0.04 * side), b * (1 - 0.03 * side)
        shapes.append(_ellipse(x, y, centre, 4, *half_axes, 2.2))
    cut = 11 + 9 * np.exp(-(((y - 20) / 40) ** 2))
    distance = np.maximum(np.minimum(*shapes), cut - np.abs(x + 1.5 * np.sin(y / 13)))
    return np.maximum(distance, -_ellipse(x, y, *_heart(heart, z)))


def _lungs(hu, chest, plane, rng):
    """Lung tissue, fissures, vessels and disease.

    Returns the share of each pixel that is lung, and the share of the lung there that is opacity.
    """
    x, y, z, pixel = plane
    distance = lung_distance(chest.lungs, chest.heart, x, y, z)
    lung = np.clip(0.5 - distance / pixel, 0, 1)
    # Denser at the back, where the patient lies.
    tissue = LUNG + 55 * y / chest.lungs[1] + 22 * texture(rng, hu.shape, 2.0, 8.0)
    for *centre, radius in chest.bullae:
        _paint(tissue, _distance_from(centre, plane) - radius, -975.0, pixel)
    fissure = np.abs(y - 12 + 0.35 * np.abs(x) - 0.5 * z) - 0.5
    _paint(tissue, fissure, -700.0, pixel)
    opacity = _opacities(tissue, chest, plane, distance, rng)
    for segment in chest.vessels[_reaches(chest.vessels, z)]:
        _vessel(tissue, segment, plane)
    for nodule in chest.nodules:
        _nodule(tissue, nodule, plane)
    hu += lung * (tissue - hu)
    return lung, opacity


def _distance_from(centre, plane):
    """Distance in mm of every pixel of a plane from a point (x, y, z)."""
    cx, cy, cz = centre
    return np.sqrt((plane.x - cx) ** 2 + (plane.y - cy) ** 2 + (plane.z - cz) ** 2)


def _opacities(tissue, chest, plane, distance, rng):
    """Ground-glass opacity: patchy, at the edge of the lung, with vessels still visible.

    Some have septal lines or a solid core. Returns the share of each pixel that is opacity.
    """
    clear = np.ones(tissue.shape, np.float32)
    if not len(chest.opacities):
        return 1 - clear
    x, y, z, pixel = plane
    wobble = texture(rng, tissue.shape, 6 / pixel, 14 / pixel)
    cobble = np.abs(texture(rng, tissue.shape, 2.6 / pixel)) < 0.16
    peripheral = np.clip(1.1 + distance / 45, 0.25, 1)  # distance is negative inside the lung
    for cx, cy, cz, a, b, c, added in chest.opacities:
        reach = np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2)
        share = np.clip((1.05 - reach + 0.28 * wobble) / 0.35, 0, 1) * peripheral
        tissue += share * added * (1 + 0.12 * cobble * (added > 300))
        if added > 360:  # consolidation
            core = np.clip((0.42 - reach + 0.2 * wobble) / 0.1, 0, 1)
            tissue += core * (MUSCLE - 40 - tissue)
            share = np.maximum(share, core)
        clear *= 1 - share
    np.minimum(tissue, MUSCLE, out=tissue)
    return 1 - clear


def _reaches(vessels, z):
    """bool [N]: which segments of vessels come near a height; most do not."""
    start, end, reach = vessels[:, 2], vessels[:, 5], vessels[:, 6:].max(1) + 1
    return (np.minimum(start, end) - reach < z) & (z < np.maximum(start, end) + reach)


def _vessel(tissue, segment, plane):
    """Paints where a tapered tube crosses the slice, in a window around it only."""
    x, y, z, pixel = plane
    start, end, (r0, r1) = segment[:3], segment[3:6], segment[6:]
    reach = max(r0, r1) + 1
    along = end - start
    low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
    x0, x1 = np.searchsorted(x[0], (low[0], high[0]))
    y0, y1 = np.searchsorted(y[:, 0], (low[1], high[1]))
    if x0 == x1 or y0 == y1:
        return
    px, py, pz = x[:, x0:x1] - start[0], y[y0:y1] - start[1], z - start[2]
    t = np.clip((px * along[0] + py * along[1] + pz * along[2]) / (along @ along), 0, 1)
    from_axis = np.sqrt(
        (px - t * along[0]) ** 2 + (py - t * along[1]) ** 2 + (pz - t * along[2]) ** 2
    )
    distance = from_axis - (r0 + t * (r1 - r0))
    alpha = np.clip(0.5 - distance / pixel, 0, 1)
    window = tissue[y0:y1, x0:x1]
    window += alpha * np.maximum(BLOOD - 30 - window, 0)


def _nodule(tissue, nodule, plane):
    """A ball with a lobulated outline."""
    x, y, z, radius, value = nodule
    angle = np.arctan2(plane.y - y, plane.x - x)
    bumpy = radius * (1 + 0.08 * np.sin(3 * angle + x) + 0.05 * np.sin(7 * angle + y))
    _paint(tissue, _distance_from((x, y, z), plane) - bumpy, value, 1.5 * plane.pixel)


def _heart(radius, z):
    """Centre and half axes (x, y, a, b) of the heart, or of the great vessels above it."""
    grow = 1 / (1 + np.exp(z / 12))  # 1 below, 0 above
    return 22 * grow, -28 - 4 * grow, 22 + grow * radius, 24 + 0.75 * grow * (radius - 8)


def _mediastinum(hu, chest, plane, lung):
    """Everything between the lungs: heart or great vessels in fat, descending aorta, airways."""
    x, y, z, pixel = plane
    middle = _ellipse(x, y, 0, -4, 46, chest.lungs[1] * 0.86)
    between = (1 - lung) * np.clip(0.5 - middle / pixel, 0, 1)
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
    radius = 8.5 if spread < 4 else 6.0
    right, left = (np.hypot(x - side * spread, y - 16) for side in (-1, 1))
    tubes = np.minimum(right, left) - radius
    _paint(hu, tubes - 1.6, MUSCLE - 20, pixel)  # the wall, then the air in it
    _paint(hu, tubes, -990.0, pixel)


def _spine(hu, chest, plane):
    """Vertebral body with a cortical rim, canal, and the arms towards the ribs."""
    x, y, z, pixel = plane
    back = chest.lungs[1] * 0.74
    transverse = _ellipse(x, y, 0, back + 26, 36, 5, 2.5)
    spinous = _ellipse(x, y, 0, back + 38, 4.5, 14, 2.5)
    _paint(hu, np.minimum(transverse, spinous), CORTEX - 250, pixel)
    body = _ellipse(x, y, 0, back + 2, 18, 15, 2.6)
    _paint(hu, body, CORTEX - 100, pixel)
    _paint(hu, body + 2, MARROW + 25 * np.sin(z / 4), pixel)
    canal = np.hypot(x, y - back - 24) - 9
    _paint(hu, canal - 3, CORTEX - 200, pixel)
    _paint(hu, canal, 30.0, pixel)

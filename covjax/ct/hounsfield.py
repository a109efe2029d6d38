"""Hounsfield units (HU): made from stored values, and recognised where a file does not say.

Air is -1000 HU and water 0, by definition. A chest CT has both lung and tissue, so one in which
hardly a voxel is like either is not in HU, whatever its header says.
"""

import numpy as np

from covjax import InputError

INT16 = np.iinfo(np.int16)
EXACT = 1e-3  # how far a whole number may be from one after slope and intercept
AS_STORED = (1.0, 0.0)  # slope and intercept of values that are HU
# HU of air and aerated lung. Less (-2000, -3024) is what scanners write outside their field of
# view.
AIR = (-1100, -500)
TISSUE = (-200, 200)  # HU of fat, muscle, blood
MOST_SHIFTED = 5200  # what HU + 1024 reaches at most, metal and a little more
# HU + 1024 that was resampled has some values of air between its body and what fills the outside.
# No chest has so much bone of the values that its tissue has then, and so little air.
SHIFT, MUCH_BONE, LITTLE_AIR = 1024, 0.05, 0.02
LEAST = 2e-3  # the share of the voxels of a chest CT, or of a slice of one, in each of the two


def parse(text):
    """Reads config.hu.

    Args:
        text: '' for values that are HU, or 'SLOPE,INTERCEPT' with HU = SLOPE x value + INTERCEPT.

    Returns:
        (slope, intercept), or None for ''.

    Raises:
        InputError: it is anything else.
    """
    if not text:
        return None
    try:
        slope, intercept = (float(part) for part in str(text).split(','))
    except ValueError:
        slope = intercept = np.nan
    if not np.isfinite([slope, intercept]).all() or not slope:
        raise InputError(
            f'config.hu={text}: expected SLOPE,INTERCEPT, two numbers such as 1,-1024 '
            'for values that are HU + 1024'
        )
    return slope, intercept


def to_int16(values, slope=1.0, intercept=0.0, exact=False):
    """Turns stored values into HU: int16, rounded, what is beyond the dtype at its ends.

    Volumes are converted slice by slice, so that one slice alone is there in floating point.

    Args:
        values: array [...] of any number type.
        slope, intercept: HU = slope x value + intercept.
        exact: whether the values are numbers of regions, which may not be rounded or cut.

    Returns:
        int16 [...].

    Raises:
        ValueError: a value is not finite, or with `exact` is no whole number of that dtype.
    """
    if values.dtype == np.int16 and (slope, intercept) == AS_STORED:
        return np.ascontiguousarray(values)
    if values.ndim > 2:
        hu = np.empty(values.shape, np.int16)
        for part, stored in zip(hu, values):
            part[...] = to_int16(stored, slope, intercept, exact)
        return hu
    hu = values.astype(np.float64) * slope + intercept
    if not np.isfinite(hu).all():
        raise ValueError('has voxels that are not finite')
    whole = np.clip(np.rint(hu), INT16.min, INT16.max)
    if exact and (changed := np.abs(whole - hu) > EXACT).any():
        raise ValueError(f'has the value {hu[changed][0]:.10g}')
    return whole.astype(np.int16)


def check(hu, path):
    """Refuses a volume that is not in HU.

    Args:
        hu: int16 [z, y, x] or [y, x], the volume or a slice of it.
        path: of the file, for the message.

    Raises:
        InputError: hardly any voxel is air, or hardly any is tissue, or both are 1024 too high. The
            message has the range found and what it looks like.
    """
    counts = histogram(hu)
    between = lambda low, high: counts[low - INT16.min : high - INT16.min + 1]
    # One value alone, such as -1024, may be what fills the image outside the field of view.
    air = (between(*AIR).sum() - between(*AIR).max()) / counts.sum()
    tissue = between(*TISSUE).sum() / counts.sum()
    moved = between(*(end + SHIFT for end in TISSUE)).sum() / counts.sum()
    is_shifted = moved >= MUCH_BONE and air < LITTLE_AIR
    if min(air, tissue) >= LEAST and not is_shifted:
        return
    found = np.flatnonzero(counts) + INT16.min
    inside = found[found >= AIR[0]]
    inside = inside if inside.size else found
    least, most = int(inside[0]), int(inside[-1])
    raise InputError(
        f'{path}: is not in HU: values are {least} to {most}, and a chest CT has air and lung '
        f'({AIR[0]} to {AIR[1]} HU) and tissue ({TISSUE[0]} to {TISSUE[1]} HU); '
        f'{_guess(least, most)}'
    )


def histogram(hu):
    """How many voxels have each value from -32768 to 32767: int [65536] of int16 [..., y, x]."""
    slices = hu.reshape(-1, *hu.shape[-2:])
    return sum(
        np.bincount(part.ravel().astype(np.int32) - INT16.min, minlength=1 << 16) for part in slices
    )


def _guess(least, most):
    """What values of a range look like, and what to do about it."""
    given = 'if you know slope and intercept, give them'
    if least >= 0 and most <= 1:
        return f'it looks like 0..1: {given} as config.hu=SLOPE,INTERCEPT'
    if least >= 0 and most <= 255:
        return f'it looks like grey levels 0..255: {given} as config.hu=SLOPE,INTERCEPT'
    if 1000 < most <= MOST_SHIFTED:
        return 'it looks like HU + 1024 or so: give config.hu=1,-1024, so that air becomes -1000'
    return (
        'give a chest CT in HU; if this is one, say so with config.hu=1,0, or ' + given + ' there'
    )

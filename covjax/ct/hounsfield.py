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
# view, in one or two values; noise of a sharp kernel ends well above NOTHING.
AIR, NOTHING = (-1100, -700), -1500
TISSUE = (-200, 200)  # HU of fat, muscle, blood
GIVE = 'give the slope and intercept that make HU of the stored values'
# What else is met, by the slope and intercept that make HU of it.
KNOWN = {
    (1, -1024): 'HU + 1024 or so',
    (1, 1024): 'HU - 1024, as of an intercept that was applied twice',
    (0.1, 0): 'ten times HU',
    (2, 0): 'half of HU',
    (1, -512): 'HU + 512',
}
# HU + 1024 that was resampled has some values of air between its body and what fills the outside.
# No chest has so much bone of the values that its tissue has then, and so little air.
SHIFT, MUCH_BONE, LITTLE_AIR = 1024, 0.05, 0.02
PILE = 0.02  # the share of voxels that have the least value, where that is no noise
LEAST = 2e-3  # the share of the voxels of a chest CT, or of a slice of one, in each of the two
MOST_BELOW = 0.02  # the share of voxels below NOTHING, without the two values that fill the outside


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


def check(hu, path, given=''):
    """Refuses a volume that is not in HU.

    Args:
        hu: int16 [z, y, x] or [y, x], the volume or a slice of it.
        path: of the file, for the message.
        given: config.hu where that made the values; '' where the file did.

    Raises:
        InputError: hardly any voxel is air, or hardly any is tissue, or many are neither. The
            message has the range found and what it looks like.
    """
    counts = histogram(hu)
    if likeness(counts):
        return
    found = np.flatnonzero(counts) + INT16.min
    inside = found[found >= AIR[0]]
    least, most = int(min(inside, default=found[0])), int(found[-1])
    below = ', and less' if inside.size and found[0] < AIR[0] else ''
    is_not = f'is not in HU with config.hu={given}' if given else 'is not in HU'
    raise InputError(
        f'{path}: {is_not}: values are {least} to {most}{below}, and a chest CT has air and lung '
        f'({AIR[0]} to {AIR[1]} HU) and tissue ({TISSUE[0]} to {TISSUE[1]} HU); '
        f'{GIVE if given else _guess(counts, least, most)}'
    )


def likeness(counts):
    """How much values are like the HU of a chest CT, or of a slice of one.

    Args:
        counts: of `histogram`.

    Returns:
        The smaller of the shares of air and tissue; 0.0 for values that cannot be such HU.
    """
    between = lambda low, high: counts[low - INT16.min : high - INT16.min + 1]
    # One value alone, such as -1024, may be what fills the image outside the field of view.
    air = (between(*AIR).sum() - between(*AIR).max()) / counts.sum()
    tissue = between(*TISSUE).sum() / counts.sum()
    moved = between(*(end + SHIFT for end in TISSUE)).sum() / counts.sum()
    below = between(INT16.min, NOTHING)
    is_shifted = moved >= MUCH_BONE and air < LITTLE_AIR
    is_stretched = below.sum() - np.sort(below)[-2:].sum() > MOST_BELOW * counts.sum()
    if min(air, tissue) < LEAST or is_shifted or is_stretched:
        return 0.0
    return float(min(air, tissue))


def histogram(hu):
    """How many voxels have each value from -32768 to 32767: int [65536] of int16 [..., y, x]."""
    slices = hu.reshape(-1, *hu.shape[-2:])
    return sum(
        np.bincount(part.ravel().astype(np.int32) - INT16.min, minlength=1 << 16) for part in slices
    )


def _guess(counts, least, most):
    """What values look like, and what to do about it; `counts` are those of `histogram`."""
    known = 'if you know slope and intercept, give them'
    if least >= 0 and most <= 1:
        return f'it looks like 0..1: {known} as config.hu=SLOPE,INTERCEPT'
    if least >= 0 and most <= 255:
        return f'it looks like grey levels 0..255: {known} as config.hu=SLOPE,INTERCEPT'
    if most == INT16.max:
        return f'they go on, and were cut at {most}: {known} as config.hu=SLOPE,INTERCEPT'
    # Many voxels that have the least value are air, or what fills the outside; they are neither
    # where values were cut off there.
    piled = counts[least - INT16.min] > PILE * counts.sum()
    likely = {
        (slope, intercept): likeness(_changed(counts, slope, intercept))
        for slope, intercept in KNOWN
        if not (piled and NOTHING < slope * least + intercept < AIR[0])
    }
    most_likely = max(likely, key=likely.get, default=None)
    if likely.get(most_likely):
        name, (slope, intercept) = KNOWN[most_likely], most_likely
        return f'it looks like {name}: if it is, give config.hu={slope:g},{intercept:g}'
    return f'give a chest CT in HU; if this is one, say so with config.hu=1,0, or {known} there'


def _changed(counts, slope, intercept):
    """The `histogram` of slope x value + intercept."""
    found = np.flatnonzero(counts)
    values = to_int16((found + INT16.min).astype(np.float64), slope, intercept)
    weights = counts[found]
    return np.bincount(values.astype(np.int32) - INT16.min, weights, minlength=1 << 16).astype(int)

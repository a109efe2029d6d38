"""Hounsfield units (HU): made from stored values, and recognised where a file does not say.

Air is -1000 HU and water 0, by definition. A chest CT has air in and around the lungs, so one
without voxels far below water is not in HU, whatever its header says.
"""

import numpy as np

from covjax import InputError

INT16 = np.iinfo(np.int16)
AS_STORED = (1.0, 0.0)  # slope and intercept of values that are HU
# HU of air and aerated lung. Less (-2000, -3024) is what scanners write outside their field of
# view.
AIR = (-1100, -500)
LEAST_AIR = 1e-3  # the share of the voxels of a chest CT that must be in AIR
SHOWN = 1 << 22  # voxels that the range is taken from


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


def to_int16(values, slope=1.0, intercept=0.0):
    """Turns stored values into HU: int16, rounded, what is beyond the dtype at its ends.

    Args:
        values: array [...] of any number type.
        slope, intercept: HU = slope x value + intercept.

    Returns:
        int16 [...].

    Raises:
        ValueError: a value is not finite.
    """
    if values.dtype == np.int16 and (slope, intercept) == AS_STORED:
        return values
    if not np.isfinite(values).all():
        raise ValueError('has voxels that are not finite')
    hu = values.astype(np.float64 if values.dtype.itemsize > 4 else np.float32)
    if (slope, intercept) != AS_STORED:
        hu = hu * np.float64(slope) + np.float64(intercept)
    return np.clip(np.rint(hu), INT16.min, INT16.max).astype(np.int16)


def check(hu, path):
    """Refuses a volume that is not in HU.

    Args:
        hu: int16 [...], the volume or a slice of it.
        path: of the file, for the message.

    Raises:
        InputError: hardly any voxel is air. The message has the range found and what it looks like.
    """
    low, high = AIR
    if ((hu >= low) & (hu <= high)).mean() >= LEAST_AIR:
        return
    inside = hu[hu >= low]
    if not inside.size:
        inside = hu
    least, most = int(inside.min()), int(inside.max())
    raise InputError(
        f'{path}: is not in HU: values are {least} to {most}, and a chest CT has air '
        f'({low} to {high} HU); {_guess(least, most)}'
    )


def _guess(least, most):
    """What values of a range look like, and what to do about it."""
    given = 'if you know slope and intercept, give them'
    if least >= 0 and most <= 1:
        return f'it looks like 0..1: {given} as config.hu=SLOPE,INTERCEPT'
    if least >= 0 and most <= 255:
        return f'it looks like grey levels 0..255: {given} as config.hu=SLOPE,INTERCEPT'
    if most > 1000:
        return 'it looks like HU + 1024: then give config.hu=1,-1024'
    return (
        'give a chest CT in HU; if this is one, say so with config.hu=1,0, or ' + given + ' there'
    )

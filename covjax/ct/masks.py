"""Masks of CT images: read with the values that a file has, and checked against their CT.

A mask gives every pixel or voxel a class; class 0 is the background, the others are regions such as
'lung' or 'lesion'. A mask that is mirrored, of another scan, or of other values than its data set
lists looks like any other to a program, so each is compared with what can be seen in the CT.
"""

import numpy as np

from covjax import InputError
from covjax.ct import lungs, picture, volume

BACKGROUND = 'background'
AIRWAY = 'airway'  # the one region that is not in the lungs
# What lung masks must reach as stored, in Dice with the lungs that Otsu's threshold finds.
LEAST_DICE = 0.7
# By which a mask may not be better in another position.
BETTER = 0.1
MOST_OUTSIDE = 0.2  # of the lesions, the share outside of the lungs
OPACITY = (65, 165)  # grey levels of most opacities through the lung window
LEAST_PIXELS = 200  # of masks, for a position to be judged
# Other positions that a mask can have got into, of arrays [..., y, x].
POSITIONS = {
    'mirrored left to right': lambda array: array[..., ::-1],
    'upside down': lambda array: array[..., ::-1, :],
    'turned by 180 degrees': lambda array: array[..., ::-1, ::-1],
    'lying on its side': lambda array: array.swapaxes(-1, -2),
    'turned by 90 degrees': lambda array: np.rot90(array, 1, (-2, -1)),
    'turned by 270 degrees': lambda array: np.rot90(array, 3, (-2, -1)),
    'from head to foot': lambda array: array[::-1] if array.ndim == 3 else array,
}
# Of the classes in pictures, the background first; where there are more regions they repeat.
COLOURS = ((0, 0, 0), (255, 120, 0), (0, 160, 255), (80, 220, 60), (230, 60, 200))
UNCHECKED = 'or look at it and set config.unchecked_masks=True to take it as it is'


def read_picture(path):
    """Reads a mask picture: grey levels, or the indices of a palette.

    Args:
        path: of the file; it may go through an archive.

    Returns:
        uint8 [H, W].

    Raises:
        InputError: it is no picture with 8 bits, or is in colour.
    """
    image, _ = picture.open_file(path, None)
    if image.mode in ('1', 'L', 'P'):
        return np.asarray(image.convert('L') if image.mode == '1' else image)
    channels = np.asarray(image.convert('RGB'))
    if (channels != channels[..., :1]).any():
        raise InputError(
            f'{path}: is a mask in colour; save it as grey levels, one for each region'
        )
    return channels[..., 0]


def read_volume(path):
    """Reads a mask volume of any format, turned as `volume.lps` turns its CT.

    Args:
        path: of the file; it may go through an archive.

    Returns:
        int16 [z, y, x].

    Raises:
        InputError: it is damaged, or no volume.
    """
    stored, _, _ = volume.lps(volume.open_volume(path, hu='1,0'))
    return stored


def classes(regions):
    """The names of the classes of a mask: the background, then the regions in their order.

    Args:
        regions: {value in a file: region}; several values may be one region.
    """
    return (BACKGROUND, *dict.fromkeys(regions.values()))


def colours(count):
    """uint8 [count, 3]: the colour of each of so many classes."""
    order = [0, *(1 + i % (len(COLOURS) - 1) for i in range(count - 1))]
    return np.array(COLOURS, np.uint8)[order]


def in_lungs(mask, names):
    """Where a mask has lungs, or what is in them: bool of uint8 [...] classes with their names."""
    return np.isin(mask, [i for i, name in enumerate(names) if name not in (BACKGROUND, AIRWAY)])


def as_classes(stored, regions, path):
    """The class of every pixel or voxel.

    Args:
        stored: int [...], the values of a file.
        regions: {value: region}; 0 is the background.
        path: of the file, for the message.

    Returns:
        uint8 [...], an index into `classes(regions)`.

    Raises:
        InputError: a value is not listed.
    """
    names, known = classes(regions), {0: BACKGROUND, **regions}
    found = set(np.unique(stored).tolist())
    if others := sorted(found - known.keys()):
        listed = ', '.join(f'{value} {name}' for value, name in sorted(known.items()))
        shown = ', '.join(map(str, others[:8])) + (', ...' if len(others) > 8 else '')
        raise InputError(
            f'{path}: has the values {shown} besides those listed ({listed}); '
            'correct the mask, or list them'
        )
    result = np.zeros(stored.shape, np.uint8)
    for value in found - {0}:
        result[stored == value] = names.index(known[value])
    return result


def check_size(mask, image, path):
    """Refuses a mask that does not have the shape of its image.

    Args:
        mask, image: arrays [z, y, x] or [y, x].
        path: of the mask.

    Raises:
        InputError: they differ.
    """
    if mask.shape != image.shape:
        size, expected = (' x '.join(map(str, array.shape[::-1])) for array in (mask, image))
        raise InputError(f'{path}: is {size}, its image {expected}; give the mask of that image')


def check_place(masks, images, names, path):
    """Refuses masks that do not lie where the lungs or the opacities of their images are.

    Lungs are compared with those that Otsu's threshold finds, where it finds any; lesions with the
    grey levels of most opacities, and with the lungs that they must be in.

    Args:
        masks: [uint8 [H, W] or [z, H, W]], classes.
        images: [uint8], grey through the lung window, of the same shapes.
        names: of the classes.
        path: of the mask, or of the folder of several, for the message.

    Returns:
        A line on what could not be checked, or ''.

    Raises:
        InputError: they do not.
    """
    masks = [in_lungs(mask, names) for mask in masks]
    if sum(mask.sum() for mask in masks) < LEAST_PIXELS:
        return ''
    found = [_lungs_of(image) for image in images]
    if any('lung' in name for name in names):
        return _check_lungs(masks, found, path)
    _check_position(_opacity_share, masks, images, path)
    known = [(mask, lung) for mask, lung in zip(masks, found) if lung.any()]
    if len(known) < len(masks) / 2:
        return (
            f'lungs are found in {len(known)} of {len(masks)} images, '
            'so that lesions are in the lungs was not checked'
        )
    _check_inside([mask for mask, _ in known], [lung for _, lung in known], path)
    return ''


def _lungs_of(image):
    """bool as the image: Otsu's lungs where they are plausible, else nothing."""
    slices = image.reshape(-1, *image.shape[-2:])
    found = np.stack([lungs.mask(grey) for grey in slices])
    found &= lungs.plausible(found)[:, None, None]
    return found.reshape(image.shape)


def _check_lungs(masks, found, path):
    """Compares lung masks, lesions in them too, with what Otsu's threshold finds."""
    if not any(lung.any() for lung in found):
        return 'lungs are found in no image, so the lung masks were not checked'
    dice = _check_position(_overlap, masks, found, path)
    if dice < LEAST_DICE:
        raise InputError(
            f'{path}: does not lie on the lungs of its image (Dice {dice:.2f}, '
            f'at least {LEAST_DICE} expected); give its own mask, {UNCHECKED}'
        )
    return ''


def _overlap(mask, lung):
    """(2 |A and B|, |A| + |B|) on the slices in which Otsu's threshold finds lungs."""
    where = lung.any((-2, -1))
    mask, lung = mask[where], lung[where]
    return 2 * (mask & lung).sum(), mask.sum() + lung.sum()


def _opacity_share(mask, image):
    """(lesion pixels with the grey of opacities, lesion pixels)."""
    inside = image[mask]
    low, high = OPACITY
    return ((inside >= low) & (inside <= high)).sum(), inside.size


def _check_position(count, masks, others, path):
    """Refuses masks that fit better in another position than as stored.

    Args:
        count: function (mask, other) -> (part, whole); the fit is the sum of parts by wholes.
        masks: [bool [..., H, W]].
        others: what they are compared with, of the same shapes.
        path: for the message.

    Returns:
        The fit as stored.
    """

    def fit(turned):
        pairs = [(turned(mask), other) for mask, other in zip(masks, others)]
        counts = [count(mask, other) for mask, other in pairs if mask.shape == other.shape]
        part, whole = np.sum(counts, 0) if len(counts) == len(masks) else (0, 0)
        return part / whole if whole else 0.0

    as_stored = fit(lambda mask: mask)
    others_fit = {name: fit(turned) for name, turned in POSITIONS.items()}
    best = max(others_fit, key=others_fit.get)
    if others_fit[best] > as_stored + BETTER:
        raise InputError(
            f'{path}: fits its image better {best} ({others_fit[best]:.2f} against '
            f'{as_stored:.2f}); turn it, {UNCHECKED}'
        )
    return as_stored


def _check_inside(lesions, lung, path):
    """Refuses lesions [bool arrays] of which too much is outside of the lungs [bool arrays]."""
    outside = sum((mask & ~where).sum() for mask, where in zip(lesions, lung))
    share = outside / max(sum(mask.sum() for mask in lesions), 1)
    if share > MOST_OUTSIDE:
        raise InputError(
            f'{path}: {share:.0%} of the lesions are outside of the lungs, '
            f'at most {MOST_OUTSIDE:.0%} expected; give its own mask, {UNCHECKED}'
        )

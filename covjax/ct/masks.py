"""Masks of CT images: read with the values that a file has, and checked against their CT.

A mask gives every pixel or voxel a class; class 0 is the background, the others are regions such as
'lung' or 'lesion'. A mask that is mirrored, of another scan, or of other values than its data set
lists looks like any other to a program, so each is compared with what can be seen in the CT.
"""

import re

import numpy as np

from covjax import InputError
from covjax.ct import lungs, picture, volume

BACKGROUND = 'background'
# What the names of regions mean; of others it is not known where they lie.
LUNG = re.compile('lung|lobe|parenchyma')
LESION = re.compile(
    'lesion|infect|opaci|ground_?glass|ggo|consolidat|crazy_paving|pneumonia|covid|nodule|tumou?r'
)
SIDES = ('left', 'right')
OTHER_SIDE = {'left': 'right', 'right': 'left'}
NOT_LISTED = 255  # among classes
MOST_REGIONS = 253  # of a data set, whose classes are uint8
# What Pillow calls files and compressions that change values, so that edges of regions get others.
LOSSY = ('JPEG', 'MPO', 'JPEG2000', 'WEBP', 'AVIF', 'jpeg', 'tiff_jpeg', 'webp')
MOST_SHIFT = 0.25  # voxels, between a mask and its scan: files state positions to a few digits
# What lung masks must reach as stored, in Dice with the lungs that Otsu's threshold finds, which
# misses consolidation.
LEAST_DICE = 0.7
# By which a mask may not fit better in another position. Lungs are nearly their own mirror image:
# there little more counts.
BETTER_LUNGS, BETTER_LESIONS = 0.03, 0.1
# The share of the lesions outside the lungs that Otsu's threshold finds, as consolidation is.
MOST_OUTSIDE = 0.5
OPACITY = (65, 165)  # grey levels of most opacities through the lung window
# How much larger the share of pixels like opacities is in lesions than in the lung around them.
LEAST_DENSER = 0.15
LUNG_HU = (-980, -300)  # between which the median of a lung is
LEAST_PIXELS = 200  # of masks, for a position to be judged
AIR, LEAST_AIR = 32, 0.3  # grey level of air, and its share of the edge of an image of a whole body
# Other positions that a mask can have got into, of arrays [..., y, x].
POSITIONS = {
    'mirrored left to right': lambda array: array[..., ::-1],
    'upside down': lambda array: array[..., ::-1, :],
    'turned by 180 degrees': lambda array: array[..., ::-1, ::-1],
    'lying on its side': lambda array: array.swapaxes(-1, -2),
    'lying on its other side': lambda array: array.swapaxes(-1, -2)[..., ::-1, ::-1],
    'turned by 90 degrees': lambda array: np.rot90(array, 1, (-2, -1)),
    'turned by 270 degrees': lambda array: np.rot90(array, 3, (-2, -1)),
}
# Of the classes in pictures, the background first; where there are more regions they repeat. They
# are those of Okabe and Ito, which people who are colour-blind can tell apart.
COLOURS = {
    'black': (0, 0, 0),
    'orange': (230, 159, 0),
    'blue': (86, 180, 233),
    'green': (0, 158, 115),
    'pink': (204, 121, 167),
    'yellow': (240, 228, 66),
}
UNCHECKED = 'or look at it and set config.unchecked_masks=True to take it as it is'


def read_picture(path):
    """Reads a mask picture: grey levels, or the indices of a palette.

    Args:
        path: of the file; it may go through an archive.

    Returns:
        uint8 [H, W].

    Raises:
        InputError: it is no picture with 8 bits, is in colour, or is of a kind that changes values.
    """
    image, facts = picture.open_file(path, None)
    if facts['container'] in LOSSY or image.info.get('compression') in LOSSY:
        raise InputError(
            f'{path}: is a {facts["container"]} picture, whose compression changes the values of '
            'a mask; save it as PNG from its source'
        )
    values = _values(image, path)
    if image.has_transparency_data:
        alpha = np.asarray(image.convert('RGBA'))[..., 3]
        if (values[alpha == 0] > 0).any():
            raise InputError(
                f'{path}: has regions under transparent pixels, so what is meant is not known; '
                'save it without transparency'
            )
    return values


def _values(image, path):
    """The values of a mask, uint8 [H, W], of a PIL.Image."""
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
        (int16 [z, y, x], grid.Grid that they lie on).

    Raises:
        InputError: it is damaged, is no volume, or has values that are no whole numbers.
    """
    return _turned(path)[:2]


def _turned(path):
    """What `read_volume` returns, and the orientation of the file, such as 'RAS'."""
    return volume.lps(volume.open_volume(path, hu='1,0')._replace(exact=True))


def check_axes(path, grid, code):
    """Refuses a mask that would be turned by a header that has nothing to do with its scan.

    That is for masks which are to be taken as they are, wherever their headers say that they lie.

    Args:
        path: of the mask.
        grid: grid.Grid of its scan, turned as `volume.lps` turns it.
        code: orientation of the file of the scan.

    Raises:
        InputError: it lies elsewhere, and its axes run otherwise.
    """
    _, own, own_code = _turned(path)
    if own_code != code and max(own.shifts(grid).values()) > MOST_SHIFT:
        raise InputError(
            f'{path}: its axes run otherwise than those of its scan ({own_code}, of the scan '
            f'{code}), and it lies elsewhere, so how to lay it is not known; give it the header of '
            'the scan'
        )


def classes(regions):
    """The names of the classes of a mask: the background, then the regions in their order.

    Args:
        regions: {value in a file: region}; several values may be one region, also the background.
    """
    return tuple(dict.fromkeys((BACKGROUND, *regions.values())))


def colours(count):
    """uint8 [count, 3]: the colour of each of so many classes."""
    order = [0, *(1 + i % (len(COLOURS) - 1) for i in range(count - 1))]
    return np.array(list(COLOURS.values()), np.uint8)[order]


def is_lung(name):
    """Whether the name of a region says that it is a lung or a part of one, and no lesion in it."""
    return bool(LUNG.search(name)) and not LESION.search(name)


def in_lungs(mask, names):
    """Where a mask has lungs, or what is in them: bool of uint8 [...] classes with their names."""
    inside = [i for i, name in enumerate(names) if LUNG.search(name) or LESION.search(name)]
    return np.isin(mask, inside)


def as_classes(stored, regions, path, remedy='correct the mask, or list them in regions.csv'):
    """The class of every pixel or voxel.

    Args:
        stored: uint8 or int16 [..., H, W], the values of a file.
        regions: {value: region}; 0 is the background, and so is what is called so.
        path: of the file, for the message.
        remedy: the end of the message.

    Returns:
        uint8 [..., H, W], an index into `classes(regions)`.

    Raises:
        InputError: a value is not listed.
    """
    names, known = classes(regions), {**regions, 0: BACKGROUND}
    table = np.full(1 << 16, NOT_LISTED, np.uint8)
    for value, name in known.items():
        table[value] = names.index(name)
    result, others = np.empty(stored.shape, np.uint8), set()
    # Slice by slice, because an array of indices takes eight bytes a voxel.
    for part, values in zip(result.reshape(-1, *stored.shape[-2:]), _slices(stored)):
        part[...] = table[values.astype(np.uint16)]
        others |= set(np.unique(values[part == NOT_LISTED]).tolist())
    if others:
        listed = ', '.join(f'{value} {name}' for value, name in sorted(known.items()))
        shown = ', '.join(map(str, sorted(others)[:8])) + (', ...' if len(others) > 8 else '')
        raise InputError(
            f'{path}: has the values {shown} besides those listed ({listed}); {remedy}'
        )
    return result


def _slices(array):
    """The array [N, H, W] of an array [..., H, W]."""
    return array.reshape(-1, *array.shape[-2:])


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


def check_grid(grid, expected, path):
    """Refuses a mask whose voxels do not lie where those of its scan do.

    Args:
        grid: grid.Grid of the mask, turned as `volume.lps` turns it.
        expected: that of its scan, of the same size.
        path: of the mask.

    Raises:
        InputError: spacing, origin or axes differ by more than rounding; the message names them.
    """
    shifts = grid.shifts(expected)
    differ = [fact for fact, voxels in shifts.items() if voxels > MOST_SHIFT]
    if differ:
        found, wanted = (
            ' '.join(f'{number:.6g}' for number in getattr(place, differ[0]))
            for place in (grid, expected)
        )
        raise InputError(
            f'{path}: lies on a different grid from its scan: {differ[0]} {found}, of the scan '
            f'{wanted}; resample the mask to its scan, {UNCHECKED}'
        )


def check_hu(mask, hu, names, path):
    """Refuses a volume whose lungs, by its mask, do not have the HU of lungs.

    Air and tissue may be where they should be although values were stored through another window.

    Args:
        mask: uint8 [z, y, x], classes.
        hu: int16 [z, y, x].
        names: of the classes.
        path: of the volume.

    Raises:
        InputError: they have.
    """
    lung = hu[np.isin(mask, lung_numbers(names))]
    median = np.median(lung) if lung.size >= LEAST_PIXELS else LUNG_HU[0]
    if not LUNG_HU[0] <= median <= LUNG_HU[1]:
        raise InputError(
            f'{path}: is not in HU: the median of its lungs is {median:.0f}, expected '
            f'{LUNG_HU[0]} to {LUNG_HU[1]}; if you know slope and intercept, give them as '
            f'config.hu=SLOPE,INTERCEPT, {UNCHECKED}'
        )


def check_place(masks, images, names, path):
    """Refuses masks that do not lie where the lungs or the opacities of their images are.

    Lungs are compared with those that Otsu's threshold finds, where it finds any, and left ones
    with right ones. Lesions are compared with the grey levels of most opacities, and with the lungs
    that they must be in and be denser than. Where other regions lie is not known.

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
    lung, lesion = lung_numbers(names), lesion_numbers(names)
    if not lung and not lesion:
        return f'where {", ".join(names[1:])} should be is not known, so the masks were not checked'
    found = [_lungs_of(image) for image in images]
    inside = [np.isin(mask, lung + lesion) for mask in masks]
    if lung:
        _check_sides(masks, names, path)
        return _check_lungs(inside, found, path)
    return _check_lesions(inside, images, found, path)


def lung_numbers(names):
    """The numbers of the classes that are lungs."""
    return [i for i, name in enumerate(names) if is_lung(name)]


def mirrored(names):
    """The classes of a mask that is mirrored left to right: 'left_lung' becomes 'right_lung'.

    Args:
        names: of the classes.

    Returns:
        (int [C], of each class the one that it becomes; the names of classes without the other
        side, which stay what they are).
    """
    becomes, alone = np.arange(len(names)), []
    for i, name in enumerate(names):
        words = name.split('_')
        other = '_'.join(OTHER_SIDE.get(word, word) for word in words)
        if other in names:
            becomes[i] = names.index(other)
        else:
            alone.append(name)
    return becomes, alone


def lesion_numbers(names):
    """The numbers of the classes that are lesions."""
    return [i for i, name in enumerate(names) if LESION.search(name)]


def _lungs_of(image):
    """bool as the image: Otsu's lungs in the slices where they can be trusted, else nothing.

    These show the whole body in air: where it is cropped, air in the lungs touches the edge and
    counts as outside.
    """
    slices = _slices(image)
    found = np.stack([lungs.mask(grey) for grey in slices])
    edges = (slices[:, 0], slices[:, -1], slices[:, :, 0], slices[:, :, -1])
    in_air = (np.concatenate(edges, 1) < AIR).mean(1) >= LEAST_AIR
    found &= (lungs.plausible(found) & in_air)[:, None, None]
    return found.reshape(image.shape)


def _check_sides(masks, names, path):
    """Refuses left lungs that lie to the right of right ones."""
    sides = []
    for side in SIDES:
        chosen = [i for i in lung_numbers(names) if side in names[i].split('_')]
        columns = sum(_columns(np.isin(mask, chosen)) for mask in masks)
        sides.append(columns[0] / columns[1] if columns[1] else None)
    left, right = sides
    if left is not None and right is not None and left < right:
        raise InputError(
            f'{path}: has the left lung on the right of the patient; exchange the two, '
            f'mirror images and masks, {UNCHECKED}'
        )


def _columns(mask):
    """(sum of the columns of a mask in shares of the width, how many pixels it has)."""
    counts = _slices(mask).sum((0, 1))
    return np.array([counts @ np.arange(counts.size) / counts.size, counts.sum()])


def _check_lungs(masks, found, path):
    """Compares lung masks, lesions in them too, with what Otsu's threshold finds."""
    if sum(lung.sum() for lung in found) < LEAST_PIXELS:
        return 'lungs are found in no image, so the lung masks were not checked'
    dice = _check_position(_overlap, masks, found, BETTER_LUNGS, path)
    if dice < LEAST_DICE:
        raise InputError(
            f'{path}: does not lie on the lungs of its images (Dice {dice:.2f}, at least '
            f'{LEAST_DICE} expected{_empty_ones(masks)}); give their own masks, {UNCHECKED}'
        )
    return ''


def _empty_ones(masks):
    """'; 3 of 8 masks are empty', or '' where none is."""
    count = sum(not mask.any() for mask in masks)
    return f'; {count} of {len(masks)} masks are empty' if count else ''


def _overlap(mask, lung):
    """(2 |A and B|, |A| + |B|) on the slices in which Otsu's threshold finds lungs."""
    where = lung.any((-2, -1))
    mask, lung = mask[where], lung[where]
    return 2 * (mask & lung).sum(), mask.sum() + lung.sum()


def _check_lesions(masks, images, found, path):
    """Compares lesions with the grey levels of opacities, and with the lungs around them."""
    if sum(mask.sum() for mask in masks) < LEAST_PIXELS:
        return ''
    _check_position(_opacity_share, masks, images, BETTER_LESIONS, path)
    slices = [zip(_slices(m), _slices(i), _slices(f)) for m, i, f in zip(masks, images, found)]
    with_lesions = [(m, i, f) for part in slices for m, i, f in part if m.any()]
    known = [(m, i, f) for m, i, f in with_lesions if f.any()]
    if 2 * len(known) < len(with_lesions):
        return (
            f'lungs are found in {len(known)} of {len(with_lesions)} images with lesions, '
            'so whether the lesions are in the lungs was not checked'
        )
    outside = sum((mask & ~lung).sum() for mask, _, lung in known)
    share = outside / sum(mask.sum() for mask, _, _ in known)
    if share > MOST_OUTSIDE:
        raise InputError(
            f'{path}: {share:.0%} of the lesions are outside the lungs, '
            f'at most {MOST_OUTSIDE:.0%} expected; give its own mask, {UNCHECKED}'
        )
    inside = _dense_share((image, mask & lung) for mask, image, lung in known)
    around = _dense_share((image, lung & ~mask) for mask, image, lung in known)
    if inside < around + LEAST_DENSER:
        raise InputError(
            f'{path}: its lesions are no denser than the lungs around them ({inside:.0%} and '
            f'{around:.0%} of the pixels are like opacities); give its own mask, {UNCHECKED}'
        )
    return ''


def _dense_share(pairs):
    """The share of chosen pixels that are as dense as opacities, of [(image, bool mask)]."""
    counts = [((image[mask] >= OPACITY[0]).sum(), mask.sum()) for image, mask in pairs]
    dense, whole = np.sum(counts, 0)
    return dense / max(whole, 1)


def _opacity_share(mask, image):
    """(lesion pixels with the grey of opacities, lesion pixels)."""
    inside = image[mask]
    low, high = OPACITY
    return ((inside >= low) & (inside <= high)).sum(), inside.size


def _check_position(count, masks, others, better, path):
    """Refuses masks that fit better in another position than as stored.

    Args:
        count: function (mask, other) -> (part, whole); the fit is the sum of parts by wholes.
        masks: [bool [..., H, W]].
        others: what they are compared with, of the same shapes.
        better: how much better a fit must be.
        path: for the message.

    Returns:
        The fit as stored.
    """

    def fit(turned):
        pairs = [(turned(mask), other) for mask, other in zip(masks, others)]
        if any(mask.shape != other.shape for mask, other in pairs):
            return 0.0
        part, whole = np.sum([count(mask, other) for mask, other in pairs], 0)
        return part / whole if whole else 0.0

    as_stored = fit(lambda mask: mask)
    fits = {name: fit(turned) for name, turned in _positions(masks[0].ndim).items()}
    best = max(fits, key=fits.get)
    if fits[best] > as_stored + better:
        raise InputError(
            f'{path}: fits its image better {best} ({fits[best]:.2f} against '
            f'{as_stored:.2f}); turn it, {UNCHECKED}'
        )
    return as_stored


def _positions(dimensions):
    """{how it is called: function of an array} of the other positions that a mask can have."""
    if dimensions < 3:
        return POSITIONS
    in_depth = {
        f'{name} and from head to foot': lambda array, turned=turned: turned(array)[::-1]
        for name, turned in POSITIONS.items()
    }
    return {**POSITIONS, 'from head to foot': lambda array: array[::-1], **in_depth}

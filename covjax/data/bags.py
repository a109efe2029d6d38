"""Scans as bags of slices: what a network that decides on a whole scan is shown of it.

A bag has at most so many slices, spread evenly over those that cut the lungs, in the order from
foot to head. Scans are volumes, slices with a `scan` and a `z`, or all pictures of a group.
"""

import dataclasses
import hashlib
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from covjax import InputError
from covjax.ct import framing, lungs, masks, windows
from covjax.data import candidates, datasets, specs
from covjax.data.rows import Row

FINDING = 256  # pixels a side at most, of slices in which lungs are looked for
LEAST_AREA = 0.1  # of the lungs in a slice, as a share of the largest in its scan
STORED = 'lung'  # the window through which data sets are grey
SAME = 1e-3  # how much the spacing of slices of one scan may differ, as a share


class Shown(NamedTuple):
    """How a scan becomes a bag."""

    size: int  # pixels a side of a slice
    slices: int  # of a bag, at most
    window: str = STORED  # a key of windows.WINDOWS; others than STORED need data sets in HU
    mip: float = 0.0  # mm, the thickness of slabs whose maximum is shown; 0: slices themselves
    step: float = 0.0  # mm between slices that are taken; 0: all that there are
    view: str = ''  # '' for whole slices, or a key of framing.VIEWS


class Bags(NamedTuple):
    """The scans of one or several splits, in RAM."""

    # uint8 [k, size, size, C], k from 1 to the most slices of a bag; of candidates it may be 0.
    images: list[np.ndarray]
    labels: np.ndarray  # int32 [N], index in `classes`; -1 without label
    rows: list[Row]  # one a scan, with its number of slices as `slices`
    members: list[Row]  # of all examples that the scans are made of, for lineage
    places: list[np.ndarray]  # int [k], which slices of the scan these are, from its foot
    counts: list[int]  # of slices in the whole scan
    middles: list[np.ndarray]  # uint8 [H, W], the middle slice of each scan as it is stored
    classes: tuple[str, ...]
    parts: np.ndarray  # int32 [N], which part of the spec each is from
    # Of candidates, float32 [k]: the candidates.location of each.
    locations: list[np.ndarray] | None = None
    # bool [k], whether a doctor has marked a lesion in each; None of scans without marks.
    lesions: list[np.ndarray | None] | None = None


class Bag(NamedTuple):
    """What is shown of one scan."""

    images: np.ndarray  # uint8 [k, size, size, C]
    places: np.ndarray  # int [k], which slices of the scan these are
    has_lungs: bool  # whether lungs were found
    locations: np.ndarray | None = None  # float32 [k] of candidates


class Scan(NamedTuple):
    """One scan as a data set has it."""

    row: Row
    members: list[Row]  # of its slices, or of itself
    images: list[Any]  # one volume [slices, H, W, 1], or what is stored of each slice
    part: int
    lesions: np.ndarray | None = None  # bool [slices], where marks of lesions are known

    @property
    def height(self):
        """mm from slice to slice; 0 where it is not known."""
        return float(self.row.others.get('spacing', (0,))[0])


def read(spec, data_dir, shown, find=None, find_lesions=None):
    """Reads the scans of a spec as bags.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.
        shown: Shown.
        find: function from uint8 [slices, H, W] through the lung window to bool of that shape,
            where lungs are; by default Otsu's threshold finds them.
        find_lesions: the same of lesions. With it a bag has patches around candidates for lesions,
            the largest first, in place of slices.

    Returns:
        Bags.

    Raises:
        InputError: there is no such data set, it is damaged or empty; a scan lacks slices, or has
            those of two patients or of different spacing; scans of a patient have two labels.
    """
    found = []
    for scan in tqdm(scans(spec, data_dir), 'reading', unit='scan', disable=None):
        check_whole(scan.row, shown, find_lesions is not None)
        slices = stored_slices(scan)
        if find_lesions:
            bag = candidates_of(slices, scan, shown, find or otsu, find_lesions)
        else:
            bag = bag_of(slices, scan.height, shown, find or otsu, scan.row.id)
        found.append((bag, len(slices), _grey(slices[len(slices) // 2], STORED), scan))
    bags, counts, middles, scans_found = (list(column) for column in zip(*found))
    if bare := sum(not bag.has_lungs for bag in bags):
        print(f'{spec}: no lungs found in {bare} of {len(found)} scans, shown whole', flush=True)
    if find_lesions:
        _tell_candidates(spec, bags)
    rows = [
        dataclasses.replace(scan.row, others={**scan.row.others, 'slices': count})
        for scan, count in zip(scans_found, counts)
    ]
    check_labels(spec, [row for scan in scans_found for row in scan.members])
    return Bags(
        images=[bag.images for bag in bags],
        labels=np.array([row.label for row in rows], np.int32),
        rows=rows,
        members=[row for scan in scans_found for row in scan.members],
        places=[bag.places for bag in bags],
        counts=counts,
        middles=middles,
        classes=datasets.classes(spec, data_dir),
        parts=datasets.without_gaps(scan.part for scan in scans_found),
        locations=[bag.locations for bag in bags] if find_lesions else None,
        lesions=[
            None if scan.lesions is None else scan.lesions[bag.places]
            for scan, bag in zip(scans_found, bags)
        ],
    )


def _tell_candidates(spec, bags):
    """Prints how many candidates for lesions there are."""
    counts = np.array([len(bag.images) for bag in bags])
    none = int((counts == 0).sum())
    print(f'{spec}: {counts.sum()} candidates, none in {none} of {len(bags)} scans', flush=True)


def otsu(grey):
    """Where Otsu's threshold finds lungs: uint8 [slices, H, W] -> bool."""
    return np.stack([lungs.mask(plane) for plane in grey])


def scans(spec, data_dir):
    """Yields the Scans of a spec: volumes one by one, others once all of a part are read.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.

    Raises:
        InputError: as `read`.
    """
    slices, marked = defaultdict(list), defaultdict(list)
    named = {name: datasets.mask_classes(name, data_dir) for name, _, _ in specs.parse(spec)}
    numbers = [masks.lesion_numbers(named[name]) for name, _, _ in specs.parse(spec)]
    for record in datasets.records(spec, data_dir):
        marks = marks_of(record, numbers[record.part])
        if datasets.is_volume(record):
            yield Scan(record.row, [record.row], [record.image], record.part, marks)
        else:
            key = record.part, scan_of(record.row)
            slices[key].append(record._replace(mask=None))
            marked[key].append((_z(record.row), marks))
    for (part, name), records in slices.items():
        in_order = sorted(records, key=lambda record: (_z(record.row), record.row.id))
        rows = [record.row for record in in_order]
        check_slices(spec, name, rows)
        digests = '\n'.join(row.sha256 for row in rows)
        row = dataclasses.replace(
            rows[0], id=name, z=None, sha256=hashlib.sha256(digests.encode()).hexdigest()
        )
        images = [record.image for record in in_order]
        marks = [marks for _, marks in sorted(marked[part, name], key=lambda pair: pair[0])]
        known = None if any(each is None for each in marks) else np.concatenate(marks)
        yield Scan(row, rows, images, part, known)


def marks_of(record, numbers):
    """Where a doctor has marked lesions: bool [slices] of a volume, [1] of a slice, or None.

    That is where the mask has any, or where tables say that a slice is `infected`.

    Args:
        record: datasets.Record.
        numbers: of the classes of its mask that are lesions.
    """
    if record.mask is not None and numbers:
        mask = record.mask
        mask = datasets.volume(mask)[None] if isinstance(mask, bytes) else mask
        return np.isin(mask, numbers).reshape(len(mask), -1).any(1)
    infected = record.row.others.get('infected', -1)
    return np.array([bool(infected)]) if infected >= 0 else None


def scan_of(row):
    """What a slice or picture is a part of: its scan, or the group of a picture."""
    return row.others['scan'] if _z(row) >= 0 else row.group


def _z(row):
    """The number of a slice in its scan, -1 of a picture."""
    return -1 if row.z is None else row.z


def patient_of(row):
    """The patient of a Row, or what comes nearest to one."""
    return row.others.get('patient') or row.group


def check_slices(spec, name, rows):
    """Refuses slices that are not those of one scan.

    Args:
        spec: of the data set.
        name: of the scan.
        rows: [Row] of its slices, in order.

    Raises:
        InputError: they are of two patients, their spacing differs, or some are missing.
    """
    where = f'{spec}: scan {name}'
    if len({patient_of(row) for row in rows}) > 1:
        first, second, *_ = sorted({patient_of(row) for row in rows})
        raise InputError(
            f'{where} has slices of two patients, {first} and {second}; give scans names of their '
            'own'
        )
    spacing = np.array([row.others.get('spacing', (0, 0, 0)) for row in rows], float)
    if not np.allclose(spacing, spacing[0], rtol=SAME):
        shown = ' and '.join(f'{mm:.3g}' for mm in (spacing[:, 0].min(), spacing[:, 0].max()))
        raise InputError(
            f'{where} has slices of different spacing, {shown} mm apart; prepare it as two scans'
        )
    numbers = [_z(row) for row in rows]
    # Framed slices are those with lungs, which need not follow one another.
    if numbers[0] >= 0 and not is_framed(rows[0]):
        gaps = np.diff([-1, *numbers])
        if (gaps != 1).any():
            z = int(np.argmax(gaps != 1))
            raise InputError(
                f'{where} lacks the slice z = {z}, or has one twice; name whole splits, or '
                'prepare the data set again'
            )


def is_framed(row):
    """Whether slices are cut out around the lungs, each slice by itself."""
    return 'frame' in row.others


def check_whole(row, shown, with_candidates):
    """Refuses to show of framed slices what needs slices that lie on one another.

    Args:
        row: Row of a scan.
        shown: Shown.
        with_candidates: whether candidates for lesions are looked for.

    Raises:
        InputError: a key asks for it.
    """
    asked = {'mip': shown.mip, 'apart': shown.step, 'lesion_segmenter': with_candidates}
    for key in (key for key, value in asked.items() if value and is_framed(row)):
        raise InputError(
            f'config.{key}: {row.id} has framed slices, each cut out by itself, which do not lie '
            'on one another; name the data set of whole slices, without _framed'
        )


def check_labels(spec, rows):
    """Refuses scans, slices or pictures of one patient with two labels: one would be wrong.

    Args:
        spec: of the data set.
        rows: [Row] of all of them.

    Raises:
        InputError: there are such.
    """
    known = {}
    for row in rows:
        first = known.setdefault(patient_of(row), row)
        if first.label_name != row.label_name:
            raise InputError(
                f'{spec}: patient {patient_of(row)} is {first.label_name} in {first.id} and '
                f'{row.label_name} in {row.id}; correct the labels, or leave one of the two out'
            )


# ---- from a scan to its bag


def stored_slices(scan):
    """The slices of a Scan: uint8 or int16 HU [slices, H, W], or a list of pictures uint8 [H, W].

    Pictures of one size are stacked.
    """
    whole = scan.images[0]
    if not isinstance(whole, bytes):
        arrays = whole if whole.ndim == 4 else scan.images
        return np.stack([array[..., 0] for array in arrays])
    pictures = [datasets.decoded(image) for image in scan.images]
    is_stack = len({picture.shape for picture in pictures}) == 1
    return np.stack(pictures) if is_stack else pictures


def bag_of(slices, height, shown, find, name):
    """What is shown of a scan.

    Args:
        slices: of `stored_slices`.
        height: mm from slice to slice, 0 where it is not known.
        shown: Shown.
        find: as for `read`.
        name: of the scan, for messages.

    Returns:
        Bag.

    Raises:
        InputError: the window, mip or step need what the data set does not have.
    """
    _check(slices, height, shown, name)
    is_stack = not isinstance(slices, list)
    grey = [_grey(each, STORED) for each in slices]
    lung = lung_of(np.stack(grey), find) if is_stack else [lung_of(each, find)[0] for each in grey]
    areas = np.array([mask.mean() for mask in lung])
    if shown.window != STORED:
        grey = [_grey(each, shown.window) for each in slices]
    if shown.mip:
        grey = ndimage.maximum_filter1d(np.stack(grey), slab(shown.mip, height), axis=0)
    box = framing.box_of(np.any(lung, 0)) if shown.view and is_stack and areas.any() else None
    chosen = choose(areas, shown.slices, slab(shown.step, height))
    images = [show(grey[z], lung[z], shown, box) for z in chosen]
    return Bag(np.stack(images)[..., None], chosen, bool(areas.any()))


def candidates_of(slices, scan, shown, find, find_lesions):
    """The candidates for lesions of a scan: Bag.

    Args:
        slices: of `stored_slices`.
        scan: Scan.
        shown: Shown, of which the size of patches and their number count.
        find, find_lesions: as for `read`.

    Raises:
        InputError: they are pictures, or do not say how far apart their voxels are.
    """
    spacing = scan.row.others.get('spacing', (0, 0, 0))
    if isinstance(slices, list) or not all(spacing):
        raise InputError(
            f'{scan.row.id}: does not say how far apart its voxels are, which candidates for '
            'lesions need; name a data set of volumes or of their slices'
        )
    grey = np.stack([_grey(each, STORED) for each in slices])
    lung = lung_of(grey, find)
    found = candidates.of_scan(grey, lung, find_lesions(grey), spacing, shown.size, shown.slices)
    patches, locations, places = found
    return Bag(patches, places, bool(lung.any()), locations)


def _grey(image, window):
    """An image uint8 as it is, or HU through a window."""
    return image if image.dtype == np.uint8 else windows.to_grey(image, windows.WINDOWS[window])


def _check(slices, height, shown, name):
    """Refuses what cannot be shown of a scan; see `bag_of`."""
    if shown.window != STORED and slices[0].dtype == np.uint8:
        raise InputError(
            f'config.window={shown.window}: {name} is stored through the window {STORED}; prepare '
            'and name the data set in HU, whose name ends in _hu'
        )
    for key, value in (('mip', shown.mip), ('apart', shown.step)):
        if value and not height:
            raise InputError(
                f'config.{key}={value:g}: {name} does not say how far apart its '
                'slices are; set it to 0'
            )


def slab(millimetres, height):
    """How many slices a thickness has, at least one."""
    return max(round(millimetres / height), 1) if millimetres else 1


def lung_of(grey, find):
    """Where the lungs of slices are, found at FINDING pixels a side at most.

    Args:
        grey: uint8 [slices, H, W], or [H, W], through the lung window.
        find: as for `read`.

    Returns:
        bool [slices, H, W]; nothing in slices without plausible lungs.
    """
    grey = grey.reshape(-1, *grey.shape[-2:])
    every = max(-(-max(grey.shape[1:]) // FINDING), 1)
    small = np.ascontiguousarray(grey[:, ::every, ::every])
    found = find(small)
    found &= lungs.plausible(found)[:, None, None]
    whole = found.repeat(every, 1).repeat(every, 2)
    return whole[:, : grey.shape[1], : grey.shape[2]]


def choose(areas, count, step):
    """The numbers of the slices of a bag, spread evenly over those that cut the lungs.

    Args:
        areas: float [slices], of the lungs in each; all 0 where none are found, and then the whole
            scan counts.
        count: of slices, at most.
        step: how many slices there are to one that may be chosen.

    Returns:
        int [k], ascending.
    """
    with_lungs = np.flatnonzero(areas >= max(LEAST_AREA * areas.max(), np.finfo(float).tiny))
    first, last = (with_lungs[0], with_lungs[-1]) if len(with_lungs) else (0, len(areas) - 1)
    candidates = np.arange(first + (last - first) % step // 2, last + 1, step)
    count = min(count, len(candidates))
    return candidates[((np.arange(count) + 0.5) * len(candidates) / count).astype(int)]


def show(grey, lung, shown, box):
    """One slice of a bag: uint8 [size, size].

    Args:
        grey: uint8 [H, W].
        lung: bool [H, W].
        shown: Shown.
        box: what is cut out, (slice of rows, slice of columns), or None for that of its own lungs.
    """
    if shown.view and lung.any():
        black = np.where(lung, grey, np.uint8(0)) if shown.view == 'mask' else grey
        grey = black[box or framing.box_of(lung)]
    elif box:
        grey = np.zeros_like(grey[box]) if shown.view == 'mask' else grey[box]
    size = (shown.size, shown.size)
    image = Image.fromarray(np.ascontiguousarray(grey))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def filled(array, count):
    """An array of the slices of a bag with a fixed number of them: [k, ...] -> [count, ...].

    The slices that fill it up are 0, which is black.
    """
    return np.pad(array, ((0, count - len(array)), *[(0, 0)] * (array.ndim - 1)))


def batch_of(images, indices, count, locations=None):
    """Some of a list of bags, filled up.

    Args:
        images: [uint8 [k, size, size, C]].
        indices: of the bags.
        count: slices of each.
        locations: [float32 [k]] of candidates, or None.

    Returns:
        {'image': uint8 [B, count, size, size, C], 'valid': bool [B, count], which slices count};
        of candidates with 'location', float32 [B, count].
    """
    batch = {
        'image': np.stack([filled(images[i], count) for i in indices]),
        'valid': np.stack([np.arange(count) < len(images[i]) for i in indices]),
    }
    if locations is not None:
        batch['location'] = np.stack([filled(locations[i], count) for i in indices])
    return batch

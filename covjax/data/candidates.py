"""Candidates for lesions in a scan: a patch around each piece of a mask, and where it lies.

Xu et al. 2020 (Engineering 6:1122) cut patches around what a network for tuberculosis proposes, and
tell it how far from the edge of the lungs each lies: COVID-19 is mostly near the pleura. Their
network, and the size of their patches, are not published. Here pieces of a segmenter of our own are
the candidates; a patch has the middle slice of a piece and its two neighbours as channels.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

LEAST_VOLUME = 100.0  # mm3 of a piece; smaller ones are noise
FIELD = 64.0  # mm a side of a patch
NEIGHBOURS = (-1, 0, 1)  # slices of a patch, from its middle one
TOUCHING = np.ones((3, 3, 3), bool)  # voxels that touch at a corner are of one piece


def pieces(lesion, spacing):
    """The pieces of a mask, the largest first.

    Args:
        lesion: bool [slices, H, W].
        spacing: mm between voxels, (z, y, x).

    Returns:
        [(z, y, x) of the voxel of the piece that is nearest to its middle].
    """
    numbers, count = ndimage.label(lesion, TOUCHING)
    if not count:
        return []
    volumes = np.bincount(numbers.ravel(), minlength=count + 1)[1:] * float(np.prod(spacing))
    large = [i + 1 for i in np.argsort(-volumes, kind='stable') if volumes[i] >= LEAST_VOLUME]
    boxes, found = ndimage.find_objects(numbers), []
    for number in large:
        box = boxes[number - 1]
        places = np.argwhere(numbers[box] == number)
        apart = (places - places.mean(0)) * np.asarray(spacing)
        nearest = places[np.argmin((apart**2).sum(1))]
        found.append(tuple(int(n + part.start) for n, part in zip(nearest, box)))
    return found


def patch(grey, middle, spacing, size):
    """What is shown of a candidate: uint8 [size, size, 3].

    It is FIELD mm wide; beyond the scan it is black.

    Args:
        grey: uint8 [slices, H, W].
        middle: (z, y, x).
        spacing: mm between voxels, (z, y, x).
        size: pixels a side.
    """
    z, y, x = middle
    tall, wide = (FIELD / mm / 2 for mm in spacing[1:])
    corners = (x + 0.5 - wide, y + 0.5 - tall, x + 0.5 + wide, y + 0.5 + tall)
    shown = []
    for step in NEIGHBOURS:
        plane = grey[z + step] if 0 <= z + step < len(grey) else np.zeros_like(grey[0])
        image = Image.fromarray(plane).transform(
            (size, size), Image.Transform.EXTENT, corners, Image.Resampling.BILINEAR
        )
        shown.append(np.asarray(image))
    return np.stack(shown, -1)


def location(lung, middle, spacing):
    """How far a candidate lies from the edge of the lungs, relative to their size: 0 at the edge.

    It is the least distance of its middle from the edge, in the plane of the slice, divided by the
    diagonal of the smallest rectangle around the lungs in the slice.

    Args:
        lung: bool [slices, H, W].
        middle: (z, y, x).
        spacing: mm between voxels, (z, y, x).

    Returns:
        float, 0 outside the lungs.
    """
    z, y, x = middle
    mask, mm = lung[z], np.asarray(spacing[1:], float)
    if not mask[y, x]:
        return 0.0
    sides = [np.ptp(np.flatnonzero(mask.any(axis))) + 1 for axis in (1, 0)]
    diagonal = np.hypot(*(mm * sides))
    depth = ndimage.distance_transform_edt(mask, sampling=mm)[y, x]
    return float(depth / diagonal)


def of_scan(grey, lung, lesion, spacing, size, count):
    """The candidates of a scan, the largest first.

    Args:
        grey: uint8 [slices, H, W].
        lung, lesion: bool of the same shape.
        spacing: mm between voxels, (z, y, x).
        size: pixels a side of a patch.
        count: candidates, at most.

    Returns:
        (uint8 [k, size, size, 3]; float32 [k], the `location` of each; int [k], its slice); k may
        be 0.
    """
    middles = pieces(lesion, spacing)[:count]
    patches = [patch(grey, middle, spacing, size) for middle in middles]
    places = [location(lung, middle, spacing) for middle in middles]
    return (
        np.stack(patches) if patches else np.zeros((0, size, size, len(NEIGHBOURS)), np.uint8),
        np.array(places, np.float32),
        np.array([middle[0] for middle in middles], int),
    )

"""Images that show the same thing: copied, rescaled, recompressed, brighter or darker.

Images are compared twice: small, where copies correlate, and by the fine structure of the
originals, where images that are merely alike differ.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

SIZE = 32  # pixels a side at which images are compared
# Of the correlation; on COVID-CT neighbouring slices of one scan reach it, two patients do not.
THRESHOLD = 0.97
ROWS = 512  # images compared with all others at a time

DETAIL_SIZE = 64  # pixels a side of the image whose fine structure must agree as well
BLUR = 2.0  # pixels; what it removes is the fine structure
# Of the correlation of fine structure; on COVID-CT that of copies is 0.87 and more.
SAME_DETAIL = 0.75


def shrunk(grey):
    """Returns an image as it is compared: uint8 [H, W] -> uint8 [SIZE, SIZE, 1]."""
    return _resized(grey, SIZE)[..., None]


def _resized(grey, size):
    image = Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def near_duplicates(images, threshold=THRESHOLD):
    """Finds the pairs of images whose pixels correlate.

    Pearson's correlation does not see brightness and contrast; a constant image is like none.

    Args:
        images: uint8 [N, SIZE, SIZE, 1], as datasets.read and `shrunk` give them.
        threshold: of the correlation.

    Returns:
        [(correlation, i, j)] above the threshold with i < j, the most alike first.
    """
    pairs = []
    for correlation, start in _correlations(images):
        for i, j in zip(*np.nonzero(correlation > threshold)):
            if start + i < j:
                pairs.append((float(correlation[i, j]), int(start + i), int(j)))
    return sorted(pairs, reverse=True)


def pairs_above(images, threshold):
    """Finds the pairs that `near_duplicates` finds where there may be very many: int [M, 2]."""
    pairs = [np.empty((0, 2), np.int32)]
    for correlation, start in _correlations(images):
        found = np.argwhere(correlation > threshold).astype(np.int32) + [start, 0]
        pairs.append(found[found[:, 0] < found[:, 1]].astype(np.int32))
    return np.concatenate(pairs)


def _correlations(images):
    """Yields (correlation of some images with all, index of the first of them).

    Not all against all at once, which takes a gigabyte for 15,000 images.
    """
    pixels = _standardised(images)
    for start in range(0, len(pixels), ROWS):
        yield pixels[start : start + ROWS] @ pixels.T, start


def detail(first, second):
    """Correlates the fine structure of two images: vessels, edges, letters.

    The bodies of two people can look alike, these cannot.

    Args:
        first, second: uint8 [H, W] of any size.

    Returns:
        float in -1..1.
    """
    small = [_resized(grey, DETAIL_SIZE).astype(np.float32) for grey in (first, second)]
    fine = np.stack([grey - ndimage.gaussian_filter(grey, BLUR) for grey in small])
    first, second = _standardised(fine)
    return float(first @ second)


def copies(first, second):
    """Pairs of nearly the same picture in two sets that are not known to be of one patient.

    Pictures with the same pixels are left out: their hash says so.

    Args:
        first, second: [(uint8 [H, W], Row)], with the groups and the hashes of the rows.

    Returns:
        [(correlation, index in first, index in second)], the most alike first.
    """
    both = [*first, *second]
    rows = [row for _, row in both]
    pairs = across_groups(near_duplicates(np.stack([shrunk(grey) for grey, _ in both])), rows)
    return [
        (value, i, j - len(first))
        for value, i, j in pairs
        if i < len(first) <= j
        and rows[i].sha256 != rows[j].sha256
        and detail(both[i][0], both[j][0]) > SAME_DETAIL
    ]


def nearest(images, others):
    """Finds for each image the one of `others` that is most like it.

    Args:
        images, others: uint8 [N, SIZE, SIZE, 1] and [M, SIZE, SIZE, 1].

    Returns:
        (correlation float32 [N], index int [N]).
    """
    correlation = _standardised(images) @ _standardised(others).T
    return correlation.max(1), correlation.argmax(1)


def _standardised(images):
    """Pixels float32 [N, D] of mean 0 and length 1; of a constant image all 0."""
    pixels = images.reshape(len(images), -1).astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    norms = np.linalg.norm(pixels, axis=1, keepdims=True)
    return np.divide(pixels, norms, out=np.zeros_like(pixels), where=norms > 0)


def across_groups(pairs, rows):
    """Keeps the pairs whose images are not known to be of one patient.

    These are the ones that a split by groups does not keep together.

    Args:
        pairs: [(value, i, j)], as `near_duplicates` gives them.
        rows: [Row] of all images.
    """
    return [(value, i, j) for value, i, j in pairs if rows[i].group != rows[j].group]

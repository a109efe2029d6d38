"""Pictures that show the same image: copied, rescaled, recompressed, brighter or darker."""

import numpy as np
from PIL import Image
from scipy import ndimage

SIZE = 32  # pixels a side at which pictures are compared
ROWS = 512
THRESHOLD = 0.97  # of the correlation; on COVID-CT neighbouring slices of one scan reach it, two patients do not
DETAIL_SIZE, BLUR, SAME_DETAIL = (
    64,
    2.0,
    0.75,
)  # of the picture whose fine structure must agree as well; on COVID-CT that of copies does by 0.87 and more


def shrunk(grey):
    """uint8 [H, W] -> uint8 [SIZE, SIZE, 1], as pictures are compared."""
    return np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR))[
        ..., None
    ]


def near_duplicates(images, threshold=THRESHOLD):
    """[(correlation, i, j)] of the pairs of images above the threshold, the most alike first.

    images uint8 [N, SIZE, SIZE, 1], as data.read and `shrunk` give them. Pearson's correlation of pixels does not see brightness and contrast; a constant image is like none.
    """
    pixels, pairs = _standardised(images), []
    for start in range(
        0, len(pixels), ROWS
    ):  # not all against all at once, which for 15,000 images would take a gigabyte
        correlation = pixels[start : start + ROWS] @ pixels.T
        pairs += [
            (float(correlation[i, j]), int(start + i), int(j))
            for i, j in zip(*np.nonzero(correlation > threshold))
            if start + i < j
        ]
    return sorted(pairs, reverse=True)


def detail(first, second):
    """Correlation of the fine structure (vessels, edges, letters) of two pictures uint8 [H, W] of any size: bodies of two people can look alike, these can not."""
    small = [
        np.asarray(
            Image.fromarray(grey).resize((DETAIL_SIZE, DETAIL_SIZE), Image.Resampling.BILINEAR),
            np.float32,
        )
        for grey in (first, second)
    ]
    one, other = _standardised(
        np.stack([grey - ndimage.gaussian_filter(grey, BLUR) for grey in small])
    )
    return float(one @ other)


def nearest(images, others):
    """(correlation float [N], index int [N]) of the one of `others` that is most like each of images; both as near_duplicates takes them."""
    correlation = _standardised(images) @ _standardised(others).T
    return correlation.max(1), correlation.argmax(1)


def _standardised(images):
    """Pixels float32 [N, D] of mean 0 and length 1; of a constant image all 0."""
    pixels = images.reshape(len(images), -1).astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    norms = np.linalg.norm(pixels, axis=1, keepdims=True)
    return np.divide(pixels, norms, out=np.zeros_like(pixels), where=norms > 0)


def across_groups(pairs, rows):
    """Those of the pairs whose pictures are not known to be of one patient, the ones that a split by groups does not keep together."""
    return [(value, i, j) for value, i, j in pairs if rows[i].group != rows[j].group]

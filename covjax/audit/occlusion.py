"""Where a classifier without gradients looks: how much a score falls when a part is hidden.

A square that slides over the image is filled with the mean grey of that image (Zeiler and Fergus,
Visualizing and Understanding Convolutional Networks, arXiv 1311.2901).
"""

import numpy as np

CELLS = 8  # of the map, a side
SQUARE = 2  # cells a side of what is hidden
EVEN = 1e-6  # from 0 and 1, so that a logit is finite


def occlusion(score):
    """The map of a classifier that can only be asked.

    Args:
        score: uint8 [N, H, W, 1] -> P(positive class) float [N].

    Returns:
        A function from images uint8 [N, H, W, 1] to maps float32 [N, CELLS, CELLS], not negative:
        by how much the logit falls when a square around a cell is hidden; where it rises, 0. It
        asks CELLS x CELLS + 1 times.
    """

    def maps(images):
        whole = _logit(score(images))
        heat = np.empty((len(images), CELLS, CELLS), np.float32)
        for row, column in np.ndindex(CELLS, CELLS):
            heat[:, row, column] = whole - _logit(score(hidden(images, row, column)))
        return heat.clip(0)

    return maps


def hidden(images, row, column):
    """Images uint8 [N, H, W, 1] with the square around a cell filled with the mean of each."""
    height, width = images.shape[1:3]
    down, across = (_span(cell, side) for cell, side in ((row, height), (column, width)))
    changed = images.copy()
    means = images.mean((1, 2, 3), keepdims=True).round().astype(np.uint8)
    changed[:, down, across] = means
    return changed


def _span(cell, side):
    """The pixels of a side that are hidden around a cell, a slice."""
    middle, half = (cell + 0.5) / CELLS, SQUARE / 2 / CELLS
    return slice(max(round((middle - half) * side), 0), max(round((middle + half) * side), 1))


def _logit(probabilities):
    even = np.clip(np.asarray(probabilities, float), EVEN, 1 - EVEN)
    return np.log(even / (1 - even))

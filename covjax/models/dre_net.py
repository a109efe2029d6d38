"""DRE-Net: a network that looks at a slice, and again at details that it chooses itself.

Song et al. 2021 (IEEE/ACM TCBB 18:2775), whose network is NTS-Net (Yang et al. 2018, ECCV): one
body sees the whole image, the six parts of it that a small network takes for the most telling, and
the first of the large ones once more in full size. The parts are squares on three grids, of which
the finest has SMALL and the coarsest LARGE; of each kind three are taken that hardly overlap.

Published for images of 448x448. Parts are shares of the side here, so that smaller images have as
many, and the map that they are chosen on is enlarged to the cells that it has at 448. Two readings
are ours. The published code draws dropout in evaluation too; here it is off there. It cuts the
full-size part out of a copy of 600x600; here it is cut out of the image itself.

Endpoints: those of the body; 'whole' and 'parts', the logits of the whole image [B, C] and of each
part [B, 6, C]; 'scores' [B, 6] and 'boxes' [B, 6, 4] of the parts, (top, left, bottom, right) in
shares of the side, which may reach beyond the image; and 'features', the last map of the whole
image. H = W >= 64.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from covjax import InputError
from covjax.models import layers, resnet

SIDE = 448  # pixels, for which the parts are published
# The side of a part and the distance between parts, in pixels of 448, of each grid; the number of
# its cells a side.
SMALL = ((48, 32, 14), (96, 64, 7))
LARGE = ((192, 128, 4),)
TAKEN = 3  # of SMALL, and as many of LARGE
PARTS = 2 * TAKEN
OVERLAP = 0.1  # the intersection over union from which parts are not taken together
WIDTH = 128  # of the network that chooses
BODIES = {'resnet50_torch': resnet.ResNet50Torch, 'resnet18': resnet.ResNet18}


def squares(grids):
    """The parts of grids as boxes, float64 [N, 4], in shares of the side; row by row.

    Args:
        grids: SMALL or LARGE.
    """
    boxes = []
    for side, step, cells in grids:
        middle = step * (np.arange(cells) + 0.5)
        rows, columns = (each.ravel() for each in np.meshgrid(middle, middle, indexing='ij'))
        half = side / 2
        boxes.append(np.stack([rows - half, columns - half, rows + half, columns + half], 1))
    return np.concatenate(boxes) / SIDE


def overlaps(boxes):
    """Whether each pair of boxes [N, 4] has an intersection over union of OVERLAP: bool [N, N]."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), -1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    return shared >= OVERLAP * (areas[:, None] + areas[None] - shared)


def best(scores, overlapping):
    """The indices of the TAKEN parts with the highest scores of which no two overlap.

    That is non-maximum suppression with a number of results that is known beforehand. Where nothing
    is left, the first part is taken once more.

    Args:
        scores: float [B, N].
        overlapping: bool [N, N], of `overlaps`.

    Returns:
        int32 [B, TAKEN], the highest score first.
    """
    overlapping = jnp.asarray(overlapping)
    chosen, left = [], scores
    for _ in range(TAKEN):
        index = left.argmax(-1)
        if chosen:
            index = jnp.where(jnp.isneginf(left.max(-1)), chosen[0], index)
        chosen.append(index)
        left = jnp.where(overlapping[index], -jnp.inf, left)
    return jnp.stack(chosen, -1)


def cut(images, boxes, size):
    """Cuts boxes out of images and brings them to size x size.

    Bilinear, with the outermost pixels of a box in the corners; 0 beyond an image.

    Args:
        images: float [B, H, H, C].
        boxes: float [B, 4], in shares of the side.
        size: pixels.

    Returns:
        float [B, size, size, C].
    """
    side = images.shape[1]

    def weights(first, last):
        """[B, size, side]: what each pixel of the result has of each row, or column."""
        first, last = first[:, None] * side, last[:, None] * side - 1
        place = first + (last - first) * jnp.linspace(0, 1, size)[None]
        return jnp.maximum(1 - jnp.abs(place[..., None] - jnp.arange(side)[None, None]), 0)

    rows, columns = weights(boxes[:, 0], boxes[:, 2]), weights(boxes[:, 1], boxes[:, 3])
    return jnp.einsum('bip,bpqc,bjq->bijc', rows, images, columns, precision='highest')


class Proposals(nn.Module):
    """Scores every part: a map [B, h, w, F] -> float32 [B, number of SMALL + number of LARGE].

    Three 3x3 convolutions of WIDTH features, from the second on with stride 2, each followed by one
    to a single score.
    """

    @nn.compact
    def __call__(self, x):
        """Applies the network; see the class."""
        cells = SMALL[0][2]
        x = jax.image.resize(x, (len(x), cells, cells, x.shape[-1]), 'linear', antialias=False)
        scores, conv = [], layers.conv(jnp.float32)
        for i, stride in enumerate((1, 2, 2), 1):
            x = nn.relu(conv(WIDTH, (3, 3), stride, padding=1, name=f'down{i}')(x))
            scores.append(conv(1, (1, 1), name=f'score{i}')(x).reshape(len(x), -1))
        return jnp.concatenate(scores, -1)


class DRENet(nn.Module):
    """A classification network: images [B, H, H, C] -> logits [B, num_classes] float32.

    It is used as a models.backbone.Backbone is. With num_classes=None the features are those of
    the whole image, of the six parts and of the enlarged one, [B, 8 * F].
    """

    num_classes: int | None = 2
    dtype: Any = jnp.float32  # of the body; parameters, statistics and logits are float32
    axis_name: str | None = None  # devices over which BatchNorm averages statistics in training
    bn_momentum: float = 0.9
    dropout: float = 0.0  # of all features, before the last layers; published with 0.5
    backbone: str = 'resnet50_torch'  # a key of BODIES

    family = 'dre_net'
    smallest = 64
    reference = 'PyTorch DRE-Net'

    @nn.compact
    def __call__(self, x, train=False, endpoints=False):
        """Applies the network.

        Args:
            x: images float [B, H, H, C].
            train: whether BatchNorm uses the statistics of the batch, and dropout is on.
            endpoints: whether to return inner maps too.

        Returns:
            Logits or features; with endpoints=True (logits or features, {name: array}).

        Raises:
            InputError: the images have another rank, number of channels, are too small or not
                square.
        """
        self._check(x.shape)
        body = BODIES[self.backbone](
            num_classes=None,
            dtype=self.dtype,
            axis_name=self.axis_name,
            bn_momentum=self.bn_momentum,
            name='body',
        )
        drop = layers.ExampleDropout(self.dropout, self.axis_name)
        features_of = lambda images: drop(body(images, train), deterministic=not train)
        batch, size = len(x), x.shape[1]

        whole, maps = body(x, train, endpoints=True)
        whole = drop(whole, deterministic=not train)
        scores = Proposals(name='proposals')(lax.stop_gradient(maps['features']))
        scores, boxes = chosen_parts(scores)
        seen = cut(jnp.repeat(x, PARTS, 0), boxes.reshape(-1, 4), size // 2)
        parts = features_of(seen).reshape(batch, PARTS, -1)
        enlarged = features_of(cut(x, jnp.clip(boxes[:, TAKEN], 0, 1), size))
        # The whole image comes first, so that the first rows of the head are those of its map.
        together = jnp.concatenate([whole, parts.reshape(batch, -1), enlarged], -1)

        maps = {name: value for name, value in maps.items() if name != 'features'} | {
            'scores': scores,
            'boxes': boxes,
            'features': maps['features'],
        }
        if self.num_classes is not None:
            dense = partial(nn.Dense, self.num_classes)
            maps['whole'] = dense(name='whole_head')(whole)
            maps['parts'] = dense(name='part_head')(parts)
            together = dense(name='head')(together)
        return (together, maps) if endpoints else together

    def _check(self, shape):
        """Raises an InputError where images of this shape do not fit."""
        if len(shape) != 4 or shape[-1] not in (1, 3):
            raise InputError(f'{self.family} needs images [B, H, W, 1 or 3], got {list(shape)}')
        height, width = shape[1:3]
        if min(height, width) < self.smallest or height != width:
            raise InputError(
                f'{self.family} needs square images of at least {self.smallest}x{self.smallest}, '
                f'got {height}x{width}; choose a larger image_size'
            )


def chosen_parts(scores):
    """The parts that are looked at.

    Args:
        scores: float [B, N], of Proposals.

    Returns:
        (scores [B, PARTS], boxes float32 [B, PARTS, 4]): those of SMALL, then those of LARGE, each
        with the highest score first.
    """
    found, boxes, first = [], [], 0
    for grids in (SMALL, LARGE):
        candidates = squares(grids)
        here = scores[:, first : first + len(candidates)]
        index = best(lax.stop_gradient(here), overlaps(candidates))
        found.append(jnp.take_along_axis(here, index, 1))
        boxes.append(jnp.asarray(candidates, jnp.float32)[index])
        first += len(candidates)
    return jnp.concatenate(found, 1), jnp.concatenate(boxes, 1)


def auxiliary_loss(maps, labels):
    """What DRE-Net learns from beside its logits, all terms with a weight of 1.

    They are the cross-entropy of the whole image, the mean one of the parts, and a ranking loss: of
    two parts the one whose own cross-entropy is lower is to have the higher score, by 1.

    Args:
        maps: endpoints of a DRENet.
        labels: int [B].

    Returns:
        float32 [B].
    """
    wanted = jax.nn.one_hot(labels, maps['whole'].shape[-1])
    of_whole = -(wanted * jax.nn.log_softmax(maps['whole'])).sum(-1)
    of_parts = -(wanted[:, None] * jax.nn.log_softmax(maps['parts'])).sum(-1)
    scores, entropies = maps['scores'], lax.stop_gradient(of_parts)
    # [B, i, j]: part j is worse than part i, and should not score as high.
    worse = entropies[:, None, :] > entropies[:, :, None]
    margin = nn.relu(1 - scores[:, :, None] + scores[:, None, :])
    return of_whole + of_parts.mean(-1) + (worse * margin).sum((1, 2))

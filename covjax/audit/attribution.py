"""Where the network looks: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), and the share of it inside lungs and nodule boxes."""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image

from covjax.audit.verdict import Verdict
from covjax.ct import lungs, picture
from covjax.data.augment import to_float
from covjax.metrics.intervals import mean_interval
from covjax.pages import pictures
from covjax.pages.tables import interval

NAME = 'attribution (Grad-CAM)'
SHOWN, TILE = 6, 144
CELLS, FINE = (
    3,
    7,
)  # a side of the map: with fewer than the first it says nothing of lungs, with fewer than the second not much


def grad_cam(network, variables, preprocess):
    """A function uint8 [B, H, W, 1] -> float [B, h, w], not negative, of a classifier.Classifier: the last map, each of its features weighted by the mean gradient of logit(covid) - logit(noncovid), negative sums cut off."""
    head = variables['params']['head']

    def apply(images):
        _, maps = network.apply(variables, preprocess(to_float(images)), endpoints=True)
        features = maps['features'].astype(jnp.float32)
        margin = lambda features: (
            features.mean((1, 2)) @ head['kernel'] @ jnp.array([-1.0, 1.0])
        )  # but for the biases
        weights = jax.grad(lambda features: margin(features).sum())(features).mean((1, 2))
        return jax.nn.relu((features * weights[:, None, None]).sum(-1))

    return apply


def enlarged(maps, size):
    """float [N, h, w] -> [N, size, size], bilinear; each sums to 1, or is 0 everywhere."""
    large = np.stack(
        [
            np.asarray(
                Image.fromarray(np.asarray(one, np.float32)).resize(
                    (size, size), Image.Resampling.BILINEAR
                )
            )
            for one in maps
        ]
    ).clip(0)
    sums = large.sum((1, 2), keepdims=True)
    return np.divide(large, sums, out=np.zeros_like(large), where=sums > 0)


def boxes_mask(rows, size):
    """bool [N, size, size]: the nodule boxes of rows."""
    masks = np.zeros((len(rows), size, size), bool)
    for mask, row in zip(masks, rows):
        for ymin, xmin, ymax, xmax in row.boxes:
            mask[
                int(ymin * size) : int(np.ceil(ymax * size)),
                int(xmin * size) : int(np.ceil(xmax * size)),
            ] = True
    return masks


def check(subject):
    """The share of attribution inside lungs and boxes, beside the share of the picture that they take. Images with no attribution at all, or no plausible lungs, are left out."""
    if subject.attribute is None:
        return Verdict(NAME, None, 'There is no network whose maps could be weighted.')
    rows, told, tiles, coarse = [], [], [], ()
    for test, images in subject.tests.items():
        size, masks = images.images.shape[1], lungs.masks(images.images)
        maps = subject.attribute(images.images)
        coarse, heat = maps.shape[1:], enlarged(maps, size)
        for where, inside in (
            ('lungs', np.where(lungs.plausible(masks)[:, None, None], masks, False)),
            ('nodule boxes', boxes_mask(images.rows, size)),
        ):
            asked = np.flatnonzero(inside.any((1, 2)) & heat.any((1, 2)))
            if not len(asked):
                continue
            share, part = (heat * inside).sum((1, 2))[asked], inside.mean((1, 2))[asked]
            groups = [images.groups[i] for i in asked]
            gain = (share - part).mean(), *mean_interval(share - part, groups)
            rows.append(
                (
                    test,
                    where,
                    f'{len(asked)} of {len(images.rows)}',
                    f'{share.mean():.3f}',
                    f'{part.mean():.3f}',
                    interval(*gain),
                )
            )
            if where == 'lungs' and gain[2] < 0:
                told.append(f'{share.mean():.0%} on {test}, where lungs take {part.mean():.0%}')
        some = np.unique(np.linspace(0, len(images.rows) - 1, SHOWN).astype(int))
        tiles += [
            np.asarray(
                Image.fromarray(overlay(images.images[k, ..., 0], heat[k])).resize(
                    (TILE, TILE), Image.Resampling.BILINEAR
                )
            )
            for k in some
        ]
    if not any(where == 'lungs' for _, where, *_ in rows):
        return Verdict(NAME, None, 'No image has both attribution and plausible lungs.')
    if min(coarse) < CELLS:
        return Verdict(
            NAME,
            None,
            f'The map has {coarse[0]}x{coarse[1]} cells, too few to tell a lung from a chest wall: train on larger images.',
        )
    picture.save(subject.folder / 'attribution.png', pictures.contact_sheet(tiles, SHOWN))
    finding = (
        f'Lungs get less attribution than their share of the picture: {"; ".join(told)}.'
        if told
        else 'Lungs get at least the attribution that their share of the picture would give them.'
    )
    return Verdict(
        NAME,
        bool(told),
        f'{finding} The map has {coarse[0]}x{coarse[1]} cells{", so few that this is coarse" if min(coarse) < FINE else ""}.',
        'Red flag when the mean share inside lungs is below the share of the picture that they take (whole interval of the difference below 0).',
        ('test', 'inside', 'images', 'share of attribution', 'share of the picture', 'difference'),
        tuple(rows),
        (
            (
                subject.folder / 'attribution.png',
                'Grad-CAM over test images; brighter is more for COVID',
            ),
        ),
    )


def overlay(grey, heat):
    """uint8 [H, W] and float [H, W] -> uint8 RGB, the map in colour over the picture."""
    colour = matplotlib.colormaps['inferno'](heat / max(heat.max(), 1e-12))[..., :3] * 255
    return np.round(0.55 * np.repeat(grey[..., None], 3, 2) + 0.45 * colour).astype(np.uint8)

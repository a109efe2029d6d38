"""Where the network looks: Grad-CAM, and the share of it inside lungs, nodule boxes and lesions.

The location labels of synthetic images, boxes and masks, are what a map is held against: how much
of it lies inside, and how often its maximum does (the pointing game of Zhang et al. 2016, arXiv
1608.00507), beside the share of the picture that they take, which a map at random would reach.

Grad-CAM is that of Selvaraju et al. 2017 (arXiv 1610.02391).
"""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from covjax.audit.verdict import Verdict, lungs_alone
from covjax.ct import lungs, picture
from covjax.data.augment import to_float
from covjax.data.lesion_masks import HALF, SHAM
from covjax.metrics.intervals import mean_interval
from covjax.pages import heat_maps, pictures
from covjax.pages.html import Figure
from covjax.pages.tables import interval

NAME = 'attribution (Grad-CAM)'
RULE = (
    'Red flag when the mean share inside lungs is below the share of the picture that they take '
    '(whole interval of the difference below 0).'
)
COLUMNS = (
    *('test', 'inside', 'images', 'share of attribution', 'share of the picture'),
    *('difference', 'maximum inside'),
)
CAPTION = '{map} over test images; brighter areas speak more for {positive}'
SHOWN, TILE = 6, 144  # images of a test set in the picture of the page, and their side in pixels
CELLS = 3  # a side of the map: one with fewer says nothing of lungs
FINE = 7  # a side of the map: one with fewer does not say much


def grad_cam(model, variables, preprocess, positive=1):
    """The Grad-CAM of one class of a classifier against the rest.

    It is that of the logit of the probability of the class; of two classes that is the difference
    of the two logits of the network. Each feature of the last map is weighted by its mean gradient;
    negative sums are cut off.

    Args:
        model, variables, preprocess: the fields of a classifier.Classifier.
        positive: index of the class; by default that of covid in covjax.CLASSES.

    Returns:
        A function from images uint8 [B, H, W, 1] to maps float32 [B, h, w], not negative. It can be
        jitted.
    """
    kernel = variables['params']['head']['kernel']

    def margin(features, logits):
        """log(p / (1 - p)) of the probability p of the class, as it depends on the last map.

        The first rows of the head are those of the pooled map; a network may have more.
        """
        pooled = features.mean((1, 2))
        change = (pooled - jax.lax.stop_gradient(pooled)) @ kernel[: pooled.shape[-1]]
        logits = logits + change
        others = jnp.delete(logits, positive, axis=1)
        return logits[:, positive] - jax.nn.logsumexp(others, axis=1)

    def apply(images):
        logits, maps = model.apply(variables, preprocess(to_float(images)), endpoints=True)
        features = maps['features'].astype(jnp.float32)
        gradients = jax.grad(lambda features: margin(features, logits).sum())(features)
        weights = gradients.mean((1, 2))
        return jax.nn.relu((features * weights[:, None, None]).sum(-1))

    return apply


def enlarged(maps, size):
    """Maps float [N, h, w] enlarged bilinearly to float [N, size, size].

    Each sums to 1, or is 0 everywhere.
    """
    large = np.stack([_resized(np.asarray(heat, np.float32), size) for heat in maps]).clip(0)
    sums = large.sum((1, 2), keepdims=True)
    return np.divide(large, sums, out=np.zeros_like(large), where=sums > 0)


def _resized(image, size):
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def boxes_mask(rows, size):
    """bool [N, size, size]: True in the nodule boxes of rows ([data.rows.Row])."""
    masks = np.zeros((len(rows), size, size), bool)
    for mask, row in zip(masks, rows):
        for ymin, xmin, ymax, xmax in row.boxes:
            down = slice(int(ymin * size), int(np.ceil(ymax * size)))
            across = slice(int(xmin * size), int(np.ceil(xmax * size)))
            mask[down, across] = True
    return masks


def lesions_mask(members, size):
    """bool [N, size, size]: True in the lesions of members of pairs, nowhere in shams.

    Args:
        members: [verdict.Member, or None of an image that is in no pair].
        size: pixels a side.
    """
    masks = np.zeros((len(members), size, size), bool)
    for mask, member in zip(masks, members):
        if member is not None and member.kind != SHAM:
            mask[:] = _resized(member.gate.astype(np.float32), size) >= HALF
    return masks


def check(subject):
    """The Verdict of the share of attribution inside lungs and boxes.

    It is compared with the share of the picture that they take. Images with no attribution at all,
    or no plausible lungs, are left out.
    """
    name = f'attribution ({subject.attribution})'
    if alone := lungs_alone(subject, name):
        return alone
    if subject.attribute is None:
        finding = 'There is no network whose maps could be weighted.'
        return Verdict(name=name, flag=None, finding=finding)
    rows, below, tiles, cells = [], [], [], ()
    for test, images in subject.tests.items():
        images = _some(images, subject.attributed)
        maps = subject.attribute(images.images)
        cells, heat = maps.shape[1:], enlarged(maps, images.images.shape[1])
        for place, inside in _places(images, subject.lungs).items():
            share, part, hit, groups = _shares(heat, inside, images.groups)
            if not groups:
                continue
            low, high = mean_interval(share - part, groups)
            count = f'{len(groups)} of {len(images.rows)}'
            means = f'{share.mean():.3f}', f'{part.mean():.3f}'
            gained = interval((share - part).mean(), low, high)
            hits = interval(hit.mean(), *mean_interval(hit, groups))
            rows.append((test, place, count, *means, gained, hits))
            if place == 'lungs' and high < 0:
                below.append(f'{share.mean():.0%} on {test}, where lungs take {part.mean():.0%}')
        tiles += _tiles(images.images, heat)
    if reason := _no_answer(rows, cells):
        return Verdict(name=name, flag=None, finding=reason)
    path = subject.folder / 'attribution.png'
    picture.save(path, pictures.contact_sheet(tiles, SHOWN))
    caption = CAPTION.format(map=subject.attribution, positive=subject.titles[0])
    return Verdict(
        name=name,
        flag=bool(below),
        finding=_finding(below, cells),
        rule=RULE,
        columns=COLUMNS,
        rows=tuple(rows),
        figures=(Figure(path, caption),),
    )


def _some(images, most):
    """`most` evenly chosen Images of the positive class, in which there is something to find.

    All Images, of any class, where `most` is None.
    """
    if most is None:
        return images
    positive = np.flatnonzero(images.labels == 1)
    chosen = np.linspace(0, len(positive) - 1, min(most, len(positive))).round().astype(int)
    return images.chosen(positive[chosen])


def _places(images, view):
    """{place: bool [N, size, size]}; lungs that are not plausible are nowhere, nor are shams.

    Lesions are known where images are seen whole, with no `view` of the lungs.
    """
    masks = lungs.masks(images.images)
    plausible = lungs.plausible(masks)[:, None, None]
    count, size = images.images.shape[:2]
    members = [None] * count if view or not images.members else images.members
    return {
        'lungs': np.where(plausible, masks, False),
        'nodule boxes': boxes_mask(images.rows, size),
        'lesions': lesions_mask(members, size),
    }


def _shares(heat, inside, groups):
    """(shares of attribution, shares of the picture, hits, groups) of images with both.

    A hit is 1.0 where the maximum of the map lies inside, else 0.0.
    """
    chosen = np.flatnonzero(inside.any((1, 2)) & heat.any((1, 2)))
    heat, inside = heat[chosen], inside[chosen]
    hit = np.array(
        [
            mask[np.unravel_index(values.argmax(), values.shape)]
            for mask, values in zip(inside, heat)
        ],
        float,
    )
    share, part = (heat * inside).sum((1, 2)), inside.mean((1, 2))
    return share, part, hit, [groups[i] for i in chosen]


def _tiles(images, heat):
    """SHOWN of the images with their maps, [uint8 RGB]."""
    chosen = np.unique(np.linspace(0, len(images) - 1, SHOWN).astype(int))
    return [_resized(heat_maps.overlay(images[k, ..., 0], heat[k]), TILE) for k in chosen]


def _no_answer(rows, cells):
    """Why maps with `cells` (height, width) and the rows of the table say nothing, or ''."""
    of_lungs = [row for row in rows if row[1] == 'lungs']
    if not of_lungs:
        return 'No image has both attribution and plausible lungs.'
    if all('nan' in gained for *_, gained, _ in of_lungs):
        return 'Intervals need several patients or series.'
    if min(cells) < CELLS:
        return (
            f'The map has {cells[0]}x{cells[1]} cells, too few to tell a lung from a chest wall: '
            'train on larger images.'
        )
    return ''


def _finding(below, cells):
    if below:
        tests = '; '.join(below)
        finding = f'Lungs get less attribution than their share of the picture: {tests}.'
    else:
        finding = (
            'Lungs get at least the attribution that their share of the picture would give them.'
        )
    coarse = ', so few that this is coarse' if min(cells) < FINE else ''
    return f'{finding} The map has {cells[0]}x{cells[1]} cells{coarse}.'

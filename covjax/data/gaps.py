"""Gaps in CT slices, to be filled with a lesion or with healthy lung: what pairs are made from.

A *gap* is {'image': uint8 [S, S, 1], 'gate': uint8 [S, S, 1], 'kind': int32}: a framed image, the
gate of a mask in 255 parts (lesion_masks.gate), and what is to be made there, an index in KINDS.
Lesions and shams get their masks from one distribution.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from covjax import InputError
from covjax.ct import framing, lungs
from covjax.data import batches, datasets, lesion_masks, segmented

SHAM = 'sham'
KINDS = (SHAM, 'ground_glass', 'consolidation')
SOURCES = ('slices', 'pictures')  # of gaps
DARKEST = 128  # grey level below which the median of healthy lung lies


class Annotated(NamedTuple):
    """Pictures with lesions, and where there is none in their lungs."""

    images: np.ndarray  # uint8 [N, S, S]
    targets: list[np.ndarray]  # uint8 [S, S], an index in KINDS
    healthy: list[np.ndarray]  # bool [S, S]
    rows: list


class Slices(NamedTuple):
    """Slices without lesions, and their lungs."""

    images: np.ndarray  # uint8 [N, S, S]
    lungs: list[np.ndarray]  # bool [S, S]
    rows: list


def read_annotated(spec, data_dir, size):
    """Reads pictures with lesions, levelled to the window of framed slices.

    Args:
        spec: 'name/config:split' of framed pictures whose masks have the regions KINDS[1:].
        data_dir: where prepared data sets lie.
        size: S.

    Returns:
        Annotated.

    Raises:
        InputError: there is no such data set, or its masks have other regions.
    """
    found = segmented.read(spec, data_dir, size, ','.join(KINDS[1:]))
    images, healthy = [], []
    for image, target in zip(found.images, found.targets):
        apart = ndimage.distance_transform_edt(target == 0) > lesion_masks.APART * size
        lung = lungs.mask_in_crop(image)
        tissue = ~lung & apart & (image > DARKEST)
        images.append(framing.levelled(image, lung & apart, tissue))
        healthy.append(lung & apart)
    return Annotated(np.stack(images), found.targets, healthy, found.rows)


def read_slices(spec, data_dir, size, key):
    """Reads the slices of a data set in which lungs are found.

    Args:
        spec: 'name/config:split' of framed slices.
        data_dir: where prepared data sets lie.
        size: S.
        key: the config key that names them, for messages.

    Returns:
        Slices.

    Raises:
        InputError: there is no such data set, or no lungs are found in any slice.
    """
    if not spec:
        raise InputError(
            f'config.{key} is empty; name framed slices, such as luna16_patches/nodules_framed'
        )
    examples = datasets.read(spec, data_dir, size)
    found = lungs.masks(examples.images)
    chosen = np.flatnonzero(lungs.plausible(found))
    if not len(chosen):
        raise InputError(
            f'config.{key}={spec}: no slice shows plausible lungs; name framed slices, such as '
            'luna16_patches/nodules_framed'
        )
    rows = [examples.rows[i] for i in chosen]
    return Slices(examples.images[chosen, ..., 0], list(found[chosen]), rows)


def gap_in_slice(slices, bank, rng, index, lesion=False):
    """A gap in the lungs of a slice, half of them shams in the shape of a lesion.

    Args:
        slices: Slices.
        bank: lesion_masks.Bank.
        rng: numpy.random.Generator.
        index: of the slice.
        lesion: whether it is to be no sham.

    Returns:
        A gap, or None where no mask fits into the lungs.
    """
    shape = rng.choice(KINDS[1:])
    mask = lesion_masks.drawn(rng, slices.lungs[index], bank, shape)
    sham = rng.random() < 0.5 and not lesion
    return None if mask is None else _gap(slices.images[index], mask, SHAM if sham else shape)


def gap_in_picture(pictures, bank, rng, index):
    """A lesion of an annotated picture, or healthy lung in the shape of one; or None."""
    image, target = pictures.images[index], pictures.targets[index]
    if rng.random() < 0.5:
        kinds = np.unique(target[target > 0])
        if not len(kinds):
            return None
        kind = rng.choice(kinds)
        mask = target == kind
        if rng.random() < 0.5:  # a part of it, so that no mask tells what is real
            mask = lesion_masks.drawn(rng, mask, bank, KINDS[kind])
        return None if mask is None else _gap(image, mask, KINDS[kind])
    shape = rng.choice(KINDS[1:])
    mask = lesion_masks.drawn(rng, pictures.healthy[index], bank, shape)
    if mask is None or np.median(image[mask]) > DARKEST:
        return None
    return _gap(image, mask, SHAM)


def _gap(image, mask, kind):
    gate = np.round(255 * lesion_masks.gate(mask)).astype(np.uint8)
    return {'image': image[..., None], 'gate': gate[..., None], 'kind': np.int32(KINDS.index(kind))}


def train_batch(makers, sizes, batch_size, seed, step):
    """The batch of a step.

    Args:
        makers: {'slices', 'pictures'}: (rng, index) -> a gap or None.
        sizes: {'slices', 'pictures'}: how many there are.
        batch_size: gaps of each source.
        seed, step: ints, of which the batch is a function.

    Returns:
        {'slices/image', 'slices/gate', 'slices/kind', 'pictures/image', ...}.
    """
    batch = {}
    for number, source in enumerate(SOURCES):
        chosen = batches.batch_indices(step, sizes[source], batch_size, seed + number)
        gaps = []
        for i, index in enumerate(chosen):
            rng = np.random.default_rng([seed, step, number, i])
            gaps.append(_first_gap(rng, makers[source], index, sizes[source]))
        for name in gaps[0]:
            batch[f'{source}/{name}'] = np.stack([gap[name] for gap in gaps])
    return batch


def _first_gap(rng, make, index, size):
    """The gap of an image, or of the first after it in which one can be made."""
    for offset in range(size):
        gap = make(rng, (index + offset) % size)
        if gap is not None:
            return gap
    raise InputError('config.pictures, config.slices: no mask of a lesion fits into any lungs')

"""Gaps in CT slices, to be filled with a lesion or with healthy lung: what pairs are made from.

A *gap* is {'image': uint8 [S, S, 1], 'gate': uint8 [S, S, 1], 'kind': int32}: a framed image, the
gate of a mask in 255 parts (lesion_masks.gate), and what is to be made there, an index in KINDS.
In slices lesions and shams get their masks from one distribution; in pictures half of the lesions
that were drawn keep all of theirs.

Masks are *drawn*, which are those of doctors, bent and moved, and real lesions are what doctors
have drawn; *predicted*, the same of what a segmenter finds (covjax/pair_pictures.py); or
*procedural*, which are blobs, and real lesions are blobs anywhere in the lungs of COVID pictures,
whose shams are blobs in the lungs of other pictures. No human mask is read then.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from covjax import CLASSES, InputError, counted
from covjax.classes import POSITIVE
from covjax.ct import framing, lungs
from covjax.data import batches, datasets, lesion_masks, segmented
from covjax.data.lesion_masks import KINDS, LESIONS, SHAM

SOURCES = ('slices', 'pictures')  # of gaps
# How often a mask in a slice lies at a place that is easily taken for a lesion: the brightest of so
# many, with vessels, the dome of the diaphragm, or dependent density at the back.
HARD, BRIGHTEST_OF = 0.5, 3


class Pictures(NamedTuple):
    """Pictures with lesions, and where there is none in their lungs."""

    images: np.ndarray  # uint8 [N, S, S]
    targets: list[np.ndarray]  # uint8 [S, S], an index in KINDS
    healthy: list[np.ndarray]  # bool [S, S]
    rows: list
    masks: str  # where masks are from, a key of LESIONS
    bank: lesion_masks.Bank | None  # of masks that doctors drew

    @classmethod
    def none(cls):
        """No pictures: what procedural masks alone need."""
        return cls(np.empty((0, 0, 0), np.uint8), [], [], [], 'procedural', None)

    def draw(self, rng, inside, kind):
        """A random mask, in the shape of a kind of lesion.

        Args:
            rng: numpy.random.Generator.
            inside: bool [S, S], in which it is to lie.
            kind: one of LESIONS[self.masks].

        Returns:
            bool [S, S], or None where none fits.
        """
        if self.bank is None:
            return lesion_masks.procedural(rng, inside)
        return lesion_masks.drawn(rng, inside, self.bank, kind)

    def effects(self):
        """By how many grey levels lesions are brighter than healthy lung of the same picture.

        Returns:
            {kind: [(grey levels, group)]}, one of each picture that has both.
        """
        found = {}
        for image, target, healthy, row in zip(self.images, self.targets, self.healthy, self.rows):
            for index in np.unique(target[target > 0]) if healthy.any() else ():
                change = image[target == index].mean() - image[healthy].mean()
                found.setdefault(KINDS[index], []).append((float(change), row.group))
        return found


class Slices(NamedTuple):
    """Slices without lesions, and their lungs."""

    images: np.ndarray  # uint8 [N, S, S]
    lungs: list[np.ndarray]  # bool [S, S]
    rows: list


def read_drawn(spec, data_dir, size):
    """Reads pictures in which lesions are drawn, levelled to the window of framed slices.

    Args:
        spec: 'name/config:split' of framed pictures whose masks have the regions LESIONS['drawn'].
        data_dir: where prepared data sets lie.
        size: S.

    Returns:
        Pictures.

    Raises:
        InputError: there is no such data set, its masks have other regions, or no picture has
            lesions of a kind.
    """
    names = segmented.classes(spec, data_dir)
    if lacking := [kind for kind in LESIONS['drawn'] if kind not in names]:
        raise InputError(
            f'config.pictures={spec}: its masks have {", ".join(names[1:])} and no '
            f'{" or ".join(lacking)}, the kinds that config.masks=drawn tells apart; set '
            'config.masks=outlined for masks that name none'
        )
    found = segmented.read(spec, data_dir, size, ','.join(LESIONS['drawn']))
    return _of_masks(found, 'drawn', f'config.pictures={spec}')


def read_outlined(spec, data_dir, size):
    """Reads pictures in which people outlined lesions without naming their kind: opacities.

    Args:
        spec: 'name/config:split' of framed pictures with masks; every region but lungs is a lesion.
        data_dir: where prepared data sets lie.
        size: S.

    Returns:
        Pictures.

    Raises:
        InputError: there is no such data set, it has no masks, or no picture has lesions.
    """
    found = segmented.read(spec, data_dir, size, segmented.ANY_LESION)
    opacity = KINDS.index(*LESIONS['outlined'])
    targets = [np.where(target > 0, opacity, 0).astype(np.uint8) for target in found.targets]
    named = f'config.pictures={spec}'
    return _of_masks(found._replace(targets=targets), 'outlined', named)


def _of_masks(found, masks, named):
    """The Pictures of a segmented.Segmented whose targets are indices in KINDS.

    Args:
        found: segmented.Segmented.
        masks: a key of LESIONS.
        named: the config key and its value, for messages.
    """
    images, healthy = [], []
    for image, target in zip(found.images, found.targets):
        margin = lesion_masks.APART * len(image)
        apart = ndimage.distance_transform_edt(target == 0) > margin
        lung = lungs.mask_in_crop(image)
        images.append(framing.levelled(image, lung, apart))
        healthy.append(lung & apart)
    bank = lesion_masks.Bank.of_targets(found.targets, KINDS)
    for kind in LESIONS[masks]:
        if kind not in bank.kinds:
            raise InputError(f'{named}: no {kind} in any picture; name more of them')
    return Pictures(np.stack(images), found.targets, healthy, found.rows, masks, bank)


def read_labelled(spec, data_dir, size):
    """Reads pictures of which only the label is known, levelled to the window of framed slices.

    All of the lungs of a COVID picture count as an opacity, those of the others as healthy.

    Args:
        spec: 'name/config:split' of framed pictures with the classes noncovid and covid.
        data_dir: where prepared data sets lie.
        size: S.

    Returns:
        Pictures, those in which no lungs are found left out.

    Raises:
        InputError: there is no such data set, it has other classes, or no picture of one of
            them.
    """
    examples = of_covid_and_others(spec, data_dir, size)
    images, targets, healthy, rows = [], [], [], []
    for image, label, row in zip(examples.images[..., 0], examples.labels, examples.rows):
        lung = lungs.mask_in_crop(image)
        if lung.any():
            of_covid = examples.classes[label] == POSITIVE
            images.append(framing.levelled(image, lung))
            targets.append(np.where(lung & of_covid, KINDS.index('opacity'), 0).astype(np.uint8))
            healthy.append(lung & (not of_covid))
            rows.append(row)
    if not np.any(targets) or not np.any(healthy):
        raise InputError(
            f'config.pictures={spec}: pictures with COVID-19 and others are needed; name '
            'covid_ct/clean_framed:train'
        )
    return Pictures(np.stack(images), targets, healthy, rows, 'procedural', None)


def of_covid_and_others(spec, data_dir, size):
    """The datasets.Examples of a spec with the classes noncovid and covid.

    Args:
        spec: 'name/config:split' of framed pictures.
        data_dir: where prepared data sets lie.
        size: S.

    Raises:
        InputError: there is no such data set, or it has other classes.
    """
    examples = datasets.read(spec, data_dir, size)
    if examples.classes != CLASSES:
        raise InputError(
            f'config.pictures={spec}: the classes {", ".join(CLASSES)} are needed; name '
            'covid_ct/clean_framed:train'
        )
    return examples


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
        InputError: there is no such data set, it is not framed, it shows patients with COVID-19, or
            no lungs are found in any slice.
    """
    if not spec:
        raise InputError(
            f'config.{key} is empty; name framed slices, such as luna16_patches/nodules_framed'
        )
    examples = datasets.read(spec, data_dir, size)
    if 'frame' not in examples.rows[0].others:
        raise InputError(
            f'config.{key}={spec}: slices are not framed by their lungs; name framed ones, such as '
            'luna16_patches/nodules_framed'
        )
    if any(row.label_name == POSITIVE for row in examples.rows):
        raise InputError(
            f'config.{key}={spec}: slices without lesions are needed, such as '
            'luna16_patches/nodules_framed or a class without lesions, ct_scans/folder_framed:'
            'train@normal'
        )
    found = lungs.masks(examples.images)
    chosen = np.flatnonzero(lungs.plausible(found))
    if not len(chosen):
        raise InputError(
            f'config.{key}={spec}: no slice shows plausible lungs; name framed slices, such as '
            'luna16_patches/nodules_framed'
        )
    if whole := len(examples.rows) - len(chosen):
        print(f'{spec}: {counted(whole, "image")} without plausible lungs left out', flush=True)
    rows = [examples.rows[i] for i in chosen]
    return Slices(examples.images[chosen, ..., 0], list(found[chosen]), rows)


def gap_in_slice(slices, pictures, rng, index, lesion=False, least=0.0, most=1):
    """A gap in the lungs of a slice, half of them shams in the shape of a lesion.

    Args:
        slices: Slices.
        pictures: Pictures, whose masks are taken.
        rng: numpy.random.Generator.
        index: of the slice.
        lesion: whether it is to be no sham.
        least: share of the slice that the mask takes at least, beside lesion_masks.LEAST.
        most: masks that are joined to one, a random number of them.

    Returns:
        A gap, or None where no mask fits into the lungs.
    """
    image, shape = slices.images[index], rng.choice(LESIONS[pictures.masks])
    draws = BRIGHTEST_OF if rng.random() < HARD else 1
    draw = partial(pictures.draw, rng, slices.lungs[index], shape)
    masks = [_joined(rng, draw, most) for _ in range(draws)]
    masks = [mask for mask in masks if mask is not None and mask.mean() >= least]
    sham = rng.random() < 0.5 and not lesion
    if not masks:
        return None
    brightest = max(masks, key=lambda mask: image[mask].mean())
    return _gap(image, brightest, SHAM if sham else shape)


def _joined(rng, draw, most):
    """One to `most` masks as one, a random number of them; None where none was drawn."""
    count = rng.integers(1, most + 1) if most > 1 else 1  # one mask alone takes no number
    masks = [mask for mask in (draw() for _ in range(count)) if mask is not None]
    return np.logical_or.reduce(masks) if masks else None


def gap_in_picture(pictures, rng, index):
    """A gap in a picture where the truth is known: a lesion, or healthy lung in the shape of one.

    Args:
        pictures: Pictures.
        rng: numpy.random.Generator.
        index: of the picture.

    Returns:
        A gap, or None where no mask fits.
    """
    image, target = pictures.images[index], pictures.targets[index]
    if rng.random() < 0.5:
        kinds = np.unique(target[target > 0])
        if not len(kinds):
            return None
        kind = rng.choice(kinds)
        mask = target == kind
        # A part of it, so that no mask tells what is real, or all of a lesion that was drawn.
        if pictures.bank is None or rng.random() < 0.5:
            mask = pictures.draw(rng, mask, KINDS[kind])
        return None if mask is None else _gap(image, mask, KINDS[kind])
    shape = rng.choice(LESIONS[pictures.masks])
    mask = pictures.draw(rng, pictures.healthy[index], shape)
    if mask is None:
        return None
    # Where lesions were drawn the doctor may have left out some.
    if pictures.bank is not None and np.median(image[mask]) > framing.TISSUE:
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

"""Prepared data sets with masks, read into memory: images and the class of every pixel.

Classes of a data set can be joined and left out: 'lung+lesion' is one region, 'lung,lesion' are
two, and what is not named is background. ANY_LESION is one region of all that are no lungs, under
whatever names: what a data set with ground glass and consolidation and one with opacities share.
"""

import dataclasses
import hashlib
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from covjax import InputError
from covjax.ct.masks import BACKGROUND, is_lung
from covjax.data import datasets, specs
from covjax.data.rows import Row

ANY_LESION = 'any_lesion'
# A config of ct_scans, whose volumes can also be prepared as slices.
VOLUMES = re.compile(r'(?P<name>ct_scans/\w+?)(?:_slices|_\d{3,5}um)?(?P<hu>_hu)?')


class Segmented(NamedTuple):
    """One or several splits in RAM, images of any size."""

    images: list[np.ndarray]  # uint8 [H, W] or [D, H, W]
    targets: list[np.ndarray]  # uint8 of the same shapes, an index in `classes`
    rows: list[Row]  # with mask_sha256, of the target
    classes: tuple[str, ...]  # the background first
    parts: np.ndarray | None = None  # int32 [N], which part of the spec each is from


def read(spec, data_dir, size=0, regions=''):
    """Reads images and masks of a spec.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.
        size: pictures and slices are resized to [size, size] (images bilinear and antialiased,
            masks to the nearest class, aspect not kept); 0 keeps them as stored. Volumes are never
            resized.
        regions: regions of the masks, separated by commas, those that are to be one joined by '+';
            '' is every region for itself; ANY_LESION is one of all regions that are no lungs.

    Returns:
        Segmented.

    Raises:
        InputError: there is no such data set, it is damaged, has no masks or no such region, or two
            data sets have other regions.
    """
    names, tables = _tables(spec, data_dir, regions)
    images, targets, rows, numbers = [], [], [], []
    for number, (dataset, part) in enumerate(parts(spec)):
        for record in datasets.records(part, data_dir):
            image = datasets.volume(record.image)
            target = tables[dataset][datasets.volume(record.mask)]
            if size and image.ndim == 2:
                image = _resized(image, size, Image.Resampling.BILINEAR)
                target = _resized(target, size, Image.Resampling.NEAREST)
            images.append(image)
            targets.append(target)
            digest = hashlib.sha256(target.tobytes()).hexdigest()
            rows.append(dataclasses.replace(record.row, mask_sha256=digest))
            numbers.append(number)
    return Segmented(images, targets, rows, names, datasets.without_gaps(numbers))


def classes(spec, data_dir, regions=''):
    """The names of the classes that `read` gives, the background first, for the same arguments."""
    return _tables(spec, data_dir, regions)[0]


def of_slices(spec):
    """The spec of the slices of the volumes that a spec names, as ct_scans has them."""
    parts = []
    for dataset, split, label in specs.parse(spec):
        match = VOLUMES.fullmatch(dataset)
        name = f'{match["name"]}_slices{match["hu"] or ""}' if match else dataset
        parts.append(specs.part(name, split, label))
    return '+'.join(parts)


def classes_of(regions, names):
    """How the classes of masks become those that `regions` names.

    Args:
        regions: as for `read`.
        names: of the classes of the masks, the background first.

    Returns:
        (names of the new classes, the background first; uint8 [len(names)], the new class of each
        old one).

    Raises:
        InputError: the masks have no such region, or it is named twice.
    """
    groups = [
        [name.strip() for name in group.split('+')]
        for group in (regions.split(',') if regions else names[1:])
    ]
    table, known = np.zeros(len(names), np.uint8), {*names} - {BACKGROUND}
    lesions = [name for name in names[1:] if not is_lung(name)]
    for index, group in enumerate(groups, 1):
        for name in lesions if group == [ANY_LESION] and lesions else group:
            if name not in known:
                raise InputError(
                    f'config.regions={regions}: no region {name or "of that name"} in the masks, '
                    f'or it is named twice; they have {", ".join(names[1:])}'
                )
            known.remove(name)
            table[names.index(name)] = index
    return (BACKGROUND, *('+'.join(group) for group in groups)), table


def parts(spec):
    """[(data set, 'data set:split@label')] of a spec of one or several, joined by '+'."""
    return [(part[0], specs.part(*part)) for part in specs.parse(spec)]


def _tables(spec, data_dir, regions):
    """(names of the classes, {data set: new class of each of its own})."""
    named, tables = {}, {}
    for dataset, _ in parts(spec):
        names = datasets.mask_classes(dataset, data_dir)
        if not names:
            raise InputError(
                f'{spec}: {dataset} has no masks; name a data set of ct_scans that has'
            )
        named[dataset], tables[dataset] = classes_of(regions, names)
    if len(set(named.values())) > 1:
        listed = '; '.join(f'{name} has {", ".join(names[1:])}' for name, names in named.items())
        raise InputError(f'{spec}: {listed}; name common regions in config.regions')
    return next(iter(named.values())), tables


def _resized(array, size, how):
    return np.asarray(Image.fromarray(array).resize((size, size), how))

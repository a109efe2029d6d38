"""How like real lesions those of a generator are: scalars of validation that pick its checkpoint.

Two things are asked. Are lesions as much brighter than healthy lung as real ones are? And are lungs
with lesions, seen alone and in one window, distributed as those of COVID pictures? The latter is a
kernel distance of small pixels; consolidation at the pleura, which no threshold finds, is within
the convex hull of a lung and counts.
"""

from typing import NamedTuple

import jax
import numpy as np

from covjax import InputError
from covjax.ct import framing, lungs
from covjax.data import datasets
from covjax.data.lesion_masks import SHAM
from covjax.metrics.distances import kid_value

SIDE = 32  # pixels at which lungs are compared


class Reference(NamedTuple):
    """What the lesions that a generator makes are held against."""

    effects: dict[str, float]  # {kind: grey levels by which real lesions are brighter}
    lungs: np.ndarray | None = None  # float [M, SIDE * SIDE] of COVID pictures
    groups: tuple[str, ...] = ()  # of these pictures
    rows: tuple = ()


def read(spec, pictures, data_dir, size):
    """The Reference of a training.

    Args:
        spec: 'name/config:split' of framed COVID pictures, or '' for none.
        pictures: data.gaps.Pictures, whose lesions are real.
        data_dir: where the pictures lie.
        size: pixels a side.

    Raises:
        InputError: there are no such pictures, or lungs are found in fewer than two of them.
    """
    effects = {}
    if pictures.bank is not None:  # without drawn masks no real lesion is known
        found = pictures.effects().items()
        effects = {kind: float(np.mean([value for value, _ in each])) for kind, each in found}
    if not spec:
        return Reference(effects)
    images, rows = [], []
    examples = datasets.read(spec, data_dir, size)
    for image, row in zip(examples.images[..., 0], examples.rows):
        lung = lungs.mask_in_crop(image)
        if lung.any():
            images.append(np.where(lungs.hull(lung), framing.levelled(image, lung), 0))
            rows.append(row)
    groups = tuple(row.group for row in rows)
    if len({*groups}) < 2:
        raise InputError(
            f'config.val_pictures={spec}: lungs are found in pictures of fewer than two patients; '
            'name others'
        )
    return Reference(effects, np.asarray(small(np.stack(images))), groups, tuple(rows))


def small(images):
    """Images as they are compared: [B, S, S] of grey levels -> float32 [B, SIDE * SIDE] in 0..1."""
    shape = (len(images), SIDE, SIDE)
    return jax.image.resize(images / 255.0, shape, 'linear').reshape(len(images), -1)


def names(reference):
    """The names of `scalars` that are known beside a Reference."""
    known = {'kid': reference.lungs is not None, 'effect_error': bool(reference.effects)}
    found = [name for name, there in known.items() if there]
    return (*found, 'unlike') if found else ()


def scalars(reference, lesions, outputs):
    """What the log says of lesions beside real ones.

    Args:
        reference: Reference.
        lesions: kinds that were made.
        outputs: of the gaps of validation: {'grey_KIND': mean grey level in each, float [N], also
            of the sham; 'lungs_KIND': `small` of lungs alone, [N, D]}.

    Returns:
        {'kid': of lungs with lesions from those of real pictures; 'effect_error': mean over kinds
        of how far the brightness of lesions is from that of real ones, as a share of it; 'unlike':
        the sum of both}, each where it is known.
    """
    found = {}
    if reference.lungs is not None:
        made = np.concatenate([outputs[f'lungs_{kind}'] for kind in lesions])
        slices = [*range(len(made) // len(lesions))] * len(lesions)  # one slice, one group
        found['kid'] = kid_value(made, reference.lungs, slices, reference.groups)
    if reference.effects:
        errors = [
            abs((outputs[f'grey_{kind}'] - outputs[f'grey_{SHAM}']).mean() / real - 1)
            for kind, real in reference.effects.items()
        ]
        found['effect_error'] = float(np.mean(errors))
    return found | ({'unlike': sum(found.values())} if found else {})

"""What fills the gaps of pairs: the trained generator, and stand-ins that take its place.

Classifiers trained on the pairs of stand-ins show how much of what the generator teaches is
explained by less: by opacity painted with a rule, or by noise of the right brightness.

Every maker takes the trained.Trained of a pair training, of which stand-ins need the config alone,
and where its pictures lie now. It returns
a function (images uint8 [N, S, S], gates uint8 [N, S, S], kinds int [N], seeds int [N]) -> uint8
[N, S, S] that keeps images bit for bit where the gate is 0. Kinds are indices in
data.lesion_masks.KINDS.
"""

from functools import partial

import jax
import numpy as np

from covjax import pair_generator, pair_pictures
from covjax.ct import windows
from covjax.ct.framing import WINDOW
from covjax.data import batches
from covjax.data.lesion_masks import KINDS, SHAM
from covjax.phantom.chest import MUSCLE, texture

# HU that ground glass adds to lung, and the HU of consolidation, as phantoms have them.
ADDED, SOLID = (230.0, 360.0), MUSCLE - 40
FIELD = 300.0  # mm, the usual side of a framed slice, for the grain of what is painted
GRAIN = (6.0, 14.0)  # mm, of the noise of an opacity
PATCHY = 0.28  # by how much it varies
BATCH = 32


def made(run, data_dir):
    """The generator itself, whose place the others take."""
    del data_dir
    fill = jax.jit(pair_generator.of_run(run))

    def apply(images, gates, kinds, seeds):
        arrays = {
            'images': images[..., None],
            'gates': gates[..., None],
            'kinds': np.asarray(kinds, np.int32),
            'seeds': np.asarray(seeds, np.int32),
        }
        filled = []
        for batch in batches.padded_batches(arrays, BATCH):
            mask = batch.pop('mask')
            filled.append(np.asarray(fill(**batch))[mask, ..., 0])
        return np.concatenate(filled)

    return apply


def painted(run, data_dir):
    """Opacity painted by the rule of phantoms, no learning; the sham is the slice itself."""
    del run, data_dir
    return partial(_each, _painted)


def pasted(run, data_dir):
    """Noise with the mean and deviation of real lesions, or of healthy lung in the sham."""
    pictures = pair_pictures.of_run(run, data_dir)
    grey = {kind: [] for kind in range(len(KINDS))}
    for image, target, healthy in zip(pictures.images, pictures.targets, pictures.healthy):
        grey[0].append(image[healthy])
        for kind in range(1, len(KINDS)):
            grey[kind].append(image[target == kind])
    pixels = {kind: np.concatenate(found) for kind, found in grey.items()}
    moments = {kind: (found.mean(), found.std()) for kind, found in pixels.items() if found.size}
    return partial(_each, partial(_pasted, moments))


def _each(change, images, gates, kinds, seeds):
    """Applies change(rng, image, kind) -> float [S, S] inside the gate of every image."""
    filled = np.empty_like(images)
    for i, (image, gate, kind, seed) in enumerate(zip(images, gates, kinds, seeds)):
        new = change(np.random.default_rng(seed), image.astype(np.float32), kind)
        mixed = image + gate / 255.0 * (new - image)
        filled[i] = np.where(gate > 0, np.clip(np.round(mixed), 0, 255), image)
    return filled


def _painted(rng, image, kind):
    """Opacity all over an image, float [S, S] in grey levels; a sham is the image itself."""
    low, high = windows.WINDOWS[WINDOW]
    grey_of = lambda hu: 255 * hu / (high - low)
    if KINDS[kind] == SHAM:
        return image
    side = image.shape[0]
    grain = texture(rng, image.shape, *(mm * side / FIELD for mm in GRAIN))
    if KINDS[kind] == 'consolidation':
        return np.maximum(image, grey_of(SOLID - low) * (1 + 0.05 * grain))
    added = grey_of(rng.uniform(*ADDED)) * np.clip(1 + PATCHY * grain, 0, 2)
    return np.minimum(image + added, np.maximum(image, grey_of(MUSCLE - low)))


def _pasted(moments, rng, image, kind):
    """Noise of the size of an image, float [S, S] in grey levels.

    moments has the mean and deviation of each kind.
    """
    mean, deviation = moments[kind]
    return mean + deviation * rng.standard_normal(image.shape)


# By name, in the order of tables.
METHODS = {maker.__name__: maker for maker in (made, painted, pasted)}

"""A trained segmentation network, from the workdir of a run or an exported file, for use anywhere.

loaded = segmenter.load('runs/lungs')
probabilities = segmenter.apply(loaded)(images)  # [B, H, W, 1] float in [-1, 1] -> [B, H, W, C]

No training code and no TFDS are imported.
"""

import itertools
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from PIL import Image

from covjax import InputError, choice, models, trained
from covjax.ct import masks
from covjax.data import batches, tiles
from covjax.data.augment import to_float
from covjax.models.unet import NORMS, UPS
from covjax.weights import safetensors

# Keys of the run in an exported file; `network` needs the first five.
EXPORTED = (
    *('model', 'widths', 'up', 'norm', 'dtype'),
    *('image_size', 'patch', 'regions', 'train', 'seed'),
)
WIDTH = Annotated[int, msgspec.Meta(ge=1, le=8192)]


class Exported(TypedDict):
    """What is needed of the header of an exported file."""

    model: str
    widths: Annotated[list[WIDTH], msgspec.Meta(min_length=1, max_length=8)]
    up: str
    norm: str
    dtype: str
    image_size: WIDTH
    patch: Annotated[list[WIDTH], msgspec.Meta(min_length=2, max_length=3)]
    labels: Annotated[list[str], msgspec.Meta(min_length=2, max_length=254)]


class Segmenter(NamedTuple):
    """A network, ready for use."""

    model: Any  # a network of models.SEGMENTERS
    variables: dict  # {'params', 'batch_stats'}
    classes: tuple[str, ...]  # of its logits, the background first
    size: int  # pixels of the square that slices were resized to in training
    patch: tuple[int, ...]  # what it saw of an image in training
    # uint8 [B, H, W, 1] -> float32 [B, H, W, classes]. One function, so that it is compiled once.
    probabilities: Callable


def load(path, which='best'):
    """The Segmenter of a file or folder.

    Args:
        path: the workdir of a segmentation run, or a .safetensors file of `export`.
        which: of a workdir, 'best' (checkpoint by validation) or 'latest'.

    Returns:
        Segmenter.

    Raises:
        InputError: there is no segmenter, or it is damaged.
    """
    if pathlib.Path(path).suffix == '.safetensors':
        return _exported(path)
    return of_run(trained.open_run(path, 'segmentation', 'segmenter', which))


def _exported(path):
    """The Segmenter of a .safetensors file."""
    config, variables = safetensors.read(path, 'segmenter', Exported, {})
    loaded = _segmenter(config, variables, tuple(config.labels))
    image = jax.ShapeDtypeStruct((1, *loaded.patch, 1), jnp.float32)
    safetensors.check_fits(
        path, variables, jax.eval_shape(loaded.model.init, jax.random.key(0), image)
    )
    return loaded


def of_run(run):
    """The Segmenter of a segmentation run (trained.Trained)."""
    return _segmenter(run.config, variables_of(run), run.classes)


def _segmenter(config, variables, classes):
    variables = jax.tree.map(jnp.asarray, variables)
    model = network(config, len(classes))
    return Segmenter(
        model=model,
        variables=variables,
        classes=classes,
        size=config.image_size,
        patch=tuple(config.patch),
        probabilities=lambda images: _probabilities(model, variables, to_float(images)),
    )


def network(config, num_classes, **options):
    """The network of a segmentation config.

    Args:
        config: with model, widths, up, norm and dtype.
        num_classes: with the background.
        **options: other fields of the module, such as axis_name.

    Raises:
        InputError: a key has no valid value.
    """
    return models.create(
        choice(config, 'model', models.SEGMENTERS),
        num_classes=num_classes,
        widths=tuple(config.widths),
        up=choice(config, 'up', UPS),
        norm=choice(config, 'norm', NORMS),
        dtype=models.compute_dtype(config),
        **options,
    )


def apply(segmenter):
    """A pure function from images to the probability of every class, by a Segmenter.

    It takes images float [B, H, W, 1] in [-1, 1] of any size, best of that of training, and gives
    float32 [B, H, W, classes], whose sum over the classes is 1. It can be jitted.
    """
    return partial(_probabilities, segmenter.model, segmenter.variables)


def _probabilities(model, variables, images):
    return jax.nn.softmax(model.apply(variables, images))


def predict(segmenter, images, batch_size, overlap=0.5):
    """The probability of every class in slices or pictures of any size.

    Each is resized to the square that the network was trained on and covered with tiles, whose
    middle counts most where they overlap; the result is resized back.

    Args:
        segmenter: Segmenter of two dimensions.
        images: iterable of uint8 [H, W].
        batch_size: tiles, and images, at a time.
        overlap: share of a side that neighbouring tiles have in common, below 1.

    Yields:
        float32 [H, W, classes] for each image, the sum over the classes 1.
    """
    tile = segmenter.patch
    shape = (segmenter.size, segmenter.size)
    step = [max(round(n * (1 - overlap)), 1) if n < segmenter.size else n for n in tile]
    corners = tiles.corners(shape, tile, step)
    images = iter(images)
    while chunk := list(itertools.islice(images, batch_size)):
        cuts = [
            tiles.cut(small, corner, tile, 0)
            for small in (_resized(image, shape, Image.Resampling.BILINEAR) for image in chunk)
            for corner in corners
        ]
        # A single tile goes alone, not with copies that would only fill up a batch.
        at_once = 1 if len(cuts) == 1 else batch_size
        found = batches.predict(segmenter.probabilities, np.stack(cuts)[..., None], at_once)
        for i, image in enumerate(chunk):
            of_image = found[i * len(corners) : (i + 1) * len(corners)]
            yield _to_size(tiles.joined(of_image, corners, shape), image.shape)


def _resized(image, shape, how):
    """A PIL resize of an array [H, W] to a shape."""
    return np.asarray(Image.fromarray(image).resize(shape[::-1], how))


def _to_size(probabilities, shape):
    """float32 [h, w, classes] resized bilinearly to [H, W, classes]; each stays a mean of old."""
    if probabilities.shape[:2] == tuple(shape):
        return probabilities
    planes = [
        _resized(plane, shape, Image.Resampling.BILINEAR)
        for plane in np.moveaxis(probabilities, -1, 0)
    ]
    return np.stack(planes, -1)


def decided(probabilities, threshold=0.5):
    """The class of every pixel: a region where regions together are likely, the likeliest of them.

    Args:
        probabilities: float [..., classes], the background first, of NumPy or JAX.
        threshold: of 1 - P(background), from which on a pixel is of a region. For two classes 0.5
            is the more likely one.

    Returns:
        uint8 [...].
    """
    likeliest = 1 + probabilities[..., 1:].argmax(-1)
    return (likeliest * (1 - probabilities[..., 0] >= threshold)).astype(np.uint8)


def check_lungs(segmenter, named):
    """Refuses a Segmenter that does not find lungs.

    Args:
        segmenter: Segmenter.
        named: how the message names it.

    Raises:
        InputError: none of its regions is a lung.
    """
    if not any(map(masks.is_lung, segmenter.classes)):
        raise InputError(
            f'{named}: segments {", ".join(segmenter.classes[1:])}; give a segmenter with a region '
            'named lung'
        )


def variables_of(run):
    """{'params', 'batch_stats'} of a segmentation run (trained.Trained), what apply takes."""
    stats = run.variables.get('batch_stats', {})
    return {'params': run.variables['net']['params'], 'batch_stats': stats}


def save(path, run):
    """Writes the variables of a segmentation run as a .safetensors file, which `load` can read.

    Args:
        path: of the file.
        run: trained.Trained.
    """
    about = {'kind': 'segmenter', **{key: run.config[key] for key in EXPORTED}}
    about |= {'step': run.step, 'labels': run.classes}
    safetensors.write(path, variables_of(run), about)

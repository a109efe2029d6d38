"""A trained segmentation network, from the workdir of a run or an exported file, for use anywhere.

loaded = segmenter.load('runs/lungs')
probabilities = segmenter.apply(loaded)(images)  # [B, H, W, 1] float in [-1, 1] -> [B, H, W, C]

Networks see slices or volumes; whole scans go through either by `scan_segmenter`. No training code
and no TFDS are imported.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax.tree_util import Partial
from PIL import Image

from covjax import InputError, choice, models, trained
from covjax.ct import body, masks, windows
from covjax.data import batches, tiles
from covjax.data.augment import to_float
from covjax.models.unet import NORMS, UPS, check_widths
from covjax.weights import lungmask, safetensors
from covjax.workdir import AGAIN, checked

LEAST_PATCH = 8  # pixels a side
FILES = ('.safetensors', '.pth')  # endings of what is no workdir: an export, or one of lungmask
LUNGMASK_PATCH = (256, 256)  # pixels of what the networks of lungmask see
SQUARE = '(side, side)', '(176, 176)'  # what a patch of slices is, and an example
ALL = models.SEGMENTERS | models.VOLUME_SEGMENTERS
BOTTLENECKS = (0, 1, 3)  # of a VB-Net; 0 is none
ADDED = {'bottleneck': 1, 'spacing': 0.0}  # what files of earlier versions lack
# Keys of the run in an exported file; `network` needs the first six.
EXPORTED = (
    *('model', 'widths', 'up', 'norm', 'bottleneck', 'dtype'),
    *('image_size', 'spacing', 'patch', 'regions', 'train', 'seed'),
)


class Described(TypedDict):
    """The keys of a config that describe a network; `_segmenter` looks at their values."""

    model: str
    widths: list[int]
    up: str
    norm: str
    bottleneck: int
    dtype: str
    image_size: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    spacing: Annotated[float, msgspec.Meta(ge=0, le=30)]
    patch: list[int]


class Exported(Described):
    """The parts of the header of an exported file that are needed."""

    labels: Annotated[list[str], msgspec.Meta(min_length=2, max_length=masks.MOST_REGIONS + 1)]


class Segmenter(NamedTuple):
    """A network, ready for use."""

    model: Any  # a network of models.SEGMENTERS or VOLUME_SEGMENTERS
    variables: dict  # {'params', 'batch_stats'}
    classes: tuple[str, ...]  # of its logits, the background first
    size: int  # pixels of the square that slices were resized to in training
    # What it saw of an image in training: (side, side) of slices, (depth, side, side) of volumes.
    patch: tuple[int, ...]
    spacing: float = 0.0  # mm a side of the cubic voxels of volumes; 0: they stayed as they were
    window: str = 'lung'  # of ct.windows.WINDOWS, through which it saw HU
    crops: bool = False  # whether slices were cropped to the body

    @property
    def sees_volumes(self) -> bool:
        """Whether it sees volumes, otherwise slices."""
        return len(self.patch) == 3


def load(path: str | pathlib.Path, which: str = 'best', key: str = 'segmenter') -> Segmenter:
    """The Segmenter of a file or folder.

    Args:
        path: the workdir of a segmentation run, a .safetensors file of `export`, or a .pth file of
            lungmask.
        which: of a workdir, 'best' (checkpoint by validation) or 'latest'.
        key: the config key that named the path, for messages.

    Returns:
        Segmenter.

    Raises:
        InputError: there is no segmenter, or it is damaged.
    """
    exported, of_lungmask = FILES
    if pathlib.Path(path).suffix == exported:
        return _exported(path)
    if pathlib.Path(path).suffix == of_lungmask:
        return _of_lungmask(path)
    return of_run(trained.open_run(path, 'segmentation', key, which))


def _exported(path):
    """The Segmenter of a .safetensors file."""
    config, variables = safetensors.read(path, 'segmenter', Exported, ADDED)
    named = path, 'its header', safetensors.WRITE_AGAIN
    return _segmenter(config, variables, tuple(config.labels), *named)


def _of_lungmask(path):
    """The Segmenter of a .pth file of lungmask, which sees slices as that program shows them."""
    model, variables, classes = lungmask.load(path)
    image = jax.ShapeDtypeStruct((1, *LUNGMASK_PATCH, 1), jnp.float32)
    expected = jax.eval_shape(model.init, jax.random.key(0), image)
    named = 'networks of lungmask', lungmask.EXAMPLE
    safetensors.check_fits(path, variables, expected, *named)
    return Segmenter(
        model=model,
        variables=jax.tree.map(jnp.asarray, variables),
        classes=classes,
        size=LUNGMASK_PATCH[0],
        patch=LUNGMASK_PATCH,
        window='lungmask',
        crops=True,
    )


def of_run(run):
    """The Segmenter of a segmentation run (trained.Trained).

    Raises:
        InputError: its config.json, classes.json and checkpoint do not fit each other.
    """
    checked(run.folder / 'config.json', run.config.to_dict(), Described)
    named = run.folder, 'its config.json and classes.json', AGAIN
    return _segmenter(run.config, variables_of(run), run.classes, *named)


def _segmenter(config, variables, classes, path, described, remedy):
    """The Segmenter of a config and arrays, whose values are valid and fit each other.

    Args:
        config: ConfigDict with the keys of Described.
        variables: nested dict of arrays.
        classes: tuple of str.
        path: of the file or run, for messages.
        described: what the arrays must fit, for messages.
        remedy: the end of messages.
    """
    try:
        _check_classes(classes)
        model, patch = network(config, len(classes)), patch_of(config)
    except InputError as error:
        raise InputError(f'{path}: is damaged ({error}); {remedy}') from None
    image = jax.ShapeDtypeStruct((1, *patch, 1), jnp.float32)
    expected = jax.eval_shape(model.init, jax.random.key(0), image)
    safetensors.check_fits(path, variables, expected, described, remedy)
    variables = jax.tree.map(jnp.asarray, variables)
    return Segmenter(
        model=model,
        variables=variables,
        classes=classes,
        size=config.image_size,
        patch=patch,
        spacing=config.spacing if len(patch) == 3 else 0.0,
    )


def _check_classes(classes):
    """Refuses names of classes that no mask can have."""
    first, regions = classes[:1], classes[1:]
    if first != (masks.BACKGROUND,) or not regions or len({*classes}) < len(classes):
        raise InputError(
            f'classes {", ".join(classes)}: the first must be {masks.BACKGROUND}, '
            'the others regions of different names'
        )


def patch_of(config):
    """What a network sees of an image in training: config.patch, of slices (side, side).

    Args:
        config: with model, patch and image_size.

    Returns:
        (side, side), or of volumes (depth, side, side).

    Raises:
        InputError: it is anything else, or larger than the images.
    """
    patch, of_volumes = config.patch, config.model in models.VOLUME_SEGMENTERS
    sides = tuple(patch) if isinstance(patch, (tuple, list)) else (patch,)
    whole = all(type(side) is int and side >= LEAST_PATCH for side in sides)
    shape, example = ('(depth, side, side)', '(64, 96, 96)') if of_volumes else SQUARE
    if len(sides) != 2 + of_volumes or not whole or sides[-1] != sides[-2]:
        raise InputError(
            f'config.patch={sides}: write {shape}, whole numbers of at least {LEAST_PATCH}, the '
            f'sides alike, such as {example}'
        )
    if not of_volumes and sides[0] > config.image_size:
        raise InputError(
            f'config.patch={sides}: is larger than the images, config.image_size='
            f'{config.image_size}; choose a smaller patch'
        )
    return sides


def network(config, num_classes, **options):
    """The network of a segmentation config.

    Args:
        config: with model, widths, up, norm, bottleneck and dtype.
        num_classes: with the background.
        **options: other fields of the module, such as axis_name.

    Raises:
        InputError: a key has no valid value.
    """
    name, up = choice(config, 'model', ALL), choice(config, 'up', UPS)
    check_widths(config.widths, up)
    if name in models.SEGMENTERS:
        options |= {'up': up, 'norm': choice(config, 'norm', NORMS)}
    elif name == 'vbnet':
        options |= {'bottleneck': choice(config, 'bottleneck', BOTTLENECKS) or None}
    return models.create(
        name,
        num_classes=num_classes,
        widths=tuple(config.widths),
        dtype=models.compute_dtype(config),
        **options,
    )


def apply(segmenter: Segmenter) -> Callable:
    """A pure function from images to the probability of every class, by a Segmenter.

    It takes images float [B, H, W, 1], or volumes [B, D, H, W, 1], in [-1, 1] of any size, best of
    that of training, and gives float32 [B, ..., classes], whose sum over the classes is 1. It can
    be jitted.
    """
    return Partial(_probabilities_by(segmenter.model), segmenter.variables)


def apply_uint8(segmenter: Segmenter) -> Callable:
    """`apply` of uint8, grey through the lung window."""
    return Partial(_probabilities_of_uint8_by(segmenter.model), segmenter.variables)


@functools.cache
def _probabilities_by(model):
    """(variables, images) -> probabilities; one function for equal networks, compiled once."""
    return lambda variables, images: jax.nn.softmax(model.apply(variables, images))


@functools.cache
def _probabilities_of_uint8_by(model):
    probabilities = _probabilities_by(model)
    return lambda variables, images: probabilities(variables, to_float(images))


def predict(
    segmenter: Segmenter,
    images: Iterable[np.ndarray],
    batch_size: int,
    overlap: float = 0.5,
    window: str = 'lung',
) -> Iterator[np.ndarray]:
    """The probability of every class in slices or pictures of any size.

    Each is resized to the square that the network was trained on and covered with tiles, whose
    middle counts most where they overlap; the result is resized back.

    Args:
        segmenter: Segmenter of two dimensions.
        images: iterable of uint8 [H, W].
        batch_size: tiles, and images, at a time; no more tiles than the first such images have.
        overlap: share of a side that neighbouring tiles have in common, below 1.
        window: of ct.windows.WINDOWS, that made the images grey.

    Yields:
        float32 [H, W, classes] for each image, the sum over the classes 1.
    """
    tile = segmenter.patch
    shape = (segmenter.size, segmenter.size)
    step = [max(round(n * (1 - overlap)), 1) if n < segmenter.size else n for n in tile]
    corners = tiles.corners(shape, tile, step)
    seen, at_once = (_seen(segmenter, image, window) for image in images), None
    while chunk := list(itertools.islice(seen, batch_size)):
        cuts = [
            tiles.cut(small, corner, tile, 0)
            for small in (_resized(part, shape, Image.Resampling.BILINEAR) for part, *_ in chunk)
            for corner in corners
        ]
        # Few tiles go alone, not with copies that would only fill up a batch; the last ones as many
        # at a time as those before, for which the program is compiled.
        at_once = at_once or min(batch_size, len(cuts))
        found = batches.predict(apply_uint8(segmenter), np.stack(cuts)[..., None], at_once)
        for i, (part, place, whole) in enumerate(chunk):
            of_image = found[i * len(corners) : (i + 1) * len(corners)]
            inside = _to_size(tiles.joined(of_image, corners, shape), part.shape)
            yield inside if part.shape == whole else _outside(inside, place, whole)


def _seen(segmenter, image, window):
    """(the part of an image that a Segmenter sees, its place, shape of the image)."""
    if window != segmenter.window:
        stored, shown = (windows.WINDOWS[name] for name in (window, segmenter.window))
        image = windows.rewindow(image, stored, shown)
    place = np.s_[:, :]
    if segmenter.crops:
        place = body.place(image, windows.WINDOWS[segmenter.window])
    return image[place], place, image.shape


def _outside(inside, place, shape):
    """Probabilities float32 [h, w, classes] of a place in an image; the rest is background."""
    found = np.zeros((*shape, inside.shape[-1]), np.float32)
    found[..., 0] = 1
    found[place] = inside
    return found


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


def decided(probabilities: Any, threshold: float = 0.5) -> Any:
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


def check_slices(segmenter, named):
    """Refuses a Segmenter that sees volumes.

    Args:
        segmenter: Segmenter.
        named: how the message names it.

    Raises:
        InputError: it sees volumes.
    """
    if segmenter.sees_volumes:
        raise InputError(f'{named}: sees volumes; give a segmenter of slices, such as a unet')


def check_pictures(segmenter, named, source):
    """Refuses pictures, which have no size of voxels, for a Segmenter that sees volumes.

    Args:
        segmenter: Segmenter.
        named: what config.segmenter says.
        source: what config.input says.

    Raises:
        InputError: it sees volumes.
    """
    if segmenter.sees_volumes:
        raise InputError(
            f'config.input={source}: has pictures, and {named} sees volumes; give CT scans'
        )


def variables_of(run):
    """{'params', 'batch_stats'} of a segmentation run (trained.Trained), what apply takes."""
    stats = run.variables.get('batch_stats', {})
    return {'params': run.variables.get('net', {}).get('params', {}), 'batch_stats': stats}


def save(path, run):
    """Writes the variables of a segmentation run as a .safetensors file, which `load` can read.

    Args:
        path: of the file.
        run: trained.Trained.
    """
    about = {'kind': 'segmenter', **{key: run.config[key] for key in EXPORTED}}
    about |= {'step': run.step, 'labels': run.classes, 'config_hash': run.config_hash}
    safetensors.write(path, variables_of(run), about)

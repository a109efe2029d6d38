"""A trained CycleGAN generator for use anywhere: no training code and no TFDS are imported.

translator = generator.load('runs/cyclegan', 'to_covid')
images = generator.apply(translator)(images)  # [B, H, W, 1] float in [-1, 1], any H and W from 8 up
"""

import pathlib
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import msgspec

from covjax import InputError, choice, models, trained
from covjax.data.augment import to_float, to_uint8
from covjax.models.cyclegan import NORMS, UPSAMPLE, Generator
from covjax.weights import safetensors
from covjax.workdir import ADDED_KEYS

DIRECTIONS = ('to_covid', 'to_cancer')
SMALLEST = 8  # pixels a side: the residual blocks see a quarter, and mirror one pixel of it
FILTERS = Annotated[int, msgspec.Meta(ge=1, le=1024)]
BLOCKS = Annotated[int, msgspec.Meta(ge=0, le=64)]
# What the header of an exported file says of the run; `network` needs the first five.
EXPORTED = (
    *('gen_filters', 'gen_blocks', 'norm', 'upsample', 'dtype'),
    *('image_size', 'cancer', 'covid', 'seed'),
)


class Exported(TypedDict):
    """The parts of the header of an exported file that `network` needs."""

    gen_filters: FILTERS
    gen_blocks: BLOCKS
    norm: str
    upsample: str
    dtype: str
    direction: str


class Translator(NamedTuple):
    """One generator, ready for `apply`."""

    model: Any  # models.cyclegan.Generator
    variables: dict  # {'params': nested dict of arrays}
    channels: int  # of its images, 1 or 3


def load(path: str | pathlib.Path, direction: str) -> Translator:
    """The Translator of a file or folder.

    Args:
        path: the workdir of a CycleGAN, a .safetensors file of `export`, or a .pth file of the
            authors' PyTorch implementation (which needs PyTorch, and holds one direction, whatever
            it is called).
        direction: 'to_covid' or 'to_cancer'.

    Returns:
        Translator.

    Raises:
        InputError: there is no generator of that direction, or it is damaged.
    """
    choice({'direction': direction}, 'direction', DIRECTIONS)
    name = pathlib.Path(path).name.lower()
    if name.endswith(('.pth', '.pt', '.pth.tar', '.ckpt')):
        from covjax.weights import pytorch

        return translator(*pytorch.load_generator(path))
    if name.endswith('.safetensors'):
        return _exported(path, direction)
    return of_run(trained.open_run(path, 'cyclegan', 'generator'), direction)


def _exported(path, direction):
    """The Translator of a .safetensors file."""
    config, variables = safetensors.read(path, 'generator', Exported, ADDED_KEYS['cyclegan'])
    if config.direction != direction:
        raise InputError(
            f'{path}: is a generator {config.direction}; choose config.direction={config.direction}'
        )
    model = network(config)
    channels = safetensors.array(path, variables, 'params/stem/kernel', 4).shape[2]
    image = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    safetensors.check_fits(path, variables, jax.eval_shape(model.init, jax.random.key(0), image))
    return translator(model, variables['params'])


def of_run(run, direction):
    """The Translator of a CycleGAN run (trained.Trained) in one direction."""
    return translator(network(run.config), run.variables['gen']['params'][direction])


def translator(model, params):
    """The Translator of a Generator and its parameters, a nested dict of arrays."""
    params = jax.tree.map(jnp.asarray, params)
    return Translator(model, {'params': params}, params['stem']['kernel'].shape[2])


def network(config):
    """The Generator of a config of a CycleGAN; both directions share one architecture.

    Raises:
        InputError: config.norm, config.upsample or config.dtype is not a valid choice.
    """
    return Generator(
        filters=config.gen_filters,
        blocks=config.gen_blocks,
        norm=choice(config, 'norm', NORMS),
        upsample=choice(config, 'upsample', UPSAMPLE),
        dtype=models.compute_dtype(config),
    )


def apply(translator: Translator) -> Callable:
    """A pure function that translates images.

    Sides that 4 does not divide are mirrored up to the next multiple and cropped back. Grey images
    go through a colour generator as three equal channels, whose mean is the result.

    Args:
        translator: Translator.

    Returns:
        A function from images float [B, H, W, C] in [-1, 1], where C is translator.channels or 1
        and H and W are at least 8, to float of the same shape and range. It can be jitted, and
        raises an InputError for smaller images.
    """

    def apply(images):
        _, height, width, channels = images.shape
        if height < SMALLEST or width < SMALLEST:
            raise InputError(
                f'images of {height}x{width} are too small for the generator; '
                f'give at least {SMALLEST}x{SMALLEST}'
            )
        margins = ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0))
        padded = jnp.pad(images, margins, mode='reflect')
        grey_in_colour = channels == 1 < translator.channels
        if grey_in_colour:
            padded = padded.repeat(translator.channels, -1)
        output = translator.model.apply(translator.variables, padded)[:, :height, :width]
        return output.mean(-1, keepdims=True) if grey_in_colour else output

    return apply


def apply_uint8(translator: Translator) -> Callable:
    """A pure function that translates images uint8 [B, H, W, C], H and W at least 8, to uint8.

    Sides that 4 does not divide are mirrored up to the next multiple and cropped back. It can be
    jitted, and raises an InputError for smaller images.
    """
    return lambda images: to_uint8(apply(translator)(to_float(images)))


def save(path, run, direction):
    """Writes one generator of a CycleGAN run as a .safetensors file, which `load` can read.

    Args:
        path: of the file.
        run: trained.Trained.
        direction: 'to_covid' or 'to_cancer'.
    """
    about = {'kind': 'generator', **{key: run.config[key] for key in EXPORTED}}
    about |= {'direction': direction, 'step': run.step, 'config_hash': run.config_hash}
    safetensors.write(path, {'params': run.variables['gen']['params'][direction]}, about)

"""A trained CycleGAN generator for use anywhere: no training code and no TFDS are imported.

translator = generator.load('runs/cyclegan', 'to_covid')
images = generator.apply(translator)(images)                  # [B, H, W, 1] float in [-1, 1], any H and W from 8 up
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from covjax import InputError, checkpoint, models, weights
from covjax.augment import to_float, to_uint8
from covjax.models.cyclegan import NORMS, UPSAMPLE, Generator

DIRECTIONS = ('to_covid', 'to_cancer')
SMALLEST = 8  # pixels a side: the residual blocks see a quarter, and mirror one pixel of it


class Translator(NamedTuple):
    """A module, its variables, and the channels of its images."""

    model: Any
    variables: dict
    channels: int


def load(path, direction):
    """The Translator of a workdir of a CycleGAN, of a .safetensors file of `export`, or of a .pth file of the PyTorch implementation."""
    _one_of(direction, DIRECTIONS, 'direction')
    suffix = pathlib.Path(path).suffix
    if suffix == '.pth':
        from covjax.models import pytorch

        return translator(*pytorch.load_generator(path))
    if suffix == '.safetensors':
        config, variables = weights.read(path, 'generator')
        if config.direction != direction:
            raise InputError(
                f'{path}: is a generator {config.direction}; choose config.direction={config.direction}'
            )
        return translator(network(config), variables['params'])
    return of_run(*checkpoint.load_model(path, 'cyclegan', 'generator')[:2], direction)


def of_run(config, state, direction):
    """The Translator of a training run that checkpoint.load_model has read."""
    return translator(network(config), state['gen']['params'][direction])


def translator(model, params):
    return Translator(
        model, {'params': jax.tree.map(jnp.asarray, params)}, params['stem']['kernel'].shape[2]
    )


def network(config):
    """The generator module of a config; both directions share one architecture."""
    fields = {
        'norm': config.get('norm', 'instance'),
        'upsample': config.get('upsample', 'transposed'),
    }
    _one_of(fields['norm'], NORMS, 'norm')
    _one_of(fields['upsample'], UPSAMPLE, 'upsample')
    return Generator(
        config.gen_filters, config.gen_blocks, dtype=models.compute_dtype(config), **fields
    )


def apply(translator):
    """images float [B, H, W, C] in [-1, 1] -> translated, of the same shape.

    Sides that 4 does not divide are mirrored up to the next multiple and cropped back. Grey images go through a colour generator as three equal
    channels, whose mean is the result.
    """

    def apply(images):
        _, height, width, channels = images.shape
        if min(height, width) < SMALLEST:
            raise InputError(
                f'images of {height}x{width} are too small for the generator; give at least {SMALLEST}x{SMALLEST}'
            )
        padded = jnp.pad(
            images, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)), mode='reflect'
        )
        if channels == 1 < translator.channels:
            padded = padded.repeat(translator.channels, -1)
        output = translator.model.apply(translator.variables, padded)[:, :height, :width]
        return output.mean(-1, keepdims=True) if channels == 1 < translator.channels else output

    return apply


def apply_uint8(translator):
    """The same from uint8 to uint8."""
    return lambda images: to_uint8(apply(translator)(to_float(images)))


def save(path, config, state, direction, step):
    """Writes one generator of a run as .safetensors, with what load needs to know in the header."""
    about = {
        key: config.get(key, default)
        for key, default in (
            ('gen_filters', 64),
            ('gen_blocks', 9),
            ('norm', 'instance'),
            ('upsample', 'transposed'),
            ('dtype', 'float32'),
            ('image_size', 0),
            ('cancer', ''),
            ('covid', ''),
            ('seed', 0),
        )
    }
    weights.write(
        path,
        {'params': state['gen']['params'][direction]},
        {'kind': 'generator', **about, 'direction': direction, 'step': step},
    )


def _one_of(value, choices, key):
    if value not in choices:
        raise InputError(
            f'config.{key}={value}: no such choice; choose one of {", ".join(choices)}'
        )

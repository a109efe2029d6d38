"""Features in which sets of images are compared.

They are pixels, or maps of a classifier that covjax trained, or of an Inception-v3 of Keras.
"""

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from covjax import InputError, classifier, models
from covjax.data.augment import to_float

SIDE = 32  # of the image whose pixels are features
INCEPTION = 299  # what Inception-v3 is shown, as for the published distances


def extractor(name: str) -> Callable:
    """The function from images to their features.

    Args:
        name: 'pixels', the grey levels at 32x32 in 0..1, which needs no network and sees style,
            framing and brightness; the workdir or .safetensors file of a classifier, whose pooled
            features are taken; or a .h5 file of Inception-v3 that Keras wrote.

    Returns:
        A function uint8 [B, H, W, 1] -> float32 [B, D], which can be jitted.

    Raises:
        InputError: there are no such weights, they are damaged, or the classifier was trained on
            lungs alone.
    """
    if name == 'pixels':
        return _pixels
    if pathlib.Path(name).suffix == '.h5':
        return _inception(name)
    loaded = classifier.load(name)
    if loaded.lungs:
        raise InputError(
            f'{name}: was trained on lungs alone (config.lungs={loaded.lungs}), and whole images '
            'are compared; give a classifier of whole images'
        )
    network, variables, preprocess = loaded
    model = network.clone(num_classes=None)
    return lambda images: model.apply(variables, preprocess(to_float(images)))


def _pixels(images):
    """Grey levels at 32x32 in 0..1: [B, 1024]."""
    return _resized(images, SIDE).reshape(len(images), -1) / 2 + 0.5


def _inception(path):
    """The extractor of a file of Inception-v3: [B, 2048]."""
    from covjax.weights import keras as keras_weights

    model = models.create('inception_v3', num_classes=None)
    variables, preprocess = keras_weights.load(model, path, channels=1)
    return lambda images: model.apply(variables, preprocess(_resized(images, INCEPTION)))


def _resized(images, side):
    """uint8 [B, H, W, C] -> float32 [B, side, side, C] in [-1, 1], bilinear."""
    shape = (len(images), side, side, images.shape[-1])
    return jax.image.resize(to_float(images), shape, 'bilinear').astype(jnp.float32)

"""Features in which sets of images are compared: pixels, a classifier that covjax trained, or Inception-v3 with weights that Keras published."""

import pathlib

import jax
import jax.numpy as jnp

from covjax import classifier, models
from covjax.data.augment import to_float

SIDE = 32  # of the picture whose pixels are features
INCEPTION = 299  # what Inception-v3 is shown, as for the published distances


def extractor(name):
    """uint8 [B, H, W, 1] -> float32 [B, D]: a function that can be jitted.

    name: 'pixels', the grey levels at 32x32 in 0..1, which always works and sees style, framing and brightness; the workdir or .safetensors file of a classifier, whose pooled
    features are taken; or a .h5 file of Inception-v3 that Keras wrote.
    """
    if name == 'pixels':
        return lambda images: _resized(images, SIDE).reshape(len(images), -1) / 2 + 0.5
    if pathlib.Path(name).suffix == '.h5':
        from covjax.weights import keras as keras_weights

        model = models.create('inception_v3', num_classes=None)
        variables, preprocess = keras_weights.load(model, name, channels=1)
        return lambda images: model.apply(variables, preprocess(_resized(images, INCEPTION)))
    network, variables, preprocess = classifier.load(name)
    model = network.clone(num_classes=None)
    return lambda images: model.apply(variables, preprocess(to_float(images)))


def _resized(images, side):
    return jax.image.resize(
        to_float(images), (len(images), side, side, images.shape[-1]), 'bilinear'
    ).astype(jnp.float32)

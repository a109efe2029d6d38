"""What may stand in place of the generator: nothing, simple changes of style, and the traces of networks. A classifier trained on them shows how much of its result they explain.

Window and histogram carry over the brightness of COVID-19 images, which disease has a part in, but no structure.
"""

import io
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from covjax import data, generator

JPEG_QUALITY = 75


def translated(gan, model, training, batch_size):
    """The generator itself."""
    return _network(generator.apply_uint8(generator.of_run(gan, model, 'to_covid')), batch_size)


def nothing(gan, model, training, batch_size):
    """The slices as they are."""
    return lambda images: images


def window(gan, model, training, batch_size):
    """Another window: grey levels scaled and shifted, the same for all, so that training slices get the mean and standard deviation of COVID-19 images."""
    (mean, std), (goal_mean, goal_std) = (
        (images.mean(), images.std()) for images in map(training, ('cancer', 'covid'))
    )
    return lambda images: np.clip(
        np.round((images - mean) / max(std, 1e-6) * goal_std + goal_mean), 0, 255
    ).astype(np.uint8)


def histogram(gan, model, training, batch_size):
    """Grey levels of every slice mapped so that its histogram is that of all COVID-19 images together."""
    levels = np.quantile(training('covid'), np.linspace(0, 1, 1025))

    def match(image):
        counts = np.bincount(image.ravel(), minlength=256)
        middle = (
            np.cumsum(counts) - counts / 2
        ) / image.size  # the share of pixels below each grey level
        return np.round(np.interp(middle, np.linspace(0, 1, 1025), levels)).astype(np.uint8)[image]

    return lambda images: np.stack([match(image) for image in images])


def jpeg(gan, model, training, batch_size):
    """Saved as JPEG and read again, as half of the published pictures were."""

    def round_trip(image):
        file = io.BytesIO()
        Image.fromarray(image[..., 0]).save(file, 'JPEG', quality=JPEG_QUALITY)
        return np.asarray(Image.open(file))[..., None]

    return lambda images: np.stack([round_trip(image) for image in images])


def untrained(gan, model, training, batch_size):
    """A generator of the same architecture with weights as drawn: the traces of the network without anything learned."""
    network = generator.network(gan)
    params = jax.jit(network.init)(
        jax.random.key(gan.seed), jnp.zeros((1, gan.image_size, gan.image_size, 1))
    )['params']
    return _network(generator.apply_uint8(generator.translator(network, params)), batch_size)


def reconstructed(gan, model, training, batch_size):
    """To COVID-19 and back: both generators have left their traces, and the style is that of the source."""
    there, back = (
        generator.apply_uint8(generator.of_run(gan, model, direction))
        for direction in generator.DIRECTIONS
    )
    return _network(lambda images: back(there(images)), batch_size)


def _network(apply, batch_size):
    return partial(data.predict, apply, batch_size=batch_size, progress='translating')


# Each is (config of the GAN, its parameters, 'cancer' or 'covid' -> its training images uint8 [N, H, W, 1], batch size) -> (uint8 [N, H, W, 1] -> the same).
METHODS = {
    method.__name__: method
    for method in (translated, nothing, window, histogram, jpeg, untrained, reconstructed)
}
CONTROLS = tuple(name for name in METHODS if name != 'translated')

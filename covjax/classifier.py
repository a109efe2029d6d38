"""A trained classifier, from the workdir of a run or from an exported file, for use anywhere: no training code and no TFDS are imported.

model, variables, preprocess = classifier.load('runs/resnet50')
logits = model.apply(variables, preprocess(images))           # images [B, H, W, 1] float in [-1, 1]; logits of noncovid, covid
"""

import pathlib
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from covjax import checkpoint, models, weights

LABELS = ('noncovid', 'covid')


class Classifier(NamedTuple):
    """A module, its variables, and the function from images in [-1, 1] to what the module takes."""

    model: Any
    variables: dict
    preprocess: Callable


def load(path, which='best'):
    """The Classifier of a workdir of `train` (its best checkpoint by validation, or its latest) or of a .safetensors file of `export`."""
    if pathlib.Path(path).suffix == '.safetensors':
        config, variables = weights.read(path, 'classifier')
    else:
        config, state, _ = checkpoint.load_model(path, 'classification', 'classifier', which)
        variables = variables_of(state)
    return Classifier(network(config), jax.tree.map(jnp.asarray, variables), preprocess(config))


def network(config, **options):
    """The backbone of a config: two logits, and the computation in config.dtype."""
    return models.create(
        config.model, num_classes=len(LABELS), dtype=models.compute_dtype(config), **options
    )


def preprocess(config):
    """Images [B, H, W, 1] in [-1, 1] -> the input of network(config): the same, or the scale of the weights that training started from."""
    if not config.get('pretrained'):
        return lambda images: images
    from covjax.models import pretrained

    return pretrained.preprocess(config.model, channels=1)


def variables_of(state):
    """What apply takes, of a restored training state."""
    return {'params': state['net']['params'], 'batch_stats': state.get('batch_stats', {})}


def save(path, config, variables, step):
    """Writes variables as .safetensors: float32, named params/<module>/.../kernel, with what load needs to know in the header."""
    about = {
        key: config.get(key, default)
        for key, default in (
            ('model', ''),
            ('dtype', 'float32'),
            ('image_size', 0),
            ('train', ''),
            ('seed', 0),
        )
    }
    about |= {
        'pretrained': pathlib.Path(config.get('pretrained', '')).name,
        'step': step,
        'labels': LABELS,
    }
    weights.write(path, variables, {'kind': 'classifier', **about})

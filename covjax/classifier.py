"""A trained classifier, from the workdir of a run or from an exported file, for use anywhere.

model, variables, preprocess = classifier.load('runs/resnet50')
logits = model.apply(variables, preprocess(images))  # noncovid, covid

Images are [B, H, W, 1] float in [-1, 1]. No training code and no TFDS are imported.
"""

import pathlib
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import msgspec

from covjax import CLASSES, models, trained
from covjax.data.augment import to_float
from covjax.weights import safetensors
from covjax.workdir import ADDED_KEYS

EXPORTED = ('model', 'dtype', 'image_size', 'train', 'seed')  # keys of the run in an exported file


class Exported(TypedDict):
    """What is needed of the header of an exported file."""

    model: str
    dtype: str
    pretrained: str
    image_size: Annotated[int, msgspec.Meta(ge=1, le=8192)]


class Classifier(NamedTuple):
    """A network, ready for use."""

    model: Any  # models.backbone.Backbone with two logits
    variables: dict  # {'params', 'batch_stats'}
    preprocess: Callable  # images float [B, H, W, 1] in [-1, 1] -> what the model takes


def load(path, which='best'):
    """The Classifier of a file or folder.

    Args:
        path: the workdir of a classification run, or a .safetensors file of `export`.
        which: of a workdir, 'best' (checkpoint by validation) or 'latest'.

    Returns:
        Classifier.

    Raises:
        InputError: there is no classifier, or it is damaged.
    """
    if pathlib.Path(path).suffix == '.safetensors':
        return _exported(path)
    return of_run(trained.open_run(path, 'classification', 'classifier', which))


def _exported(path):
    """The Classifier of a .safetensors file."""
    config, variables = safetensors.read(path, 'classifier', Exported, ADDED_KEYS['classification'])
    loaded = _classifier(config, variables)
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 1), jnp.float32)
    init = lambda images: loaded.model.init(jax.random.key(0), loaded.preprocess(images))
    safetensors.check_fits(path, variables, jax.eval_shape(init, image))
    return loaded


def of_run(run):
    """The Classifier of a classification run (trained.Trained)."""
    return _classifier(run.config, variables_of(run))


def _classifier(config, variables):
    variables = jax.tree.map(jnp.asarray, variables)
    return Classifier(network(config), variables, preprocess(config))


def network(config, **options):
    """The backbone of a classification config, with two logits.

    Args:
        config: its `model` names the backbone, its `dtype` what it computes in.
        **options: other fields of models.backbone.Backbone.

    Returns:
        models.backbone.Backbone.

    Raises:
        InputError: config.model or config.dtype is not a valid choice.
    """
    dtype = models.compute_dtype(config)
    return models.create(config.model, num_classes=len(CLASSES), dtype=dtype, **options)


def preprocess(config):
    """The function from images float [B, H, W, 1] in [-1, 1] to the input of network(config).

    Where training started from published weights, images are scaled as those expect; otherwise they
    are returned unchanged.

    Raises:
        InputError: config.pretrained is set, and Keras publishes no weights for config.model.
    """
    if not config.pretrained:
        return lambda images: images
    from covjax.weights import keras as keras_weights

    return keras_weights.preprocess(config.model, channels=1)


def score(classifier):
    """A pure function from images uint8 [B, H, W, 1] to P(covid) float32 [B], by a Classifier.

    P(covid) is the softmax of the two logits.
    """
    model, variables, preprocess = classifier

    def score(images):
        return jax.nn.softmax(model.apply(variables, preprocess(to_float(images))))[:, 1]

    return score


def variables_of(run):
    """{'params', 'batch_stats'} of a classification run (trained.Trained), what apply takes."""
    stats = run.variables.get('batch_stats', {})
    return {'params': run.variables['net']['params'], 'batch_stats': stats}


def save(path, run):
    """Writes the variables of a classification run as a .safetensors file, which `load` can read.

    Args:
        path: of the file.
        run: trained.Trained.
    """
    about = {'kind': 'classifier', **{key: run.config[key] for key in EXPORTED}}
    about |= {
        'pretrained': pathlib.Path(run.config.pretrained).name,
        'step': run.step,
        'labels': CLASSES,
    }
    safetensors.write(path, variables_of(run), about)

"""A trained classifier, from the workdir of a run or from an exported file, for use anywhere.

model, variables, preprocess = classifier.load('runs/resnet50')
logits = model.apply(variables, preprocess(images))  # noncovid, covid

Images are [B, H, W, 1] float in [-1, 1]; the logits are those of the Classifier's `classes`. No
training code and no TFDS are imported.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import jax
import jax.numpy as jnp
import msgspec
from jax.tree_util import Partial

from covjax import CLASSES, models, trained
from covjax.classes import positive_classes
from covjax.data.augment import to_float
from covjax.weights import safetensors
from covjax.workdir import ADDED_KEYS

# Keys of the header that files of early versions lack, and what they mean then.
ADDED = ADDED_KEYS['classification'] | {'labels': list(CLASSES)}
# Keys of the run in an exported file.
EXPORTED = ('model', 'dtype', 'image_size', 'lungs', 'train', 'seed')


class Exported(TypedDict):
    """The parts of the header of an exported file that are needed."""

    model: str
    dtype: str
    lungs: str
    pretrained: str
    image_size: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    labels: Annotated[list[str], msgspec.Meta(min_length=2)]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network, ready for use, and what its logits mean.

    It unpacks into what a forward pass needs: model, variables, preprocess.
    """

    model: Any  # models.backbone.Backbone with a logit for each class
    variables: dict  # {'params', 'batch_stats'}
    preprocess: Callable  # images float [B, H, W, 1] in [-1, 1] -> what the model takes
    classes: tuple[str, ...]  # names of the classes, in the order of the logits
    # What it was trained on: '' whole images, 'crop' or 'mask' as covjax.lung_view shows them.
    lungs: str = ''
    image_size: int = 0  # pixels of the square that its images were resized to in training

    def __iter__(self):
        return iter((self.model, self.variables, self.preprocess))


def load(path: str | pathlib.Path, which: str = 'best') -> Classifier:
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
    config, variables = safetensors.read(path, 'classifier', Exported, ADDED)
    loaded = _classifier(config, variables, config.labels)
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 1), jnp.float32)
    init = lambda images: loaded.model.init(jax.random.key(0), loaded.preprocess(images))
    safetensors.check_fits(path, variables, jax.eval_shape(init, image))
    return loaded


def of_run(run):
    """The Classifier of a classification run (trained.Trained)."""
    return _classifier(run.config, variables_of(run), run.classes)


def _classifier(config, variables, classes):
    variables = jax.tree.map(jnp.asarray, variables)
    model = network(config, num_classes=len(classes))
    ready = preprocess(config)
    return Classifier(model, variables, ready, tuple(classes), config.lungs, config.image_size)


def network(config, num_classes, **options):
    """The backbone of a classification config.

    Args:
        config: its `model` names the backbone, its `dtype` what it computes in.
        num_classes: number of logits.
        **options: other fields of models.backbone.Backbone.

    Returns:
        models.backbone.Backbone.

    Raises:
        InputError: config.model or config.dtype is not a valid choice.
    """
    dtype = models.compute_dtype(config)
    return models.create(config.model, num_classes=num_classes, dtype=dtype, **options)


def preprocess(config):
    """The function from images float [B, H, W, 1] in [-1, 1] to the input of network(config).

    Where training started from published weights, images are scaled as those expect; otherwise they
    are returned unchanged.

    Raises:
        InputError: config.pretrained is set, and Keras publishes no weights for config.model.
    """
    if not config.pretrained:
        return _unchanged
    from covjax.weights import keras as keras_weights

    return keras_weights.preprocess(config.model, channels=1)


def _unchanged(images):
    return images


def scores(classifier: Classifier) -> Callable:
    """A pure function from images uint8 [B, H, W, 1] to float32 [B, C], by a Classifier.

    Column i is the probability of classifier.classes[i]: the softmax of the logits.
    """
    model, variables, preprocess = classifier
    return Partial(_scores_by(model, preprocess), variables)


@functools.cache
def _scores_by(model, preprocess):
    """(variables, images) -> scores; one function for equal networks, compiled once."""

    def scores(variables, images):
        return jax.nn.softmax(model.apply(variables, preprocess(to_float(images))))

    return scores


@functools.cache
def _score_by(model, preprocess, column):
    scores = _scores_by(model, preprocess)
    return lambda variables, images: scores(variables, images)[:, column]


def score(classifier: Classifier, positive: str | None = None) -> Callable:
    """A pure function from images uint8 [B, H, W, 1] to the probability of one class, float32 [B].

    Args:
        classifier: Classifier.
        positive: name of the class; None is covid, or the second of two classes where none is
            called so.

    Raises:
        ValueError: the classifier has no such class, or it has more than two and none is given.
    """
    classes = classifier.classes
    if positive is None and len(classes) == 2:
        (positive,) = positive_classes(classes)
    if positive not in classes:
        raise ValueError(f'positive={positive}: no such class; choose one of {", ".join(classes)}')
    model, variables, preprocess = classifier
    return Partial(_score_by(model, preprocess, classes.index(positive)), variables)


def variables_of(run):
    """{'params', 'batch_stats'} of a classification run (trained.Trained), what apply takes."""
    stats = run.variables.get('batch_stats', {})
    return {'params': run.variables['net']['params'], 'batch_stats': stats}


def save(path: str | pathlib.Path, run: trained.Trained) -> None:
    """Writes the variables of a classification run as a .safetensors file, which `load` can read.

    Args:
        path: of the file.
        run: trained.Trained.
    """
    about = {'kind': 'classifier', **{key: run.config[key] for key in EXPORTED}}
    about |= {
        'pretrained': pathlib.Path(run.config.pretrained).name,
        'step': run.step,
        'labels': run.classes,
        'config_hash': run.config_hash,
    }
    safetensors.write(path, variables_of(run), about)

"""A classifier of whole scans, from the workdir of a run, for use anywhere.

loaded = scan_classifier.load('runs/covnet')
found = scan_classifier.predict(loaded, bags)  # P of each class, and the weight of each slice

`covjax.data.bags` says how a scan becomes a bag of slices.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from covjax import (
    InputError,
    choice,
    classifier,
    kept_segmenter,
    lung_view,
    models,
    segmenter,
    trained,
)
from covjax.classes import listed
from covjax.ct import masks
from covjax.data import bags, batches
from covjax.data.augment import to_float
from covjax.models.scans import NORMS, POOLING, ScanNet

TASK = 'scans'
HEALTHY = ('normal', 'noncovid', 'healthy')  # names of the class of scans without disease
# Backbones that give one vector an image; DRE-Net gives those of its parts as well.
BACKBONES = {name: model for name, model in models.MODELS.items() if name != 'dre_net'}


class ScanClassifier(NamedTuple):
    """A trained network and what belongs to it."""

    model: ScanNet
    variables: dict[str, Any]  # what model.apply takes
    preprocess: Any  # float images in [-1, 1] -> the input of the model
    classes: tuple[str, ...]
    slices: int  # of a bag, at most


class Predictions(NamedTuple):
    """What a network says of bags."""

    scores: np.ndarray  # float32 [N, C], the probability of each class
    weights: list[np.ndarray]  # float32 [k] of each bag, how much each of its slices counts


def network(config, classes, **options):
    """The network of a config (configs/scans.py).

    Args:
        config: its `model` names the backbone, its `pooling` how slices become one answer.
        classes: names of the classes.
        **options: other fields of models.scans.ScanNet.

    Returns:
        models.scans.ScanNet.

    Raises:
        InputError: a key has no valid value.
    """
    choice(config, 'bn', NORMS)
    if config.lesion_segmenter and choice(config, 'pooling', POOLING) != 'noisy_or':
        raise InputError(
            f'config.pooling={config.pooling}: a scan may have no candidate for a lesion, of which '
            'noisy_or alone makes something; set pooling=noisy_or'
        )
    return ScanNet(
        backbone(config, options.get('axis_name')),
        num_classes=len(classes),
        pooling=choice(config, 'pooling', POOLING),
        norm=config.bn,
        negative=_negative(config, classes),
        **options,
    )


def _check_patches(config):
    """Refuses keys that say how slices are shown where patches around candidates are."""
    slices_alone = {'window': bags.STORED, 'mip': 0.0, 'apart': 0.0, 'lungs': ''}
    for key, usual in slices_alone.items():
        if config[key] != usual:
            raise InputError(
                f'config.{key}={config[key]}: patches around candidates for lesions are shown as '
                f'they are; leave it {usual!r}, or config.lesion_segmenter empty'
            )


def backbone(config, axis_name=None):
    """The models.backbone.Backbone of a config, without a last layer.

    Args:
        config: with model, dtype and bn_momentum.
        axis_name: of the devices over which BatchNorm averages.

    Raises:
        InputError: a key has no valid value.
    """
    return models.create(
        choice(config, 'model', BACKBONES),
        num_classes=None,
        dtype=models.compute_dtype(config),
        axis_name=axis_name,
        bn_momentum=config.bn_momentum,
    )


def _negative(config, classes):
    """The index of the class of scans without disease, which noisy-OR alone needs."""
    named = config.negative_class
    found = [named] if named else [name for name in HEALTHY if name in classes]
    if config.pooling != 'noisy_or':
        if named:
            raise InputError(
                f'config.negative_class={named}: config.pooling={config.pooling} treats all '
                'classes alike; leave it empty'
            )
        return 0
    if not found or found[0] not in classes:
        raise InputError(
            f'config.negative_class={named}: noisy_or needs the class of scans without disease; '
            f'name one of {listed(classes)}'
        )
    return classes.index(found[0])


def shown_of(config):
    """The data.bags.Shown of a config."""
    return bags.Shown(
        size=config.image_size,
        slices=config.slices,
        window=config.window,
        mip=config.mip,
        step=config.apart,
        view=config.lungs,
    )


def read(spec, data_dir, config):
    """The data.bags.Bags of a spec as a network of a config is shown them.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.
        config: of the training, its segmenter of lungs that of kept_segmenter.by_copies.

    Raises:
        InputError: as data.bags.read, or there is no such segmenter.
    """
    if config.lesion_segmenter:
        _check_patches(config)
    find = lung_view.finder(config.lung_segmenter, kept_segmenter.LUNGS)
    lesions = _lesion_finder(config.lesion_segmenter) if config.lesion_segmenter else None
    return bags.read(spec, data_dir, shown_of(config), find, lesions)


def _lesion_finder(named):
    """The function from uint8 [slices, H, W] to bool, where a segmenter of slices finds lesions.

    Args:
        named: its workdir or exported file.

    Raises:
        InputError: there is no such segmenter, or it has no region but lungs.
    """
    network = segmenter.load(named, key=kept_segmenter.LESIONS)
    segmenter.check_slices(network, f'config.{kept_segmenter.LESIONS}={named}')
    lesions = [i for i, name in enumerate(network.classes) if i and not masks.is_lung(name)]
    if not lesions:
        raise InputError(
            f'config.{kept_segmenter.LESIONS}={named}: finds {", ".join(network.classes[1:])} and '
            'no lesions; name a segmenter of lesions'
        )

    def find(grey):
        predicted = segmenter.predict(network, grey, batch_size=8)
        return np.stack([np.isin(segmenter.decided(p), lesions) for p in predicted])

    return find


def load(folder, key='scan_classifier', which='best'):
    """The ScanClassifier of the workdir of a training.

    Args:
        folder: its path.
        key: the config key that named it, for messages.
        which: 'best' or 'latest' of its checkpoints.

    Raises:
        InputError: the folder holds no such run.
    """
    return of_run(trained.open_run(folder, TASK, key, which))


def of_run(run):
    """The ScanClassifier of a run (trained.Trained)."""
    variables = jax.tree.map(jnp.asarray, classifier.variables_of(run))
    model = network(run.config, run.classes)
    preprocess = classifier.preprocess(run.config)
    return ScanClassifier(model, variables, preprocess, run.classes, run.config.slices)


def scaled(preprocess, images):
    """What the backbone sees of bags float [B, K, H, W, 1] in [-1, 1]."""
    bags_count, slices, *shape = images.shape
    shown = preprocess(images.reshape(-1, *shape))
    return shown.reshape(bags_count, slices, *shown.shape[1:])


@cache
def _applied(model, preprocess):
    """(variables, batch) -> models.scans.Pooled, compiled once for equal networks."""

    def apply(variables, batch):
        images = scaled(preprocess, to_float(batch['image']))
        return model.apply(variables, images, batch['valid'], batch.get('location'))

    return jax.jit(apply)


def predict(loaded, found, batch_size=2, progress='scoring'):
    """What a network says of bags.

    Args:
        loaded: ScanClassifier.
        found: data.bags.Bags, or anything with its images and locations.
        batch_size: bags at a time.
        progress: caption of a bar, which only a screen shows.

    Returns:
        Predictions.
    """
    apply = _applied(loaded.model, loaded.preprocess)
    scores, weights = [], []
    with tqdm(total=len(found.images), desc=progress, unit='scan', disable=None) as bar:
        for batch in batches.padded_batches({'index': np.arange(len(found.images))}, batch_size):
            shown = bags.batch_of(found.images, batch['index'], loaded.slices, found.locations)
            pooled = apply(loaded.variables, shown)
            for i in range(int(batch['mask'].sum())):
                scores.append(np.exp(pooled.log_probabilities[i]))
                weights.append(np.asarray(pooled.weights[i])[shown['valid'][i]])
                bar.update()
    return Predictions(np.stack(scores), weights)

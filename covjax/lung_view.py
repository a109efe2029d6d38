"""The lungs in front of a classifier: its images cropped to the lungs, or the lungs alone.

It is part of the config of a classifier, so that training, evaluation and audit see the same; a
segmenter that finds the lungs is kept with the classifier (covjax/kept_segmenter.py). Gozes et al.
2020 crop to the lungs, Li et al. 2020 (COVNet) black out what is outside.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from covjax import InputError, choice, kept_segmenter, segmenter
from covjax.ct import lungs, masks
from covjax.ct.framing import VIEWS
from covjax.data import datasets
from covjax.kept_segmenter import LUNGS


def of_config(config: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray] | None:
    """The function from an image to what the classifier is shown of it.

    Args:
        config: of a classification, or a dict with two of its keys. `lungs` is '' for the whole
            image, 'crop' or 'mask'; `lung_segmenter` is the workdir or exported file of a segmenter
            with a region named lung, or '' for Otsu's threshold.

    Returns:
        A function uint8 [H, W] -> uint8 [h, w], or None for the whole image. An image in which no
        plausible lungs are found is returned itself.

    Raises:
        InputError: config.lungs is no valid choice, or there is no such segmenter.
    """
    if not choice(config, 'lungs', ('', *VIEWS)):
        if config.get(LUNGS):
            raise InputError(
                f'config.{LUNGS}={config[LUNGS]}: needs config.lungs, one of {", ".join(VIEWS)}'
            )
        return None
    show, find = VIEWS[config['lungs']], finder(config.get(LUNGS), LUNGS)

    def view(grey):
        mask = find(grey[None])[0]
        return show(grey, mask) if lungs.plausible(mask[None])[0] else grey

    return view


def of_run(run):
    """The same of a classification run (trained.Trained), by its own copy of the segmenter."""
    return of_config(kept_segmenter.by_copies(run.config, run.folder))


def finder(named, key):
    """The function that finds lungs.

    Args:
        named: the workdir or exported file of a segmenter, or '' for Otsu's threshold.
        key: the config key that says so, for messages.

    Returns:
        A function uint8 [slices, H, W] -> bool of the same shape.

    Raises:
        InputError: there is no such segmenter, or it has no region named lung.
    """
    if not named:
        return lambda grey: np.stack([lungs.mask(plane) for plane in grey])
    network = segmenter.load(named, key=key)
    segmenter.check_lungs(network, f'config.{key}={named}')
    segmenter.check_slices(network, f'config.{key}={named}')

    def find(grey):
        found = [segmenter.decided(p) for p in segmenter.predict(network, grey, batch_size=8)]
        return masks.in_lungs(np.stack(found), network.classes)

    return find


def read(spec, data_dir, size, view):
    """Reads a data set as the classifier is shown it, and prints how often no lungs were found.

    Images without plausible lungs stay whole, so that a class that has more of them could be told
    by that alone.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.
        size: pixels a side.
        view: of `of_config`.

    Returns:
        datasets.Examples.
    """
    whole = []

    def noted(grey):
        shown = view(grey)
        whole.append(shown is grey)
        return shown

    examples = datasets.read(spec, data_dir, size, view and noted)
    if any(whole):
        print(f'{spec}: no lungs found, shown whole: {_by_class(whole, examples)}', flush=True)
    return examples


def _by_class(whole, examples):
    """'1 of 9 noncovid, 3 of 10 covid': how many of each class are whole, a bool an image."""
    whole, labels = np.array(whole), examples.labels
    classes = [(i, name) for i, name in enumerate(examples.classes) if (labels == i).any()]
    if not classes:
        return f'{whole.sum()} of {len(whole)} images'
    of_class = lambda i: f'{whole[labels == i].sum()} of {(labels == i).sum()}'
    return ', '.join(f'{of_class(i)} {name}' for i, name in classes)

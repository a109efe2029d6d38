"""The lungs in front of a classifier: its images cropped to the lungs, or the lungs alone.

It is part of the config of a classifier, so that training, evaluation and audit see the same; a
segmenter that finds the lungs is copied into the workdir of the classifier, and what trained it is
part of the lineage. Gozes et al. 2020 crop to the lungs, Li et al. 2020 (COVNet) black out what is
outside.
"""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from covjax import InputError, choice, segmenter, trained
from covjax.ct import lungs, masks
from covjax.ct.framing import VIEWS
from covjax.data import datasets, lineage

KEY = 'lung_segmenter'  # of the config, and what lineage.json calls it
COPY = 'lungs.safetensors'  # of that segmenter, in the workdir of a classifier


# ---- what is shown of an image


def of_config(config):
    """The function from an image to what the classifier is shown of it.

    Args:
        config: of a classification. `lungs` is '' for the whole image, 'crop' or 'mask';
            `lung_segmenter` is the workdir or exported file of a segmenter with a region named
            lung, or '' for Otsu's threshold.

    Returns:
        A function uint8 [H, W] -> uint8 [h, w], or None for the whole image. An image in which no
        plausible lungs are found is returned itself.

    Raises:
        InputError: config.lungs is no valid choice, or there is no such segmenter.
    """
    if not choice(config, 'lungs', ('', *VIEWS)):
        if config.get(KEY):
            raise InputError(
                f'config.{KEY}={config[KEY]}: needs config.lungs, one of {", ".join(VIEWS)}'
            )
        return None
    show, find = VIEWS[config.lungs], finder(config.get(KEY), KEY)

    def view(grey):
        mask = find(grey[None])[0]
        return show(grey, mask) if lungs.plausible(mask[None])[0] else grey

    return view


def of_run(run):
    """The same of a classification run (trained.Trained), by its own copy of the segmenter."""
    return of_config(by_copy(run.config, run.folder))


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


# ---- the segmenter of a training


def by_copy(config, folder):
    """The config of a training with the copy of its segmenter, where there is one in its workdir.

    Args:
        config: ConfigDict of any training.
        folder: pathlib.Path of its workdir.

    Raises:
        InputError: there is none yet, and config.lung_segmenter is no workdir: what an exported
            file was trained on is not known.
    """
    named = config.get(KEY)
    if not named:
        return config
    if (folder / COPY).is_file():
        return ConfigDict({**config, KEY: str(folder / COPY)})
    if pathlib.Path(named).suffix == '.safetensors':
        raise InputError(
            f'config.{KEY}={named}: does not say what it was trained on; give the workdir of its '
            'training'
        )
    return config


def lineage_of(config, folder):
    """What trained the segmenter of a training: the records to add to its lineage.

    Args:
        config: ConfigDict of any training.
        folder: pathlib.Path of its workdir.
    """
    if not config.get(KEY):
        return []
    if (folder / COPY).is_file():
        return [record for record in lineage.read(folder) if record['through'] == KEY]
    return [{**record, 'through': KEY} for record in lineage.read(pathlib.Path(config[KEY]))]


def keep_copy(config, folder):
    """Writes the copy, unless it is there or no segmenter is used.

    Args:
        config: ConfigDict of any training.
        folder: pathlib.Path of its workdir.
    """
    if config.get(KEY) and not (folder / COPY).is_file():
        segmenter.save(folder / COPY, trained.open_run(config[KEY], 'segmentation', KEY))

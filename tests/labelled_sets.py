"""Small data sets of any classes, prepared by TFDS for tests: noise whose level tells the class."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders import _base

SPLITS = {'train': 6, 'validation': 3, 'test': 5}  # images of each class
SIDE = 32


def noise(rng, share, i):
    """uint8 [SIDE, SIDE] noise whose level tells the class."""
    return np.clip(rng.normal(40 + 160 * share, 25, (SIDE, SIDE)), 0, 255).astype(np.uint8)


def write(data_dir, name, classes, file=True, draw=noise):
    """Prepares the data set `name`, whose ClassLabel has the names `classes`, below a folder.

    Args:
        data_dir: where to.
        name: of the data set.
        classes: names; () for a data set without a label.
        file: whether it has the facts of original files that baselines need.
        draw: function (rng, share, i) -> uint8 [H, W] of image i of a class; its share is 0 for the
            first class and 1 for the last.
    """
    features = dict(_base.COMMON)
    if classes:
        features['label'] = tfds.features.ClassLabel(names=classes)
    if file:
        texts = dict.fromkeys(('container', 'mode'), tfds.features.Text())
        features['file'] = {**texts, 'width': np.int32, 'height': np.int32}

    class Labelled(_base.ArrayRecordBuilder, skip_registration=True):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def source_files(self, folder):
            return [pathlib.Path(folder) / 'classes.txt']

        def _split_generators(self, dl_manager):
            named = classes or ('any',)
            return {split: examples(split, named, features, draw) for split in SPLITS}

    Labelled.name = name
    raw = pathlib.Path(data_dir) / f'{name}_raw'
    raw.mkdir(parents=True)
    (raw / 'classes.txt').write_text('\n'.join(classes) + '\n')
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=str(raw))
    Labelled(data_dir=str(data_dir)).download_and_prepare(download_config=config)


def examples(split, classes, features, draw):
    """Yields (key, example) of a split, with those of `features` that it is to have."""
    rng = np.random.default_rng(len(split))
    for label, name in enumerate(classes):
        for i in range(SPLITS[split]):
            grey = draw(rng, label / max(len(classes) - 1, 1), i)
            key = f'{split}_{name}_{i}'
            every = {
                **_base.stored(grey),
                'id': key,
                'group': f'{split}_{name}_{i // 2}/{i}',  # documents have two patients
                'label': name,
                'file': {'container': 'PNG', 'mode': 'L', 'width': SIDE, 'height': SIDE},
            }
            yield key, {feature: every[feature] for feature in features}

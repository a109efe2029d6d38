"""Synthetic CT of any class: what `synthesize` wrote of domains other than lung cancer to COVID-19.

The classes are those of the data set that the generator translates to.
"""

import pathlib
from typing import TypedDict

import tensorflow_datasets as tfds

from covjax import InputError
from covjax.data import datasets
from covjax.workdir import read_json
from tfds_builders import _base, _synthetic

KEPT = ('id', 'group', 'source_id', 'source_sha256', 'source_dataset', 'generator', 'label')


class Card(TypedDict):
    """The part of meta.json that is read."""

    classes: list[str]


class Builder(_synthetic.SyntheticBuilder):
    """One example per translated image; split and group are those of its source.

    Args:
        source: the folder, whose meta.json names the classes.
    """

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'Translated images of any class.'}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Run the stage synthesize of covjax; '
        'the source folder is the `synthetic` folder of its workdir.'
    )
    OPTIONS = ('source',)
    RUN = 'configs/synthesize.py'

    def __init__(self, *, source='', **kwargs):
        self.source = source
        super().__init__(**kwargs)

    def _info(self):
        prepared = pathlib.Path(self._data_dir)
        if (prepared / 'features.json').is_file():  # what is there says what it is
            with datasets.readable(prepared, self.name):
                features = tfds.features.FeaturesDict.from_config(str(prepared))
        else:
            features = tfds.features.FeaturesDict(self.features())
        return self.dataset_info_from_configs(features=features, supervised_keys=('image', 'label'))

    def features(self):
        """{name: feature} of an example."""
        if not self.source:
            raise InputError(f'{self.name}: give the builder its folder, source=FOLDER')
        names = read_json(pathlib.Path(self.source) / 'meta.json', Card)['classes']
        texts = {name: tfds.features.Text() for name in KEPT}
        return (
            _base.COMMON
            | texts
            | {
                'label': tfds.features.ClassLabel(names=names),
                'generator_step': _synthetic.FEATURES['generator_step'],
            }
        )

    @staticmethod
    def make(job):
        """Yields the one (key, example) of a job: a folder and one of its SyntheticRows."""
        folder, row = job
        grey, _ = _base.read_grey(folder / row.file)
        facts = {key: getattr(row, key) for key in (*KEPT, 'generator_step')}
        yield row.id, {**_base.stored(grey), **facts}

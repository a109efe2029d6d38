"""Pairs of CT slices that differ only in a lesion: what `synthesize_pairs` wrote.

Of a LUNA16 slice one member has a lesion where a mask says so (covid), the other healthy lung that
was made in the same mask by the same network, the sham (noncovid).
"""

import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from covjax import InputError
from covjax.ct import picture
from covjax.data import datasets, lesion_patches
from covjax.data.lesion_masks import HALF, LESIONS, SHAM
from covjax.data.synthetic import read_manifest
from tfds_builders import _base, _synthetic

PAIR = ('kind', 'lesion', 'pair', 'masks')


def example(job):
    """Yields the one (key, example) of a job: a folder and one of its SyntheticRows."""
    folder, row = job
    gate = picture.read(folder / row.gate)
    kind = 0 if row.kind == SHAM else 1 + LESIONS[row.masks].index(row.kind)
    mask = np.where(gate >= HALF, kind, 0).astype(np.uint8)
    for key, features in _synthetic.example(job):
        facts = {name: getattr(row, name) for name in PAIR}
        pictures = {'mask': mask, 'gate': gate, 'before': picture.read(folder / row.input)}
        yield key, features | facts | {name: _base.png(grey) for name, grey in pictures.items()}


def patch_example(job):
    """Yields the one (key, example) of a job: the square around the largest part of the gate."""
    for key, features in example(job):
        folder, row = job
        grey, gate = picture.read(folder / row.file), picture.read(folder / row.gate)
        for square in lesion_patches.squares(gate >= HALF)[:1]:
            patch = {
                name: _base.png(datasets.volume(features[name])[square])
                for name in ('mask', 'gate', 'before')
            }
            yield key, features | _base.stored(grey[square]) | patch | {'nodules': []}


@dataclasses.dataclass
class PairsConfig(tfds.core.BuilderConfig):
    """Which part of the slices, with masks from where."""

    part: str = 'slices'  # a key of PARTS
    masks: str = 'drawn'  # a key of data.lesion_masks.LESIONS


PARTS = {
    'slices': 'Whole slices.',
    'patches': 'The square around the largest part of the gate, without nodules.',
}


class Builder(_synthetic.SyntheticBuilder):
    """One example per member of a pair; split, series and boxes are those of the source slice."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'Lesions and shams with masks, gates and the checkpoint.'}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Run the stage synthesize_pairs of covjax; '
        'the source folder is the `synthetic` folder of its workdir.'
    )
    RUN = 'configs/synthesize_pairs.py'
    BUILDER_CONFIGS = [
        PairsConfig(
            name=part if masks == 'drawn' else f'{part}_{masks}',
            description=description,
            part=part,
            masks=masks,
        )
        for masks in LESIONS
        for part, description in PARTS.items()
    ]

    @property
    def make(self):
        """The function from (folder, SyntheticRow) that yields (key, example)."""
        return patch_example if self.builder_config.part == 'patches' else example

    def features(self):
        """{name: feature} of an example."""
        shape = (None, None, 1)
        names = ['background', *LESIONS[self.builder_config.masks]]
        return super().features() | {
            'mask': tfds.features.LabeledImage(labels=names, shape=shape),  # of a sham all 0
            'gate': tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format='png'),
            # The slice, without the lesion or the sham.
            'before': tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format='png'),
            'kind': tfds.features.Text(),  # of the member: a lesion, or sham
            'lesion': tfds.features.Text(),  # the kind of the lesion of the pair
            'pair': tfds.features.Text(),  # what both members are called together
            'masks': tfds.features.Text(),  # where the mask is from: a key of LESIONS
        }

    def source_files(self, folder):
        """Lists the manifest, the lineage and every picture that the manifest names.

        Raises:
            InputError: one of them is missing, the manifest is damaged, or masks are from elsewhere
                than those of this config.
        """
        for row in read_manifest(pathlib.Path(folder)):
            if row.masks != self.builder_config.masks:
                raise InputError(
                    f'{folder}: {row.id} has {row.masks or "no"} masks, and '
                    f'{self.name}/{self.builder_config.name} is of {self.builder_config.masks} '
                    'ones; prepare the data set of the other masks, or another folder'
                )
        return super().source_files(folder)

    def files_of(self, row):
        """Names of the files of a SyntheticRow below the folder."""
        return [row.file, row.gate, row.input]

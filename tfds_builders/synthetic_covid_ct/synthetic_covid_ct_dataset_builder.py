"""Synthetic COVID-19 CT: what `synthesize` wrote.

LUNA16 slices translated by a CycleGAN, with the nodule boxes of their sources.
"""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from covjax import InputError
from covjax.data.synthetic import MANIFEST, read_manifest
from tfds_builders import _base

AS_THEY_ARE = (
    *('id', 'group', 'source_id', 'source_sha256', 'source_dataset', 'series', 'z', 'window'),
    *('generator', 'generator_step'),
)


class Builder(_base.ArrayRecordBuilder):
    """One example a translated slice; split, series and boxes are those of the source slice."""

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {
        '1.0.0': 'Translated slices with boxes and the checkpoint that made them.',
        '1.1.0': 'Malignancy of the nodules, window of the source.',
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Run launch.py with configs/synthesize.py; '
        'the source folder is the `synthetic` folder of its workdir.'
    )

    def _info(self):
        nodule = {
            'box': tfds.features.BBoxFeature(),
            'diameter': np.float32,
            'chord': np.float32,
            'row': np.int32,
            'malignancy': np.int32,
        }
        features = {
            **_base.COMMON,
            'label': tfds.features.ClassLabel(names=_base.LABELS),
            'source_id': tfds.features.Text(),
            'source_sha256': tfds.features.Text(),
            'source_dataset': tfds.features.Text(),
            'series': tfds.features.Text(),
            'z': np.int32,
            'window': tfds.features.Text(),  # of the source, '' where pictures came ready-made
            'generator': tfds.features.Text(),  # hash of the run's config, or a stand-in
            'generator_step': np.int32,
            'nodules': tfds.features.Sequence(nodule),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=('image', 'label')
        )

    def source_files(self, folder):
        """Lists the manifest, the lineage and every picture that the manifest names.

        Raises:
            InputError: one of them is missing, or the manifest is damaged.
        """
        folder = pathlib.Path(folder)
        pictures = [folder / row.file for row in read_manifest(folder)]
        files = [folder / MANIFEST, folder / 'lineage.json', *pictures]
        for file in files:
            if not file.is_file():
                raise InputError(f'{file}: no such file; run configs/synthesize.py again')
        return files

    def companions(self, folder):
        """Returns {'lineage.json': its text}; what trained the generator stays with its images."""
        return {'lineage.json': (pathlib.Path(folder) / 'lineage.json').read_text()}

    def _split_generators(self, dl_manager):
        folder = pathlib.Path(dl_manager.manual_dir)
        jobs = {}
        for row in read_manifest(folder):
            jobs.setdefault(row.split, []).append((folder / row.file, row))
        return {
            split: self._generate_examples(example, jobs[split], split) for split in sorted(jobs)
        }


def example(job):
    """Yields the one (key, example) of a job: the path of a picture and its SyntheticRow."""
    path, row = job
    grey, _ = _base.read_grey(path)
    nodules = [
        nodule.as_json() | {'box': tfds.features.BBox(*nodule.box)} for nodule in row.nodules
    ]
    facts = {key: getattr(row, key) for key in AS_THEY_ARE}
    yield row.id, {**_base.stored(grey), **facts, 'label': 'covid', 'nodules': nodules}

"""What the data sets of synthetic images share: the folder that a run of covjax wrote."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from covjax import InputError, joined
from covjax.data.rows import UNKNOWN
from covjax.data.synthetic import MANIFEST, read_manifest
from tfds_builders import _base

AS_THEY_ARE = (
    *('id', 'group', 'source_id', 'source_sha256', 'source_dataset', 'series', 'z', 'window'),
    *('generator', 'generator_step', 'label'),
)


class SyntheticBuilder(_base.ArrayRecordBuilder, skip_registration=True):
    """One example per line of the manifest.

    Sub-classes say what makes the examples, their `make`, and their features.
    """

    RUN = ''  # the config whose workdir holds the folder
    make = None  # a function from (folder, SyntheticRow) that yields (key, example)

    def features(self):
        """{name: feature} of an example."""
        return dict(FEATURES)

    def files_of(self, row):
        """Names of the files of a SyntheticRow below the folder."""
        return [row.file]

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(self.features()),
            supervised_keys=('image', 'label'),
        )

    def source_files(self, folder):
        """Lists the manifest, the lineage and every picture that the manifest names.

        Raises:
            InputError: one of them is missing, or the manifest is damaged or has other classes.
        """
        folder = pathlib.Path(folder)
        rows = read_manifest(folder)
        if others := sorted({row.label for row in rows} - {*self.features()['label'].names}):
            raise InputError(
                f'{folder / MANIFEST}: has images of {joined(others)}, which {self.name} has no '
                'label for; prepare synthetic_ct, which takes any class'
            )
        pictures = {folder / name for row in rows for name in self.files_of(row)}
        files = [folder / MANIFEST, folder / 'lineage.json', *sorted(pictures)]
        for file in files:
            if not file.is_file():
                raise InputError(f'{file}: no such file; run {self.RUN} again')
        return files

    def companions(self, folder):
        """Returns {'lineage.json': its text}; what trained the generator stays with its images."""
        return {'lineage.json': (pathlib.Path(folder) / 'lineage.json').read_text()}

    def _split_generators(self, dl_manager):
        folder, jobs = pathlib.Path(dl_manager.manual_dir), {}
        for row in read_manifest(folder):
            jobs.setdefault(row.split, []).append((folder, row))
        return {
            split: self._generate_examples(self.make, jobs[split], split) for split in sorted(jobs)
        }


NODULE = {
    'box': tfds.features.BBoxFeature(),
    'diameter': np.float32,
    'chord': np.float32,
    'row': np.int32,
    'malignancy': np.int32,
}
FEATURES = {
    **_base.COMMON,
    'label': tfds.features.ClassLabel(names=_base.LABELS),
    'source_id': tfds.features.Text(),
    'source_sha256': tfds.features.Text(),
    'source_dataset': tfds.features.Text(),
    'series': tfds.features.Text(),
    'z': np.int32,  # -1 of pictures, which have no place in a series
    'window': tfds.features.Text(),  # of the source, '' where pictures came ready-made
    'generator': tfds.features.Text(),  # hash of the run's config, or a stand-in
    'generator_step': np.int32,
    'nodules': tfds.features.Sequence(NODULE),
}


def example(job):
    """Yields the one (key, example) of a job: a folder and one of its SyntheticRows."""
    folder, row = job
    grey, _ = _base.read_grey(folder / row.file)
    nodules = [
        nodule.as_json() | {'box': tfds.features.BBox(*nodule.box)} for nodule in row.nodules
    ]
    facts = {key: getattr(row, key) for key in AS_THEY_ARE}
    facts['z'] = UNKNOWN if row.z is None else row.z
    yield row.id, {**_base.stored(grey), **facts, 'nodules': nodules}

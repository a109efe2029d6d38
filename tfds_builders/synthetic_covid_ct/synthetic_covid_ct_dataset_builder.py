"""Synthetic COVID-19 CT: what `synthesize` wrote, LUNA16 slices translated by a CycleGAN, with the nodule boxes of their sources."""

import json
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from covjax import InputError, archive
from tfds_builders import _base


NEEDED = (
    'id',
    'file',
    'split',
    'group',
    'series',
    'z',
    'source_id',
    'source_sha256',
    'source_dataset',
    'nodules',
    'generator',
    'generator_step',
)


class Builder(_base.ArrayRecordBuilder):
    """One example a translated slice; split, series and boxes are those of the source slice."""

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {
        '1.0.0': 'Translated slices with boxes and the checkpoint that made them.',
        '1.1.0': 'Malignancy of the nodules, window of the source.',
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'Run launch.py with configs/synthesize.py; the source folder is the `synthetic` folder of its workdir.'

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    **_base.COMMON,
                    'label': tfds.features.ClassLabel(names=_base.LABELS),
                    'source_id': tfds.features.Text(),
                    'source_sha256': tfds.features.Text(),
                    'source_dataset': tfds.features.Text(),
                    'series': tfds.features.Text(),
                    'z': np.int32,
                    'window': tfds.features.Text(),  # of the source, '' where pictures came ready-made
                    'generator': tfds.features.Text(),  # hash of the run's config
                    'generator_step': np.int32,
                    'nodules': tfds.features.Sequence(
                        {
                            'box': tfds.features.BBoxFeature(),
                            'diameter': np.float32,
                            'chord': np.float32,
                            'row': np.int32,
                            'malignancy': np.int32,
                        }
                    ),
                }
            ),
            supervised_keys=('image', 'label'),
        )

    def source_files(self, folder):
        folder = pathlib.Path(folder)
        files = [
            folder / 'manifest.jsonl',
            folder / 'lineage.json',
            *(path for path, _ in _read_manifest(folder)),
        ]
        for file in files:
            if not file.is_file():
                raise InputError(f'{file}: no such file; run configs/synthesize.py again')
        return files

    def companions(self, folder):
        """What trained the generator travels with its images."""
        return {'lineage.json': (pathlib.Path(folder) / 'lineage.json').read_text()}

    def _split_generators(self, dl_manager):
        rows = _read_manifest(dl_manager.manual_dir)
        return {
            split: self._generate_examples(
                example, [pair for pair in rows if pair[1]['split'] == split], split
            )
            for split in sorted({row['split'] for _, row in rows})
        }


def example(pair):
    """Yields the one (key, example) of a picture and its manifest row."""
    path, row = pair
    nodules = [
        {'malignancy': -1, **nodule, 'box': tfds.features.BBox(*nodule['box'])}
        for nodule in row['nodules']
    ]
    wanted = {
        key: row[key]
        for key in (
            'id',
            'group',
            'source_id',
            'source_sha256',
            'source_dataset',
            'series',
            'z',
            'generator',
            'generator_step',
        )
    }
    yield (
        row['id'],
        {
            **_base.stored(_base.read_grey(path)[0]),
            **wanted,
            'window': row.get('window', ''),
            'label': 'covid',
            'nodules': nodules,
        },
    )


def _read_manifest(folder):
    folder = pathlib.Path(folder)
    manifest = folder / 'manifest.jsonl'
    if not manifest.is_file():
        raise InputError(
            f'{manifest}: no such file; config.source must be the `synthetic` folder that configs/synthesize.py wrote'
        )
    try:
        rows = [json.loads(line) for line in archive.read_text(manifest).splitlines()]
    except ValueError:
        raise InputError(f'{manifest}: is damaged; run configs/synthesize.py again') from None
    if not rows:
        raise InputError(f'{manifest}: is empty; run configs/synthesize.py again')
    for i, row in enumerate(rows):
        if missing := [key for key in NEEDED if not isinstance(row, dict) or key not in row]:
            raise InputError(
                f'{manifest}: row {i} has no {", ".join(missing)}; run configs/synthesize.py again'
            )
    return [(folder / row['file'], row) for row in rows]

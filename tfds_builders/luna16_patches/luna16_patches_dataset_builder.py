"""LUNA16 (Setio et al. 2017): axial CT slices through annotated lung nodules, with the boxes of the nodules, or ready-made slice pictures."""
import dataclasses
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from covjax import InputError, ct
from tfds_builders import _base

SIZE = 512
SLICE_NAME = re.compile(r'(?P<series>.+)\.mhd_(?P<z>\d+)\.png')
DISTANCE = np.float32


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """`window` names the HU range that becomes grey 0..255: one of ct.WINDOWS, or minmax, the range of each slice. With hu nothing becomes grey: images are
    int16 HU at the size of the volume. None where pictures come ready-made.
    """
    window: str | None = None


class Builder(_base.ArrayRecordBuilder):
    """Splits are by a stable hash of the series id (ct.series_split), the same in every config.

    annotations    path of annotations.csv when it is not in the source folder
    allow_missing  skip annotated series that have no volume; otherwise they are an error
    """

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {'1.0.0': 'Nodule slices and slice pictures.', '1.1.0': 'Other windows and HU; malignancy and the fold of the challenge.'}
    MANUAL_DOWNLOAD_INSTRUCTIONS = ('nodules: get LUNA16 from https://luna16.grand-challenge.org, unzip it, and give the folder that holds the .mhd volumes '
                                    '(flat or in subset0..subset9) and annotations.csv (and, if you like, annotations_with_malignancy.csv). slices: give a folder of pictures named SERIESUID.mhd_K.png.')
    BUILDER_CONFIGS = [
        Config(name='nodules', window='lung', description='One 512x512 axial slice per row of annotations.csv, boxes of every nodule it cuts; -1000..400 HU.'),
        Config(name='nodules_wide', window='wide', description='The same slices, -1024..1024 HU.'),
        Config(name='nodules_minmax', window='minmax', description="The same slices, each from its least to its greatest HU, as the paper's samples seem to be."),
        Config(name='nodules_hu', window='hu', description='The same slices in HU, int16, not resized; data.read looks at them through the lung window.'),
        Config(name='slices', description='Ready-made slice pictures SERIESUID.mhd_K.png, any size, no boxes.'),
    ]

    def __init__(self, *, annotations=None, allow_missing=False, **kwargs):
        self.annotations, self.allow_missing, self.skipped = annotations, allow_missing, []
        super().__init__(**kwargs)

    def _info(self):
        features = {**_base.COMMON, 'series': tfds.features.Text(), 'z': np.int32}
        if self.builder_config.window:
            hu = self.builder_config.window == 'hu'
            features |= {
                'image': tfds.features.Tensor(shape=(None, None, 1), dtype=np.int16, encoding='zlib') if hu else
                         tfds.features.Image(shape=(SIZE, SIZE, 1), dtype=np.uint8, encoding_format='png'),
                'fold': np.int32,                                                                 # of the challenge, -1 without subset folders
                'row': np.int32,                                                                  # of annotations.csv
                'world': tfds.features.Tensor(shape=(3,), dtype=DISTANCE),                        # mm, x y z
                'voxel': tfds.features.Tensor(shape=(3,), dtype=DISTANCE),                        # index x y z in the stored array
                'spacing': tfds.features.Tensor(shape=(3,), dtype=DISTANCE),                      # mm per voxel, x y z
                'diameter': DISTANCE,                                                             # mm in 3-D, of the annotated nodule
                'window': tfds.features.Text(),
                'nodules': tfds.features.Sequence({'box': tfds.features.BBoxFeature(), 'diameter': DISTANCE, 'chord': DISTANCE, 'row': np.int32,
                                                   'malignancy': np.int32}),      # 1, 0, or -1 where it is not known
            }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), homepage='https://luna16.grand-challenge.org')

    def source_files(self, folder):
        if not self.builder_config.window:
            return _slice_pictures(folder)
        rows = self._annotated(folder)
        volumes = {volume.path for volume, _, _ in rows}
        data = {data for path in volumes for data in path.parent.glob(f'{path.stem}.*')}
        return sorted(data | {self._table(folder)} | {path for path in [_ratings(folder)] if path.is_file()})

    def _split_generators(self, dl_manager):
        folder = dl_manager.manual_dir
        if self.builder_config.window:
            rows = self._annotated(folder)
            splits = [ct.series_split(volume.path.stem) for volume, _, _ in rows]
        else:
            rows = _slice_pictures(folder)
            splits = [ct.series_split(SLICE_NAME.fullmatch(path.name)['series']) for path in rows]
        return {split: self._generate_examples([row for row, s in zip(rows, splits) if s == split])
                for split in ('train', 'validation', 'test') if split in splits}

    def _generate_examples(self, rows):
        return self._nodule_slices(rows) if self.builder_config.window else self._pictures(rows)

    def _table(self, folder):
        return pathlib.Path(self.annotations or pathlib.Path(folder) / 'annotations.csv')

    def _annotated(self, folder):
        """[(volume, nodule, all nodules of its series)] for each annotation row whose series has a volume; every header is checked."""
        nodules = ct.read_annotations(self._table(folder))
        nodules = ct.with_malignancy(nodules, _ratings(folder)) if _ratings(folder).is_file() else nodules
        paths = ct.find_volumes(folder)
        self.skipped = sorted({nodule.series for nodule in nodules} - set(paths))
        if self.skipped and not self.allow_missing:
            raise InputError(f'{folder}: no volume for {len(self.skipped)} annotated series, the first is {self.skipped[0]}; '
                             'add the volumes, or set config.allow_missing=True to skip them')
        by_series = {}
        for nodule in nodules:
            by_series.setdefault(nodule.series, []).append(nodule)
        volumes = {series: ct.open_volume(paths[series]) for series in by_series if series in paths}
        if not volumes:
            raise InputError(f'{folder}: no annotated volume found; expected .mhd files named by the series ids of {self._table(folder)}')
        return [(volumes[nodule.series], nodule, by_series[nodule.series]) for nodule in nodules if nodule.series in volumes]

    def _nodule_slices(self, rows):
        for volume, nodule, siblings in rows:
            z = ct.nodule_slice(volume, nodule)
            cut = [(box, other) for other in siblings if (box := ct.nodule_box(volume, other, z))]
            key = f'{nodule.series}_{nodule.row:04d}'
            yield key, {
                **self._image(ct.read_slice(volume, z)), 'id': key, 'group': nodule.series, 'fold': ct.challenge_fold(volume.path), 'series': nodule.series, 'z': z, 'row': nodule.row,
                'world': np.array(nodule.world, DISTANCE), 'voxel': np.array(ct.world_to_voxel(volume, nodule.world), DISTANCE),
                'spacing': np.array(volume.spacing, DISTANCE), 'diameter': nodule.diameter, 'window': self.builder_config.window,
                'nodules': [{'box': tfds.features.BBox(*box), 'diameter': other.diameter, 'chord': ct.chord(volume, other, z), 'row': other.row,
                             'malignancy': other.malignancy}
                            for box, other in cut]}

    def _image(self, hu):
        """HU [H, W] -> the `image` and `sha256` features."""
        window = self.builder_config.window
        if window == 'hu':
            return _base.keep_hu(hu.astype(np.int16))
        grey = ct.to_grey(hu, ct.whole_range(hu) if window == 'minmax' else ct.WINDOWS[window])
        if grey.shape != (SIZE, SIZE):                                         # boxes are shares of the picture, so they stay right
            grey = np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return _base.encode_grey(grey)

    def _pictures(self, paths):
        for path in paths:
            name = SLICE_NAME.fullmatch(path.name)
            key = f'{name["series"]}_z{int(name["z"]):04d}'
            yield key, {**_base.encode_grey(_base.read_grey(path)[0]), 'id': key, 'group': name['series'], 'series': name['series'], 'z': int(name['z'])}


def _ratings(folder):
    return pathlib.Path(folder) / 'annotations_with_malignancy.csv'


def _slice_pictures(folder):
    paths = sorted(pathlib.Path(folder).rglob('*.png'))
    wrong = [path for path in paths if not SLICE_NAME.fullmatch(path.name)]
    if wrong:
        raise InputError(f'{wrong[0]}: slice pictures must be named SERIESUID.mhd_K.png; rename or remove it')
    names = {}
    for path in paths:
        if names.setdefault(path.name, path) != path:
            raise InputError(f'{path}: is also at {names[path.name]}; keep one of the two')
    if not paths:
        raise InputError(f'{folder}: no slice pictures named SERIESUID.mhd_K.png')
    return paths

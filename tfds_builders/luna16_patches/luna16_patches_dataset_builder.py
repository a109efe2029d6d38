"""LUNA16 (Setio et al. 2017): axial CT slices and patches around annotated lung nodules, with their boxes; candidates; or ready-made slice pictures."""

import dataclasses
import functools
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from covjax import InputError
from covjax.ct import archive, geometry, luna16, volume, windows
from tfds_builders import _base

SIZE = 512
SLICE_NAME = re.compile(r'(?P<series>.+)\.mhd_(?P<z>\d{1,9})\.png')
PATCH_NAME = re.compile(
    r'(?P<rows>patches|candidates)_(?P<dimensions>[23])d_(?P<millimetres>\d+)mm_(?P<micrometres>\d+)um(?P<hu>_hu)?'
)
CLASSES = ['other', 'nodule']  # of a candidate, 0 and 1 as in candidates.csv
MILLIMETRES = np.float32
MANY = 8  # from so many patches of a volume on, reading it whole is faster
AT_ONCE = 256, 1 << 25  # examples, and bytes of them, that one call holds in RAM
MOST_PIXELS = {2: 1024, 3: 256}  # a side


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """What an image is.

    rows        `nodules`: the slice through each annotated nodule; `patches`: a patch around it; `candidates`: a patch around each candidate;
                `slices`: pictures come ready-made
    window      the HU range that becomes grey 0..255: one of ct.WINDOWS, or minmax, the range of each slice; with hu images stay int16 HU
    millimetres, spacing, dimensions    of a patch: side, mm a pixel, 2 or 3
    """

    rows: str = 'nodules'
    window: str = 'lung'
    millimetres: float = 0.0
    spacing: float = 0.0
    dimensions: int = 2

    @property
    def pixels(self):
        """A side of a patch."""
        return round(self.millimetres / self.spacing)


def patches(name):
    """The Config that a name such as patches_3d_32mm_500um_hu or candidates_2d_64mm_500um describes, or None."""
    match = PATCH_NAME.fullmatch(name)
    if not match:
        return None
    millimetres, spacing, dimensions = (
        int(match['millimetres']),
        int(match['micrometres']) / 1000,
        int(match['dimensions']),
    )
    if not spacing or not 1 <= round(millimetres / spacing) <= MOST_PIXELS[dimensions]:
        raise InputError(
            f'luna16_patches/{name}: {millimetres} mm at {spacing:g} mm a pixel is no patch of 1 to {MOST_PIXELS[dimensions]} pixels a side; choose other numbers'
        )
    window = 'hu' if match['hu'] else 'lung'
    return Config(
        name=name,
        rows=match['rows'],
        window=window,
        millimetres=millimetres,
        spacing=spacing,
        dimensions=dimensions,
        description=f'{dimensions}-D patches, {millimetres} mm a side at {spacing:g} mm a pixel, {"int16 HU" if match["hu"] else "-1000..400 HU"}.',
    )


def named(name, alias):
    """The same Config under a shorter name."""
    return dataclasses.replace(patches(name), name=alias)


class Builder(_base.ArrayRecordBuilder):
    """Splits are by a stable hash of the series id (annotations.series_split), the same in every config.

    annotations, candidates    paths of annotations.csv and candidates.csv when they are not in the source folder
    allow_missing              skip series that have no volume; otherwise they are an error
    """

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {
        '1.0.0': 'Nodule slices and slice pictures.',
        '1.1.0': 'Other windows and HU; patches and candidates; malignancy and the fold of the challenge.',
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'get LUNA16 from https://luna16.grand-challenge.org (its ten subset*.zip, unpacked or not, and annotations.csv; for candidates also '
        'candidates.csv; if you like, annotations_with_malignancy.csv) and give the folder that holds them. slices: give a folder of pictures named SERIESUID.mhd_K.png.'
    )
    BUILDER_CONFIGS = [
        Config(
            name='nodules',
            window='lung',
            description='One 512x512 axial slice per row of annotations.csv, boxes of every nodule it cuts; -1000..400 HU.',
        ),
        Config(name='nodules_wide', window='wide', description='The same slices, -1024..1024 HU.'),
        Config(
            name='nodules_minmax',
            window='minmax',
            description="The same slices, each from its least to its greatest HU, as the paper's samples seem to be.",
        ),
        Config(
            name='nodules_hu',
            window='hu',
            description='The same slices in HU, int16, not resized; data.read looks at them through the lung window.',
        ),
        named('patches_2d_64mm_500um', 'patches'),
        named('patches_3d_48mm_1000um_hu', 'patches_3d'),
        named('candidates_2d_64mm_500um', 'candidates'),
        Config(
            name='slices',
            rows='slices',
            description='Ready-made slice pictures SERIESUID.mhd_K.png, any size, no boxes.',
        ),
    ]

    def __init__(self, *, annotations=None, candidates=None, allow_missing=False, **kwargs):
        self.tables = {'annotations.csv': luna16, 'candidates.csv': candidates}
        self.allow_missing, self.skipped = allow_missing, []
        super().__init__(**kwargs)

    @classmethod
    def described(cls, name):
        return patches(name)

    def _info(self):
        config = self.builder_config
        features = {**_base.COMMON, 'series': tfds.features.Text()}
        if config.rows == 'slices':
            features['z'] = np.int32
        else:
            nodule = {
                'diameter': MILLIMETRES,
                'row': np.int32,
                'malignancy': np.int32,
            }  # 1, 0, or -1 where it is not known
            if config.dimensions == 2:
                nodule |= {'box': tfds.features.BBoxFeature(), 'chord': MILLIMETRES}
            features |= {
                'image': _image_feature(config),
                'fold': np.int32,  # of the challenge, -1 without subset folders
                'row': np.int32,  # of annotations.csv or candidates.csv
                'world': tfds.features.Tensor(shape=(3,), dtype=MILLIMETRES),  # mm, x y z
                'voxel': tfds.features.Tensor(
                    shape=(3,), dtype=MILLIMETRES
                ),  # index x y z in the stored array
                'spacing': tfds.features.Tensor(
                    shape=(3,), dtype=MILLIMETRES
                ),  # mm per voxel of the volume, x y z
                'window': tfds.features.Text(),
            }
            if config.rows == 'nodules':
                features['z'] = np.int32
            else:
                nodule['centre'] = tfds.features.Tensor(
                    shape=(3,), dtype=MILLIMETRES
                )  # mm from the centre of the patch, x y z
            features['nodules'] = tfds.features.Sequence(nodule)
            features |= (
                {'label': tfds.features.ClassLabel(names=CLASSES)}
                if config.rows == 'candidates'
                else {'diameter': MILLIMETRES}
            )  # mm in 3-D
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage='https://luna16.grand-challenge.org',
            supervised_keys=('image', 'label') if 'label' in features else None,
        )

    def source_files(self, folder):
        if self.builder_config.rows == 'slices':
            return _slice_pictures(folder)
        volumes = [volume.path for volume, _, _ in self._jobs(folder)]
        data = {
            file
            for path in volumes
            for file in (
                path.parent.glob(f'{path.stem}.*')
                if path.parent.is_dir()
                else [archive.archive_of(path)]
            )
        }
        annotated, candidates, rated = self._tables(folder)
        tables = {annotated, rated} | (
            {candidates} if self.builder_config.rows == 'candidates' else set()
        )
        return sorted(data | {table for table in tables if archive.is_file(table)})

    def _split_generators(self, dl_manager):
        folder = dl_manager.manual_dir
        if self.builder_config.rows == 'slices':
            jobs = [[path] for path in _slice_pictures(folder)]
            series, function = (
                [SLICE_NAME.fullmatch(path.name)['series'] for (path,) in jobs],
                slice_pictures,
            )
        else:
            jobs = self._jobs(folder)
            series, function = (
                [volume.path.stem for volume, _, _ in jobs],
                functools.partial(examples, self.builder_config),
            )
        splits = [luna16.series_split(name) for name in series]
        return {
            split: self._generate_examples(
                function, [job for job, s in zip(jobs, splits) if s == split], split
            )
            for split in ('train', 'validation', 'test')
            if split in splits
        }

    def _tables(self, folder):
        """(annotations.csv, candidates.csv, annotations_with_malignancy.csv), each where it would be."""
        folder = pathlib.Path(folder)
        found = {
            path.name: path
            for path in reversed(archive.find(folder, '*.csv'))
            if archive.archive_of(path) or path.parent == folder
        }
        annotated, candidates = (
            pathlib.Path(path).expanduser() if path else found.get(name, folder / name)
            for name, path in self.tables.items()
        )
        candidates = (
            candidates
            if archive.is_file(candidates)
            else found.get('candidates_V2.csv', candidates)
        )
        return (
            annotated,
            candidates,
            found.get(
                'annotations_with_malignancy.csv', folder / 'annotations_with_malignancy.csv'
            ),
        )

    def _jobs(self, folder):
        """[(volume, its rows to make examples of, all its nodules)] of each series that has rows and a volume; every header is checked."""
        annotated, candidates, rated = self._tables(folder)
        nodules = luna16.read_nodules(annotated)
        nodules = luna16.with_malignancy(nodules, rated) if archive.is_file(rated) else nodules
        table = candidates if self.builder_config.rows == 'candidates' else annotated
        rows = _by_series(luna16.read_candidates(table) if table is candidates else nodules)
        nodules, paths = _by_series(nodules), volume.find_volumes(folder)
        self.skipped = sorted(set(rows) - set(paths))
        if self.skipped and not self.allow_missing:
            raise InputError(
                f'{folder}: no volume for {len(self.skipped)} series of {table.name}, the first is {self.skipped[0]}; '
                'add the volumes, or set config.allow_missing=True to skip them'
            )
        volumes = {series: volume.open_volume(paths[series]) for series in rows if series in paths}
        if not volumes:
            raise InputError(
                f'{folder}: no volume found; expected .mhd files named by the series ids of {table}, in folders or .zip archives'
            )
        config = self.builder_config
        most = (
            AT_ONCE[0]
            if config.rows == 'nodules'
            else min(AT_ONCE[0], max(1, AT_ONCE[1] // (2 * config.pixels**config.dimensions)))
        )
        return [
            (volume, rows[series][start : start + most], nodules.get(series, []))
            for series, volume in volumes.items()
            for start in range(0, len(rows[series]), most)
        ]


def _by_series(rows):
    grouped = {}
    for row in rows:
        grouped.setdefault(row.series, []).append(row)
    return grouped


def _image_feature(config):
    shape = (
        (SIZE, SIZE, 1) if config.rows == 'nodules' else (config.pixels,) * config.dimensions + (1,)
    )
    if config.window == 'hu':
        return tfds.features.Tensor(
            shape=(None, None, 1) if config.rows == 'nodules' else shape,
            dtype=np.int16,
            encoding='zlib',
        )
    if config.dimensions == 3:
        return tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding='zlib')
    return tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format='png')


def examples(config, job):
    """Yields (key, example) of a job: the examples of one volume. A function of its arguments alone, for other processes and other machines."""
    volume, rows, nodules = job
    for row in rows:  # before any voxel is read
        geometry.check_inside(volume, row)
    if volume.packed or config.rows != 'nodules' and len(rows) >= MANY:
        volume = volume.load(volume)
    make = nodule_slice if config.rows == 'nodules' else patch
    for row in rows:
        image, facts = make(config, volume, row, nodules)
        key = f'{row.series}_{"c" if config.rows == "candidates" else ""}{row.row:04d}'
        yield (
            key,
            {
                **_base.stored(image, config.window == 'hu' or config.dimensions == 3),
                **facts,
                'id': key,
                'group': row.series,
                'series': row.series,
                'row': row.row,
                'fold': luna16.challenge_fold(volume.path),
                'world': np.array(row.world, MILLIMETRES),
                'voxel': np.array(geometry.world_to_voxel(volume, row.world), MILLIMETRES),
                'spacing': np.array(volume.spacing, MILLIMETRES),
                'window': config.window,
                **(
                    {'label': int(row.nodule)}
                    if config.rows == 'candidates'
                    else {'diameter': row.diameter}
                ),
            },
        )


def nodule_slice(config, volume, nodule, siblings):
    """The slice through a nodule, and the nodules that it cuts."""
    z = geometry.nodule_slice(volume, nodule)
    image = _look(volume.read_slice(volume, z), config.window)
    if config.window != 'hu' and image.shape != (
        SIZE,
        SIZE,
    ):  # boxes are shares of the picture, so they stay right
        image = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    cut = [
        {
            **_facts(other),
            'box': tfds.features.BBox(*box),
            'chord': geometry.chord(volume, other, z),
        }
        for other in siblings
        if (box := geometry.nodule_box(volume, other, z))
    ]
    return image, {'z': z, 'nodules': cut}


def patch(config, volume, row, nodules):
    """The patch around a row, and the nodules that reach into it."""
    image = _look(
        geometry.patch(volume, row.world, config.millimetres, config.spacing, config.dimensions),
        config.window,
    )
    extent, inside = config.pixels * config.spacing, []
    for other in nodules:
        offset = np.subtract(other.world, row.world)
        place = {**_facts(other), 'centre': offset.astype(MILLIMETRES)}
        if config.dimensions == 3 and (np.abs(offset) < (extent + other.diameter) / 2).all():
            inside.append(place)
        elif (
            config.dimensions == 2
            and (side := geometry.disc(other.diameter, offset[2]))
            and (box := geometry.square(offset[1::-1] + extent / 2, side, (extent, extent)))
        ):
            inside.append({**place, 'box': tfds.features.BBox(*box), 'chord': side})
    return image, {'nodules': inside}


def _facts(nodule):
    return {'diameter': nodule.diameter, 'row': nodule.row, 'malignancy': nodule.malignancy}


def _look(hu, window):
    """HU -> int16 HU, or grey through a window."""
    if window == 'hu':
        return np.round(hu).astype(np.int16)
    return windows.to_grey(
        hu, windows.whole_range(hu) if window == 'minmax' else windows.WINDOWS[window]
    )


def slice_pictures(paths):
    """Yields (key, example) of ready-made pictures."""
    for path in paths:
        name = SLICE_NAME.fullmatch(path.name)
        key = f'{name["series"]}_z{int(name["z"]):04d}'
        yield (
            key,
            {
                **_base.stored(_base.read_grey(path)[0]),
                'id': key,
                'group': name['series'],
                'series': name['series'],
                'z': int(name['z']),
            },
        )


def _slice_pictures(folder):
    paths = archive.find(folder, '*.png')
    wrong = [path for path in paths if not SLICE_NAME.fullmatch(path.name)]
    if wrong:
        raise InputError(
            f'{wrong[0]}: slice pictures must be named SERIESUID.mhd_K.png; rename or remove it'
        )
    names = {}
    for path in paths:
        match = SLICE_NAME.fullmatch(path.name)
        if (other := names.setdefault((match['series'], int(match['z'])), path)) != path:
            raise InputError(f'{path}: is the same slice as {other}; keep one of the two')
    if not paths:
        raise InputError(f'{folder}: no slice pictures named SERIESUID.mhd_K.png')
    return paths

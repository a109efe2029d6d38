"""LUNA16 (Setio et al. 2017): axial CT slices and patches around lung nodules, with boxes.

A config has slices through annotated nodules, patches around these or around candidates, or slice
pictures that others have made from the volumes.
"""

import dataclasses
import functools
import glob
import hashlib
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from covjax import InputError, counted
from covjax.ct import archive, framing, geometry, luna16, windows
from covjax.ct.dicom import named
from covjax.ct.volume import check_axial, find_volumes, load_volume, open_volume, read_slice
from tfds_builders import _base

SIZE = 512  # pixels a side of a slice
SLICE_NAME = re.compile(r'(?P<series>.+)\.mhd_(?P<z>\d{1,9})\.(?i:png)')
PATCH_NAME = re.compile(
    r'(?P<rows>patches|candidates)_(?P<dimensions>[23])d_'
    r'(?P<millimetres>\d+)mm_(?P<micrometres>\d+)um(?P<hu>_hu)?'
)
CLASSES = ['other', 'nodule']  # of a candidate, 0 and 1 as in candidates.csv
FLOAT = np.float32
MANY = 8  # patches of a volume from which on reading it whole is faster
# What one call of `examples` holds in RAM at most.
MOST_EXAMPLES = 256
MOST_BYTES = 1 << 25
MOST_PIXELS = {2: 1024, 3: 256}  # a side of a patch, by dimensions


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """What an image is.

    rows        what examples are made of. `nodules`: the slice through each annotated nodule;
                `patches`: a patch around it; `candidates`: a patch around each candidate;
                `slices`: pictures come ready-made
    window      the HU range that becomes grey 0..255: one of windows.WINDOWS, or minmax, the range
                of each slice; with hu images stay int16 HU
    framed      whether slices show their lungs with a margin (ct/framing.py), at their own pixels;
                those in which none are found are left out
    millimetres, spacing, dimensions    of a patch: side, mm a pixel, 2 or 3
    """

    rows: str = 'nodules'
    window: str = 'lung'
    millimetres: float = 0.0
    spacing: float = 0.0
    dimensions: int = 2
    framed: bool = False

    @property
    def pixels(self):
        """A side of a patch."""
        return round(self.millimetres / self.spacing)

    @property
    def is_array(self):
        """Whether images are stored as arrays, not as PNG."""
        return self.window == 'hu' or self.dimensions == 3


def patches(name):
    """Makes the Config that a name describes, such as patches_3d_32mm_500um_hu.

    Returns:
        Config, or None where the name describes none.

    Raises:
        InputError: such a patch is impossible.
    """
    match = PATCH_NAME.fullmatch(name)
    if not match:
        return None
    millimetres, dimensions = int(match['millimetres']), int(match['dimensions'])
    spacing, most = int(match['micrometres']) / 1000, MOST_PIXELS[dimensions]
    if not spacing or not 1 <= round(millimetres / spacing) <= most:
        raise InputError(
            f'luna16_patches/{name}: {millimetres} mm at {spacing:g} mm a pixel is no patch '
            f'of 1 to {most} pixels a side; choose other numbers'
        )
    grey = 'int16 HU' if match['hu'] else '-1000..400 HU'
    size = f'{millimetres} mm a side at {spacing:g} mm a pixel'
    return Config(
        name=name,
        rows=match['rows'],
        window='hu' if match['hu'] else 'lung',
        millimetres=millimetres,
        spacing=spacing,
        dimensions=dimensions,
        description=f'{dimensions}-D patches, {size}, {grey}.',
    )


def _alias(alias, name):
    """The Config that a name describes under a shorter name."""
    return dataclasses.replace(patches(name), name=alias)


class Builder(_base.ArrayRecordBuilder):
    """Splits are by a stable hash of the series id (luna16.series_split), the same in every config.

    Args:
        annotations, candidates: paths of annotations.csv and candidates.csv where they are not in
            the source folder.
        hu: 'SLOPE,INTERCEPT' of volumes that are not in HU; '' refuses them.
        allow_missing: whether to skip series that have no volume; otherwise they are an error.
    """

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {
        '1.0.0': 'Nodule slices and slice pictures.',
        '1.1.0': (
            'Other windows and HU; patches and candidates; '
            'malignancy and the fold of the challenge.'
        ),
    }
    OPTIONS = ('annotations', 'candidates', 'hu', 'allow_missing')
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'get LUNA16 from https://luna16.grand-challenge.org (its ten subset*.zip, unpacked or not, '
        'and annotations.csv; for candidates also candidates.csv; if you like, '
        'annotations_with_malignancy.csv) and give the folder that holds them. '
        'slices: give a folder of pictures named SERIESUID.mhd_K.png.'
    )
    BUILDER_CONFIGS = [
        Config(
            name='nodules',
            window='lung',
            description=(
                'One 512x512 axial slice per row of annotations.csv, '
                'boxes of every nodule it cuts; -1000..400 HU.'
            ),
        ),
        Config(name='nodules_wide', window='wide', description='The same slices, -1024..1024 HU.'),
        Config(
            name='nodules_minmax',
            window='minmax',
            description=(
                'The same slices, each from its least to its greatest HU, '
                "as the paper's samples seem to be."
            ),
        ),
        Config(
            name='nodules_hu',
            window='hu',
            description=(
                'The same slices in HU, int16, not resized; '
                'data.read looks at them through the lung window.'
            ),
        ),
        Config(
            name='nodules_framed',
            window=framing.WINDOW,
            framed=True,
            description=(
                'The same slices cropped to their lungs, -1350..150 HU; '
                'slices without plausible lungs are left out.'
            ),
        ),
        _alias('patches', 'patches_2d_64mm_500um'),
        _alias('patches_3d', 'patches_3d_48mm_1000um_hu'),
        _alias('candidates', 'candidates_2d_64mm_500um'),
        Config(
            name='slices',
            rows='slices',
            description='Ready-made slice pictures SERIESUID.mhd_K.png, any size, no boxes.',
        ),
        Config(
            name='slices_framed',
            rows='slices',
            window=framing.WINDOW,
            framed=True,
            description=(
                'The same pictures, taken for -1000..400 HU, cropped to their lungs, '
                '-1350..150 HU; those without plausible lungs are left out.'
            ),
        ),
    ]

    def __init__(self, *, annotations=None, candidates=None, hu='', allow_missing=False, **kwargs):
        self.annotations, self.candidates, self.hu = annotations, candidates, hu
        self.allow_missing, self.skipped = allow_missing, []
        self.asked = 0  # slices or patches that the last build was to make
        super().__init__(**kwargs)

    @classmethod
    def described(cls, name):
        """Returns the Config of a patch of any size that its name describes, or None."""
        return patches(name)

    def _info(self):
        config = self.builder_config
        features = {**_base.COMMON, 'series': tfds.features.Text()}
        if config.framed:
            features['frame'] = tfds.features.BBoxFeature()  # in the slice
        if config.rows == 'slices':
            features['z'] = np.int32
        else:
            features |= _features_of_volumes(config)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage='https://luna16.grand-challenge.org',
            supervised_keys=('image', 'label') if 'label' in features else None,
        )

    def source_files(self, folder):
        """Lists the volumes and tables that a build reads, or the slice pictures.

        Raises:
            InputError: a table or a volume is missing or damaged.
        """
        if self.builder_config.rows == 'slices':
            return _slice_pictures(folder)
        files = set()
        for volume, _, _ in self._jobs(folder):
            path = volume.path
            if path.parent.is_dir():
                files |= set(path.parent.glob(f'{glob.escape(volume.name)}.*'))
            else:
                files.add(archive.archive_of(path))
        annotated, candidates, rated = self._tables(folder)
        tables = {annotated, rated}
        if self.builder_config.rows == 'candidates':
            tables.add(candidates)
        return sorted(files | {table for table in tables if archive.is_file(table)})

    def remark(self, folder):
        """Returns a line on what is left out: rows of tables that are there twice, other files."""
        if self.builder_config.rows == 'slices':
            others = [path.name for path in _files(folder) if not _is_png(path)]
            return named(others, 'file that is no PNG', 'files that are no PNG') if others else ''
        annotated, candidates, _ = self._tables(folder)
        tables = {annotated: luna16.read_nodules(annotated)}
        if self.builder_config.rows == 'candidates':
            tables[candidates] = luna16.read_candidates(candidates)
        remarks = []
        for table, rows in tables.items():
            _, copies = luna16.without_copies(rows)
            if copies:
                first = ', '.join(map(str, copies[:5]))
                remarks.append(
                    f'{table.name}: left out {counted(len(copies), "repeated row")} (first {first})'
                )
        return '; '.join(remarks)

    @property
    def remarks(self):
        """Lines on what the last build has left out."""
        made = sum(split.num_examples for split in self.info.splits.values())
        left_out = self.asked - made if self.builder_config.framed else 0
        return (
            [f'left out {counted(left_out, "slice")} without plausible lungs']
            if left_out > 0
            else []
        )

    def fingerprint(self, folder):
        """Hashes what the images come from: the source files, and config.hu where it is given."""
        whole = super().fingerprint(folder)
        return hashlib.sha256(f'{whole} {self.hu}'.encode()).hexdigest() if self.hu else whole

    def _split_generators(self, dl_manager):
        folder = dl_manager.manual_dir
        is_pictures = self.builder_config.rows == 'slices'
        if is_pictures:
            function = functools.partial(slice_picture, self.builder_config)
            jobs = _slice_pictures(folder)
            series_of = lambda path: SLICE_NAME.fullmatch(path.name)['series']
        else:
            function = functools.partial(examples, self.builder_config)
            jobs = self._jobs(folder)
            series_of = lambda job: job[0].name
        splits = {'train': [], 'validation': [], 'test': []}
        for job in jobs:
            splits[luna16.series_split(series_of(job))].append(job)
        self.asked = len(jobs) if is_pictures else sum(len(rows) for _, rows, _ in jobs)
        made = {
            split: self._generate_examples(function, jobs_of_split, split)
            for split, jobs_of_split in splits.items()
            if jobs_of_split
        }
        return _base.without_empty(made, folder) if self.builder_config.framed else made

    def _tables(self, folder):
        """annotations.csv, candidates.csv, annotations_with_malignancy.csv: where each would be."""
        folder = pathlib.Path(folder)
        found = {
            path.name: path
            for path in reversed(archive.find(folder, '*.csv'))
            if archive.archive_of(path) or path.parent == folder
        }

        def table(given, name):
            return pathlib.Path(given).expanduser() if given else found.get(name, folder / name)

        annotated = table(self.annotations, 'annotations.csv')
        candidates = table(self.candidates, 'candidates.csv')
        if not archive.is_file(candidates):
            candidates = found.get('candidates_V2.csv', candidates)
        return annotated, candidates, table(None, 'annotations_with_malignancy.csv')

    def _jobs(self, folder):
        """[(volume, its rows to make examples of, all its nodules)], every header checked.

        One entry for each series that has rows and a volume, or several where rows are many.
        """
        annotated, candidates, rated = self._tables(folder)
        nodules, _ = luna16.without_copies(luna16.read_nodules(annotated))
        if archive.is_file(rated):
            nodules = luna16.with_malignancy(nodules, rated)
        if self.builder_config.rows == 'candidates':
            kept, _ = luna16.without_copies(luna16.read_candidates(candidates))
            table, rows = candidates, _by_series(kept)
        else:
            table, rows = annotated, _by_series(nodules)
        volumes, nodules = self._volumes(folder, rows, table), _by_series(nodules)
        most = _examples_at_once(self.builder_config)
        return [
            (volume, rows[series][start : start + most], nodules.get(series, []))
            for series, volume in volumes.items()
            for start in range(0, len(rows[series]), most)
        ]

    def _volumes(self, folder, rows, table):
        """{series: Volume} of the series in `rows` that have one; notes the others as skipped."""
        paths = find_volumes(folder)
        self.skipped = sorted(set(rows) - set(paths))
        if self.skipped and not self.allow_missing:
            raise InputError(
                f'{folder}: no volume for {len(self.skipped)} series of {table.name}, '
                f'the first is {self.skipped[0]}; '
                'add the volumes, or set config.allow_missing=True to skip them'
            )
        volumes = {}
        for series in rows:
            if series in paths:
                volumes[series] = open_volume(paths[series], self.hu)
                check_axial(volumes[series])
        if not volumes:
            raise InputError(
                f'{folder}: no volume found; expected .mhd files named by the series ids '
                f'of {table}, in folders or .zip archives'
            )
        return volumes


def _by_series(rows):
    grouped = {}
    for row in rows:
        grouped.setdefault(row.series, []).append(row)
    return grouped


def _examples_at_once(config):
    """How many examples of a volume one job makes, so that they fit into RAM."""
    if config.rows == 'nodules':
        return MOST_EXAMPLES
    bytes_each = 2 * config.pixels**config.dimensions
    return min(MOST_EXAMPLES, max(1, MOST_BYTES // bytes_each))


def _features_of_volumes(config):
    """The features of examples that are made from volumes."""
    point = tfds.features.Tensor(shape=(3,), dtype=FLOAT)  # x y z
    features = {
        'image': _image_feature(config),
        'fold': np.int32,  # of the challenge, -1 without subset folders
        'row': np.int32,  # of annotations.csv or candidates.csv
        'world': point,  # mm
        'voxel': point,  # index in the stored array
        'spacing': point,  # mm per voxel of the volume
        'window': tfds.features.Text(),
    }
    nodule = {
        'diameter': FLOAT,
        'row': np.int32,
        'malignancy': np.int32,  # 1, 0, or -1 where it is not known
    }
    if config.dimensions == 2:
        nodule |= {'box': tfds.features.BBoxFeature(), 'chord': FLOAT}
    if config.rows == 'nodules':
        features['z'] = np.int32
    else:
        nodule['centre'] = point  # mm from the centre of the patch
    features['nodules'] = tfds.features.Sequence(nodule)
    if config.rows == 'candidates':
        features['label'] = tfds.features.ClassLabel(names=CLASSES)
    else:
        features['diameter'] = FLOAT  # in 3-D
    return features


def _image_feature(config):
    """How the images of a config are stored."""
    if config.rows != 'nodules':
        shape = (config.pixels,) * config.dimensions + (1,)
    elif config.window == 'hu' or config.framed:
        shape = (None, None, 1)
    else:
        shape = (SIZE, SIZE, 1)
    if not config.is_array:
        return tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format='png')
    dtype = np.int16 if config.window == 'hu' else np.uint8
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding='zlib')


def examples(config, job):
    """Yields (key, example) of a job: the examples of one volume.

    A function of its arguments alone, for other processes and other machines.

    Args:
        config: Config.
        job: (Volume, its rows to make examples of, all its nodules); rows are luna16.Annotations or
            luna16.Candidates.

    Raises:
        InputError: a row lies outside the volume, or the volume is damaged.
    """
    volume, rows, nodules = job
    for row in rows:  # before any voxel is read
        geometry.check_inside(volume, row)
    if volume.packed or config.rows != 'nodules' and len(rows) >= MANY:
        volume = load_volume(volume)
    elif config.rows != 'nodules':  # what is read of it may lie in tissue
        read_slice(volume, geometry.nodule_slice(volume, rows[0]))  # refuses what is not in HU
    make = nodule_slice if config.rows == 'nodules' else patch
    for row in rows:
        image, facts = make(config, volume, row, nodules)
        if image is None:
            continue
        if config.rows == 'candidates':
            key = f'{row.series}_c{row.row:04d}'
            facts['label'] = int(row.nodule)
        else:
            key = f'{row.series}_{row.row:04d}'
            facts['diameter'] = row.diameter
        features = {
            'id': key,
            'group': row.series,
            'series': row.series,
            'row': row.row,
            'fold': luna16.challenge_fold(volume.path),
            'world': np.array(row.world, FLOAT),
            'voxel': np.array(geometry.world_to_voxel(volume, row.world), FLOAT),
            'spacing': np.array(volume.spacing, FLOAT),
            'window': config.window,
        }
        yield key, {**_base.stored(image, config.is_array), **features, **facts}


def nodule_slice(config, volume, nodule, siblings):
    """Makes an image of the slice through a nodule.

    Args:
        config: Config.
        volume: Volume.
        nodule: luna16.Annotation.
        siblings: all luna16.Annotations of the volume.

    Returns:
        (uint8 [SIZE, SIZE], or int16 HU as stored, or framed; {'z', 'nodules': those that the
        slice cuts, 'frame': where it is framed}); (None, {}) where it is to be framed and no lungs
        are found.
    """
    z = geometry.nodule_slice(volume, nodule)
    image, facts = _as_stored(read_slice(volume, z), config.window), {'z': z}
    part, shape = framing.whole(image.shape), image.shape
    if config.framed:
        part = framing.frame(image)
        if part is None:
            return None, {}
        image, facts['frame'] = image[part], _bbox(framing.as_box(part, shape))
    elif config.window != 'hu' and shape != (SIZE, SIZE):
        # Boxes are shares of the image, so they stay right.
        image = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    facts['nodules'] = []
    for other in siblings:
        box = geometry.nodule_box(volume, other, z)
        if box and (box := framing.moved(box, part, shape)):
            chord = geometry.chord(volume, other, z)
            facts['nodules'].append({**_facts(other), 'box': _bbox(box), 'chord': chord})
    return image, facts


def patch(config, volume, row, nodules):
    """Makes an image of the patch around a row.

    Args:
        config: Config.
        volume: Volume.
        row: luna16.Annotation or luna16.Candidate.
        nodules: all luna16.Annotations of the volume.

    Returns:
        (uint8 or int16 HU [n, n] or [n, n, n]; {'nodules': those that reach into the patch}).
    """
    hu = geometry.patch(volume, row.world, config.millimetres, config.spacing, config.dimensions)
    inside = []
    for other in nodules:
        place = _place(config, np.subtract(other.world, row.world), other.diameter)
        if place is not None:
            inside.append({**_facts(other), **place})
    return _as_stored(hu, config.window), {'nodules': inside}


def _place(config, offset, diameter):
    """The features of where a nodule lies in a patch; None where it does not reach into it.

    `offset` is that of its centre from the centre of the patch, mm x y z.
    """
    extent, centre = config.pixels * config.spacing, {'centre': offset.astype(FLOAT)}
    if config.dimensions == 3:
        return centre if (np.abs(offset) < (extent + diameter) / 2).all() else None
    chord = geometry.disc(diameter, offset[2])
    box = geometry.square(offset[1::-1] + extent / 2, chord, (extent, extent)) if chord else None
    return {**centre, 'box': _bbox(box), 'chord': chord} if box else None


def _bbox(box):
    return tfds.features.BBox(*box)


def _facts(nodule):
    return {'diameter': nodule.diameter, 'row': nodule.row, 'malignancy': nodule.malignancy}


def _as_stored(hu, window):
    """HU -> int16 HU, or grey through a window."""
    if window == 'hu':
        return np.round(hu).astype(np.int16)
    if window == 'minmax':
        return windows.to_grey(hu, windows.whole_range(hu))
    return windows.to_grey(hu, windows.WINDOWS[window])


def slice_picture(config, path):
    """Yields the one (key, example) of a ready-made picture; none where it cannot be framed."""
    match = SLICE_NAME.fullmatch(path.name)
    series, z = match['series'], int(match['z'])
    key, (grey, _) = f'{series}_z{z:04d}', _base.read_grey(path)
    facts = {'id': key, 'group': series, 'series': series, 'z': z}
    if config.framed:
        grey = windows.rewindow(grey, windows.WINDOWS['lung'], windows.WINDOWS[config.window])
        part = framing.frame(grey)
        if part is None:
            return
        grey, facts['frame'] = grey[part], _bbox(framing.as_box(part, grey.shape))
    yield key, {**_base.stored(grey), **facts}


def _files(folder):
    """The paths of all files below a folder and in its archives."""
    return [path for path in archive.find(folder, '*') if path.suffix.lower() != '.zip']


def _is_png(path):
    return path.suffix.lower() == '.png'


def _slice_pictures(folder):
    """The paths of all slice pictures below a folder; each slice is there once."""
    expected, seen = 'SERIESUID.mhd_K.png', {}
    paths = [path for path in _files(folder) if _is_png(path)]
    for path in paths:
        match = SLICE_NAME.fullmatch(path.name)
        if not match:
            raise InputError(
                f'{path}: slice pictures must be named {expected}; rename or remove it'
            )
        other = seen.setdefault((match['series'], int(match['z'])), path)
        if other != path:
            raise InputError(f'{path}: is the same slice as {other}; keep one of the two')
    if not paths:
        raise InputError(f'{folder}: no slice pictures named {expected}')
    return paths

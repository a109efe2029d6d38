"""CT scans and pictures of any origin, with masks, labels and patients as far as there are any.

A config is a layout (layouts.py), which tells where files are. Volumes are kept whole, or as slices
with the ending `_slices`; with `_hu` images stay int16 HU, otherwise they are grey through the lung
window. Arrays run to the patient's left, to the back, and from foot to head.
"""

import dataclasses
import pathlib
import re
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from covjax import InputError
from covjax.ct import archive, contents, masks, volume, windows
from covjax.data import grouping, near_duplicates
from tfds_builders import _base
from tfds_builders.ct_scans.layouts import LAYOUTS, Layout, Scan
from tfds_builders.ct_scans.layouts import folder as layout_of_folder

NAME = re.compile(r'(?P<layout>\w+?)(?P<slices>_slices)?(?P<hu>_hu)?')
# The names of splits; official ones, or those of grouping.splits_of.
SPLITS = ('train', 'validation', 'test')
CHECKED = 24  # slices of a volume, or pictures of a folder, that its masks are compared with
MOST_CHECKED = 200
UNKNOWN = -1  # of a slice, where no table has it
PATIENTS_UNKNOWN = (
    'patients are not known: images that look alike '
    f'(correlation above {grouping.ALIKE} at 32x32 pixels) are of one group'
)
RUNS = f', and so are files whose numbers follow one another, {grouping.RUN} at a time'


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """What an example is: `layout` names the files, `slices` and `hu` say how they are kept."""

    layout: str = ''
    slices: bool = False
    hu: bool = False


def described(name):
    """The Config of a name such as covid_ct_md_slices_hu, or None where it describes none."""
    match = NAME.fullmatch(name)
    if not match or match['layout'] not in (*LAYOUTS, 'folder'):
        return None
    kept = 'slices' if match['slices'] else 'pictures or whole volumes'
    grey = 'int16 HU' if match['hu'] else 'grey, HU -1000..400'
    return Config(
        name=name,
        layout=match['layout'],
        slices=bool(match['slices']),
        hu=bool(match['hu']),
        description=f'{match["layout"]}: {kept}, {grey}.',
    )


# The configs that are listed; a name may also end in _hu.
NAMES = (
    *LAYOUTS,
    'folder',
    *(f'{name}_slices' for name, layout in LAYOUTS.items() if not layout.pictures),
    'folder_slices',
)


class Job(NamedTuple):
    """What one call of `examples` makes examples of."""

    scan: Scan
    group: str
    layout: Layout
    config: Config
    unchecked: bool  # whether masks are taken as they are


class Builder(_base.ArrayRecordBuilder):
    """One example a picture, a volume, or a slice of one.

    Splits are the official ones where there are any, otherwise by patient, or by what looks alike.

    Args:
        source: the folder of the files, for config `folder`, whose classes its tables name.
        unchecked_masks: whether to take masks that do not lie on the lungs of their images.
    """

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'Pictures, volumes and slices with masks, labels and patients.'}
    OPTIONS = ('source', 'unchecked_masks')
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'get the files of the data set and give their folder'
    BUILDER_CONFIGS = [described(name) for name in NAMES]

    def __init__(self, *, source='', unchecked_masks=False, **kwargs):
        self.source, self.unchecked = source, unchecked_masks
        super().__init__(**kwargs)

    @classmethod
    def described(cls, name):
        """Returns the Config that a name describes, or None."""
        return described(name)

    def layout(self, folder=''):
        """The Layout of the config; raises an InputError for a folder that is not described."""
        config = self.builder_config
        if config.layout in LAYOUTS:
            layout = LAYOUTS[config.layout]
        elif self.source or folder:
            layout = layout_of_folder(self.source or folder)
        else:
            raise InputError(f'ct_scans/{config.name}: give the builder its folder, source=FOLDER')
        if layout.pictures and (config.slices or config.hu):
            raise InputError(
                f'ct_scans/{config.name}: pictures have no slices and no HU; '
                f'choose ct_scans/{config.layout}'
            )
        return layout

    def _info(self):
        prepared = pathlib.Path(self._data_dir)
        if (prepared / 'features.json').is_file():  # what is there says what it is
            features = tfds.features.FeaturesDict.from_config(str(prepared))
        else:
            features = tfds.features.FeaturesDict(features_of(self.builder_config, self.layout()))
        return self.dataset_info_from_configs(
            features=features,
            supervised_keys=('image', 'label') if 'label' in features else None,
        )

    def scans(self, folder):
        """The Scans of a folder.

        Raises:
            InputError: there are none, or two of one name.
        """
        layout = self.layout(folder)
        scans = layout.scans(folder)
        if not scans:
            raise InputError(f'{folder}: no scans of {self.builder_config.layout}; {layout.give}')
        names = [scan.id for scan in scans]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f'{folder}: {sorted(twice)[0]} is there twice; keep one of the two')
        for scan in scans:
            if scan.mask and not (scan.mask.is_dir() or archive.is_file(scan.mask)):
                raise InputError(f'{scan.mask}: no such mask of {scan.id}; complete the folder')
        return scans

    def source_files(self, folder):
        """Lists images, masks and tables.

        Raises:
            InputError: the folder has another layout.
        """
        files = set()
        for scan in self.scans(folder):
            for path in filter(None, (scan.image, scan.mask)):
                files |= set(path.iterdir()) if path.is_dir() else {path}
        tables = [path for pattern in ('*.csv', '*.npy') for path in archive.find(folder, pattern)]
        return sorted(files | set(tables))

    def remark(self, folder):
        """Returns what a person should know: how images are split, what was not checked."""
        scans, layout = self.scans(folder), self.layout(folder)
        remarks = [self._remark_on_splits(scans)]
        if layout.pictures and layout.regions and not self.unchecked:
            remarks.append(_check_pictures(folder, scans, layout))
        return '; '.join(filter(None, remarks))

    def _remark_on_splits(self, scans):
        if all(scan.patient for scan in scans):
            return ''
        official = all(scan.split for scan in scans)
        return PATIENTS_UNKNOWN + ('' if official else RUNS)

    def _split_generators(self, dl_manager):
        folder = self.source_folder(dl_manager)
        layout, scans = self.layout(folder), self.scans(folder)
        groups = _groups(scans, layout)
        jobs = {split: [] for split in SPLITS}
        for scan, group, split in zip(scans, groups, _splits(scans, groups, layout)):
            jobs[split].append(Job(scan, group, layout, self.builder_config, self.unchecked))
        make = picture_example if layout.pictures else volume_examples
        return {
            split: self._generate_examples(make, jobs_of_split, split)
            for split, jobs_of_split in jobs.items()
            if jobs_of_split
        }


def features_of(config, layout):
    """The features of an example, {name: feature}."""
    is_volume = not layout.pictures and not config.slices
    features = dict(_base.COMMON)
    if is_volume or config.hu:
        shape = (None,) * (3 if is_volume else 2)
        dtype = np.int16 if config.hu else np.uint8
        features['image'] = tfds.features.Tensor(shape=(*shape, 1), dtype=dtype, encoding='zlib')
    features |= {
        'patient': tfds.features.Text(),
        'scan': tfds.features.Text(),
        # mm between pixels or voxels, (z, y, x); 0 where it is not known, as of pictures.
        'spacing': tfds.features.Tensor(shape=(3,), dtype=np.float32),
    }
    if layout.labels:
        features['label'] = tfds.features.ClassLabel(names=list(layout.labels))
    if layout.regions:
        features['mask'] = _mask_feature(is_volume, masks.classes(layout.regions))
    if config.slices:
        features['z'] = np.int32  # from foot to head, from 0
        for name, shape in layout.by_slice.items():
            features[name] = tfds.features.Tensor(shape=shape, dtype=np.int8)
    return features


def _mask_feature(is_volume, names):
    """The feature of a mask with the names of its classes."""
    if not is_volume:
        return tfds.features.LabeledImage(labels=list(names), shape=(None, None, 1))
    return {
        'classes': tfds.features.Tensor(
            shape=(None, None, None, 1), dtype=np.uint8, encoding='zlib'
        ),
        # Not read; it is where the names of the classes are kept.
        'names': tfds.features.ClassLabel(names=list(names)),
    }


# ---- groups and splits


def _groups(scans, layout):
    """What must not straddle train and test, of each scan: its patient where that is known."""
    if all(scan.patient for scan in scans):
        return [scan.patient for scan in scans]
    if not layout.pictures:
        return [scan.patient or scan.id for scan in scans]
    small = np.stack([near_duplicates.shrunk(_base.read_grey(scan.image)[0]) for scan in scans])
    keys = grouping.alike(small)
    patients = [scan.patient or f'without patient {i}' for i, scan in enumerate(scans)]
    keys = grouping.joined(keys, patients)
    if not all(scan.split for scan in scans):
        keys = grouping.joined(keys, grouping.in_runs([_stem(scan) for scan in scans]))
    first = {}
    return [first.setdefault(key, scan.id) for key, scan in zip(keys, scans)]


def _stem(scan):
    """The path of a scan without the ending."""
    return str(pathlib.PurePath(scan.id).with_suffix(''))


def _splits(scans, groups, layout):
    """The split of each scan: that of the data set, or by group."""
    by_group = grouping.splits_of(group for scan, group in zip(scans, groups) if not scan.split)
    splits = [scan.split or by_group[group] for scan, group in zip(scans, groups)]
    if layout.validation:
        of_train = [group for group, split in zip(groups, splits) if split == 'train']
        chosen = grouping.held_out(of_train, layout.validation)
        splits = [
            'validation' if split == 'train' and group in chosen else split
            for group, split in zip(groups, splits)
        ]
    return splits


# ---- pictures


def _read_picture(scan, layout):
    """(grey uint8 [H, W], classes uint8 [H, W] or None) of a picture, upright."""
    grey, _ = _base.read_grey(scan.image)
    mask = None
    if scan.mask:
        mask = masks.as_classes(masks.read_picture(scan.mask), layout.regions, scan.mask)
        masks.check_size(mask, grey, scan.mask)
    if layout.sideways:
        grey, mask = (None if array is None else array.T for array in (grey, mask))
    return grey, mask


def _check_pictures(folder, scans, layout):
    """Compares the masks of pictures, or of some of many, with the pictures; returns a remark."""
    chosen = np.unique(np.linspace(0, len(scans) - 1, min(len(scans), MOST_CHECKED)).astype(int))
    pairs = [_read_picture(scans[i], layout) for i in chosen]
    images, of_images = zip(*pairs)
    return masks.check_place(of_images, images, masks.classes(layout.regions), folder)


def picture_example(job):
    """Yields the one (key, example) of a picture."""
    grey, mask = _read_picture(job.scan, job.layout)
    yield job.scan.id, _example(job, job.scan.id, grey, mask, (0.0, 0.0, 0.0))


# ---- volumes


def volume_examples(job):
    """Yields (key, example) of a volume, or of each of its slices."""
    hu, spacing = _read_volume(job.scan, job.layout)
    image = hu if job.config.hu else windows.to_grey(hu)
    mask = _read_mask(job, hu) if job.scan.mask else None
    if not job.config.slices:
        yield job.scan.id, _example(job, job.scan.id, image, mask, spacing)
        return
    for z in range(len(image)):
        key = f'{job.scan.id}/z{z:03d}'
        of_slice = {'z': z, **_by_slice(job, z)}
        yield (
            key,
            _example(job, key, image[z], None if mask is None else mask[z], spacing, of_slice),
        )


def _read_volume(scan, layout):
    """(int16 HU [z, y, x], mm (z, y, x)) of a volume, turned to left, back and head."""
    if layout.grey_window:
        hu, grid, _ = volume.lps(_open(scan.image, '1,0'))
        if 0 <= hu.min() and hu.max() <= 255:
            low, high = windows.WINDOWS[layout.grey_window]
            hu, grid, _ = volume.lps(_open(scan.image, f'{(high - low) / 255},{low}'))
            return hu, grid.spacing[::-1]
    hu, grid, _ = volume.lps(_open(scan.image))
    return hu, grid.spacing[::-1]


def _open(path, hu=''):
    """The Volume of a file, or of a folder of DICOM files."""
    if not path.is_dir():
        return volume.open_volume(path, hu)
    found = contents.look(path, path / 'nothing is left out')
    return contents.open_series(found, hu)


def _read_mask(job, hu):
    """Classes uint8 [z, y, x] of the mask of a scan, compared with its HU."""
    path, names = job.scan.mask, masks.classes(job.layout.regions)
    mask = masks.as_classes(masks.read_volume(path), job.layout.regions, path)
    masks.check_size(mask, hu, path)
    if not job.unchecked:
        chosen = np.unique(np.linspace(0, len(hu) - 1, min(len(hu), CHECKED)).round().astype(int))
        masks.check_place([mask[chosen]], [windows.to_grey(hu[chosen])], names, path)
    return mask


def _by_slice(job, z):
    """{feature: value} of slice z, UNKNOWN where no table has it."""
    values = {}
    for name, shape in job.layout.by_slice.items():
        known = job.scan.by_slice.get(name)
        has_slice = known is not None and z < len(known)
        values[name] = known[z] if has_slice else np.full(shape, UNKNOWN, np.int8)
    return values


# ---- examples


def _example(job, key, image, mask, spacing, of_slice=None):
    """The features of an example."""
    as_array = job.config.hu or image.ndim == 3
    features = {
        **_base.stored(np.ascontiguousarray(image), as_array),
        'id': key,
        'group': job.group,
        'patient': job.scan.patient,
        'scan': job.scan.id,
        'spacing': np.array(spacing, np.float32),
        **(of_slice or {}),
    }
    if job.layout.labels:
        features['label'] = job.scan.label
    if mask is not None:
        features['mask'] = _stored_mask(mask)
    return features


def _stored_mask(mask):
    """The feature `mask` of classes uint8 [H, W] or [z, H, W]."""
    if mask.ndim == 2:
        return _base.png(mask)
    return {'classes': mask[..., None], 'names': 0}

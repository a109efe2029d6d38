"""CT scans and pictures of any origin, with masks, labels and patients where there are any.

A config is a layout (layouts.py), which tells where files are. Volumes are kept whole, with
`_1500um` on cubic voxels of 1.5 mm, or as slices with the ending `_slices`; with `_hu` images stay
int16 HU, otherwise they are grey through the lung window. `_framed` crops pictures and slices to
the lungs, slices in the window of the clinic; `_lesions96` cuts lesions and healthy lung out of
such pictures, brought to 96x96. Arrays run to the patient's left, to the back, and from foot to
head.
"""

import dataclasses
import pathlib
import re
import sys
from collections import Counter
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from covjax import InputError, counted
from covjax.ct import (
    archive,
    contents,
    framing,
    hounsfield,
    lungs,
    masks,
    resampling,
    volume,
    windows,
)
from covjax.data import datasets, grouping, lesion_patches, near_duplicates
from tfds_builders import _base
from tfds_builders.ct_scans.layouts import LAYOUTS, Layout, Scan
from tfds_builders.ct_scans.layouts import folder as layout_of_folder

NAME = re.compile(
    r'(?P<layout>\w+?)(?P<slices>_slices)?(_(?P<micrometres>\d{3,5})um)?(?P<hu>_hu)?'
    r'(?P<framed>_framed)?(?P<lesions>_lesions(?P<side>\d{2,3}))?'
)
OWN = ('folder', 'annotated')  # whose files tables name; the second is what a person corrected
# The names of splits; official ones, or those of grouping.splits_of.
SPLITS = ('train', 'validation', 'test')
FINEST, COARSEST = 300, 10_000  # micrometres a side of cubic voxels
CHECKED = 24  # slices of a volume that are compared with its mask
MOST_CHECKED = 200  # pictures of a folder that are compared with their masks, all at once
MOST_COMPARED = 20_000  # pictures without patients
UNKNOWN = -1  # of a slice, where no table has it
PATIENTS_UNKNOWN = 'patients are not known: '
OWN_GROUP = 'each scan is a group of its own'
LIKE_GROUP = (
    f'pictures that look alike (correlation above {grouping.ALIKE} at 32x32 pixels) are one group'
)
RUNS = f', and so are files whose numbers follow one another, {grouping.RUN} at a time'


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """What an example is: `layout` names the files, the others say how they are kept."""

    layout: str = ''
    slices: bool = False
    spacing: float = 0.0  # mm a side of cubic voxels; 0: voxels stay as they are
    hu: bool = False
    framed: bool = False
    side: int = 0  # of pictures, before patches of their lesions are cut out; 0: no patches

    @property
    def window(self):
        """The name of the window through which HU become grey."""
        return framing.WINDOW if self.framed else 'lung'


def described(name):
    """The Config of a name such as covid_ct_md_slices_hu, or None where it describes none."""
    match = NAME.fullmatch(name)
    if not match or match['layout'] not in (*LAYOUTS, *OWN):
        return None
    micrometres = int(match['micrometres'] or 0)
    if micrometres and (match['slices'] or not FINEST <= micrometres <= COARSEST):
        return None
    kept = 'slices' if match['slices'] else 'pictures or whole volumes'
    kept = f'volumes of cubic voxels of {micrometres / 1000:g} mm' if micrometres else kept
    config = Config(
        name=name,
        layout=match['layout'],
        slices=bool(match['slices']),
        spacing=micrometres / 1000,
        hu=bool(match['hu']),
        framed=bool(match['framed']),
        side=int(match['side'] or 0),
    )
    low, high = windows.WINDOWS[config.window]
    grey = 'int16 HU' if config.hu else f'grey, HU {low:g}..{high:g}'
    cropped = ', cropped to the lungs' if config.framed else ''
    config.description = f'{config.layout}: {kept}, {grey}{cropped}.'
    if config.side:
        config.description = (
            f'{config.layout}: patches of lesions and of healthy lung at the mirrored place, of '
            f'pictures of {config.side}x{config.side} cropped to the lungs.'
        )
    return config


# The configs that are listed; a name may also end in _1500um or another size of voxels, _hu,
# _framed or _lesionsN.
NAMES = (
    *LAYOUTS,
    *OWN,
    *(f'{name}_slices' for name, layout in LAYOUTS.items() if not layout.pictures),
    *(f'{name}_slices' for name in OWN),
)


class Job(NamedTuple):
    """What one call of `examples` makes examples of."""

    scan: Scan
    group: str
    layout: Layout
    config: Config
    hu: str  # config.hu, of volumes that are not in HU
    unchecked: bool  # whether masks are taken as they are


class Builder(_base.ArrayRecordBuilder):
    """One example per picture, volume, or slice of a volume.

    Splits are the official ones where there are any, otherwise by patient, or by what looks alike.

    Args:
        source: the folder of the files, for the configs OWN, whose classes their tables name.
        table: a table in place of the scans.csv of that folder; '' takes that.
        hu: 'SLOPE,INTERCEPT' for volumes whose values are not HU, HU = SLOPE x value + INTERCEPT;
            '' refuses such volumes.
        unchecked_masks: whether to take masks that do not lie on the lungs of their images.
    """

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {
        '1.1.0': 'The convolution kernel of DICOM.',
        '1.0.0': 'Pictures, volumes and slices with masks, labels and patients.',
    }
    OPTIONS = ('source', 'table', 'hu', 'unchecked_masks')
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'get the files of the data set and give their folder'
    BUILDER_CONFIGS = [described(name) for name in NAMES]

    def __init__(self, *, source='', table='', hu='', unchecked_masks=False, **kwargs):
        self.source, self.table = source, table
        self.hu, self.unchecked = hu, unchecked_masks
        self.read = {}  # {folder: its Layout, its Scans, the ids of those without a mask}
        self.found = []  # remarks of a build, '' among them
        self.names, self.unseen = (), set()  # classes of the masks, and those that none had yet
        super().__init__(**kwargs)

    @classmethod
    def described(cls, name):
        """Returns the Config that a name describes, or None."""
        return described(name)

    def layout(self, folder=''):
        """The Layout of the config; raises an InputError for a folder that is not described."""
        config = self.builder_config
        if config.layout in LAYOUTS:
            if self.table:
                raise InputError(
                    f'config.table={self.table}: ct_scans/{config.name} has tables of its own; '
                    'leave it empty, or prepare ct_scans/folder'
                )
            layout = LAYOUTS[config.layout]
        elif self.source or folder:
            layout = layout_of_folder(self.source or folder, self.table)
        else:
            raise InputError(f'ct_scans/{config.name}: give the builder its folder, source=FOLDER')
        if layout.pictures and (config.slices or config.spacing or config.hu or self.hu):
            raise InputError(
                f'ct_scans/{config.name}: pictures have no slices, no voxels and no HU; '
                f'choose ct_scans/{config.layout}, without config.hu'
            )
        if config.side and (layout.labels or not layout.pictures or not layout.regions):
            raise InputError(
                f'ct_scans/{config.name}: patches of lesions come from pictures with masks of '
                f'lesions and without labels; choose another layout than {config.layout}'
            )
        if config.framed and (config.hu or not (layout.pictures or config.slices)):
            kept = (
                f'{config.layout}_framed' if layout.pictures else f'{config.layout}_slices_framed'
            )
            raise InputError(
                f'ct_scans/{config.name}: only pictures and grey slices are framed; '
                f'choose ct_scans/{kept}'
            )
        return layout

    def _info(self):
        prepared = pathlib.Path(self._data_dir)
        if (prepared / 'features.json').is_file():  # what is there says what it is
            with datasets.readable(prepared, f'ct_scans/{self.builder_config.name}'):
                features = tfds.features.FeaturesDict.from_config(str(prepared))
        else:
            features = tfds.features.FeaturesDict(features_of(self.builder_config, self.layout()))
        return self.dataset_info_from_configs(
            features=features,
            supervised_keys=('image', 'label') if 'label' in features else None,
        )

    def scans(self, folder):
        """Reads the tables of a folder, once.

        Returns:
            (its Layout, its Scans, the ids of scans that are left out because they lack a mask).

        Raises:
            InputError: there are none, or two of one name, or a file is missing.
        """
        if folder not in self.read:
            layout = self.layout(folder)
            scans = layout.scans(folder)
            chosen = [scan for scan in scans if scan.mask or not layout.regions]
            if not chosen:
                what = 'masks' if scans else 'scans'
                raise InputError(
                    f'{folder}: no {what} of {self.builder_config.layout}; {layout.give}'
                )
            _check_files(folder, chosen)
            without = [scan.id for scan in scans if not scan.mask and layout.regions]
            self.read[folder] = layout, chosen, without
        return self.read[folder]

    def source_files(self, folder):
        """Lists images, masks and tables.

        Raises:
            InputError: the folder has another layout.
        """
        files = set()
        for scan in self.scans(folder)[1]:
            for path in filter(None, (scan.image, scan.mask)):
                files |= set(archive.walk(path)) if path.is_dir() else {path}
        tables = [path for pattern in ('*.csv', '*.npy') for path in archive.find(folder, pattern)]
        return sorted(files | set(tables) | self._named())

    def _named(self):
        """The set of the table that the builder was given, empty where there is none."""
        return {pathlib.Path(self.table).expanduser()} if self.table else set()

    def hashed_files(self, folder):
        """Tables, headers, and masks, which people edit without changing their size."""
        masks_of = {scan.mask for scan in self.scans(folder)[1]}
        return super().hashed_files(folder) | masks_of | self._named()

    def remark(self, folder):
        """Returns what a person should know: how images are split, what is left out."""
        layout, scans, without = self.scans(folder)
        remarks = list(layout.remarks)
        if not all(scan.patient for scan in scans):
            official = all(scan.split for scan in scans)
            how = LIKE_GROUP + ('' if official else RUNS) if layout.pictures else OWN_GROUP
            remarks.append(PATIENTS_UNKNOWN + how)
        if without:
            remarks.append(
                f'scans without a mask are left out: {len(without)} (first {without[0]})'
            )
        return '; '.join(remarks)

    @property
    def remarks(self):
        """Lines on what the last build has found, such as regions that no mask has."""
        lines = [line for line in self.found if line]
        if self.unseen:
            listed = ', '.join(name for name in self.names[1:] if name in self.unseen)
            whole = len(self.unseen) == len(self.names) - 1
            lines.append('all masks are empty' if whole else f'no mask has {listed}')
        return lines

    def _split_generators(self, dl_manager):
        folder = self.source_folder(dl_manager)
        layout, scans, _ = self.scans(folder)
        groups = _groups(folder, scans, layout)
        splits = _splits(scans, groups, layout)
        self.found = [_remark_on_groups(groups, splits), _remark_on_labels(scans, splits)]
        if layout.pictures and layout.regions and not self.unchecked:
            self.found.append(_check_pictures(folder, scans, layout))
        self.names = masks.classes(layout.regions)
        without_masks = self.beam or self.builder_config.side
        self.unseen = set() if without_masks else {*self.names[1:]}
        # Other processes are given jobs, and cannot be given functions made here.
        common = (layout._replace(scans=None), self.builder_config, self.hu, self.unchecked)
        make = picture_example if layout.pictures else volume_examples
        make = lesion_examples if self.builder_config.side else make
        generators = {}
        for split in SPLITS:
            chosen = [pair for pair, its in zip(zip(scans, groups), splits) if its == split]
            if jobs := [Job(scan, group, *common) for scan, group in chosen]:
                examples = self._generate_examples(make, jobs, split)
                generators[split] = examples if self.beam else self._watched(examples)
        config = self.builder_config
        leaves_out = config.framed or config.side
        return _base.without_empty(generators, folder) if leaves_out else generators

    def _watched(self, examples):
        """Yields (key, example) as they are, and notes which regions their masks have."""
        for key, example in examples:
            if self.unseen:
                self.unseen -= {self.names[i] for i in np.unique(_mask_of(example))}
            yield key, example


def _check_files(folder, scans):
    """Refuses Scans of one name, or whose files are not there."""
    names = Counter(scan.id for scan in scans)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f'{folder}: {twice[0]} is there twice; keep one of the two')
    for scan in scans:
        for path, what in ((scan.image, 'scan'), (scan.mask, 'mask')):
            if path is None or path.is_dir() or archive.is_file(path):
                continue
            packed = archive.archive_of(path)
            raise InputError(
                f'{path}: is a folder in an archive; unpack {packed.name}'
                if packed
                else f'{path}: no such {what} of {scan.id}; complete the folder'
            )


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
    if layout.pictures:
        features['file'] = dict(_base.FILE)
    else:
        # The convolution kernel, as the header of DICOM has it; '' where it is not known.
        features['kernel'] = tfds.features.Text()
    if config.framed or config.side:
        features['frame'] = tfds.features.BBoxFeature()  # in the picture or slice
    if config.side:
        features['label'] = tfds.features.ClassLabel(names=_base.LABELS)
    if layout.labels:
        features['label'] = tfds.features.ClassLabel(names=list(layout.labels))
    if layout.regions and not config.side:
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


def _groups(folder, scans, layout):
    """What must not straddle train and test, of each scan: its patient where that is known."""
    if all(scan.patient for scan in scans):
        return [scan.patient for scan in scans]
    if not layout.pictures:
        return [scan.patient or scan.id for scan in scans]
    if len(scans) > MOST_COMPARED:
        raise InputError(
            f'{folder}: {len(scans)} pictures without patients are too many to compare, at most '
            f'{MOST_COMPARED}; name the patient of each, or what comes nearest to it'
        )
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
    """The split of each scan: that of the data set, that of its group there, or one by group.

    Where the data set names the scans of a split, it gets no others.
    """
    official = {group: scan.split for scan, group in zip(scans, groups) if scan.split}
    shares = {
        split: share for split, share in grouping.SHARES.items() if split not in official.values()
    }
    by_group = grouping.splits_of([group for group in groups if group not in official], shares)
    by_group |= official
    splits = [scan.split or by_group[group] for scan, group in zip(scans, groups)]
    if layout.validation:
        of_train = [group for group, split in zip(groups, splits) if split == 'train']
        chosen = grouping.held_out(of_train, layout.validation)
        splits = [
            'validation' if split == 'train' and group in chosen else split
            for group, split in zip(groups, splits)
        ]
    return splits


def _remark_on_groups(groups, splits):
    """A line on the groups of images, and on those that the data set has in two splits; or ''."""
    sizes = Counter(groups)
    largest, count = sizes.most_common(1)[0]
    if count == 1:
        return ''
    in_groups = counted(len(sizes), 'group')
    remark = f'{len(groups)} images in {in_groups}, the largest of {count} ({largest})'
    pairs = Counter(group for group, _ in set(zip(groups, splits)))
    if straddling := sorted(group for group, count in pairs.items() if count > 1):
        remark += (
            f'; in more than one of the splits as published: {counted(len(straddling), "group")}'
        )
        remark += f' (first {straddling[0]})'
    return remark


def _remark_on_labels(scans, splits):
    """A line on splits that lack a class, or ''."""
    labels = {scan.label for scan in scans}
    found = {split: set() for split in SPLITS if split in splits}
    for scan, split in zip(scans, splits):
        found[split].add(scan.label)
    lacking = [
        f'{split} has no {", ".join(sorted(labels - there))}'
        for split, there in found.items()
        if there != labels
    ]
    return f'{"; ".join(lacking)}: name the splits in scans.csv' if lacking else ''


# ---- pictures


def _read_picture(scan, layout):
    """(grey uint8 [H, W], classes of the same shape or None, facts of its file) of a picture."""
    grey, facts = _base.read_grey(scan.image)
    mask = None
    if scan.mask:
        mask = masks.as_classes(masks.read_picture(scan.mask), layout.regions, scan.mask)
        masks.check_size(mask, grey, scan.mask)
    if layout.sideways:
        grey, mask = (None if array is None else array.T for array in (grey, mask))
    return grey, mask, facts


def _check_pictures(folder, scans, layout):
    """Compares the masks of pictures, or of some of many, with the pictures; returns a remark."""
    chosen = np.unique(np.linspace(0, len(scans) - 1, min(len(scans), MOST_CHECKED)).astype(int))
    pairs = [_read_picture(scans[i], layout) for i in chosen]
    images, of_images, _ = zip(*pairs)
    return masks.check_place(of_images, images, masks.classes(layout.regions), folder)


def picture_example(job):
    """Yields the one (key, example) of a picture."""
    grey, mask, facts = _read_picture(job.scan, job.layout)
    others = {'file': facts}
    if job.config.framed:
        # Those without plausible lungs are often cropped to the lungs already.
        part = framing.frame(grey) or framing.whole(grey.shape)
        grey, mask, others['frame'] = _framed(part, grey, mask)
    unknown = (0.0, 0.0, 0.0)
    yield job.scan.id, _example(job, job.scan.id, grey, mask, unknown, others)


def lesion_examples(job):
    """Yields (key, example) of patches: each lesion, and healthy lung at its mirrored place.

    They are levelled to the window of framed slices, by the lungs of the picture.
    """
    grey, mask, facts = _read_picture(job.scan, job.layout)
    part = framing.frame(grey) or framing.whole(grey.shape)
    grey, mask, box = _framed(part, grey, mask)
    size = (job.config.side, job.config.side)
    grey = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    unknown = (0.0, 0.0, 0.0)
    shown = framing.levelled(grey, lungs.mask_in_crop(grey))
    for i, pair in enumerate(lesion_patches.pairs(grey, mask > 0)):
        for label, square in zip(('covid', 'noncovid'), pair):
            key = f'{job.scan.id}/{i}_{label}'
            others = {'file': facts, 'frame': box, 'label': label}
            yield key, _example(job, key, shown[square], None, unknown, others)


# ---- volumes


def volume_examples(job):
    """Yields (key, example) of a volume, or of each of its slices."""
    hu, grid, code, kernel = _read_volume(job)
    mask = _read_mask(job, hu, grid, code) if job.scan.mask else None
    if job.config.spacing:
        hu, mask, grid = _resampled(job, hu, mask, grid)
    window = windows.WINDOWS[job.config.window]
    spacing, image = grid.spacing[::-1], hu if job.config.hu else windows.to_grey(hu, window)
    if not job.config.slices:
        yield job.scan.id, _example(job, job.scan.id, image, mask, spacing, {'kernel': kernel})
        return
    left_out = 0
    for z, shown in enumerate(image):
        key = f'{job.scan.id}/z{z:03d}'
        others = {'z': z, 'kernel': kernel, **_by_slice(job, len(image) - 1 - z)}
        region = None if mask is None else mask[z]
        if job.config.framed:
            part = framing.frame(shown)
            if part is None:
                left_out += 1
                continue
            shown, region, others['frame'] = _framed(part, shown, region)
        yield key, _example(job, key, shown, region, spacing, others)
    if left_out:
        remark = f'left out {left_out} of {len(image)} slices without plausible lungs'
        tqdm.write(f'{job.scan.image}: {remark}', file=sys.stderr)


def _read_volume(job):
    """(int16 HU [z, y, x] in LPS, grid.Grid, orientation of the file, kernel) of a volume."""
    path, window = job.scan.image, job.layout.grey_window
    if window and not job.hu:
        hu, *_ = volume.lps(_open(path, '1,0'))
        if 0 <= hu.min() and hu.max() <= 255:
            low, high = windows.WINDOWS[window]
            opened = _open(path, f'{(high - low) / 255},{low}')
            hu, grid, code = volume.lps(opened)
            hounsfield.check(hu, path)
            return hu, grid, code, opened.kernel
    opened = _open(path, job.hu)
    return *volume.lps(opened), opened.kernel


def _open(path, hu):
    """The Volume of a file, or of a folder of DICOM files; prints what was left out or changed."""
    remarks = []
    if path.is_dir():
        found = contents.look(path)
        if not found.dicom:
            raise InputError(
                f'{path}: is a folder without DICOM; name a volume file, a folder with one DICOM '
                'series, or pictures one by one'
            )
        opened, remarks = contents.open_series(found, hu), found.remarks
    else:
        opened = volume.open_volume(path, hu)
    for remark in [*remarks, *opened.remarks]:
        # Here, which may be a process of its own, nobody else can tell.
        tqdm.write(f'{path}: {remark}', file=sys.stderr)
    return opened


def _read_mask(job, hu, grid, code):
    """Classes uint8 [z, y, x] of the mask of a scan, compared with its HU and their grid.

    Args:
        job: Job.
        hu: int16 [z, y, x] of the scan.
        grid: grid.Grid of it.
        code: orientation of its file.
    """
    path, names = job.scan.mask, masks.classes(job.layout.regions)
    stored, own_grid = masks.read_volume(path)
    masks.check_size(stored, hu, path)
    mask = masks.as_classes(stored, job.layout.regions, path)
    if job.unchecked:
        masks.check_axes(path, grid, code)
    else:
        masks.check_grid(own_grid, grid, path)
        chosen = np.unique(np.linspace(0, len(hu) - 1, min(len(hu), CHECKED)).round().astype(int))
        mask_part, hu_part = mask[chosen], hu[chosen]
        if remark := masks.check_place([mask_part], [windows.to_grey(hu_part)], names, path):
            tqdm.write(f'{path}: {remark}', file=sys.stderr)
        masks.check_hu(mask_part, hu_part, names, job.scan.image)
    return mask


def _resampled(job, hu, mask, grid):
    """(HU, classes or None, their grid.Grid) on the cubic voxels of a config."""
    spacing = job.config.spacing
    grid.resampled(spacing).check(job.scan.image)  # before anything is allocated
    if mask is not None:
        mask = resampling.classes_to_spacing(mask, grid, spacing)
    hu, grid = resampling.to_spacing(hu, grid, spacing)
    return hu, mask, grid


def _by_slice(job, row):
    """{feature: value} of a row of the tables, UNKNOWN where no table has it."""
    values = {}
    for name, shape in job.layout.by_slice.items():
        known = job.scan.by_slice.get(name)
        has_row = known is not None and row < len(known)
        values[name] = known[row] if has_row else np.full(shape, UNKNOWN, np.int8)
    return values


# ---- examples


def _example(job, key, image, mask, spacing, others=None):
    """The features of an example, with others that only some kinds of images have."""
    as_array = job.config.hu or image.ndim == 3
    features = {
        **_base.stored(np.ascontiguousarray(image), as_array),
        'id': key,
        # What is before a '/' of a group would be taken for its source document.
        'group': job.group.replace('/', '_'),
        'patient': job.scan.patient,
        'scan': job.scan.id,
        'spacing': np.array(spacing, np.float32),
        **(others or {}),
    }
    if job.layout.labels:
        features['label'] = job.scan.label
    if mask is not None:
        features['mask'] = _stored_mask(mask)
    return features


def _framed(part, image, mask):
    """(image, mask or None, feature `frame`): what a frame shows of an image and its mask."""
    box = tfds.features.BBox(*framing.as_box(part, image.shape))
    return image[part], None if mask is None else mask[part], box


def _stored_mask(mask):
    """The feature `mask` of classes uint8 [H, W] or [z, H, W]."""
    if mask.ndim == 2:
        return _base.png(mask)
    return {'classes': mask[..., None], 'names': 0}


def _mask_of(example):
    """The classes uint8 of an example that `_example` has made."""
    stored = example['mask']
    if isinstance(stored, dict):
        return stored['classes']
    return datasets.volume(stored)

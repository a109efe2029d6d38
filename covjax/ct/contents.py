"""What a folder holds: pictures, volume files, DICOM slices, and what is none of these."""

import pathlib
import re
from collections import defaultdict
from typing import NamedTuple

from covjax import InputError, counted, drafts
from covjax.ct import archive, dicom, volume

PICTURES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp')
VOXELS = ('.raw', '.zraw', '.raw.gz')  # endings of what lies beside a header of a volume
# What DICOM media carry beside the images.
DIRECTORIES = ('DICOMDIR',)
NAMED_DICOM = ('.dcm', '.dicom', '.ima')  # endings of files that are DICOM unless damaged
WRITTEN = ('config.json', 'environment.json')  # by every run into its workdir


class Contents(NamedTuple):
    """The files of a folder and its sub-folders by kind, each sorted."""

    folder: pathlib.Path
    pictures: list[pathlib.Path]
    volumes: list[pathlib.Path]
    dicom: list[pathlib.Path]
    others: list[pathlib.Path]

    @property
    def remarks(self):
        """A line that reports what was left out, if anything."""
        names = [str(path.relative_to(self.folder)) for path in self.others if not self._has(path)]
        if not names:
            return []
        one, several = (
            'file that is neither a picture nor CT',
            'files that are neither pictures nor CT',
        )
        return [dicom.named(names, one, several)]

    def _has(self, path):
        """Whether a file has the voxels of a volume whose header lies beside it."""
        headers = (v for v in self.volumes if v.suffix.lower() in volume.WITH_DATA_FILE)
        names = {header.with_suffix(ending) for header in headers for ending in VOXELS}
        return path in names


def look(folder, without=None):
    """Looks at every file of a folder and its sub-folders.

    Pictures and volume files are known by their endings, DICOM by its content. Linked folders are
    followed; what lies in the workdir of an earlier run is none of these.

    Args:
        folder: pathlib.Path.
        without: pathlib.Path of a folder that is passed over, such as the workdir of the run, whose
            files are no input; None where there is none.

    Returns:
        Contents.
    """
    found = Contents(folder, [], [], [], [])
    within = without is not None and folder.resolve() in without.resolve().parents
    known = {}  # {folder: whether a run wrote it}
    for path in sorted(archive.walk(folder)):
        if within and without.resolve() in path.resolve().parents:
            continue
        if any(_is_workdir(parent, known) for parent in path.parents if folder in parent.parents):
            found.others.append(path)
        else:
            _list_of(found, path).append(path)
    return found


def _is_workdir(folder, known):
    """Whether a folder is a run's, whose files are no input, or half written; noted in `known`."""
    if folder not in known:
        known[folder] = _was_written(folder) or folder.name.endswith(drafts.ENDING)
    return known[folder]


def _was_written(folder):
    """Whether a folder is the workdir of a run."""
    return all((folder / name).is_file() for name in WRITTEN)


def _list_of(found, path):
    """The list of Contents that a file belongs to."""
    if archive.is_companion(path) or path.name.upper() in DIRECTORIES:
        return found.others
    if path.suffix.lower() in PICTURES:
        return found.pictures
    if volume.suffix(path):
        return found.volumes
    if dicom.is_dicom(path):
        return found.dicom
    return found.others


def one_kind(found):
    """Refuses a folder whose meaning would have to be guessed.

    Raises:
        InputError: it holds pictures and CT, several volumes, or nothing to read.
    """
    kinds = [kind for kind in (found.pictures, found.volumes, found.dicom) if kind]
    if len(kinds) > 1:
        first, second = (kind[0].relative_to(found.folder) for kind in kinds[:2])
        raise InputError(
            f'{found.folder}: holds {first} and {second}, which are of different kinds; '
            'give one of the volumes, or a folder of one kind'
        )
    if found.volumes:
        raise InputError(
            f'{found.folder}: holds {counted(len(found.volumes), "volume file")} '
            f'(first {found.volumes[0].name}); give one of them'
        )
    if not kinds:
        listed = f' ({found.remarks[0]})' if found.others else ''
        raise InputError(
            f'{found.folder}: holds no picture and no CT{listed}; give pictures '
            f'({", ".join(PICTURES)}), a volume, or a folder with one DICOM series'
        )


def _check_no_workdir(source):
    """Refuses the workdir of another run, whose own pictures would be taken for input."""
    if _was_written(source):
        raise InputError(
            f'config.input={source}: is the workdir of a run; give the folder in it that has the '
            'images'
        )


def _check_no_hu(source, hu):
    """Refuses config.hu beside pictures."""
    if hu:
        raise InputError(f'config.hu={hu}: {source} has pictures, which have no HU; leave it out')


def open_series(found, hu=''):
    """The Volume of the DICOM files of a folder.

    Args:
        found: Contents.
        hu: config.hu.

    Raises:
        InputError: they are not one complete CT series, or a file is DICOM by its name alone.
    """
    damaged = [path for path in found.others if path.suffix.lower() in NAMED_DICOM]
    if damaged := [path for path in damaged if not archive.is_companion(path)]:
        raise InputError(
            f'{damaged[0]}: is no DICOM file, whatever its name says; copy it again, or remove it '
            'if it is no slice of the series'
        )
    return volume.of_header(dicom.open_series(found.folder, found.dicom), hu)


def inputs(source, hu, workdir):
    """What a file or folder holds to work on: pictures, or one CT volume.

    Args:
        source: pathlib.Path, config.input.
        hu: config.hu.
        workdir: pathlib.Path of the run; what lies there is no input.

    Returns:
        (pathlib.Paths of pictures, sorted, or []; volume.Volume where there are none, or None;
        lines on what was left out).

    Raises:
        InputError: it is not there, holds nothing to work on, or what is meant would be a guess.
    """
    if not source.exists():
        raise InputError(f'config.input={source}: no such file or folder')
    if not source.is_dir():
        if source.suffix.lower() in PICTURES:
            _check_no_hu(source, hu)
            return [source], None, []
        ct = volume.open_volume(source, hu)
        return [], ct, list(ct.remarks)
    if source.resolve() == workdir.resolve():
        raise InputError(f'config.input={source}: is the --workdir too; choose another --workdir')
    _check_no_workdir(source)
    found = look(source, workdir)
    one_kind(found)
    if found.pictures:
        _check_no_hu(source, hu)
        return found.pictures, None, found.remarks
    ct = open_series(found, hu)
    return [], ct, [*found.remarks, *ct.remarks]


def scans(source, hu, workdir):
    """The same as `inputs`, but of a folder that may hold many scans.

    Each volume file is a scan, and so is each folder of DICOM files, unless all of them are of one
    series.

    Args:
        source, hu, workdir: as for `inputs`.

    Returns:
        (pathlib.Paths of pictures or [], [volume.Volume] whose headers are read, remarks).

    Raises:
        InputError: as for `inputs`, or a scan is damaged.
    """
    if not source.is_dir() or source.resolve() == workdir.resolve():
        return _listed(inputs(source, hu, workdir))
    _check_no_workdir(source)
    found, remarks = _without_strays(look(source, workdir))
    series = defaultdict(list)
    for path in found.dicom:
        series[path.parent].append(path)
    numbers = [dicom.series_of(files[0]) for files in series.values()]
    if found.pictures or (not found.volumes and len(set(numbers)) < 2):
        files, volumes, others = _listed(inputs(source, hu, workdir))
        return files, volumes, [*remarks, *others]
    if len(set(numbers)) < len(numbers):
        raise InputError(
            f'{source}: a DICOM series lies in more than one folder beside other scans; give each '
            'series a folder of its own'
        )
    volumes = [volume.open_volume(path, hu) for path in found.volumes]
    for folder, files in series.items():
        others = [path for path in found.others if path.parent == folder]
        volumes.append(open_series(Contents(folder, [], [], files, others), hu))
    remarks += [f'{ct.path}: {remark}' for ct in volumes for remark in ct.remarks]
    return [], sorted(volumes, key=lambda ct: ct.path), [*found.remarks, *remarks]


MASK_OF = re.compile(r'(.+?)[_-](mask|seg|label)s?', re.IGNORECASE)


def _without_strays(found):
    """Contents without what lies among scans and is none, and lines that say so.

    That are folders of DICOM files without any CT slice, as scouts have, and masks that are called
    after the volume beside them, such as scan_mask.nii.gz.
    """
    remarks, folders = [], defaultdict(list)
    for path in found.dicom:
        folders[path.parent].append(path)
    without = {folder for folder, files in folders.items() if not dicom.has_ct(files)}
    if without and len(without) < len(folders) + len(found.volumes):
        names = [str(folder.relative_to(found.folder)) for folder in without]
        remarks.append(dicom.named(names, 'folder without CT slices', 'folders without CT slices'))
        found = found._replace(dicom=[path for path in found.dicom if path.parent not in without])
    stems = {path.parent / path.name[: -len(volume.suffix(path))] for path in found.volumes}
    masks = []
    for path in found.volumes:
        match = MASK_OF.fullmatch(path.name[: -len(volume.suffix(path))])
        if match and path.parent / match[1] in stems:
            masks.append(path)
    if masks:
        remarks.append(
            dicom.named(
                [path.name for path in masks],
                'mask of the scan beside it',
                'masks of the scans beside them',
            )
        )
        found = found._replace(volumes=[path for path in found.volumes if path not in masks])
    return found, remarks


def _listed(found):
    """What `inputs` returns, with the volume in a list."""
    files, ct, remarks = found
    return files, [ct] if ct else [], remarks

"""A folder with a folder for each class, read without a table.

What the names of folders and files do not say for certain is refused, with what to do, rather than
guessed; what is no CT is left out, and a line says so.
"""

import re
from collections import Counter, defaultdict
from typing import NamedTuple

from covjax import InputError, joined
from covjax.ct import contents

# Folders of these names are splits or parts of a data set of another layout, and no classes.
NO_CLASSES = re.compile(
    r'(train|test|val|valid|validation)(ing)?(_?(set|data))?|images?|masks?|labels?|annotations?'
)
MASK = re.compile(r'(^|[\W_])(mask|seg|segmentation)s?($|[\W_])', re.IGNORECASE)
AS_TABLE = 'give a table scans.csv that names the files'


class Found(NamedTuple):
    """A picture, a volume file, or the folder of a DICOM series."""

    path: object  # pathlib.Path
    label: str
    patient: str  # '' where it is not known


def read(source):
    """What a folder (pathlib.Path) holds that has a folder for each class.

    The first folder below that of a class is a patient; pictures and volumes right in the folder of
    a class are of patients who are not known. A folder with DICOM files is one series. Workdirs of
    earlier runs, hidden folders and files of other kinds are left out.

    Returns:
        ([Found], [remark]); no Found where there are not two such folders.

    Raises:
        InputError: what lies there has more than one meaning.
    """
    holds = contents.look(source)
    kinds = {'picture': holds.pictures, 'volume': holds.volumes, 'DICOM slice': holds.dicom}
    files = [(path, kind) for kind, paths in kinds.items() for path in paths]
    left_out = [path for path, _ in files if not _is_of_a_class(path.relative_to(source))]
    files = [(path, kind) for path, kind in files if path not in left_out]
    names = {path.relative_to(source).parts[0] for path, _ in files}
    if len(names) < 2:
        return [], []
    _check_names(source, names)
    found, in_folder = {}, defaultdict(dict)
    for path, kind in files:
        label, *between = path.relative_to(source).parts[:-1]
        is_slice = kind == 'DICOM slice'
        _check(path, is_slice and not between)
        in_folder[path.parent].setdefault(kind, path)
        place = path.parent if is_slice else path
        found[place] = Found(place, label, between[0] if between else '')
    for folder, of_kinds in in_folder.items():
        _check_one_kind(folder, of_kinds)
    holds.others.extend(left_out)
    ordered = [found[place] for place in sorted(found)]
    return ordered, [_counts(ordered), *holds.remarks]


def _is_of_a_class(path):
    """Whether a path below the source lies in the folder of a class, and in no hidden one."""
    return len(path.parts) > 1 and not any(part.startswith('.') for part in path.parts)


def _check(path, loose):
    """Refuses a mask, and a DICOM slice right in the folder of a class (`loose`)."""
    if loose:
        raise InputError(
            f'{path}: is a DICOM slice right in the folder of a class; '
            'put each series into a folder of its own there'
        )
    if MASK.search(path.name.partition('.')[0]):
        raise InputError(f'{path}: is called like a mask, which a folder cannot say; {AS_TABLE}')


def _check_one_kind(folder, of_kinds):
    """Refuses a folder with files of two kinds, {kind: the first}: one is made from the other."""
    if len(of_kinds) > 1:
        listed = joined(f'a {kind} ({path.name})' for kind, path in of_kinds.items())
        raise InputError(f'{folder}: holds {listed}; keep files of one kind there')


def _check_names(source, names):
    """Refuses names of folders that are no classes."""
    if wrong := sorted(name for name in names if NO_CLASSES.fullmatch(name.lower())):
        raise InputError(
            f'{source}: the folder {wrong[0]} is called like a split or a part of a data set, not '
            f'like a class; rename it, or {AS_TABLE}'
        )


def _counts(found):
    """A line with the number of files and of patients of each class."""
    files = Counter(each.label for each in found)
    patients = Counter(label for label, patient in {each[1:] for each in found} if patient)
    counted = (
        f'{label} {count}' + (f' ({patients[label]} known patients)' if patients[label] else '')
        for label, count in files.items()
    )
    return f'a folder for each class: {joined(counted)}'

"""Rounds in which a person corrects what a segmenter has drawn: their files, and what was edited.

The folder of a project has a folder for each round, round_1, round_2 and so on, with

    round.json    what drew the drafts, and of which regions
    worklist.csv  the files, most uncertain first; the person fills in `done` and `minutes`
    scans/        the images, volumes as NIfTI in HU
    masks/        drafts that the person edits
    drafts/       the same as they were drawn, to be compared with
    taken.json    what was taken back of them, once it was
    network/      the training that went on from there

and tables scans.csv and regions.csv, by which the config `annotated` of ct_scans reads what was
taken in all rounds.
"""

import csv
import io
import pathlib
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np

from covjax import InputError
from covjax.ct import archive, masks
from covjax.ct.nifti import GZIP
from covjax.metrics import segmentation as metrics
from covjax.workdir import read_json, write_csv, write_json

WORKLIST = ('file', 'uncertainty', 'percent of lungs', 'done', 'minutes')
SCANS, REGIONS = ('file', 'mask', 'patient', 'split'), ('value', 'region')
STEPS = ('predict', 'take', 'train')
ORDERS = ('uncertain', 'random')
FOLDER = 'round_'
# In the column done; other words are refused, because nobody knows what they mean.
DONE = ('x', '1', 'y', 'yes', 'true', 'done', 'ok', '✓', '✔')
NOT_DONE = ('', '0', 'n', 'no', 'false', '-')
FILES = {  # the folders of a round, and what to do where a file of one is missing
    'scans': 'copy it there again',
    'masks': 'save the mask under its old name',
    'drafts': 'put it back, or remove that round and draw it again',
}
VOLUME, PICTURE = '.nii.gz', '.png'  # endings of the files of a round
JOINED_FROM = 1000  # values of masks that stand for further names of joined regions, and are unused
SAVE_AS = 'save it as CSV in UTF-8 with the columns ' + ','.join(WORKLIST)
CORRECT = 'correct the mask: these are its only regions'


class About(TypedDict):
    """What round.json has."""

    segmenter: str  # workdir of the training that drew the drafts, seen from the project if inside
    input: str  # folder of the unlabelled images
    hu: str  # config.hu
    ending: str  # VOLUME or PICTURE
    classes: list[str]  # of the masks, the background first; joined regions as 'a+b'
    dataset: str  # config of ct_scans that reads what is taken
    order: str
    images: dict[str, str]  # {name: SHA-256 of its pixels or HU}


class Taken(TypedDict):
    """What is noted of one file that was taken back."""

    name: str
    edited: float | None  # voxels changed, in shares of those in the draft or in the final mask
    dice: float | None  # of draft and final mask, the mean over regions
    minutes: NotRequired[float | None]


class Round(NamedTuple):
    """One round of a project."""

    number: int
    folder: pathlib.Path
    about: About
    taken: list[Taken] | None  # None until they are taken

    @property
    def network(self):
        """The folder of the training that goes on after it."""
        return self.folder / 'network'

    def file(self, kind, name):
        """The path of an image ('scans'), a mask ('masks') or a draft ('drafts')."""
        return self.folder / kind / f'{name}{self.about["ending"]}'


def read(workdir):
    """The Rounds of a project (pathlib.Path), in their order; [] where there are none.

    Raises:
        InputError: a file of a round is damaged, or a round is missing before another.
    """
    numbers = [
        int(folder.name[len(FOLDER) :])
        for folder in workdir.glob(f'{FOLDER}[0-9]*')
        if folder.name[len(FOLDER) :].isdigit()
    ]
    for number in range(1, max(numbers, default=0) + 1):
        if number not in numbers:
            raise InputError(
                f'{folder_of(workdir, number)}: is missing before {FOLDER}{max(numbers)}; put it '
                'back, or begin in another --workdir'
            )
    return [_read(workdir, number) for number in sorted(numbers)]


def _read(workdir, number):
    """One Round of a project."""
    folder = folder_of(workdir, number)
    taken = folder / 'taken.json'
    known = read_json(taken, list[Taken]) if taken.is_file() else None
    return Round(number, folder, read_json(folder / 'round.json', About), known)


def folder_of(workdir, number):
    """The folder of a round of a project."""
    return workdir / f'{FOLDER}{number}'


def taken_images(found):
    """The hashes of all images that were taken in some Rounds."""
    return {each.about['images'][one['name']] for each in found for one in each.taken or ()}


def write_worklist(file, rows):
    """Writes the worklist of a round.

    Args:
        file: pathlib.Path.
        rows: (name, uncertainty, percentage of infection or '') of each image, in order.
    """
    write_csv(file, [WORKLIST, *((*row, '', '') for row in rows)])


def read_done(one):
    """The files of a Round that its worklist calls done.

    Returns:
        [(name, minutes or None)].

    Raises:
        InputError: none is done, or the table is not what was written, as a spreadsheet may save
            it.
    """
    file = one.folder / 'worklist.csv'
    _check_strays(one)
    known, done = {in_tables(name): name for name in one.about['images']}, {}
    for number, row in _rows(file):
        if not _is_done(file, number, row['done']):
            continue
        name = known.get(in_tables(row['file']))
        if name is None or name in done:
            what = 'again' if name else 'which is no image of this round'
            raise InputError(
                f'{file}: line {number} names {row["file"]}, {what}; leave `file` as it was'
            )
        for kind, remedy in FILES.items():
            if not one.file(kind, name).is_file():
                raise InputError(
                    f'{file}: line {number} names {name}, and {one.file(kind, name)} is not there; '
                    f'{remedy}'
                )
        done[name] = _minutes(file, number, row['minutes'])
    if not done:
        raise InputError(
            f'{file}: nothing is marked as done; write x in the column done of each mask that you '
            'have looked at'
        )
    return list(done.items())


def in_tables(name):
    """A name as a spreadsheet may leave it: without blanks around it or an apostrophe before it.

    An apostrophe is put before what would be calculated otherwise.
    """
    return name.strip().lstrip("'").strip()


def check_names(names):
    """Refuses names of images that tables cannot tell apart.

    Raises:
        InputError: there are such.
    """
    seen = {}
    for name in names:
        other = seen.setdefault(in_tables(name), name)
        if other != name:
            raise InputError(
                f'{name!r} and {other!r} differ only in blanks or an apostrophe, which tables do '
                'not keep; rename one of the two'
            )


def _is_done(file, number, word):
    """Whether a word in the column done says that it is."""
    if word.lower() in NOT_DONE:
        return False
    if word.lower() not in DONE:
        raise InputError(
            f'{file}: line {number} has {word!r} in the column done; write x where the mask is '
            'done, and nothing where it is not'
        )
    return True


def _check_strays(one):
    """Refuses files beside the masks of a Round, which an editor may have saved instead."""
    own = {one.file('masks', name) for name in one.about['images']}
    for file in sorted((one.folder / 'masks').rglob('*')):
        is_hidden = file.name.startswith('.') or archive.is_companion(file)
        if file.is_file() and file not in own and not is_hidden:
            raise InputError(
                f'{file}: is no mask of this round; save it under the name that it had '
                f'({one.about["ending"]}), or remove it'
            )


def _rows(file):
    """[(number of the line, {column: stripped text})] of a worklist."""
    try:
        text = file.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError):
        raise InputError(f'{file}: cannot be read as text in UTF-8; {SAVE_AS}') from None
    # Spreadsheets of some countries write semicolons or tabs.
    first = text.splitlines()[0] if text.strip() else ''
    lines = io.StringIO(text, newline='')
    delimiter = max(',;\t', key=first.count)
    reader = csv.DictReader(lines, delimiter=delimiter)
    if not {*WORKLIST} <= {(name or '').strip().lower() for name in reader.fieldnames or ()}:
        raise InputError(f'{file}: has the columns {first or "of nothing"}; {SAVE_AS}')
    plain = lambda row: {key.strip().lower(): (row[key] or '').strip() for key in row if key}
    return [(reader.line_num, plain(row)) for row in reader]


def _minutes(file, number, text):
    """A number of minutes, None where there is none."""
    if not text:
        return None
    try:
        minutes = float(text.replace(',', '.'))
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < 1e5:
        raise InputError(f'{file}: line {number} has {text} minutes; write a number, or nothing')
    return minutes


def read_mask(one, kind, name):
    """The classes uint8 [slices, H, W] of a mask or draft of a Round, of a volume in LPS.

    Raises:
        InputError: it is damaged, or has values that are no regions.
    """
    file = one.file(kind, name)
    check_packed(file)
    stored = read_values(file, one.about['ending'])
    return masks.as_classes(stored, dict(enumerate(one.about['classes'])), file, CORRECT)


def check_packed(file):
    """Refuses a volume of a round that is not packed with gzip, as its name says that it is.

    Args:
        file: pathlib.Path.

    Raises:
        InputError: it is not packed.
    """
    with open(file, 'rb') as content:
        is_packed = content.read(2) == GZIP
    if file.name.endswith(VOLUME) and not is_packed:
        raise InputError(
            f'{file}: is no NIfTI packed with gzip, as its name says; save it again as {VOLUME} '
            'under that name'
        )


def read_values(file, ending):
    """The values of a mask as they are stored: int16 [z, y, x] in LPS, uint8 [1, y, x] of PNG.

    Args:
        file: pathlib.Path.
        ending: VOLUME or PICTURE.

    Raises:
        InputError: it is damaged, or no mask.
    """
    return masks.read_volume(file)[0] if ending == VOLUME else masks.read_picture(file)[None]


def compared(draft, final, file):
    """How a draft and the mask that a person made of it differ.

    Args:
        draft, final: uint8 of one shape, classes.
        file: path of the mask, for messages.

    Returns:
        (share of the voxels in either mask whose class was changed, mean Dice over the regions that
        either has); both None where both are empty.

    Raises:
        InputError: their shapes differ.
    """
    masks.check_size(final, draft, file)
    either = np.count_nonzero((draft > 0) | (final > 0))
    if not either:
        return None, None
    edited = np.count_nonzero(draft != final) / either
    regions = np.union1d(np.unique(draft), np.unique(final))
    return edited, float(np.mean([metrics.dice(draft == r, final == r) for r in regions if r]))


def write_tables(workdir, found):
    """Writes scans.csv and regions.csv of all that was taken in some Rounds of a project.

    All are for training. The first folder of a name is the patient, where there is one.
    """
    rows = []
    for one in found:
        for each in one.taken:
            files = (one.file(kind, each['name']) for kind in ('scans', 'masks'))
            paths = [file.relative_to(workdir).as_posix() for file in files]
            first, *others = pathlib.PurePath(each['name']).parts
            rows.append([*paths, first if others else '', 'train'])
    write_csv(workdir / 'scans.csv', [SCANS, *rows])
    regions = [
        (value if i == 0 else JOINED_FROM + 100 * value + i, region)
        for value, joined in enumerate(found[-1].about['classes'][1:], 1)
        for i, region in enumerate(joined.split('+'))
    ]
    write_csv(workdir / 'regions.csv', [REGIONS, *regions])


def summary(one):
    """What a Round came to: a dict for the table of rounds, None where nothing is known."""
    mean = lambda key: _mean([each.get(key) for each in one.taken])
    minutes = [each.get('minutes') for each in one.taken]
    return {
        'round': one.number,
        'segmenter': one.about['segmenter'],
        'order': one.about['order'],
        'files': len(one.taken),
        'edited': mean('edited'),
        'dice': mean('dice'),
        'minutes': mean('minutes') if None not in minutes else None,
    }


def _mean(values):
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def note_taken(one, taken):
    """Notes what was taken of a Round -> the Round with it."""
    write_json(one.folder / 'taken.json', taken)
    return one._replace(taken=taken)

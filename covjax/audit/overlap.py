"""Whether test images were used before: in training or to choose the checkpoint.

It asks for the pictures themselves, their patients, documents and series, and near copies of them.
"""

from typing import NamedTuple

import numpy as np

from covjax import counted
from covjax.audit.verdict import Verdict
from covjax.ct import picture
from covjax.data import lineage
from covjax.data.near_duplicates import SIZE, THRESHOLD, copies, shrunk
from covjax.data.rows import Row
from covjax.pages.html import Figure

NAME = 'overlap and near-duplicates'
RULE = (
    f'Red flag for any. Near copies have a correlation above {THRESHOLD} at {SIZE}x{SIZE}, share '
    'fine structure, and are not known to be of one patient: look at them. They are searched for '
    'among the images of training, validation and config.baseline.'
)
COLUMNS = ('test', 'what', 'number')
CAPTION = 'Near copies, one above the other: a training or validation image and a test image'
# What data.lineage.overlap counts, as the table says it.
COUNTED = {
    'images': 'picture was trained on',
    'groups': 'patient or series was',
    'documents': 'document or series was',
    'validation': 'picture, patient or series chose the checkpoint',
}
NOTHING_FOUND = (
    'No test image, patient, document or series was used before, and no near copy was found.'
)
NOTHING_BEFORE = 'The images of training and validation are not known.'
SHOWN = 24  # near copies of a test set
ENLARGED = 3  # times, in the picture of the page


class Picture(NamedTuple):
    """A stored picture and the set that it is in."""

    set: str  # 'real', 'training', 'validation' or the name of a test
    grey: np.ndarray  # uint8 [H, W] at stored size
    row: Row


def pictures_before(subject):
    """The Pictures of a subject that are known to have been used before a test, each once."""
    # The real images are what the generator learned from, as far as an audit can know.
    sets = {'real': subject.real, 'training': subject.train, 'validation': subject.validation}
    by_hash = {
        row.sha256: Picture(name, grey, row)
        for name, images in sets.items()
        if images is not None
        for grey, row in images.native
    }
    return list(by_hash.values())


def near_copies(before, tested):
    """Pairs of nearly the same picture.

    Those with the same pixels, or known to be of one patient, are left out: lineage counts them.

    Args:
        before, tested: lists of Picture.

    Returns:
        [(correlation, Picture of before, Picture of tested)], the most alike first.
    """
    pairs = copies(*([(each.grey, each.row) for each in some] for some in (before, tested)))
    return [(value, before[i], tested[j]) for value, i, j in pairs]


def check(subject):
    """The Verdict of what lineage counts and of near copies, on every test set."""
    if subject.train is None and not subject.lineage:
        return Verdict(name=NAME, flag=None, finding=NOTHING_BEFORE)
    rows, used_before, shown = [], [], []
    before = pictures_before(subject)
    for test, images in subject.tests.items():
        counts, _ = lineage.overlap(subject.lineage, images.examples)
        alike = near_copies(before, [Picture(test, grey, row) for grey, row in images.native])
        for kind, text in COUNTED.items():
            rows.append((test, f'test images whose {text}', counts[kind]))
        rows.append((test, 'near copies of training, validation or real images', len(alike)))
        for value, first, second in alike[:SHOWN]:
            pair = f'{second.row.id} is like {first.row.id} ({first.set})'
            rows.append((test, pair, f'{value:.4f}'))
        shown += alike[:SHOWN]
        found = [counted(n, kind.removesuffix('s'), kind) for kind, n in counts.items() if n]
        if alike:
            found.append(counted(len(alike), 'near copy', 'near copies'))
        if found:
            used_before.append(f'{test}: {", ".join(found)}')
    if used_before:
        finding = '; '.join(used_before) + '.'
    else:
        finding = NOTHING_FOUND
    return Verdict(
        name=NAME,
        flag=bool(used_before),
        finding=finding,
        rule=RULE,
        columns=COLUMNS,
        rows=tuple(rows),
        figures=_figures(shown, subject.folder / 'near_duplicates.png'),
    )


def _figures(alike, path):
    """Draws near copies side by side, each pair one above the other -> figures of a Verdict."""
    if not alike:
        return ()
    columns = [
        np.vstack([_enlarged(first.grey), _enlarged(second.grey)]) for _, first, second in alike
    ]
    picture.save(path, np.hstack(columns))
    return (Figure(path, CAPTION),)


def _enlarged(grey):
    """What is compared of a picture uint8 [H, W], as uint8 RGB."""
    return np.repeat(shrunk(grey).repeat(ENLARGED, 0).repeat(ENLARGED, 1), 3, 2)

"""The audit of a classifier that covjax did not train: its scores, or the classifier itself.

audit(images, labels, score, groups=patients).page
"""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from covjax import InputError, counted
from covjax.audit import (
    attribution,
    calibration,
    grey_statistics,
    metadata_baseline,
    occlusion,
    origin,
    overlap,
    page,
    pixel_baseline,
    regions,
)
from covjax.audit.verdict import Images, Subject, Verdict, ask
from covjax.data import lineage
from covjax.data.rows import Row
from covjax.external_classifier import checked, probabilities
from covjax.workdir import write_json

# In the order of the page. The last two but one need the classifier itself.
CHECKS = (
    metadata_baseline,
    pixel_baseline,
    grey_statistics,
    origin,
    overlap,
    regions,
    attribution,
    calibration,
)
MOST_OCCLUDED = 48  # images of a test set: each is asked about 65 times
TITLES = ('positive', 'negative')
WITHOUT_SCORES = 'give a score of each, or a classifier'


class Known(NamedTuple):
    """Images that a classifier from elsewhere was trained on, or chosen by."""

    images: Any  # uint8 [N, H, W] or [N, H, W, 1], or a sequence of arrays of any size
    labels: Any  # int [N], 1 = positive, 0 = any other
    groups: Any = None  # patient or series of each, [N] of str; None: each is of its own
    sources: Any = None  # where each comes from, [N] of str
    scores: Any = None  # P(positive), float [N], where they are known


class Audit(NamedTuple):
    """What an audit has found."""

    verdicts: list[Verdict]
    page: pathlib.Path  # audit.html; audit.json lies beside it

    @property
    def red_flags(self) -> list[Verdict]:
        """The verdicts that raised a red flag, [Verdict]."""
        return [verdict for verdict in self.verdicts if verdict.flag]


def audit(
    images: Any,
    labels: ArrayLike,
    score: Any,
    groups: Sequence[str] | None = None,
    *,
    sources: Sequence[str] | None = None,
    train: Known | None = None,
    validation: Known | None = None,
    folder: str | pathlib.Path = 'audit',
    size: int = 224,
    titles: tuple[str, str] = TITLES,
    title: str = 'Shortcut audit',
) -> Audit:
    """Asks what a score of test images rests on besides disease.

    Args:
        images: the test images, uint8 grey: [N, H, W] or [N, H, W, 1], or a sequence of arrays
            [H, W] of any size.
        labels: int [N], 1 = positive, 0 = any other; both must be there.
        score: P(positive), float [N]; or the classifier itself, a function from uint8 [N, H, W, 1]
            to float [N], which is then also asked about changed images.
        groups: patient or series of each image, [N] of str, without whom intervals are too narrow;
            None takes each image for a patient.
        sources: where each image comes from (hospital, scanner, data set), [N] of str; None is not
            known.
        train, validation: Known, images that the classifier was trained on and chosen by; without
            them overlap is not asked, and regressions are fitted on the test images, out of fold.
        folder: where audit.html, audit.json and pictures go; made where there is none.
        size: pixels a side of the square images that a function is shown, where those given differ
            in size.
        titles: what people read of the positive class and of all others, two texts.
        title: of the page.

    Returns:
        Audit.

    Raises:
        InputError: arrays differ in length, have other values, or the function fails.
    """
    folder = pathlib.Path(folder)
    for name, each in (('train', train), ('validation', validation)):
        if not isinstance(each, Known | None):
            raise InputError(f'{name}: is {type(each).__name__}; give covjax.audit.Known(...)')
    function = checked(score, 'score') if callable(score) else None
    scores = None if function else _array('test', 'score', score)
    known = Known(images, labels, groups, sources, scores)
    tests = {'test': _images('test', known, size, function)}
    both = {
        name: None if each is None else _images(name, each, size, function)
        for name, each in (('train', train), ('validation', validation))
    }
    found = subject(folder / 'images', tests, function, titles=titles, **both)
    about = {
        'classifier': f'{counted(len(labels), "test image")}, given as arrays.',
        'model': 'The classifier',
        'tests': {'test': counted(len(labels), 'image')},
        'train': 'images that were given' if train else '',
    }
    return finish(folder, title, about, ask(CHECKS, found))


def subject(folder, tests, score, train=None, validation=None, titles=TITLES):
    """The Subject of a classifier from elsewhere.

    Args:
        folder: pathlib.Path where pictures of the audit go.
        tests: {name: verdict.Images}.
        score: uint8 [N, size, size, 1] -> P(positive class) float [N], or None where Images have
            their scores.
        train, validation: verdict.Images, or None.
        titles: what people read of the positive class and of all others.

    Raises:
        InputError: a set has images of one class only, or a test set neither scores nor `score`.
    """
    if not tests:
        raise InputError('there are no test images; name some, such as by the column split')
    for name, images in tests.items():
        if set(images.labels) != {0, 1}:
            raise InputError(f'{name}: needs images of both classes, {titles[0]} and {titles[1]}')
    if score is None and any(images.scores is None for images in tests.values()):
        raise InputError(f'the scores of the test images are not known; {WITHOUT_SCORES}')
    where = [train] if train is not None and _sources(train) else [*tests.values()]
    return Subject(
        folder=folder,
        score=score,
        train=train,
        validation=validation,
        tests=tests,
        real=train if train is not None and set(train.labels) == {0, 1} else None,
        origins=origins(where),
        lineage=_lineage(train, validation),
        attribute=occlusion.occlusion(score) if score else None,
        attribution='occlusion',
        attributed=MOST_OCCLUDED,
        pairs=tuple(pair for images in where for pair in pairs(images, titles)),
        titles=tuple(titles),
    )


def finish(folder, title, about, verdicts):
    """Writes audit.json and audit.html, and says how many red flags there are.

    Args:
        folder: pathlib.Path.
        title: of the page.
        about: dict of what was audited: classifier, tests {name: data set}, train, where it is
            known.
        verdicts: [Verdict].

    Returns:
        Audit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / 'audit.json', page.as_json(about, verdicts))
    file = folder / 'audit.html'
    page.write(file, title, about, verdicts, prose_name='audit_external')
    print(f'{counted(page.red_flags(verdicts), "red flag")} in {file}')
    return Audit(verdicts, file)


# ---- what is known of images


def _sources(images):
    """The origin of each of verdict.Images, [str]; [] where one is not known."""
    known = [row.others.get('source', '') for row in images.rows]
    return known if all(known) else []


def origins(sets):
    """{label: {source}} of several verdict.Images."""
    found = {0: set(), 1: set()}
    for images in sets:
        for label, source in zip(images.labels, _sources(images)):
            found[int(label)].add(source)
    return found


def pairs(images, titles):
    """Yields pairs of verdict.Images of one class: one source, and the others.

    Args:
        images: verdict.Images.
        titles: what people read of the positive class and of all others.
    """
    sources = np.array(_sources(images))
    for label, title in zip((1, 0), titles) if len(sources) else ():
        here = images.labels == label
        names = np.unique(sources[here])
        if len(names) < 2:
            continue
        for name in names[:1] if len(names) == 2 else names:
            rest = names[1] if len(names) == 2 else 'others'
            yield (
                images.chosen(np.flatnonzero(here & (sources == name)))._replace(
                    spec=f'{name}, {title}'
                ),
                images.chosen(np.flatnonzero(here & (sources != name)))._replace(
                    spec=f'{rest}, {title}'
                ),
            )


def _lineage(train, validation):
    """Records as lineage.json has them, of verdict.Images that are known."""
    known = [('train', train), ('val', validation)]
    return [
        lineage.Record(
            role=role,
            dataset=images.spec,
            through='',
            images=[lineage.image(row) for row in images.examples],
        )
        for role, images in known
        if images is not None
    ]


def _images(name, known, size, function):
    """The verdict.Images of Known arrays.

    Args:
        name: of the set.
        known: Known.
        size: pixels a side that a function is shown, where sizes differ.
        function: None where nothing is shown to it.
    """
    greys = [_grey(name, i, image) for i, image in enumerate(known.images)]
    labels = _column(name, 'labels', known.labels, len(greys))
    if not set(labels.tolist()) <= {0, 1}:
        raise InputError(f'{name}: labels are {sorted(set(labels.tolist()))[:4]}; give 1 and 0')
    labels = labels.astype(int)
    numbers = [str(i) for i in range(len(greys))]
    own = [f'{name} {i}' for i in numbers]
    groups, sources = (
        default
        if given is None
        # What is before a '/' of a group would be taken for its source document.
        else [str(each).replace('/', '_') for each in _column(name, what, given, len(greys))]
        for what, given, default in (
            ('groups', known.groups, own),
            ('sources', known.sources, [''] * len(greys)),
        )
    )
    rows = [
        Row(
            id=identity,
            group=group,
            sha256=hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).hexdigest(),
            label=int(label),
            others={'source': source},
        )
        for identity, group, grey, label, source in zip(own, groups, greys, labels, sources)
    ]
    scores = known.scores
    if scores is not None:
        scores = probabilities(_array(name, 'score', scores), len(greys), f'{name}: score')
    return Images(
        spec=name,
        images=shown(greys, size) if function else np.empty((len(greys), 0, 0, 1), np.uint8),
        labels=labels,
        rows=rows,
        native=list(zip(greys, rows)),
        scores=scores,
    )


def _grey(name, i, image):
    """An image as uint8 [H, W]."""
    grey = np.asarray(image)
    if grey.ndim == 3 and grey.shape[2] == 1:
        grey = grey[..., 0]
    if grey.ndim != 2 or grey.dtype != np.uint8:
        raise InputError(
            f'{name}: image {i} is {grey.dtype} {list(grey.shape)}; give grey images uint8 [H, W]'
        )
    return np.ascontiguousarray(grey)


def _column(name, what, values, count):
    """An array [count]; refuses another length."""
    column = _array(name, what, values)
    if column.shape != (count,):
        raise InputError(f'{name}: {what} are {list(column.shape)} for {count} images')
    return column


def _array(name, what, values):
    """Values as an array of NumPy; refuses what is none, such as a tensor with gradients."""
    try:
        return np.asarray(values)
    except Exception as error:  # whatever the class of the values raises
        raise InputError(
            f'{name}: {what} cannot be read as an array of NumPy ({type(error).__name__})'
        ) from None


def shown(greys, size):
    """Images uint8 [N, H, W, 1] as a function sees them: as they are where they have one size.

    Args:
        greys: [uint8 [H, W]].
        size: pixels a side of the square that others are resized to (bilinear, aspect not kept).
    """
    if len({grey.shape for grey in greys}) > 1:
        greys = squares(greys, size)
    return np.stack(greys)[..., None]


def squares(greys, size):
    """[uint8 [size, size]] of images uint8 [H, W], resized bilinearly, aspect not kept."""
    resize = lambda grey: Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)
    return [np.asarray(resize(grey)) for grey in greys]

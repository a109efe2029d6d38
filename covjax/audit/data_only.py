"""What a data set gives away before anything is trained on it: the part of an audit without scores.

Regressions that see no lung are fitted on the data set itself, whole patients held out in turn.
"""

import dataclasses

import numpy as np
from PIL import Image

from covjax.audit import border, external, file_facts, origin, whole_image
from covjax.audit.verdict import Images, Subject
from covjax.classes import positive_classes, titles

# In the order of the page.
CHECKS = (file_facts, border, origin, whole_image)
MOST = 3000  # images
SIDE = 128  # pixels of the longer side at which pictures are kept: enough for what regressions see


def kept(grey):
    """An image uint8 [H, W] as it is kept for the checks: no larger than SIDE."""
    height, width = grey.shape
    shrink = SIDE / max(height, width)
    if shrink >= 1:
        return grey
    size = max(round(width * shrink), 1), max(round(height * shrink), 1)
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))


def subject(folder, greys, rows):
    """The Subject of a data set, each of its classes against the rest.

    Of more than MOST images some are chosen evenly.

    Args:
        folder: pathlib.Path where pictures go.
        greys: [uint8 [H, W]], of volumes a slice each.
        rows: [data.rows.Row], with labels of at least two classes.
    """
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST)).round().astype(int))
    greys, rows = [greys[i] for i in chosen], [rows[i] for i in chosen]
    by_label = {row.label: row.label_name for row in rows}
    classes = tuple(by_label[label] for label in sorted(by_label))
    tests = {}
    for positive in positive_classes(classes):
        called = titles(classes, positive)
        tests[f'{called[0]} or {called[1]}'] = _images(greys, rows, positive)
    of_titles = titles(classes, positive_classes(classes)[0])
    first = next(iter(tests.values()))
    return Subject(
        folder=folder,
        score=None,
        train=None,
        validation=None,
        tests=tests,
        real=None,
        origins=external.origins([first]),
        pairs=tuple(external.pairs(first, of_titles)),
        titles=of_titles,
    )


def _images(greys, rows, positive):
    """The verdict.Images of a data set with one class against the rest."""
    labels = [int(row.label_name == positive) for row in rows]
    rows = [dataclasses.replace(row, label=label) for row, label in zip(rows, labels)]
    return Images(
        spec='',
        images=np.empty((len(rows), 0, 0, 1), np.uint8),
        labels=np.array(labels),
        rows=rows,
        native=list(zip(greys, rows)),
    )

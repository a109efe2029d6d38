"""patients.html: results of images and of patients side by side, and what slices decided."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from covjax.ct import picture
from covjax.pages import html, pictures, prose, tables
from covjax.pages.html import Figure

TILE = 144  # pixels a side of a slice
BAR = 20  # pixels of the bar below it, that shows where it is
TOP = 4  # slices of a patient
EACH = 2  # patients of each class that are shown with the highest scores, and with the lowest
COLUMNS = ('test', 'of', 'number', 'AUC', 'threshold', 'recall', 'specificity')
CAPTION = (
    '{test}: patients of either class with the highest and the lowest scores, and the slices that '
    'count most; the bar shows where a slice is, from the foot of the scan on the left to its head'
)
LONGEST = 18  # characters of a line beside a patient


class Patient(NamedTuple):
    """One patient of a test set, or one scan, with the images that it was judged by."""

    name: str
    label: str
    score: float
    images: list  # uint8 [H, W]
    weights: np.ndarray  # float [K], how much each image counts
    places: list  # where each is in its scan, 0 (foot) to 1 (head); None where that is not known


def write(workdir, title, rows, shown):
    """Writes patients.html, and a picture of each test set.

    Args:
        workdir: pathlib.Path.
        title: of the classifier, for the opening.
        rows: of the table, in the order of COLUMNS.
        shown: {test: [Patient]}.
    """
    page = prose.read('patients')
    figures = []
    for i, (test, patients) in enumerate(shown.items()):
        path = workdir / 'images' / f'patients_{i + 1}.png'
        picture.save(path, sheet(chosen(patients)))
        figures.append(Figure(path, CAPTION.format(test=test)))
    sections = [
        page.section('results', COLUMNS, rows),
        page.section('slices', figures=figures),
    ]
    html.write(workdir / 'patients.html', page.title, page.opening.format(title=title), sections)


def row(test, of, number, metrics, intervals, threshold):
    """A row of the table.

    Args:
        test: its name.
        of: 'each image', or how patients are scored.
        number: of images or patients.
        metrics: {name: number or None}.
        intervals: {name: data.results.Interval}.
        threshold: that recall and specificity are of, or None.
    """
    between = lambda name: _between(metrics[name], intervals.get(name))
    return [test, of, number, between('auc'), threshold, between('recall'), between('specificity')]


def _between(value, ends):
    """A number with its interval, as tables print it."""
    if value is None or ends is None or ends.low is None:
        return value
    return tables.interval(value, ends.low, ends.high)


def chosen(patients):
    """Those of each class with the highest and the lowest scores, in falling order."""
    found = []
    for label in sorted({patient.label for patient in patients}):
        of_class = sorted(
            (patient for patient in patients if patient.label == label),
            key=lambda patient: -patient.score,
        )
        ends = of_class if len(of_class) <= 2 * EACH else [*of_class[:EACH], *of_class[-EACH:]]
        found += ends
    return found


def sheet(patients):
    """A row for each patient: who it is, and the slices that count most.

    Args:
        patients: [Patient], at least one.

    Returns:
        uint8 [rows, columns, 3].
    """
    rows = []
    for patient in patients:
        order = np.argsort(-np.asarray(patient.weights), kind='stable')[:TOP]
        tiles = [
            _tile(patient.images[i], patient.weights[i], patient.places[i]) for i in sorted(order)
        ]
        blank = np.zeros((TILE + BAR, TILE, 3), np.uint8)
        tiles += [blank] * (TOP - len(tiles))
        rows.append(np.hstack([_caption(patient), *tiles]))
    return np.vstack(rows)


def _caption(patient):
    """A tile with the name of a patient, the label and the score."""
    name = patient.name
    lines = [name[i : i + LONGEST] for i in range(0, min(len(name), 3 * LONGEST), LONGEST)]
    text = '\n'.join([*lines, '', f'is {patient.label}', f'score {patient.score:.3f}'])
    return _written(text, TILE + BAR)


def _written(text, height):
    """White text on a black tile, uint8 [height, TILE, 3]."""
    image = Image.new('RGB', (TILE, height))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(image).text((6, 3), text, fill=(255, 255, 255), font=font)
    return np.asarray(image)


def _tile(grey, weight, place):
    """A slice above a bar with its weight and its place."""
    tile, bar = pictures.draw_boxes(grey, (), TILE), _written(f'{weight:.3f}', BAR).copy()
    if place is not None:
        left, right = TILE // 2, TILE - 8
        at = round(left + place * (right - left))
        bar[BAR // 2 - 1 : BAR // 2 + 1, left:right] = 110
        bar[3:-3, at - 2 : at + 3] = (230, 159, 0)
    return np.vstack([tile, bar])

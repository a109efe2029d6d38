"""Nodule boxes and lesions of a folder of pictures, for programs that know neither TFDS nor covjax.

They are written as COCO JSON, boxes also as CSV, in pixels.
"""

import numpy as np

from covjax.ct import picture
from covjax.data.lesion_masks import HALF, KINDS, SHAM
from covjax.workdir import write_csv, write_json

CATEGORIES = ('nodule', *KINDS[1:])
COLUMNS = (
    *('file', 'split', 'series', 'z', 'xmin', 'ymin', 'xmax', 'ymax'),
    *('diameter_mm', 'chord_mm', 'malignancy', 'annotation_row'),
)


def write(folder, rows, size, description):
    """Writes annotations.json and annotations.csv.

    The first is in the format of COCO detection: categories are nodule and the kinds of lesions;
    bbox is x, y, width, height. Lesions have a segmentation too, the run lengths of their pixels.
    x runs to the right and y down, in pixels from the upper left corner of the image. Diameters are
    in mm, of the nodule in 3-D (diameter) and of the disc in which the slice cuts it (chord).

    Args:
        folder: pathlib.Path.
        rows: [data.synthetic.SyntheticRow].
        size: side of the square pictures, pixels.
        description: a sentence for the head of annotations.json.
    """
    boxes = [(i, row, nodule) for i, row in enumerate(rows, 1) for nodule in row.nodules]
    document = {
        'info': {'description': description, 'version': '1.0'},
        'licenses': [],
        'categories': [
            {'id': i, 'name': name, 'supercategory': 'lesion'}
            for i, name in enumerate(CATEGORIES, 1)
        ],
        'images': [_image(i, row, size) for i, row in enumerate(rows, 1)],
        'annotations': [_annotation(k, i, n, size) for k, (i, _, n) in enumerate(boxes, 1)],
    }
    lesions = [(i, row) for i, row in enumerate(rows, 1) if row.kind not in ('', SHAM)]
    document['annotations'] += [
        _lesion(k, i, picture.read(folder / row.gate) >= HALF, row.kind)
        for k, (i, row) in enumerate(lesions, len(boxes) + 1)
    ]
    write_json(folder / 'annotations.json', document)
    lines = [
        (row.file, row.split, row.series, row.z, *_pixels(nodule, size), *_facts(nodule).values())
        for _, row, nodule in boxes
    ]
    write_csv(folder / 'annotations.csv', [COLUMNS, *lines])


def _image(i, row, size):
    return {
        'id': i,
        'file_name': row.file,
        'width': size,
        'height': size,
        'split': row.split,
        'series': row.series,
        'z': row.z,
    }


def _annotation(k, image_id, nodule, size):
    xmin, ymin, xmax, ymax = _pixels(nodule, size)
    return {
        'id': k,
        'image_id': image_id,
        'category_id': 1,
        'bbox': [xmin, ymin, xmax - xmin, ymax - ymin],
        'area': (xmax - xmin) * (ymax - ymin),
        'iscrowd': 0,
        **_facts(nodule),
    }


def _lesion(k, image_id, mask, kind):
    """The annotation of a lesion, from its mask bool [H, W]."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    corner = [int(columns[0]), int(rows[0])]
    return {
        'id': k,
        'image_id': image_id,
        'category_id': CATEGORIES.index(kind) + 1,
        'bbox': [*corner, int(columns[-1]) + 1 - corner[0], int(rows[-1]) + 1 - corner[1]],
        'area': int(mask.sum()),
        'segmentation': {'counts': _run_lengths(mask), 'size': list(mask.shape)},
        'iscrowd': 0,
    }


def _run_lengths(mask):
    """How many pixels, column by column, are outside, inside, outside, ... of a mask."""
    pixels = mask.ravel('F')
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    ends = np.concatenate([[0], changes, [pixels.size]])
    lengths = np.diff(ends).tolist()
    return [0, *lengths] if pixels[0] else lengths


def _pixels(nodule, size):
    """(xmin, ymin, xmax, ymax)."""
    ymin, xmin, ymax, xmax = (round(edge * size, 3) for edge in nodule.box)
    return xmin, ymin, xmax, ymax


def _facts(nodule):
    return {
        'diameter_mm': nodule.diameter,
        'chord_mm': nodule.chord,
        'malignancy': nodule.malignancy,
        'annotation_row': nodule.row,
    }

"""Nodule boxes of a folder of pictures, for programs that know neither TFDS nor covjax.

They are written as COCO JSON and as CSV, in pixels.
"""

from covjax.workdir import write_csv, write_json

COLUMNS = (
    *('file', 'split', 'series', 'z', 'xmin', 'ymin', 'xmax', 'ymax'),
    *('diameter_mm', 'chord_mm', 'malignancy', 'annotation_row'),
)


def write(folder, rows, size, description):
    """Writes annotations.json and annotations.csv.

    The first is in the format of COCO detection: one category, nodule; bbox is x, y, width, height.
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
        'categories': [{'id': 1, 'name': 'nodule', 'supercategory': 'lesion'}],
        'images': [_image(i, row, size) for i, row in enumerate(rows, 1)],
        'annotations': [_annotation(k, i, n, size) for k, (i, _, n) in enumerate(boxes, 1)],
    }
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

"""Nodule boxes of a folder of pictures for programs that know neither TFDS nor covjax: COCO JSON and CSV, in pixels."""

import csv

from covjax.workdir import write_json

COLUMNS = (
    'file',
    'split',
    'series',
    'z',
    'xmin',
    'ymin',
    'xmax',
    'ymax',
    'diameter_mm',
    'chord_mm',
    'malignancy',
    'annotation_row',
)


def write(folder, rows, size, description):
    """annotations.json (COCO detection, category nodule, bbox = x, y, width, height) and annotations.csv (one line a box) of manifest rows.

    `size` is the side of the square pictures. x runs to the right, y down, from the corner of the first pixel; diameters are mm, in 3-D and in the slice.
    """
    boxes = [(i, row, nodule) for i, row in enumerate(rows, 1) for nodule in row['nodules']]
    write_json(
        folder / 'annotations.json',
        {
            'info': {'description': description, 'version': '1.0'},
            'licenses': [],
            'categories': [{'id': 1, 'name': 'nodule', 'supercategory': 'lesion'}],
            'images': [
                {
                    'id': i,
                    'file_name': row['file'],
                    'width': size,
                    'height': size,
                    'split': row['split'],
                    'series': row['series'],
                    'z': row['z'],
                }
                for i, row in enumerate(rows, 1)
            ],
            'annotations': [
                {
                    'id': k,
                    'image_id': i,
                    'category_id': 1,
                    'bbox': [xmin, ymin, xmax - xmin, ymax - ymin],
                    'area': (xmax - xmin) * (ymax - ymin),
                    'iscrowd': 0,
                    **_facts(nodule),
                }
                for k, (i, row, nodule) in enumerate(boxes, 1)
                for xmin, ymin, xmax, ymax in [_pixels(nodule, size)]
            ],
        },
    )
    with (folder / 'annotations.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(
            (
                row['file'],
                row['split'],
                row['series'],
                row['z'],
                *_pixels(nodule, size),
                *_facts(nodule).values(),
            )
            for _, row, nodule in boxes
        )


def _pixels(nodule, size):
    """(xmin, ymin, xmax, ymax)."""
    ymin, xmin, ymax, xmax = (round(edge * size, 3) for edge in nodule['box'])
    return xmin, ymin, xmax, ymax


def _facts(nodule):
    return {
        'diameter_mm': nodule['diameter'],
        'chord_mm': nodule['chord'],
        'malignancy': nodule.get('malignancy', -1),
        'annotation_row': nodule['row'],
    }

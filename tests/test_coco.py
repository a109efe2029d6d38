"""Boxes for other programs."""

import csv
import json

from covjax.data import coco

ROWS = [
    {
        'file': 'images/a.png',
        'split': 'train',
        'series': 's',
        'z': 3,
        'nodules': [
            {
                'box': [0.25, 0.5, 0.5, 0.625],
                'diameter': 9.0,
                'chord': 8.0,
                'row': 4,
                'malignancy': 1,
            },
            {'box': [0.0, 0.0, 0.125, 0.25], 'diameter': 5.0, 'chord': 5.0, 'row': 5},
        ],
    },
    {'file': 'images/b.png', 'split': 'test', 'series': 't', 'z': 0, 'nodules': []},
]


def test_boxes_in_pixels(tmp_path):
    """(ymin, xmin, ymax, xmax) in 0..1 becomes x, y, width, height of COCO and corners in the CSV; a picture without box is kept."""
    coco.write(tmp_path, ROWS, 64, 'phantoms')
    written = json.loads((tmp_path / 'annotations.json').read_text())
    first, second = written['annotations']
    assert (
        first['bbox'] == [32, 16, 8, 16]
        and first['area'] == 128
        and second['bbox'] == [0, 0, 16, 8]
        and second['malignancy'] == -1
    )
    assert [image['file_name'] for image in written['images']] == ['images/a.png', 'images/b.png']
    assert {note['image_id'] for note in written['annotations']} == {
        written['images'][0]['id']
    } and first['id'] != second['id']
    lines = list(csv.DictReader((tmp_path / 'annotations.csv').open()))
    assert (
        [float(lines[0][key]) for key in ('xmin', 'ymin', 'xmax', 'ymax')] == [32, 16, 40, 32]
        and lines[0]['malignancy'] == '1'
        and len(lines) == 2
    )

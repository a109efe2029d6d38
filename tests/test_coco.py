"""Boxes for other programs."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from covjax.ct import picture
from covjax.data import coco
from covjax.data.rows import Nodule
from covjax.data.synthetic import SyntheticRow

pytestmark = pytest.mark.fast


def row(name, nodules):
    return SyntheticRow(
        id=name,
        file=f'images/{name}.png',
        input='',
        split='train',
        group='s',
        series='s',
        z=3,
        source_id=name,
        source_sha256='',
        source_dataset='luna16_patches/nodules:train',
        nodules=tuple(nodules),
        generator='none',
        generator_step=0,
    )


LARGE = Nodule(box=(0.25, 0.5, 0.5, 0.625), diameter=9.0, chord=8.0, row=4, malignancy=1)
SMALL = Nodule(box=(0.0, 0.0, 0.125, 0.25), diameter=5.0, chord=5.0, row=5)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """What is written of one image with two boxes and of one with none."""
    folder = tmp_path_factory.mktemp('coco')
    coco.write(folder, [row('a', [LARGE, SMALL]), row('b', [])], 64, 'phantoms')
    return folder


def test_coco_boxes_are_x_y_width_height_in_pixels(folder):
    first, second = json.loads((folder / 'annotations.json').read_text())['annotations']
    assert first['bbox'] == [32, 16, 8, 16]
    assert first['area'] == 128
    assert second['bbox'] == [0, 0, 16, 8]
    assert second['malignancy'] == -1


def test_an_image_without_a_box_is_kept(folder):
    written = json.loads((folder / 'annotations.json').read_text())
    first, second = written['images']
    assert [first['file_name'], second['file_name']] == ['images/a.png', 'images/b.png']
    assert {annotation['image_id'] for annotation in written['annotations']} == {first['id']}
    assert len({annotation['id'] for annotation in written['annotations']}) == 2


def test_csv_boxes_are_corners_in_pixels(folder):
    with (folder / 'annotations.csv').open() as file:
        first, _ = csv.DictReader(file)
    assert [float(first[key]) for key in ('xmin', 'ymin', 'xmax', 'ymax')] == [32, 16, 40, 32]
    assert first['malignancy'] == '1'


@pytest.mark.parametrize('seed', range(4))
def test_lesions_are_the_pixels_that_pycocotools_reads(tmp_path, seed):
    """With a pixel in the corner, and without; of shams there is nothing to read."""
    gate = np.random.default_rng(seed).integers(0, 256, (20, 20), np.uint8)
    gate[0, 0], gate[-1, -1] = 255 * (seed % 2), 255 * (seed // 2)
    picture.save(tmp_path / 'gates' / 'a.png', gate)
    rows = [
        dataclasses.replace(row(kind, []), kind=kind, gate='gates/a.png')
        for kind in ('sham', 'ground_glass', 'consolidation')
    ]
    coco.write(tmp_path, rows, 20, 'phantoms')
    written = json.loads((tmp_path / 'annotations.json').read_text())
    names = {category['id']: category['name'] for category in written['categories']}
    assert [names[a['category_id']] for a in written['annotations']] == [
        'ground_glass',
        'consolidation',
    ]
    for annotation in written['annotations']:
        packed = coco_mask.frPyObjects(annotation['segmentation'], 20, 20)
        np.testing.assert_array_equal(coco_mask.decode(packed), gate >= 128)
        assert coco_mask.toBbox(packed).tolist() == annotation['bbox']
        assert coco_mask.area(packed) == annotation['area']

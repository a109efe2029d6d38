"""Picture files, and pictures for people: nodule boxes drawn in, close-ups, contact sheets."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from covjax.ct import picture
from covjax.data.synthetic import read_manifest

YELLOW = (255, 210, 60)


def draw_boxes(grey, boxes, size):
    """uint8 grey [H, W] -> uint8 RGB [size, size, 3] with boxes (ymin, xmin, ymax, xmax in 0..1) as yellow frames."""
    image = Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR).convert('RGB')
    draw = ImageDraw.Draw(image)
    for ymin, xmin, ymax, xmax in boxes:
        draw.rectangle(
            [xmin * size - 2, ymin * size - 2, xmax * size + 1, ymax * size + 1], outline=YELLOW
        )
    return np.asarray(image)


def contact_sheet(tiles, columns):
    """uint8 [N, S, S, 3] tiles, row by row -> one picture; empty places stay black."""
    tiles = list(tiles)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def close_up(grey, box, size, margin=2.5):
    """The square around a box, `margin` times its side, with the box drawn: uint8 [H, W] -> uint8 RGB [size, size, 3]; black beyond the edge."""
    (height, width), (ymin, xmin, ymax, xmax) = grey.shape, box
    half = max(ymax - ymin, xmax - xmin, 8 / height) / 2 * margin
    top, left = (ymin + ymax) / 2 - half, (xmin + xmax) / 2 - half
    part = Image.fromarray(grey).transform(
        (size, size),
        Image.Transform.EXTENT,
        (left * width, top * height, (left + 2 * half) * width, (top + 2 * half) * height),
        Image.Resampling.BICUBIC,
    )
    inner = [
        (ymin - top) / 2 / half,
        (xmin - left) / 2 / half,
        (ymax - top) / 2 / half,
        (xmax - left) / 2 / half,
    ]
    return draw_boxes(np.asarray(part), [inner], size)


def header(texts, size):
    """A strip of captions, one above each column of a contact sheet with tiles of `size` -> uint8 RGB [24, size * len(texts), 3]."""
    image = Image.new('RGB', (size * len(texts), 24))
    for i, text in enumerate(texts):
        ImageDraw.Draw(image).text(
            (size * i + 6, 4), text, fill=(255, 255, 255), font=ImageFont.load_default(13)
        )
    return np.asarray(image)


PANELS = 5  # rows of the picture


def draw_panels(folder, real=(), count=PANELS, size=256):
    """Columns input, synthetic, a real COVID-19 image (of someone else), and close-ups of the first nodule in the first two; one row an example of the test split -> uint8 RGB.

    The paper's Figure 2. Columns without anything to show are left out.
    """
    rows = read_manifest(folder)
    rows = [row for row in rows if row.split == 'test'] or rows
    rows = sorted(rows, key=lambda row: -len(row.nodules))[:count]
    captions, rows = ['input', 'synthetic'], rows[: len(real) or count]
    if real:
        captions.append('real, someone else')
    if any(row.nodules for row in rows):
        captions += ['nodule in the input', 'the same place, synthetic']
        rows = [row for row in rows if row.nodules]
    tiles = []
    for i, row in enumerate(rows):
        boxes = row.boxes
        pair = [picture.read(folder / file) for file in (row.input, row.file)]
        tiles += [draw_boxes(grey, boxes, size) for grey in pair] + [
            draw_boxes(grey, (), size) for grey in real[i : i + 1]
        ]
        tiles += [close_up(grey, boxes[0], size) for grey in pair if boxes]
    return np.vstack([header(captions, size), contact_sheet(tiles, len(captions))])

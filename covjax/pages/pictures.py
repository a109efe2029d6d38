"""Pictures for people: boxes and outlines drawn in, close-ups, contact sheets, panels of a report.

Images are uint8, grey [H, W] or RGB [H, W, 3]. A box is (ymin, xmin, ymax, xmax) in 0..1 of the
image.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from covjax.ct import masks, picture
from covjax.data.synthetic import read_manifest

YELLOW = (255, 210, 60)
TINT = 0.4  # the share of the colour in a pixel
PANELS = 5  # rows of draw_panels
OF_PAIR = ('slice', 'gate', 'lesion', 'sham')  # what is shown of a pair, from left to right


def draw_boxes(grey, boxes, size):
    """An image, resized bilinearly, with boxes as yellow frames.

    Args:
        grey: uint8 [H, W].
        boxes: sequence of boxes.
        size: pixels a side of what is returned.

    Returns:
        uint8 [size, size, 3].
    """
    image = Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR).convert('RGB')
    draw = ImageDraw.Draw(image)
    for ymin, xmin, ymax, xmax in boxes:
        left, top = xmin * size - 2, ymin * size - 2
        draw.rectangle([left, top, xmax * size + 1, ymax * size + 1], outline=YELLOW)
    return np.asarray(image)


def outline(grey, mask):
    """An image with the upper and left edges of a mask in yellow.

    Args:
        grey: uint8 [H, W].
        mask: bool [H, W].

    Returns:
        uint8 [H, W, 3].
    """
    above, left = np.roll(mask, 1, 0), np.roll(mask, 1, 1)
    edge = mask & ~above | mask & ~left
    rgb = np.repeat(grey[..., None], 3, 2)
    return np.where(edge[..., None], YELLOW, rgb).astype(np.uint8)


def tint(image, mask):
    """An image with the classes of a mask shaded, each in a colour of its own.

    Args:
        image: uint8 grey [H, W] or RGB [H, W, 3].
        mask: uint8 [h, w] of any size, 0 for what is not shaded.

    Returns:
        uint8 [H, W, 3].
    """
    rgb = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
    resized = Image.fromarray(mask).resize(rgb.shape[1::-1], Image.Resampling.NEAREST)
    classes = np.asarray(resized)
    shaded = (1 - TINT) * rgb + TINT * masks.colours(int(classes.max()) + 1)[classes]
    return np.where(classes[..., None] > 0, shaded, rgb).astype(np.uint8)


def enlarged(image, side):
    """An image whose pixels are repeated until it has `side` pixels a side, or somewhat more.

    Args:
        image: uint8 [H, W, ...].
        side: pixels; an image that has as many stays as it is.

    Returns:
        uint8 [n * H, n * W, ...] of a whole number n.
    """
    times = -(-side // max(image.shape[:2]))
    return image.repeat(times, 0).repeat(times, 1)


def contact_sheet(tiles, columns):
    """Tiles side by side, row by row, in one picture; places without a tile stay black.

    Args:
        tiles: uint8 [S, S, 3] each, at least one.
        columns: how many stand in a row.

    Returns:
        uint8 [rows * S, columns * S, 3].
    """
    tiles = list(tiles)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def close_up(grey, box, size, margin=2.5):
    """The square around a box, which is drawn in; black beyond the edge of the image.

    Args:
        grey: uint8 [H, W].
        box: of what is shown; one below eight pixels is shown as if it had eight.
        size: pixels a side of what is returned.
        margin: side of the square in sides of the box.

    Returns:
        uint8 [size, size, 3].
    """
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
    """A strip of captions in white on black, to stand above the columns of a contact sheet.

    Args:
        texts: one for each column, of one or more lines.
        size: pixels a side of a tile.

    Returns:
        uint8 [8 + 16 * lines, size * len(texts), 3].
    """
    lines = 1 + max(text.count('\n') for text in texts)
    image = Image.new('RGB', (size * len(texts), 8 + 16 * lines))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for i, text in enumerate(texts):
        draw.text((size * i + 6, 4), text, fill=(255, 255, 255), font=font)
    return np.asarray(image)


def pair_sheet(pairs, size):
    """Pairs of a lesion and a sham, a row each: the slice, the gate, the lesion, the sham.

    Args:
        pairs: [(slice, gate, lesion, sham)], uint8 [H, W] each.
        size: pixels a side of a tile.

    Returns:
        uint8 [24 + pairs * size, 4 * size, 3].
    """
    tiles = [draw_boxes(grey, (), size) for pair in pairs for grey in pair]
    return np.vstack([header(OF_PAIR, size), contact_sheet(tiles, len(OF_PAIR))])


def draw_panels(folder, real=(), count=PANELS, size=256):
    """Synthetic images beside what they were made from (the paper's Figure 2), one row for each.

    The columns are the input, its translation, a real COVID-19 image of someone else, and close-ups
    of the first nodule in the first two. Columns without anything to show are left out. Only the
    test split is shown, if it has images; those with most nodules come first. Of pairs there is
    the `pair_sheet` instead.

    Args:
        folder: pathlib.Path of what `synthesize` wrote, with a manifest.
        real: uint8 [H, W] each; where there are any, there are no more rows than these.
        count: the greatest number of rows.
        size: pixels a side of a tile.

    Returns:
        uint8 [24 + rows * size, columns * size, 3].
    """
    rows = read_manifest(folder)
    rows = [row for row in rows if row.split == 'test'] or rows
    if rows[0].pair:
        return pair_sheet(_read_pairs(folder, rows[: 2 * count]), size)
    rows = sorted(rows, key=lambda row: -len(row.nodules))[: min(count, len(real) or count)]
    captions = ['input', 'synthetic']
    if real:
        captions.append('real, someone else')
    if any(row.nodules for row in rows):
        captions += ['nodule in the input', 'the same place, synthetic']
        rows = [row for row in rows if row.nodules]
    tiles = []
    for i, row in enumerate(rows):
        pair = [picture.read(folder / file) for file in (row.input, row.file)]
        tiles += [draw_boxes(grey, row.boxes, size) for grey in pair]
        tiles += [draw_boxes(grey, (), size) for grey in real[i : i + 1]]
        tiles += [close_up(grey, row.boxes[0], size) for grey in pair if row.boxes]
    return np.vstack([header(captions, size), contact_sheet(tiles, len(captions))])


def _read_pairs(folder, rows):
    """What `pair_sheet` takes, of rows of a manifest in which the lesion is before its sham."""
    files = [
        (lesion.input, lesion.gate, lesion.file, sham.file)
        for lesion, sham in zip(rows[::2], rows[1::2])
    ]
    return [[picture.read(folder / file) for file in of_pair] for of_pair in files]

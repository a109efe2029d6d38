"""Picture files, and pictures for people: nodule boxes drawn in, close-ups, contact sheets."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from covjax import InputError, archive

EIGHT_BITS = {'1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr'}
YELLOW = (255, 210, 60)


def open_file(path, mode='L'):
    """A picture file of any container with 8 bits a channel -> (PIL image of a mode, its file facts). Alpha is ignored, as viewers of CT do."""
    try:
        with Image.open(io.BytesIO(archive.read(path))) as image:
            frames = getattr(image, 'n_frames', 1)
            facts = {
                'container': image.format,
                'mode': image.mode,
                'width': image.width,
                'height': image.height,
            }
            converted = image.convert(mode)
    except FileNotFoundError:
        raise InputError(f'{path}: no such picture; complete the folder') from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise InputError(f'{path}: not a readable picture; copy it again') from None
    if facts['mode'] not in EIGHT_BITS:  # Pillow would cut these at 255
        raise InputError(
            f'{path}: has pixels of mode {facts["mode"]}; save it with 8 bits a channel'
        )
    if frames > 1:
        raise InputError(f'{path}: has {frames} frames; save one of them as a picture')
    return converted, facts


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


def save(path, pixels):
    """Writes uint8 [H, W] or [H, W, 3] as PNG; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def read(path):
    """A grey PNG -> uint8 [H, W]."""
    return np.asarray(Image.open(path).convert('L'))

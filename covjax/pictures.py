"""Pictures for people: nodule boxes drawn in, close-ups, contact sheets."""
import numpy as np
from PIL import Image, ImageDraw

YELLOW = (255, 210, 60)


def draw_boxes(grey, boxes, size):
    """uint8 grey [H, W] -> uint8 RGB [size, size, 3] with boxes (ymin, xmin, ymax, xmax in 0..1) as yellow frames."""
    image = Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR).convert('RGB')
    draw = ImageDraw.Draw(image)
    for ymin, xmin, ymax, xmax in boxes:
        draw.rectangle([xmin * size - 2, ymin * size - 2, xmax * size + 1, ymax * size + 1], outline=YELLOW)
    return np.asarray(image)


def contact_sheet(tiles, columns):
    """uint8 [N, S, S, 3] tiles, row by row -> one picture; empty places stay black."""
    tiles = list(tiles)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i:i + columns]) for i in range(0, len(tiles), columns)])


def zoom(grey, box, size, margin=2.5):
    """The square around a box, `margin` times its side, from uint8 [H, W] -> uint8 [size, size]."""
    (height, width), (ymin, xmin, ymax, xmax) = grey.shape, box
    half = max((ymax - ymin) * height, (xmax - xmin) * width, 8) / 2 * margin
    cy, cx = (ymin + ymax) / 2 * height, (xmin + xmax) / 2 * width
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC, box=(
        max(cx - half, 0), max(cy - half, 0), min(cx + half, width), min(cy + half, height))))


def save(path, pixels):
    """Writes uint8 [H, W] or [H, W, 3] as PNG; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)



def read(path):
    """A grey PNG -> uint8 [H, W]."""
    return np.asarray(Image.open(path).convert('L'))

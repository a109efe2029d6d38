"""Picture files: read with their facts, and written."""

import io

import numpy as np
from PIL import Image

from covjax import InputError
from covjax.ct import archive

# Modes of Pillow with at most 8 bits a channel.
EIGHT_BITS = {'1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr'}


def open_file(path, mode='L'):
    """Opens a picture of any container with 8 bits a channel.

    Alpha is ignored, as viewers of CT do.

    Args:
        path: of the file; it may go through an archive.
        mode: of Pillow, that the picture is converted to.

    Returns:
        (PIL.Image.Image of that mode, {'container', 'mode', 'width', 'height'} of the file).

    Raises:
        InputError: there is no such picture, or it is damaged, or has more bits or several frames.
    """
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


def save(path, pixels):
    """Writes uint8 [H, W] or [H, W, 3] as PNG to a pathlib.Path; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def read(path):
    """Reads a picture that covjax has written as grey: uint8 [H, W]."""
    return np.asarray(Image.open(path).convert('L'))

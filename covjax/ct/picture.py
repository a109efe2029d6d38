"""Picture files: read with their metadata, and written."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from covjax import InputError, drafts
from covjax.ct import archive

# Modes of Pillow with at most 8 bits a channel.
EIGHT_BITS = {'1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr'}
# Where a file says how many bits a channel has: the byte of a PNG (section 11.2.2 of its standard),
# the tag of a TIFF.
PNG_DEPTH, TIFF_BITS = 24, 258
TIFF_FORMAT = 339  # the tag for the kind of numbers, 2 where they have a sign
# What Pillow raises for files that are no pictures, or damaged.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, OverflowError),
    *(EOFError, struct.error, zlib.error, Image.DecompressionBombError),
)
MOST_PIXELS = 1 << 27  # 128 MiB as grey


def open_file(path, mode='L'):
    """Opens a picture of any container with 8 bits per channel.

    It is turned as its EXIF orientation says. Alpha is ignored, as viewers of CT do.

    Args:
        path: of the file; it may go through an archive.
        mode: of Pillow, that the picture is converted to; None keeps that of the file, so that the
            pixels of a palette are its indices.

    Returns:
        (PIL.Image.Image of that mode, {'container', 'mode', 'width', 'height'} of the file).

    Raises:
        InputError: there is no such picture, or it is damaged, or has more bits or several frames.
    """
    content = b''
    try:
        content = archive.read(path)
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(
                    f'{path}: has {image.width}x{image.height} pixels; give a smaller picture'
                )
            # Phones write a preview after the picture (MPO); pixels of the first are meant.
            frames = 1 if image.format == 'MPO' else getattr(image, 'n_frames', 1)
            bits, signed = _bits(image, content), _is_signed(image)
            facts = {
                'container': image.format,
                'mode': image.mode,
                'width': image.width,
                'height': image.height,
            }
            upright = ImageOps.exif_transpose(image)
            converted = upright.convert(mode) if mode else upright.copy()
    except FileNotFoundError:
        raise InputError(f'{path}: no such picture; complete the folder') from None
    except UNREADABLE:
        if content[128:132] == b'DICM':
            raise InputError(
                f'{path}: is DICOM, whatever its name says; rename it to end in .dcm'
            ) from None
        raise InputError(f'{path}: not a readable picture; copy it again') from None
    if bits > 8:  # Pillow would cut these at 255, or keep their upper 8 bits
        raise InputError(
            f'{path}: has {bits} bits per channel, mode {facts["mode"]}; save it with 8 bits'
        )
    if signed:
        raise InputError(f'{path}: has signed values; save it with 8 bits, from 0 to 255')
    if frames > 1:
        raise InputError(f'{path}: has {frames} frames; save one of them as a picture')
    return converted, facts


def _bits(image, content):
    """How many bits a channel has by what the file says; Pillow's mode can have fewer."""
    if image.format == 'PNG':
        return content[PNG_DEPTH]
    if image.format == 'TIFF':
        return max(np.atleast_1d(image.tag_v2.get(TIFF_BITS, 1)))
    return 8 if image.mode in EIGHT_BITS else 16


def _is_signed(image):
    """Whether a TIFF has values below 0, which Pillow would take for those from 128 on."""
    return image.format == 'TIFF' and 2 in np.atleast_1d(image.tag_v2.get(TIFF_FORMAT, 1))


def save(path, pixels):
    """Writes uint8 [H, W] or [H, W, 3] as PNG to a pathlib.Path; makes the folder."""
    with drafts.file(path) as draft:
        Image.fromarray(pixels).save(draft)


def read(path):
    """Reads a picture that covjax has written as grey: uint8 [H, W]."""
    return np.asarray(Image.open(path).convert('L'))

"""Pictures as people have them: depth by what the file says, turned as its EXIF data say."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from covjax import InputError
from covjax.ct import picture

pytestmark = pytest.mark.fast

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of the colour types of PNG
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def png(colour, depth, width=8, height=6):
    """The bytes of a PNG of random samples, by its standard (ISO 15948)."""

    def chunk(kind, content):
        crc = struct.pack('>I', zlib.crc32(kind + content))
        return struct.pack('>I', len(content)) + kind + content + crc

    row = width * CHANNELS[colour] * depth // 8
    rows = np.random.default_rng(0).integers(0, 256, (height, row), np.uint8)
    header = struct.pack('>2I5B', width, height, depth, colour, 0, 0, 0)
    palette = np.random.default_rng(1).integers(0, 256, 3 << depth, np.uint8).tobytes()
    return b''.join(
        [
            b'\x89PNG\r\n\x1a\n',
            chunk(b'IHDR', header),
            chunk(b'PLTE', palette) if colour == 3 else b'',
            chunk(b'IDAT', zlib.compress(b''.join(b'\0' + line.tobytes() for line in rows))),
            chunk(b'IEND', b''),
        ]
    )


@pytest.mark.parametrize('colour, depth', [(c, d) for c, depths in DEPTHS.items() for d in depths])
def test_png_of_every_colour_type_and_depth(tmp_path, colour, depth):
    """Up to 8 bits it is what Pillow says, of which alpha is left out; 16 bits are refused."""
    (tmp_path / 'a.png').write_bytes(png(colour, depth))
    if depth == 16:
        with pytest.raises(InputError, match='a.png: has 16 bits per channel'):
            picture.open_file(tmp_path / 'a.png')
    else:
        image, facts = picture.open_file(tmp_path / 'a.png')
        expected = Image.open(tmp_path / 'a.png').convert('L')
        np.testing.assert_array_equal(image, expected)
        assert (facts['width'], facts['height']) == (8, 6)


@pytest.mark.parametrize(
    'container, kind',
    [('PNG', np.uint16), ('TIFF', np.uint16), ('TIFF', np.int32), ('TIFF', np.float32)],
)
def test_deep_pictures_are_refused(tmp_path, container, kind):
    image = Image.fromarray(np.full((5, 5), 1000, kind))
    image.save(tmp_path / 'a', container)
    with pytest.raises(InputError, match=r'has (16|32) bits per channel'):
        picture.open_file(tmp_path / 'a')


def test_signed_values_are_refused(tmp_path):
    """Pillow reads -1 as 255."""
    grey = Image.fromarray(np.full((5, 5), 200, np.uint8))
    grey.save(tmp_path / 'a.tif', tiffinfo={339: 2})
    with pytest.raises(InputError, match='a.tif: has signed values; save it with 8 bits'):
        picture.open_file(tmp_path / 'a.tif')
    grey.save(tmp_path / 'b.tif', tiffinfo={339: 1})
    assert picture.open_file(tmp_path / 'b.tif')[0].getpixel((0, 0)) == 200


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.tif'])
def test_dicom_under_the_name_of_a_picture(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(128) + b'DICM' + bytes(200))
    with pytest.raises(InputError, match=f'{name}: is DICOM, whatever its name says; rename it'):
        picture.open_file(tmp_path / name)


# EXIF orientation: what a viewer does to the stored rows (CIPA DC-008, table of tag 274).
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize('container', ['JPEG', 'PNG', 'TIFF'])
@pytest.mark.parametrize('orientation', TURNS)
def test_pictures_are_turned_as_exif_says(tmp_path, container, orientation):
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24), np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / 'a', container, exif=exif)
    with Image.open(tmp_path / 'a') as opened:
        rows = np.asarray(opened)
    image, _ = picture.open_file(tmp_path / 'a')
    turned = TURNS[orientation]
    expected = {tuple(map(tuple, turned(pixels))) for pixels in (rows, np.asarray(stored))}
    assert tuple(map(tuple, np.asarray(image))) in expected


def test_any_byte_of_a_picture_may_be_wrong(tmp_path):
    """Each is read as something or refused in one line."""
    for container in ('PNG', 'JPEG', 'TIFF', 'GIF', 'BMP'):
        Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / 'a', container)
        sound = (tmp_path / 'a').read_bytes()
        for at in range(len(sound)):
            content = bytearray(sound)
            content[at] ^= 0xFF
            (tmp_path / 'b').write_bytes(content)
            try:
                picture.open_file(tmp_path / 'b')
            except InputError as error:
                assert '\n' not in str(error)


def test_phones_write_a_preview_after_the_picture(tmp_path):
    images = [Image.new('L', (9, 9), grey) for grey in (200, 9)]
    images[0].save(tmp_path / 'a.jpg', 'MPO', save_all=True, append_images=images[1:])
    assert Image.open(tmp_path / 'a.jpg').format == 'MPO'
    assert np.asarray(picture.open_file(tmp_path / 'a.jpg')[0]).mean() == pytest.approx(200, abs=2)


def test_a_picture_of_absurd_size(tmp_path):
    """Its header alone is enough to refuse it."""
    content = bytearray(png(0, 8))
    content[16:24] = struct.pack('>2I', 60000, 60000)
    content[29:33] = struct.pack('>I', zlib.crc32(bytes(content[12:29])))
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(InputError, match='a.png'):
        picture.open_file(tmp_path / 'a.png')

"""What one slice of an uncompressed volume costs, beside reading the whole volume.

python benchmarks/read_slice.py VOLUME.mhd

Prints bytes, as Linux counts them, and median milliseconds.
"""

import pathlib
import re
import sys
import time

import numpy as np
import SimpleITK as sitk

from covjax.ct.volume import open_volume, read_slice


def bytes_read():
    """Returns how many bytes this process has read so far."""
    return int(re.search(r'rchar: (\d+)', pathlib.Path('/proc/self/io').read_text())[1])


def timed(function, *arguments):
    """Returns (result, seconds, bytes read) of a call."""
    before, began = bytes_read(), time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began, bytes_read() - before


def read_whole(path):
    """Returns all voxels, float32 [z, y, x]."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)


def main(path, rounds=15):
    """Reads slices all over a volume, each beside the whole volume."""
    volume = open_volume(path)
    read_slice(volume, 0)  # libraries load with the first
    size, read, slices, wholes = int(np.prod(volume.size)) * 2, [], [], []
    for z in np.linspace(0, volume.size[2] - 1, rounds).round().astype(int):
        part, seconds, count = timed(read_slice, volume, z)
        slices.append(seconds)
        read.append(count)
        everything, seconds, _ = timed(read_whole, path)
        wholes.append(seconds)
        assert np.array_equal(np.sort(part, None), np.sort(everything[z], None))
    part, whole = np.median(slices), np.median(wholes)
    print(
        f'{volume.size[2]} slices, {size / 1e6:.1f} MB: '
        f'a slice reads {max(read) / 1e6:.2f} MB ({max(read) / size:.2%}) in {part * 1e3:.2f} ms, '
        f'the volume takes {whole * 1e3:.1f} ms, {whole / part:.0f} times as long'
    )


if __name__ == '__main__':
    main(*sys.argv[1:])

"""What one slice of an uncompressed volume costs, beside reading the volume whole (Linux counts the bytes).

python benchmarks/read_slice.py VOLUME.mhd
"""

import pathlib
import re
import sys
import time

import numpy as np
import SimpleITK as sitk

from covjax.ct.volume import open_volume, read_slice


def bytes_read():
    return int(re.search(r'rchar: (\d+)', pathlib.Path('/proc/self/io').read_text())[1])


def main(path, rounds=15):
    volume = open_volume(path)
    read_slice(volume, 0)  # libraries load with the first
    size, read, slices, wholes = int(np.prod(volume.size)) * 2, [], [], []
    for z in np.linspace(0, volume.size[2] - 1, rounds).round().astype(int):
        before, began = bytes_read(), time.perf_counter()
        one = read_slice(volume, z)
        slices.append(time.perf_counter() - began)
        read.append(bytes_read() - before)
        began = time.perf_counter()
        whole = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
        wholes.append(time.perf_counter() - began)
        assert np.array_equal(np.sort(one, None), np.sort(whole[z], None))
    print(
        f'{volume.size[2]} slices, {size / 1e6:.1f} MB: a slice reads {max(read) / 1e6:.2f} MB ({max(read) / size:.2%}) in {np.median(slices) * 1e3:.2f} ms, '
        f'the volume takes {np.median(wholes) * 1e3:.1f} ms, {np.median(wholes) / np.median(slices):.0f} times as long'
    )


if __name__ == '__main__':
    main(*sys.argv[1:])

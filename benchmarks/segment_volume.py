"""How much memory and time segmenting a CT scan takes: random HU, random weights.

python benchmarks/segment_volume.py SLICES WIDTH [WIDTH ...]

Slices are of 512x512 and go through a U-Net of these widths at 256x256: one width is a network of
next to no cost, so that what remains is the rest. configs/segment.py runs in a process of its own,
whose peak of memory is printed.
"""

import pathlib
import sys
import tempfile

import jax
import numpy as np
from translate_volume import measured, write_volume

from configs import segmentation
from covjax import segmenter
from covjax.trained import Trained, write_classes

CLASSES = ('background', 'lesion')


def write_segmenter(path, widths):
    """Writes an untrained U-Net as .safetensors."""
    config = segmentation.get_config()
    config.update({'widths': widths})
    network, image = segmenter.network(config, len(CLASSES)), np.zeros((1, 32, 32, 1), np.float32)
    variables = network.init(jax.random.key(0), image)
    stored = {'net': {'params': variables['params']}, 'batch_stats': variables['batch_stats']}
    write_classes(path.parent, CLASSES)
    segmenter.save(path, Trained(path.parent, config, stored, 0, 'latest', ''))


def main(slices, *widths):
    """Segments a scan and prints what it took."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_segmenter(folder / 'n.safetensors', widths)
        write_volume(folder / 'v.mhd', slices)
        what = f'{slices} slices of 512x512, widths {widths}'
        measured(folder, 'segment', 'segmenter', what)


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))

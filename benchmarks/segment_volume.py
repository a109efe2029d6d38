"""How much memory and time segmenting a CT scan takes: random HU, random weights.

python benchmarks/segment_volume.py SLICES [vnet|vbnet] WIDTH [WIDTH ...]

Slices are of 512x512 and go through a U-Net of these widths at 256x256, or as voxels of 1.5 mm in
tiles of 96x96x96 through a V-Net or VB-Net: one width is a network of next to no cost, so that what
remains is the rest. configs/segment.py runs in a process of its own,
whose peak of memory is printed.
"""

import pathlib
import sys
import tempfile

import jax
import numpy as np
from translate_volume import measured, write_volume

from configs import segmentation  # which translate_volume has put on the path
from covjax import segmenter
from covjax.trained import Trained, write_classes

CLASSES = ('background', 'lesion')


def write_segmenter(path, model, widths):
    """Writes an untrained network as .safetensors."""
    config = segmentation.get_config('' if model == 'unet' else model)
    config.update({'widths': widths})
    network = segmenter.network(config, len(CLASSES))
    image = np.zeros((1, *[32] * len(config.patch), 1), np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), image)
    stored = {
        'net': {'params': variables['params']},
        'batch_stats': variables.get('batch_stats', {}),
    }
    write_classes(path.parent, CLASSES)
    segmenter.save(path, Trained(path.parent, config, stored, 0, 'latest', ''))


def main(slices, *words):
    """Segments a scan and prints what it took."""
    model = 'unet' if words[0].isdigit() else words[0]
    widths = tuple(int(word) for word in words if word.isdigit())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_segmenter(folder / 'n.safetensors', model, widths)
        write_volume(folder / 'v.mhd', int(slices))
        what = f'{slices} slices of 512x512, {model}, widths {widths}'
        measured(folder, 'segment', 'segmenter', what)


if __name__ == '__main__':
    main(*sys.argv[1:])

"""How much memory and time translating a CT volume takes: random HU, random weights, configs/translate.py in a process of its own.

python benchmarks/translate_volume.py SLICES FILTERS BLOCKS           # of 512x512; the networks of `original` have 64 and 9
"""

import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import SimpleITK as sitk

from configs import cyclegan
from covjax import generator

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main(slices, filters, blocks):
    config = cyclegan.get_config()
    config.update({'gen_filters': filters, 'gen_blocks': blocks})
    params = generator.network(config).init(
        jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32)
    )['params']
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        generator.save(
            folder / 'g.safetensors',
            config,
            {'gen': {'params': {'to_covid': params}}},
            'to_covid',
            0,
        )
        sitk.WriteImage(
            sitk.GetImageFromArray(
                np.random.default_rng(0).integers(-1000, 400, (slices, 512, 512), np.int16)
            ),
            str(folder / 'v.mhd'),
        )
        began = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                ROOT / 'launch.py',
                f'--config={ROOT / "configs/translate.py"}',
                f'--workdir={folder / "run"}',
                f'--config.generator={folder / "g.safetensors"}',
                f'--config.input={folder / "v.mhd"}',
            ],
            cwd=ROOT,
            check=True,
        )
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f'{slices} slices of 512x512, {filters} filters, {blocks} blocks: peak {peak:.2f} GiB, {seconds:.0f} s, compiling and files included ({seconds / slices:.2f} s a slice)'
    )


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))

"""How much memory and time translating a CT volume takes: random HU, random weights.

python benchmarks/translate_volume.py SLICES FILTERS BLOCKS

Slices are of 512x512; the networks of `original` have 64 filters and 9 blocks. configs/translate.py
runs in a process of its own, whose peak of memory is printed.
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

from covjax import generator
from covjax.trained import Trained

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # where configs are
from configs import cyclegan  # noqa: E402


def write_generator(path, filters, blocks):
    """Writes an untrained generator to_covid as .safetensors."""
    config = cyclegan.get_config()
    config.update({'gen_filters': filters, 'gen_blocks': blocks})
    network, image = generator.network(config), np.zeros((1, 32, 32, 1), np.float32)
    variables = {'gen': {'params': {'to_covid': network.init(jax.random.key(0), image)['params']}}}
    run = Trained(path.parent, config, variables, 0, 'latest', '')
    generator.save(path, run, 'to_covid')


def write_volume(path, slices):
    """Writes noise between -1000 and 400 HU as a volume of 512x512 voxels a slice."""
    hu = np.random.default_rng(0).integers(-1000, 400, (slices, 512, 512), np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(path))


def measured(folder, stage, network, what):
    """Runs a stage on a volume in a process of its own and prints what it took.

    Args:
        folder: pathlib.Path with v.mhd.
        stage: of configs/, whose key config.`network` names the file n.safetensors.
        network: that key.
        what: what is printed before the figures.
    """
    command = [
        *(sys.executable, ROOT / 'launch.py'),
        f'--config={ROOT / "configs" / stage}.py',
        f'--workdir={folder / "run"}',
        f'--config.{network}={folder / "n.safetensors"}',
        f'--config.input={folder / "v.mhd"}',
    ]
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f'{what}: peak {peak:.2f} GiB, {seconds:.0f} s, compiling and files included')


def main(slices, filters, blocks):
    """Translates a volume and prints what it took."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_generator(folder / 'n.safetensors', filters, blocks)
        write_volume(folder / 'v.mhd', slices)
        what = f'{slices} slices of 512x512, {filters} filters, {blocks} blocks'
        measured(folder, 'translate', 'generator', what)


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))

"""Phantoms, prepared data and a plain pool that tests share. Real files are used only where COVJAX_DATA points at them."""

import os
import pathlib
import subprocess
import sys

# Every program of a test runs a few times on small arrays: compiling is what takes long. Before jax is imported.
FAST = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
os.environ['XLA_FLAGS'] = FAST

import jax
import pytest

from covjax.phantom import raw_files
from covjax.runs import prepare

ROOT = pathlib.Path(__file__).resolve().parents[1]
REAL = os.environ.get('COVJAX_DATA')
jax.config.update('jax_numpy_rank_promotion', 'raise')
os.environ['KERAS_BACKEND'] = 'jax'  # read when keras is imported


@pytest.fixture(scope='session')
def raw(tmp_path_factory):
    """Phantom raw folders luna16/ and covid_ct/, small."""
    folder = tmp_path_factory.mktemp('raw files % ü')
    raw_files.write_luna16(folder / 'luna16', seed=1, series=10, slices=4, size=128)
    raw_files.write_covid_ct(folder / 'covid_ct', seed=1, train=8, validation=4, test=6)
    return folder


@pytest.fixture(scope='session')
def data_dir(raw, tmp_path_factory):
    """Prepared luna16_patches/nodules and covid_ct."""
    folder = str(tmp_path_factory.mktemp('data'))
    prepare.build('luna16_patches/nodules', str(raw / 'luna16'), folder)
    prepare.build('covid_ct', str(raw / 'covid_ct'), folder)
    return folder


@pytest.fixture(scope='session')
def real():
    """The folder of real files, or a skip."""
    if not REAL:
        pytest.skip('COVJAX_DATA does not point at real files')
    return pathlib.Path(REAL)


@pytest.fixture(scope='session')
def launch():
    """launch(*arguments, devices=1) -> CompletedProcess of launch.py in a process of its own."""

    def run(*arguments, devices=1, **kwargs):
        environment = os.environ | {
            'XLA_FLAGS': f'{FAST} --xla_force_host_platform_device_count={devices}'
        }
        return subprocess.run(
            [sys.executable, str(ROOT / 'launch.py'), *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            text=True,
            capture_output=True,
            **kwargs,
        )

    return run


class PlainPool:
    """The image pool as described by Shrivastava et al. 2017, with the choices given from outside."""

    def __init__(self, size):
        self.size, self.images = size, []

    def query(self, fake, slot, swap):
        if len(self.images) < self.size:
            self.images.append(fake)
        elif swap:
            fake, self.images[slot] = self.images[slot], fake
        return fake

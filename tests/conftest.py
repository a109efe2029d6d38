"""What tests share: phantoms, prepared data, launch.py, a cache of compiled programs.

Real files are used only where COVJAX_DATA points at them.
"""

import gc
import os
import pathlib
import shutil
import tempfile
from importlib.metadata import version

# Every program of a test runs a few times on small arrays: compiling is what takes long, so it is
# done without effort, and once for all workers of a run. Set before jax is imported.
FAST = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
if version('jaxlib').startswith('0.10.'):  # later ones have no other emitters, and refuse the flag
    FAST += ' --xla_cpu_use_fusion_emitters=false'  # slower programs in half the time
WORKERS_RUN = os.environ.get('PYTEST_XDIST_TESTRUNUID', str(os.getpid()))
CACHE = pathlib.Path(tempfile.gettempdir()) / f'covjax_tests_{WORKERS_RUN}'
os.environ['XLA_FLAGS'] = FAST
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ['KERAS_BACKEND'] = 'jax'  # read when keras is imported

import jax  # noqa: E402
import launching  # noqa: E402
import pytest  # noqa: E402

from covjax.phantom import raw_files  # noqa: E402
from covjax.runs import prepare  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
REAL = os.environ.get('COVJAX_DATA')
jax.config.update('jax_numpy_rank_promotion', 'raise')


def flags_of_devices(count):
    """XLA_FLAGS for so many virtual devices."""
    return f'{FAST} --xla_force_host_platform_device_count={count}'


def pytest_configure(config):
    """Two workers take the files by name, where xdist would keep those of few tests for the end.

    Those are the slowest, and one worker would wait for the other.
    """
    config.option.loadscopereorder = False


def pytest_sessionfinish(session):
    """The process that started the workers takes the cache away."""
    if not hasattr(session.config, 'workerinput'):
        cache = CACHE.with_name(f'covjax_tests_{_uid(session.config)}')
        shutil.rmtree(cache, ignore_errors=True)


def _uid(config):
    """The id that xdist gives to the workers of this run, or that of this process."""
    manager = config.pluginmanager.getplugin('dsession')
    return manager.nodemanager.testrunuid if manager else str(os.getpid())


@pytest.fixture(scope='module', autouse=True)
def _free_memory():
    """Compiled programs of a module are of no use to the next, and would pile up."""
    yield
    jax.clear_caches()
    gc.collect()


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
    """launch(*arguments, devices=1, timeout=None) -> CompletedProcess of launch.py."""

    def run(*arguments, devices=1, timeout=None):
        words = [str(argument) for argument in arguments]
        environment = {'XLA_FLAGS': flags_of_devices(devices)}
        return launching.launch(ROOT, words, environment, timeout)

    return run


@pytest.fixture(scope='session')
def finished(launch, tmp_path_factory):
    """The workdir of a quick start."""
    workdir = tmp_path_factory.mktemp('quickstart') / 'run'
    done = launch(*launching.TINY_QUICKSTART, f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    return workdir


class PlainPool:
    """The image pool of Shrivastava et al. 2017, with the choices given from outside."""

    def __init__(self, size):
        self.size, self.images = size, []

    def query(self, fake, slot, swap):
        if len(self.images) < self.size:
            self.images.append(fake)
        elif swap:
            fake, self.images[slot] = self.images[slot], fake
        return fake

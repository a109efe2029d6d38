"""Runs one stage: python launch.py --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.key=value ...]."""

import contextlib
import importlib
import inspect
import os
import pathlib
import runpy
import sys

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from configs.base import BELOW, LEAST
from covjax import InputError
from covjax.workdir import claimed

CACHE = '~/.cache/covjax'  # compiled programs; JAX_COMPILATION_CACHE_DIR names another folder
ROOT = pathlib.Path(__file__).resolve().parent
RUN = {
    name: f'covjax.{name}'
    for name in (
        'prepare',
        'train',
        'synthesize',
        'evaluate',
        'report',
        'export',
        'quickstart',
        'benchmark',
        'translate',
        'look',
        'study',
        'forensics',
        'quality',
    )
} | {'audit': 'covjax.audit.run'}

CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file, configs/NAME.py[:VARIANT].')
WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder for everything the run writes; runs/NAME[-VARIANT] by default.'
)
COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT at process 0 where several processes train one model; auto under Slurm or Open MPI.',
)
PROCESSES = flags.DEFINE_integer('processes', None, 'How many they are.')
PROCESS = flags.DEFINE_integer('process', None, 'Which of them this is, from 0.')


def main(_):
    logging.set_verbosity(
        logging.ERROR
    )  # orbax tells every step of a save, and warns that it opens a finished run to read
    config = CONFIG.value
    workdir = pathlib.Path(WORKDIR.value or ROOT / 'runs' / default_name(sys.argv))
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(CACHE))
    if COORDINATOR.value or PROCESSES.value or PROCESS.value is not None:
        join(config)
    run = importlib.import_module(RUN[config.run]).run
    try:
        # Of several processes the first makes the folder, and takes it away again.
        with (
            claimed(config, workdir)
            if not COORDINATOR.value or jax.process_index() == 0
            else contextlib.nullcontext()
        ):
            print(f'{config.run}: writing to {workdir}', flush=True)
            run(config, workdir)
    except (InputError, FloatingPointError) as error:  # the second: a training that diverged
        fail('\n  '.join([str(error), *getattr(error, 'details', ())]))


def join(config):
    """Makes this one of several processes that train one model."""
    if not COORDINATOR.value:
        fail('--processes and --process need --coordinator=HOST:PORT, the same in every process')
    if config.run != 'train':
        fail(
            f'--coordinator={COORDINATOR.value}: a run of {config.run} is one process; leave it out'
        )
    auto = COORDINATOR.value == 'auto'
    try:
        jax.distributed.initialize(
            None if auto else COORDINATOR.value, PROCESSES.value, PROCESS.value
        )
    except (RuntimeError, ValueError) as error:
        fail(
            f'--coordinator={COORDINATOR.value}: {str(error).splitlines()[0]}; outside Slurm and Open MPI give HOST:PORT, --processes and --process'
        )


def parse(argv):
    """Flags of absl and ml_collections, but every mistake is told in plain lines, with what would be valid, and exits with code 2."""
    name, variant = config_argument(argv)
    if {'--help', '-h'} & set(argv):
        print(
            f'{__doc__}\n\nconfigs, each with its own explanation at the top:\n  '
            + '\n  '.join(configs())
        )
        sys.exit(0)
    if name is None:
        fail(f'--config is missing; choose one of {", ".join(configs())}')
    path = pathlib.Path(name)
    if not path.is_file():
        fail(f'--config={name}: no such config; choose one of {", ".join(configs())}')
    get_config = runpy.run_path(str(path)).get('get_config')
    if not get_config:
        fail(f'--config={name}: defines no get_config; choose one of {", ".join(configs())}')
    if variant and not inspect.signature(get_config).parameters:
        fail(f'--config={name}:{variant}: this config has no variants; leave out :{variant}')
    try:
        config = get_config(*([variant] if variant else []))
    except InputError as error:
        fail(f'--config={name}:{variant}: {error}')
    try:
        arguments = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        fail(
            f'{str(error).splitlines()[0]}\nvalid keys of {name}:\n  '
            + '\n  '.join(f'config.{key}' for key, _ in leaves(config))
        )
    if wrong := out_of_range(CONFIG.value):
        fail(wrong)
    if len(arguments) > 1:
        fail(f'{arguments[1]}: not a flag; write keys as --config.key=value')
    return arguments


def out_of_range(config):
    """What is wrong with the first number beyond the limits of configs.base, or None."""
    for key, value in leaves(config):
        numbers = [
            number
            for number in (value if isinstance(value, tuple) else [value])
            if isinstance(number, (int, float))
        ]
        least, below = (limits.get(key.rpartition('.')[2]) for limits in (LEAST, BELOW))
        if least is not None and numbers and min(numbers) < least:
            return f'--config.{key}={value}: must be at least {least}'
        if below is not None and numbers and max(numbers) >= below:
            return f'--config.{key}={value}: must be below {below}'
    return None


def config_argument(argv):
    """('configs/x.py', 'variant') of --config=..., or (None, '')."""
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition('=')
        if flag in ('--config', '-config'):
            name, _, variant = (value if equals else ''.join(argv[i + 1 : i + 2])).partition(':')
            return name, variant
    return None, ''


def default_name(argv):
    name, variant = config_argument(argv)
    return '-'.join(filter(None, (pathlib.Path(name).stem, variant.replace(',', '-'))))


def configs():
    return sorted(
        f'configs/{path.name}'
        for path in (ROOT / 'configs').glob('*.py')
        if path.stem not in ('__init__', 'base')
    )


def leaves(config, prefix=''):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f'{prefix}{key}.')
        else:
            yield prefix + key, value


def fail(message):
    print(f'covjax: {message}', file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        os._exit(2)  # or this process would wait for the others, which may be training
    sys.exit(2)


if __name__ == '__main__':
    app.run(main, flags_parser=parse)

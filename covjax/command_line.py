"""The words of a command line -> a config that can be run, and a workdir.

Whatever is wrong with them is reported in plain lines, with what would be valid, and exits with
code 2.
"""

import functools
import inspect
import math
import os
import pathlib
import runpy
import sys

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from covjax import InputError, installation
from covjax.workdir import add_keys, refuse_old_names

USAGE = f'{installation.stage("NAME")}[:VARIANT] [--workdir=DIR] [--config.key=value ...]'
CONFIG_FLAGS = ('--config', '-config')

CONFIG = config_flags.DEFINE_config_file('config', None, 'Config file, configs/NAME.py[:VARIANT].')
WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder for everything the run writes; runs/NAME[-VARIANT] by default.'
)
COORDINATOR = flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT at process 0 where several processes train one model; auto under Slurm or Open MPI.',
)
PROCESSES = flags.DEFINE_integer('processes', None, 'Number of processes that train one model.')
PROCESS = flags.DEFINE_integer('process', None, 'Index of this process among them, from 0.')


def parse(argv, home, below):
    """(config, workdir) of a command line.

    Ends the process with code 2 where a word is wrong, with 0 for --help.

    The flags are those of absl and ml_collections.
    """
    if sum(argument.partition('=')[0] in CONFIG_FLAGS for argument in argv) > 1:
        fail('--config is given twice; a run has one config')
    name, variant = config_argument(argv)
    asks_for_help = not {'--help', '-h'}.isdisjoint(argv)
    if asks_for_help and name is None:
        valid = '\n  '.join(configs(home))
        print(f'{USAGE}\n\nconfigs, each with its own explanation at the top:\n  {valid}')
        sys.exit(0)
    path, config = load(name, variant, home)
    if asks_for_help:
        keys = '\n  '.join(f'--config.{key}={value!r}' for key, value in leaves(config))
        print(f'{runpy.run_path(str(path))["__doc__"] or name}\nkeys and their values:\n  {keys}')
        sys.exit(0)
    try:
        others = flags.FLAGS(with_path(argv, path, variant))[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        fail(what_is_wrong(error, name, config))
    check(CONFIG.value, path, home)
    if others:
        fail(f'{others[0]}: not a flag; write keys as --config.key=value')
    return CONFIG.value, pathlib.Path(WORKDIR.value or below / default_name(name, variant))


def what_is_wrong(error, name, config):
    """What to say of words that the flags refuse.

    Args:
        error: the exception of absl or ml_collections.
        name: of the config.
        config: ConfigDict, the one that is shipped.
    """
    message = str(error).splitlines()[0].strip('"')
    if isinstance(error, flags.IllegalFlagValueError):  # the key is right
        said, wrong, _ = message.partition(": ('Non-boolean")
        return f'{said.removeprefix("flag --")}: write True or False' if wrong else message
    if message.startswith("'"):  # ml_collections says no more than the name
        message = f'config has no key {message}'
    keys = '\n  '.join(f'config.{key}' for key, _ in leaves(config))
    return f'{message}\nvalid keys of {name}:\n  {keys}'


def load(name, variant, home):
    """(path, config) of what --config names.

    Ends the process with code 2 where there is no such config or variant.
    """
    valid = ', '.join(configs(home))
    if name is None:
        fail(f'--config is missing; choose one of {valid}')
    path = find(name, home)
    if path is None:
        fail(f'--config={name}: no such config; choose one of {valid}')
    try:
        get_config = runpy.run_path(str(path)).get('get_config')
        if not get_config:
            fail(f'--config={name}: defines no get_config; choose one of {valid}')
        if variant and not inspect.signature(get_config).parameters:
            fail(f'--config={name}:{variant}: this config has no variants; leave out :{variant}')
        config = get_config(*([variant] if variant else []))
    except InputError as error:
        fail(f'--config={name}:{variant}: {error}')
    except Exception as error:  # whatever is wrong in a file that somebody else wrote
        fail(f'--config={name}: cannot be loaded ({type(error).__name__}: {error}); correct it')
    if not isinstance(config, ConfigDict) or 'run' not in config:
        fail(
            f'--config={name}: get_config must return a ConfigDict with a run; see configs/base.py'
        )
    return path, config


def find(name, home):
    """The file that --config=NAME means, or None where there is none.

    NAME is a path, or the name of a config of this package, with or without configs/ and .py.
    """
    if pathlib.Path(name).is_file():
        return pathlib.Path(name)
    known = {}
    for path in configs(home):
        stem = pathlib.Path(path).stem
        known |= dict.fromkeys([path, f'configs/{stem}', f'{stem}.py', stem], home / path)
    return known.get(name)


def with_path(argv, path, variant):
    """The words of a command line, with the path of the config in place of its name.

    It comes first, wherever it was: its keys can be set only after it.
    """
    value = f'{path}:{variant}' if variant else str(path)
    program, *words = last_of_each(argv)
    for i, word in enumerate(words):
        flag, equals, _ = word.partition('=')
        if flag in CONFIG_FLAGS:
            del words[i : i + 1 + (not equals)]
            return [program, f'{flag}={value}', *words]
    return [program, *words]


def last_of_each(argv):
    """The words of a command line, of each --config.key=value the last: tuples would be joined."""
    last = {word.partition('=')[0]: i for i, word in enumerate(argv)}
    is_key = lambda word: word.lstrip('-').startswith('config.') and '=' in word
    return [
        word for i, word in enumerate(argv) if not is_key(word) or last[word.partition('=')[0]] == i
    ]


def check(config, path, home):
    """Ends the process with code 2 where a config, from the file `path`, cannot be run."""
    from covjax import choices  # takes seconds, which --help need not wait for

    try:
        refuse_old_names(config)
        add_keys(config)
        choices.check(config)
    except InputError as error:
        fail(str(error))
    if wrong := wrong_keys(config, home):
        fail(f'{path}: {wrong}')
    if wrong := out_of_range(config):
        fail(wrong)


def wrong_keys(config, home):
    """What is wrong with the keys of a config from elsewhere, or None.

    It lacks a key that every config of this package for the same run has, or has one that none of
    them has, or one whose value is of another type, or calls a stage of a pipeline another.
    """
    kind = lambda config: (config.get('run'), config.get('task'))
    shipped = _shipped(home)
    alike = {
        path: dict(leaves(other)) for path, other in shipped.items() if kind(other) == kind(config)
    }
    if not alike:
        return None
    first, ours = min(alike), dict(leaves(config))
    named = lambda keys: ', '.join(f'config.{key}' for key in sorted(keys))
    if missing := set.intersection(*map(set, alike.values())) - set(ours):
        return f'has no {named(missing)}; take it from {first}'
    if extra := set(ours) - set.union(*map(set, alike.values())):
        return f'{named(extra)}: a run of {config.run} has no such key; compare with {first}'
    for key in (key for key in alike[first] if key in ours):
        value, given = alike[first][key], ours[key]
        if not _alike(value, given):
            return f'config.{key}={given!r}: expected a value such as {value!r}, as in {first}'
        if key.endswith(('.run', '.task')) and given != value:  # what a stage of a pipeline is
            return f'config.{key}={given}: must be {value}, as in {first}'
    return None


@functools.cache
def _shipped(home):
    """{'configs/audit.py': ConfigDict} of every config of this package, without variant."""
    return {path: runpy.run_path(str(home / path))['get_config']() for path in configs(home)}


def _alike(value, other):
    """Whether a value could take the place of another; None stands for any, a float for an int.

    Of a tuple so could each of its values for the first of the other.
    """
    if value is None or other is None:
        return True
    if isinstance(value, tuple) and isinstance(other, tuple):
        return all(_alike(first, each) for first in value[:1] for each in other)
    kinds = (bool, int, float, str, tuple)
    first, second = ([kind for kind in kinds if isinstance(v, kind)][:1] for v in (value, other))
    return first == second or (first, second) == ([float], [int])


def out_of_range(config):
    """What is wrong with the first number beyond the limits of configs.base, or None."""
    from configs.base import BELOW, LEAST, MOST, MOST_OF_ALL

    for key, value in leaves(config):
        values = value if isinstance(value, tuple) else (value,)
        numbers = [number for number in values if isinstance(number, (int, float))]
        name = key.rpartition('.')[2]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            return f'--config.{key}={value}: must be a finite number'
        least = LEAST.get(name, 0)
        if not all(number >= least for number in numbers):
            return f'--config.{key}={value}: must be at least {least}'
        if name in BELOW and not all(number < BELOW[name] for number in numbers):
            return f'--config.{key}={value}: must be below {BELOW[name]}'
        whole = all(isinstance(number, int) for number in numbers)
        most = MOST.get(name, MOST_OF_ALL if whole else math.inf)
        if not all(number <= most for number in numbers):
            return f'--config.{key}={value}: must be at most {most}'
    return None


def config_argument(argv):
    """('configs/x.py', 'variant') of --config=..., or (None, '')."""
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition('=')
        if flag in CONFIG_FLAGS:
            name, _, variant = (value if equals else ''.join(argv[i + 1 : i + 2])).partition(':')
            return name, variant
    return None, ''


def default_name(name, variant):
    """'cyclegan-small' of a config and its variant: the folder of a run without --workdir."""
    return '-'.join(filter(None, (pathlib.Path(name).stem, variant.replace(',', '-'))))


def configs(home):
    """['configs/audit.py', ...]: every config that can be run, sorted."""
    stems = (path.stem for path in (home / 'configs').glob('*.py'))
    return sorted(f'configs/{stem}.py' for stem in stems if stem not in ('__init__', 'base'))


def leaves(config, prefix=''):
    """Yields ('cyclegan.steps', value) of every key of a config and the configs inside it."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f'{prefix}{key}.')
        else:
            yield prefix + key, value


def fail(message, waits=True):
    """Prints one message and ends the process with code 2.

    Args:
        message: str.
        waits: whether it waits for its threads; of several processes none does, since the others
            may be training.
    """
    print(f'covjax: {message}', file=sys.stderr, flush=True)
    if jax.distributed.is_initialized() or not waits:
        sys.stdout.flush()
        os._exit(2)
    sys.exit(2)

"""The folder that a run writes to, JSON that is written in full or not at all, and tables.

A workdir holds config.json, environment.json and what the run makes; a training also checkpoints/,
metrics.jsonl, lineage.json, images/, tensorboard/ and, where the outputs of its network are
classes, classes.json, or where it makes use of segmenters, copies of those. While a run writes
there it holds the `lock`.
"""

import contextlib
import csv
import json
import math
import pathlib
import platform
import shutil
import time
from importlib import metadata
from typing import Any, NotRequired, TypedDict

import jax
import msgspec
from ml_collections import ConfigDict

from covjax import InputError, Stopped, __version__, drafts, lock

# Commands that go on with what an earlier call left, and the files that show that there is some.
# All others start anew.
RESUMES = {'train': 'checkpoints/[0-9]*', 'quickstart': 'phantoms'}
# Keys that may change when a run is taken up again. `steps` may not: schedules depend on it.
MAY_CHANGE = {'log_every', 'eval_every', 'data_dir', 'features'}
AGAIN = 'run that stage again in another --workdir'
# How a cell begins that spreadsheets run, after spaces; the last four are full-width.
FORMULAS = ('=', '+', '-', '@', '\uff1d', '\uff0b', '\uff0d', '\uff20')
VERSIONS_OF = ('jax', 'flax', 'optax', 'numpy', 'tensorflow-datasets')
# What 0.5.0 wrote into config.json under other names: (command, old key) -> new key.
RENAMED_KEYS = {
    ('synthesize', 'how'): 'stand_in',
    ('audit', 'controls'): 'stand_ins',
    ('audit', 'sources'): 'pairs',
}
RENAMED_RUNS = {'forensics': 'printed_rates'}
# Keys that versions after the first added, by the task of a training or the command, and what runs
# and configs without them mean.
ADDED_KEYS = {
    'cyclegan': {
        'norm': 'instance',
        'upsample': 'transposed',
        'dtype': 'float32',
        'features': 'pixels',
    },
    'classification': {
        'pretrained': '',
        'start': '',
        'equal_parts': False,
        'dtype': 'float32',
        'lungs': '',
        'lung_segmenter': '',
        'brightness': 0.0,
        'contrast': 0.0,
    },
    'segmentation': {'start': '', 'equal_parts': False, 'bottleneck': 1, 'spacing': 0.0},
    'pairs': {
        'lesion_segmenter': '',
        'val_pictures': '',
        'gen_up': 'transposed',
        'disc_augment': '',
        'ema': 0.0,
    },
    'synthesize': {'stand_in': 'translated'},
    'synthesize_pairs': {
        'masks': 'procedural',
        'pictures': '',
        'image_size': 96,
        'joined': 1,
    },
    'evaluate': {'names': '', 'aggregate': '', 'unit': 'patient'},
    'export': {'segmenter': '', 'format': 'safetensors'},
    'prepare': {'unchecked_masks': False, 'table': ''},
    'report': {'audits': '', 'quality': ''},
    'look': {'source': '', 'table': '', 'hu': ''},
    'audit': {'positive_class': '', 'title': 'Shortcut audit'},
    'quality': {'title': 'Quality of synthetic images'},
}


class ConfigJson(TypedDict):
    """What every config.json has, and what is read of it before it is known to be whole."""

    run: str
    task: NotRequired[str]
    best: NotRequired[str]
    data_dir: NotRequired[str]


class Environment(TypedDict):
    """The parts of environment.json that are read."""

    seconds: float


@contextlib.contextmanager
def claimed(config, workdir):
    """Makes the folder of a run and writes its config.json and, at the end, environment.json.

    After an InputError or OSError inside the block a new folder is removed, and an existing one
    keeps its files and gets its old config.json back. Checkpoints are never removed, and neither
    are finished stages of a pipeline.

    Args:
        config: ConfigDict of the run.
        workdir: the folder; made where there is none.

    Yields:
        workdir as a pathlib.Path.

    Raises:
        InputError: the folder holds another run, or is a file.
    """
    workdir = pathlib.Path(workdir)
    made = [path for path in (workdir, *workdir.parents) if not path.exists()]
    _make(workdir)
    try:
        with lock.held(workdir), _described(config, workdir, not made):
            yield workdir
    finally:
        for folder in made:  # the innermost first; what is not empty stays
            with contextlib.suppress(OSError):
                folder.rmdir()


def _make(workdir):
    """Makes a folder where there is none."""
    if next(path for path in (workdir, *workdir.parents) if path.exists()).is_file():
        raise InputError(f'--workdir={workdir}: is a file; choose a folder')
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise lock.unwritable(workdir, error) from None


@contextlib.contextmanager
def _described(config, workdir, existed):
    """Keeps config.json and environment.json of a folder right while a run writes to it."""
    file, began = workdir / 'config.json', time.monotonic()
    before = read_json(file, ConfigJson) if file.is_file() else None
    if before:
        _refuse_another_run(upgraded(before), config, workdir)
    as_written = json.loads(config.to_json())
    try:
        # Of a run that begins anew the old results stay until there are new ones, and so does the
        # config that made them.
        if before is None or config.run in RESUMES:
            write_json(file, as_written)
        yield
        write_json(file, as_written)
        note_environment(workdir, config.run, time.monotonic() - began)
    except Stopped:
        note_environment(workdir, config.run, time.monotonic() - began)
        raise
    except FileNotFoundError:  # a bug, or there is no folder any more
        raise
    except (InputError, OSError) as error:
        states, stages = any(workdir.glob(RESUMES['train'])), any(workdir.glob('**/finished.json'))
        # Such a run goes on with this config; where a key of a pipeline was wrong, with another.
        if not states and not (stages and isinstance(error, OSError)):
            _undo(workdir, before, existed or stages)
        raise


def _undo(workdir, before, kept):
    """Takes back what a run that failed did to its folder; a disk that is full may not let us.

    Args:
        workdir: pathlib.Path.
        before: dict of the config.json that was there, or None.
        kept: whether the folder stays.
    """
    file = workdir / 'config.json'
    if not kept:
        shutil.rmtree(workdir, ignore_errors=True)
    with contextlib.suppress(OSError):
        if kept and before:
            write_json(file, before)
        elif kept:
            file.unlink(missing_ok=True)


def note_environment(workdir, run, seconds):
    """Writes environment.json: versions, devices and seconds.

    The seconds are those of all sessions of a run that goes on where it was stopped.

    Args:
        workdir: pathlib.Path.
        run: config.run.
        seconds: of this session.
    """
    file = workdir / 'environment.json'
    known = run in RESUMES and file.is_file()
    before = _seconds(file) if known else 0.0
    environment = {
        'covjax': __version__,
        'python': platform.python_version(),
        **{name: metadata.version(name) for name in VERSIONS_OF},
        'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
        'seconds': round(before + seconds, 1),
    }
    write_json(file, environment)


def _seconds(file):
    """Those of an environment.json; 0.0 of one that is damaged, for which no run should end."""
    try:
        return read_json(file, Environment)['seconds']
    except InputError:
        return 0.0


def _refuse_another_run(before, config, workdir):
    """Raises an InputError where `config` cannot go on with the run of a workdir.

    `before` is the config.json there, a dict.
    """
    if before['run'] != config.run:
        raise InputError(f'{workdir} holds a run of {before["run"]}; choose another --workdir')
    if config.run not in RESUMES or not any(workdir.glob(RESUMES[config.run])):
        return
    old, new = _leaves(before), _leaves(json.loads(config.to_json()))
    differ = (key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    changed = sorted(key for key in differ if key.rpartition('.')[2] not in MAY_CHANGE)
    if changed:
        more = f' (and {len(changed) - 1} more)' if len(changed) > 1 else ''
        raise InputError(
            f'{workdir} holds a run with another config.{changed[0]}{more}; '
            'choose another --workdir'
        )


def _leaves(tree, prefix=''):
    """{'cyclegan.steps': value} of nested dicts."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    leaves = {}
    for name, child in tree.items():
        leaves |= _leaves(child, f'{prefix}{name}.')
    return leaves


def upgraded(tree):
    """The content of a config.json, a dict, as this version would have written it.

    Keys and commands of 0.5.0 get their new names, and keys that came later the value that means
    what was done before them; in nested configs too.
    """
    if not isinstance(tree, dict):
        return tree
    run = str(tree.get('run'))
    renamed = {RENAMED_KEYS.get((run, key), key): upgraded(value) for key, value in tree.items()}
    if run in RENAMED_RUNS:
        renamed['run'] = RENAMED_RUNS[run]
    return added_keys(renamed) | renamed


def added_keys(config):
    """Those of ADDED_KEYS that belong to a config (ConfigDict or dict)."""
    return ADDED_KEYS.get(str(config.get('task') or config.get('run')), {})


def add_keys(config):
    """Gives a config (ConfigDict) those of ADDED_KEYS that it lacks, in nested configs too."""
    for stage in [config, *(value for value in config.values() if isinstance(value, ConfigDict))]:
        for key, value in added_keys(stage).items():
            if key not in stage:
                with stage.unlocked():
                    stage[key] = value


def refuse_old_names(config):
    """Raises an InputError where a config (ConfigDict) has a key under a name of 0.5.0.

    What covjax wrote itself is read under the new names (`upgraded`).
    """
    stages = [config, *(value for value in config.values() if isinstance(value, ConfigDict))]
    for stage in stages:
        for (run, key), name in RENAMED_KEYS.items():
            if stage.get('run') == run and key in stage:
                raise InputError(f'config.{key} of a run of {run} is now called config.{name}')


def read_stored_config(file):
    """The ConfigDict of a config.json (path) of this version or of an older one.

    Raises:
        InputError: it is damaged, or no config of a run.
    """
    return ConfigDict(upgraded(read_json(file, ConfigJson)))


def read_config(workdir, run, key):
    """The config of an upstream run.

    Args:
        workdir: its folder.
        run: what it must be a run of: a command, or the task of a training; or several, any of
            which will do.
        key: the config key that named the folder, for messages.

    Returns:
        ConfigDict.

    Raises:
        InputError: no folder is given, or it holds no such run.
    """
    valid = (run,) if isinstance(run, str) else run
    expected = f'give the workdir of a run of {" or ".join(valid)}'
    if not workdir:
        raise InputError(f'config.{key} is empty; {expected}')
    file = pathlib.Path(workdir) / 'config.json'
    if not file.is_file():
        raise InputError(f'config.{key}={workdir}: no config.json there; {expected}')
    config = read_stored_config(file)
    if not {config.run, config.get('task')} & {*valid}:
        actual = config.get('task') or config.run
        raise InputError(f'config.{key}={workdir}: is a run of {actual}; {expected}')
    return config


def read_json(path, kind=Any):
    """Reads what write_json wrote.

    Args:
        path: of the file.
        kind: type of the content, as `checked` takes it.

    Returns:
        dict, list or plain value.

    Raises:
        InputError: the file is missing, damaged, or of another kind.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; let that run finish first') from None
    except (OSError, ValueError, RecursionError):
        raise InputError(f'{path}: is damaged; {AGAIN}') from None
    return checked(path, content, kind)


def checked(path, content, kind, remedy=AGAIN):
    """Returns the content of a file, where it has the type that it must have.

    Args:
        path: of the file, for the message.
        content: what JSON holds: dict, list or plain value.
        kind: a type: a plain one, list, dict, union, Literal, or a TypedDict, whose content may
            have more keys.
        remedy: the end of the message.

    Raises:
        InputError: it has another type; the message says where.
    """
    try:
        msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise InputError(f'{path}: is damaged ({error}); {remedy}') from None
    return content


def without_nan(value):
    """A value of dicts, lists and plain values with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: without_nan(of_name) for name, of_name in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(path, value):
    """Writes a value as JSON, in full or not at all; makes the folder."""
    drafts.write_text(path, json.dumps(value, indent=1) + '\n')


def write_csv(path, rows):
    """Writes a table as CSV in UTF-8.

    A text that a spreadsheet would take for a formula gets an apostrophe before it; numbers, also
    as texts, stay, and so does a sign alone, such as a dash for what is not known.

    Args:
        path: pathlib.Path of the file.
        rows: iterable of rows, the header first, each an iterable of cells.
    """
    with drafts.file(path) as draft, draft.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([_harmless(cell) for cell in row] for row in rows)


def _harmless(cell):
    """A cell of a table that no spreadsheet runs."""
    cell = str(cell) if isinstance(cell, pathlib.PurePath) else cell
    if not isinstance(cell, str) or cell in FORMULAS:
        return cell
    if not cell.lstrip().startswith(FORMULAS) and not cell.startswith(('\t', '\r', '\n')):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def duration(seconds):
    """'12s', '3m05s' or '2h10m'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours}h{minutes:02d}m'
    return f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'

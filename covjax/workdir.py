"""The folder a run writes to: config.json, environment.json, checkpoints/, metrics.jsonl, lineage.json, images/, results.json."""

import contextlib
import json
import os
import pathlib
import platform
import shutil
import time
from importlib import metadata

import jax
from ml_collections import ConfigDict

from covjax import InputError, __version__

RESUMES = {
    'train': 'checkpoints/[0-9]*',
    'quickstart': 'phantoms',
}  # what a run goes on from, where it has made it; other runs start anew
MAY_CHANGE = {
    'log_every',
    'eval_every',
    'data_dir',
    'features',
}  # of a run that is taken up again; the schedules depend on `steps`


@contextlib.contextmanager
def claimed(config, workdir):
    """Makes the folder of a run and writes its config.json. Wrong input inside leaves everything as it was, but for finished parts of a study."""
    workdir, file = pathlib.Path(workdir), pathlib.Path(workdir) / 'config.json'
    existed, before = workdir.exists(), read_json(file) if file.is_file() else None
    if before:
        _refuse_another_run(before, config, workdir)
    if next((path for path in (workdir, *workdir.parents) if path.exists())).is_file():
        raise InputError(f'--workdir={workdir}: is a file; choose a folder')
    began = time.monotonic()
    try:
        write_json(file, json.loads(config.to_json()))
        yield workdir
        note_environment(workdir, config.run, time.monotonic() - began)
    except SystemExit:  # a training that was stopped
        note_environment(workdir, config.run, time.monotonic() - began)
        raise
    except InputError:
        if not existed and not any(workdir.glob('**/finished.json')):
            shutil.rmtree(workdir, ignore_errors=True)
        elif before:
            write_json(file, before)
        else:
            file.unlink()
        raise


def note_environment(workdir, run, seconds):
    """environment.json: versions, devices and seconds, of all sessions of a run that goes on where it was stopped."""
    file = pathlib.Path(workdir) / 'environment.json'
    before = read_json(file)['seconds'] if run in RESUMES and file.is_file() else 0.0
    versions = {
        name: metadata.version(name)
        for name in ('jax', 'flax', 'optax', 'numpy', 'tensorflow-datasets')
    }
    devices = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
    write_json(
        file,
        {
            'covjax': __version__,
            'python': platform.python_version(),
            **versions,
            'devices': devices,
            'seconds': round(before + seconds, 1),
        },
    )


def _refuse_another_run(before, config, workdir):
    if before['run'] != config.run:
        raise InputError(f'{workdir} holds a run of {before["run"]}; choose another --workdir')
    if config.run not in RESUMES or not any(workdir.glob(RESUMES[config.run])):
        return
    old, new = _leaves(before), _leaves(json.loads(config.to_json()))
    changed = sorted(
        key
        for key in old.keys() | new.keys()
        if old.get(key) != new.get(key) and key.rpartition('.')[2] not in MAY_CHANGE
    )
    if changed:
        raise InputError(
            f'{workdir} holds a run with another config.{changed[0]}'
            f'{f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""}; choose another --workdir'
        )


def _leaves(tree, prefix=''):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {
        key: leaf
        for name, child in tree.items()
        for key, leaf in _leaves(child, f'{prefix}{name}.').items()
    }


def read_config(workdir, run, key):
    """The config of an upstream run. `run` is what it must be a run of, `key` the config key that named the folder, for the message."""
    if not workdir:
        raise InputError(f'config.{key} is empty; give the workdir of a run of {run}')
    file = pathlib.Path(workdir) / 'config.json'
    if not file.is_file():
        raise InputError(
            f'config.{key}={workdir}: no config.json there; give the workdir of a run of {run}'
        )
    config = ConfigDict(read_json(file))
    if run not in (config.run, config.get('task')):
        raise InputError(
            f'config.{key}={workdir}: is a run of {config.get("task") or config.run}; give the workdir of a run of {run}'
        )
    return config


def read_json(path):
    """What write_json wrote."""
    try:
        return json.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; let that run come to its end first') from None
    except ValueError:
        raise InputError(f'{path}: is damaged; run that stage again in another --workdir') from None


def write_json(path, value):
    """Writes whole or not at all; makes the folder."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + '.part')
    draft.write_text(json.dumps(value, indent=1) + '\n')
    os.replace(draft, path)

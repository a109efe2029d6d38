"""The folder a run writes to: config.json, checkpoints/, metrics.jsonl, lineage.json, images/, results.json."""
import contextlib
import json
import os
import pathlib
import shutil

from ml_collections import ConfigDict

from covjax import InputError

MAY_CHANGE = {'steps', 'log_every', 'eval_every', 'data_dir'}          # of a run that is taken up again


@contextlib.contextmanager
def claimed(config, workdir):
    """Makes the folder of a run and writes its config.json. Wrong input inside leaves nothing behind where there was nothing before."""
    workdir = pathlib.Path(workdir)
    existed = workdir.exists()
    if (workdir / 'config.json').is_file():
        _refuse_another_run(config, workdir)
    try:
        write_json(workdir / 'config.json', json.loads(config.to_json()))
        yield workdir
    except InputError:
        if not existed:
            shutil.rmtree(workdir, ignore_errors=True)
        raise


def _refuse_another_run(config, workdir):
    old, new = (_leaves(c) for c in (json.loads((workdir / 'config.json').read_text()), json.loads(config.to_json())))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and key.rpartition('.')[2] not in MAY_CHANGE)
    if changed:
        raise InputError(f'{workdir} holds a run with another config.{changed[0]}'
                         f'{f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""}; choose another --workdir')


def _leaves(tree, prefix=''):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {key: leaf for name, child in tree.items() for key, leaf in _leaves(child, f'{prefix}{name}.').items()}


def read_config(workdir, run, key):
    """The config of an upstream run. `run` is what it must be a run of, `key` the config key that named the folder, for the message."""
    if not workdir:
        raise InputError(f'config.{key} is empty; give the workdir of a {run} run')
    file = pathlib.Path(workdir) / 'config.json'
    if not file.is_file():
        raise InputError(f'config.{key}={workdir}: no config.json there; give the workdir of a {run} run')
    config = ConfigDict(json.loads(file.read_text()))
    if run not in (config.run, config.get('task')):
        raise InputError(f'config.{key}={workdir}: is a run of {config.get("task") or config.run}; give the workdir of a {run} run')
    return config


def write_json(path, value):
    """Writes whole or not at all; makes the folder."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + '.part')
    draft.write_text(json.dumps(value, indent=1) + '\n')
    os.replace(draft, path)

"""Orbax checkpoints of a run, in <workdir>/checkpoints/STEP.

Each has three items: `model` is what apply needs, `rest` what only training needs, and `sums` the
dtype, shape and hash of every array in both, with which every read is compared: a flipped bit on a
disk is not believed. With them go hashes of the files of the workdir that say how they came about.
On disk arrays are NumPy's, so that any number of devices can read them.
"""

import contextlib
import itertools
import json
import logging
import os
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from flax.serialization import from_state_dict, to_state_dict
from orbax.checkpoint import checkpoint_managers as cm

from covjax import InputError, drafts, hashes

MODEL, REST, SUMS = 'model', 'rest', 'sums'
TRIES = 3  # to read a run that is training, which removes old checkpoints
BEGIN_ANEW = 'choose another --workdir, or remove the folders damaged_* to begin anew'


class Damaged(Exception):
    """What was read is not what was written."""


# Orbax warns whoever opens checkpoints to read them that they are opened to be read.
logging.getLogger('absl').addFilter(lambda record: 'is read only' not in record.getMessage())


def split_state(state):
    """Divides a training state into what apply needs and everything else.

    Returns:
        (model, rest): `model` is a nested dict of params and batch_stats, `rest` a flat dict
        {'opt_state/...': leaf}.
    """
    model, rest = {}, {}
    for path, leaf in traverse_util.flatten_dict(to_state_dict(state)).items():
        if 'opt_state' not in path and not {'params', 'batch_stats'}.isdisjoint(path):
            model[path] = leaf
        else:
            rest['/'.join(path)] = leaf
    return traverse_util.unflatten_dict(model), rest


def join_state(state, model, rest):
    """The inverse of split_state.

    Args:
        state: one of the same structure; its leaves do not matter.
        model: nested dict.
        rest: flat dict.

    Returns:
        A state with the leaves of model and rest.
    """
    leaves = traverse_util.flatten_dict(model)
    leaves |= {tuple(path.split('/')): leaf for path, leaf in rest.items()}
    nodes = traverse_util.flatten_dict(to_state_dict(state), keep_empty_nodes=True)
    empty = {path: node for path, node in nodes.items() if path not in leaves}
    return from_state_dict(state, traverse_util.unflatten_dict(leaves | empty))


@contextlib.contextmanager
def manager(workdir, best=''):
    """Yields the Orbax manager of a run's checkpoints.

    It keeps the two latest, since one may be damaged. It saves in threads of its own, so that what
    went wrong in one save is raised by the next, or at the end.

    Args:
        workdir: of the run.
        best: a scalar's name, or ''. Where it is not '', the checkpoint with the highest value
            given to `save` is kept too.

    Yields:
        orbax.checkpoint.CheckpointManager.

    Raises:
        OSError: a checkpoint could not be written, as on a full disk.
    """
    folder = _folder(workdir)
    _set_aside_broken_metrics(folder)
    policies = [cm.LatestN(2)]
    if best:
        policies.append(cm.BestN(get_metric_fn=_best_value, n=1))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=cm.AnyPreservationPolicy(policies),
        best_fn=_best_value if best else None,
        cleanup_tmp_directories=True,
    )
    try:
        with ocp.CheckpointManager(folder, options=options) as checkpoints:
            yield checkpoints
    except Exception as error:
        refused = drafts.refused(error, folder)
        if refused is None:
            raise
        raise refused from None


def _best_value(metrics):
    return metrics['best']


def _set_aside_broken_metrics(folder):
    """Orbax reads the metrics of all checkpoints before anything else, and fails on broken ones."""
    for step in _steps(folder):
        try:
            _check_metrics(step)
        except (OSError, ValueError, KeyError, TypeError, Damaged) as error:
            _set_aside(step, error)


def _check_metrics(step):
    """Raises where the value that a checkpoint competes by is not the one that was written."""
    metrics, sums = step / 'metrics' / 'metrics', _read_sums(step)
    if metrics.is_file():  # which only runs with `best` have
        found = json.loads(metrics.read_text(encoding='utf-8'))
        if sums and found != {'best': sums['best']}:
            raise Damaged('metrics')


# ---- sums


def sums_of(model, rest, best, beside=None):
    """The item `sums` of a checkpoint.

    Args:
        model, rest: of `split_state`, leaves as NumPy arrays.
        best: float, by which it competes.
        beside: {name: hash} of files in the workdir that go with the arrays; none without.

    Returns:
        {'arrays': {path: [dtype, shape, hash]}, 'best', 'beside', 'sum': hash of these}.
    """
    arrays = {path: hashes.of_array(array) for path, array in _arrays(model, rest).items()}
    sums = {'arrays': arrays, 'best': best, 'beside': beside or {}}
    return sums | {'sum': _sum_of(sums)}


def _sum_of(sums):
    """The hash of all else in an item `sums`."""
    others = {key: value for key, value in sums.items() if key != 'sum'}
    return hashes.of_bytes(json.dumps(others, sort_keys=True).encode())


def _arrays(model, rest):
    """{path: NumPy array} of both items."""
    paths = {
        '/'.join((MODEL, *path)): leaf for path, leaf in traverse_util.flatten_dict(model).items()
    }
    paths |= {f'{REST}/{path}': leaf for path, leaf in rest.items()}
    return {path: np.asarray(leaf) for path, leaf in paths.items()}


def _read_sums(step):
    """The item `sums` of the folder of a checkpoint; None of one from before there were sums.

    Raises:
        OSError, ValueError, KeyError or Damaged: it is damaged itself.
    """
    if not (step / SUMS).is_dir():
        return None
    file = step / SUMS / 'metadata'  # the name that Orbax gives it
    sums = json.loads(file.read_text(encoding='utf-8'))
    if sums['sum'] != _sum_of(sums):
        raise Damaged(SUMS)
    return sums


def _check_arrays(sums, model, rest):
    """Raises Damaged where arrays are not those that were written, or some are missing."""
    found = _arrays(model, rest)
    items = {path.partition('/')[0] for path in found}
    for path in sums['arrays'] if sums else ():
        if path.partition('/')[0] in items and path not in found:
            raise Damaged(path)
    for path, array in found.items():
        if sums and sums['arrays'].get(path) != hashes.of_array(array):
            raise Damaged(path)
        if path.startswith(MODEL) and not np.isfinite(array).all():
            raise Damaged(f'{path} is not finite')


def _check_layout(sums, model, rest, folder):
    """Refuses a checkpoint of another network or optimizer, which is sound.

    Args:
        sums: of the checkpoint, or None.
        model, rest: of the state that is to be restored.
        folder: of all checkpoints, for the message.

    Raises:
        InputError: the first array that differs is named.
    """
    if not sums:
        return
    there = {path: (dtype, tuple(shape)) for path, (dtype, shape, _) in sums['arrays'].items()}
    here = {path: (str(a.dtype), a.shape) for path, a in _arrays(model, rest).items()}
    for path in sorted(there.keys() | here.keys()):
        if there.get(path) != here.get(path):
            raise InputError(
                f'{folder}: the checkpoint has {_shown(there.get(path))} for {path}, this config '
                f'makes {_shown(here.get(path))}; choose another --workdir, or the config that '
                'the run was begun with'
            )


def _check_beside(sums, beside, folder):
    """Refuses a checkpoint that came about with other files beside it; see `restore_latest`."""
    known = (sums or {}).get('beside', {})
    for name in sorted(known.keys() & beside.keys()):
        if known[name] != beside[name]:
            raise InputError(
                f'{folder.parent}: was begun with another {name}; give the config that it was '
                'begun with, or choose another --workdir'
            )


def _shown(layout):
    return f'{layout[0]} {list(layout[1])}' if layout else 'nothing'


# ---- folders


def _folder(workdir):
    return pathlib.Path(os.path.abspath(workdir)) / 'checkpoints'


def _steps(folder):
    """Folders of whole checkpoints; those being written and those set aside have other names."""
    return [path for path in folder.glob('[0-9]*') if path.name.isdigit()]


def exists(workdir):
    """Whether a run has a checkpoint.

    Raises:
        InputError: it had, but all of them are damaged.
    """
    folder = _folder(workdir)
    if _steps(folder):
        return True
    _refuse_damaged(folder)
    return False


def _refuse_damaged(folder):
    """Raises an InputError where checkpoints were set aside: a run would begin anew unnoticed."""
    if count := len([*folder.glob('damaged_*')]):
        raise InputError(f'{folder}: none of the {count} checkpoints there is sound; {BEGIN_ANEW}')


def _set_aside(folder, error):
    """Renames a checkpoint that cannot be read, so that its step can be saved again."""
    print(f'{folder}: is damaged ({_reason(error)}); set aside, an older one is tried')
    names = (folder.with_name(f'damaged_{i}_{folder.name}') for i in itertools.count(1))
    if jax.process_index() == 0:
        folder.rename(next(name for name in names if not name.exists()))


def _reason(error):
    """What is wrong with a checkpoint, in few words."""
    return str(error) if isinstance(error, Damaged) else type(error).__name__


def save(manager, step, state, best=None, beside=None):
    """Writes a checkpoint, unless the step has one.

    Args:
        manager: of `manager`.
        step: int.
        state: a training state of host arrays.
        best: the value that competes for the best checkpoint; None loses to any other.
        beside: {name: hash} of the files in the workdir that say how it came about, which whoever
            reads it compares; none without.

    Raises:
        FloatingPointError: a parameter is not finite.
    """
    model, rest = split_state(state)
    if step in manager.all_steps():
        return
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model)):
        raise FloatingPointError(
            f'parameters are not finite after step {step}; '
            'lower config.learning_rate or look at the data'
        )
    value = float('-inf') if best is None else float(best)
    items = {
        MODEL: ocp.args.StandardSave(model),
        REST: ocp.args.StandardSave(rest),
        SUMS: ocp.args.JsonSave(sums_of(model, rest, value, beside)),
    }
    manager.save(step, args=ocp.args.Composite(**items), metrics={'best': value})


def restore_latest(manager, state, beside=None):
    """The newest readable checkpoint of a run.

    A damaged one is set aside, which is reported in a line.

    Args:
        manager: of `manager`.
        state: a training state of the same structure and shapes.
        beside: {name: hash} of files beside it, which must be those that `save` was given.

    Returns:
        A state, or None where there is no checkpoint.

    Raises:
        InputError: there are checkpoints, and none is sound, or they are of another network.
    """
    model, rest = jax.tree.map(np.asarray, split_state(state))
    folder = pathlib.Path(manager.directory)
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            sums = _read_sums(folder / str(step))
            _check_layout(sums, model, rest, folder)
            _check_beside(sums, beside or {}, folder)
            restored = manager.restore(step, args=_restore_args(model, rest))
            _check_arrays(sums, restored[MODEL], restored[REST])
            return join_state(state, restored[MODEL], restored[REST])
        except InputError:
            raise
        except Exception as error:  # Orbax raises whatever its storage layer raises
            _set_aside(folder / str(step), error)
            manager.reload()
    _refuse_damaged(folder)
    return None


def _restore_args(model, rest):
    items = {MODEL: ocp.args.StandardRestore(model), REST: ocp.args.StandardRestore(rest)}
    return ocp.args.Composite(**items)


def load_model(workdir, key, best, has_best):
    """The variables of a trained run.

    Args:
        workdir: its folder.
        key: the config key that named the folder, for messages.
        best: whether the checkpoint with the best value is meant, or the latest.
        has_best: whether the run has noted such values.

    Returns:
        (the item `model`: nested dict of NumPy arrays; what `save` was given of the files beside
        it, {name: hash}; step).

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    for attempt in range(TRIES):
        if not exists(workdir):
            raise InputError(f'config.{key}={workdir}: no checkpoint there; train that run first')
        step = None
        try:
            with _readonly(workdir, has_best) as checkpoints:
                step = checkpoints.best_step() if best else checkpoints.latest_step()
                return *_read_model(checkpoints, step), step
        except Exception as error:  # Orbax raises whatever its storage layer raises
            gone = step is None or not (_folder(workdir) / str(step)).is_dir()
            if not gone or attempt == TRIES - 1:
                raise InputError(
                    f'config.{key}={workdir}: a checkpoint there is damaged '
                    f'({_reason(error)}); run that training again'
                ) from None


def _readonly(workdir, has_best):
    """The Orbax manager of a run that may still be training."""
    options = ocp.CheckpointManagerOptions(
        read_only=True,
        best_fn=_best_value if has_best else None,
        save_interval_steps=0,
        create=False,
    )
    return ocp.CheckpointManager(_folder(workdir), options=options)


def _read_model(checkpoints, step):
    """(the item `model` of a checkpoint, as it was written; {name: hash} of files beside it)."""
    folder = pathlib.Path(checkpoints.directory) / str(step)
    _check_metrics(folder)
    items = ocp.args.Composite(model=ocp.args.StandardRestore())
    model = checkpoints.restore(step, args=items)[MODEL]
    sums = _read_sums(folder) or {}
    _check_arrays(sums, model, {})
    return model, sums.get('beside', {})

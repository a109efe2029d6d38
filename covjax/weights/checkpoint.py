"""Orbax checkpoints of a run, in <workdir>/checkpoints/STEP.

Each has two items: `model` is what apply needs, `rest` what only training needs. On disk they are
NumPy arrays, so that any number of devices can read them.
"""

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

from covjax import InputError

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


def manager(workdir, best=''):
    """The Orbax manager of a run's checkpoints.

    It keeps the two latest, since one may be damaged.

    Args:
        workdir: of the run.
        best: a scalar's name, or ''. Where it is not '', the checkpoint with the highest value
            given to `save` is kept too.

    Returns:
        orbax.checkpoint.CheckpointManager.
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
    return ocp.CheckpointManager(folder, options=options)


def _best_value(metrics):
    return metrics['best']


def _set_aside_broken_metrics(folder):
    """Orbax reads the metrics of all checkpoints before anything else, and fails on broken ones."""
    for step in _steps(folder):
        metrics = step / 'metrics' / 'metrics'  # which only runs with `best` have
        try:
            json.loads(metrics.read_text(encoding='utf-8') if metrics.is_file() else '{}')
        except ValueError as error:
            _set_aside(step, error)


def _folder(workdir):
    return pathlib.Path(os.path.abspath(workdir)) / 'checkpoints'


def _steps(folder):
    """Folders of whole checkpoints; those being written and those set aside have other names."""
    return [path for path in folder.glob('[0-9]*') if path.name.isdigit()]


def exists(workdir):
    """Whether a run has a checkpoint."""
    return bool(_steps(_folder(workdir)))


def _set_aside(folder, error):
    """Renames a checkpoint that cannot be read, so that its step can be saved again."""
    kind = type(error).__name__
    print(f'{folder}: cannot be restored ({kind}); set aside, an older one is tried')
    names = (folder.with_name(f'damaged_{i}_{folder.name}') for i in itertools.count(1))
    if jax.process_index() == 0:
        folder.rename(next(name for name in names if not name.exists()))


def save(manager, step, state, best=None):
    """Writes a checkpoint, unless the step has one.

    Args:
        manager: of `manager`.
        step: int.
        state: a training state of host arrays.
        best: the value that competes for the best checkpoint; None loses to any other.

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
    items = {'model': ocp.args.StandardSave(model), 'rest': ocp.args.StandardSave(rest)}
    value = float('-inf') if best is None else float(best)
    manager.save(step, args=ocp.args.Composite(**items), metrics={'best': value})


def restore_latest(manager, state):
    """The newest readable checkpoint of a run.

    A damaged one is set aside, which is reported in a line.

    Args:
        manager: of `manager`.
        state: a training state of the same structure and shapes.

    Returns:
        A state, or None where there is no checkpoint.

    Raises:
        InputError: there are checkpoints, and none can be restored.
    """
    model, rest = jax.tree.map(np.asarray, split_state(state))
    items = {'model': ocp.args.StandardRestore(model), 'rest': ocp.args.StandardRestore(rest)}
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        try:
            restored = manager.restore(step, args=ocp.args.Composite(**items))
            return join_state(state, restored.model, restored.rest)
        except Exception as error:  # Orbax raises whatever its storage layer raises
            _set_aside(pathlib.Path(manager.directory) / str(step), error)
            manager.reload()
    if steps:
        raise InputError(
            f'{manager.directory}: none of the {len(steps)} checkpoints there can be restored; '
            'choose another --workdir'
        )
    return None


def load_model(workdir, key, best, has_best):
    """The variables of a trained run.

    Args:
        workdir: its folder.
        key: the config key that named the folder, for messages.
        best: whether the checkpoint with the best value is meant, or the latest.
        has_best: whether the run has noted such values.

    Returns:
        (the item `model`: nested dict of NumPy arrays, step).

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    if not exists(workdir):
        raise InputError(f'config.{key}={workdir}: no checkpoint there; train that run first')
    # Read only, since the run may still be training.
    best_fn = _best_value if has_best else None
    options = ocp.CheckpointManagerOptions(
        read_only=True, best_fn=best_fn, save_interval_steps=0, create=False
    )
    items = ocp.args.Composite(model=ocp.args.StandardRestore())
    try:
        with ocp.CheckpointManager(_folder(workdir), options=options) as checkpoints:
            step = checkpoints.best_step() if best else checkpoints.latest_step()
            return checkpoints.restore(step, args=items).model, step
    except Exception as error:  # Orbax raises whatever its storage layer raises
        raise InputError(
            f'config.{key}={workdir}: a checkpoint there is damaged ({type(error).__name__}); '
            'run that training again'
        ) from None

"""Orbax checkpoints of a run: `model` is what apply needs, `rest` what only training needs. NumPy on disk, so any device count can read them."""

import itertools
import json
import os
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from flax.serialization import from_state_dict, to_state_dict
from orbax.checkpoint import checkpoint_managers as cm

from covjax import InputError


def split_state(state):
    """A state -> (model, rest): `model` is a nested dict of what `apply` needs (params, batch_stats), `rest` a flat dict of everything else."""
    flat = traverse_util.flatten_dict(to_state_dict(state))
    is_model = lambda path: (
        'opt_state' not in path and not {'params', 'batch_stats'}.isdisjoint(path)
    )
    model = traverse_util.unflatten_dict(
        {path: leaf for path, leaf in flat.items() if is_model(path)}
    )
    rest = {'/'.join(path): leaf for path, leaf in flat.items() if not is_model(path)}
    return model, rest


def join_state(state, model, rest):
    """The inverse: a state like `state`, with the leaves of (model, rest)."""
    flat = traverse_util.flatten_dict(model) | {
        tuple(path.split('/')): leaf for path, leaf in rest.items()
    }
    empty = {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(
            to_state_dict(state), keep_empty_nodes=True
        ).items()
        if path not in flat
    }
    return from_state_dict(state, traverse_util.unflatten_dict(flat | empty))


def manager(workdir, best=''):
    """Keeps the two latest checkpoints (one may be damaged), and with `best` (a scalar's name, higher is better) also the one where it was highest."""
    folder = _folder(workdir)
    for step in _steps(
        folder
    ):  # orbax reads their metrics before anything else, and fails on broken ones
        metrics = step / 'metrics' / 'metrics'  # which only runs with `best` have
        try:
            json.loads(metrics.read_text() if metrics.is_file() else '{}')
        except ValueError as error:
            _set_aside(step, error)
    policies = [cm.LatestN(2)] + (
        [cm.BestN(get_metric_fn=lambda m: m['best'], n=1)] if best else []
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=cm.AnyPreservationPolicy(policies),
        best_fn=(lambda m: m['best']) if best else None,
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(folder, options=options)


def _folder(workdir):
    return pathlib.Path(os.path.abspath(workdir)) / 'checkpoints'


def _steps(folder):
    """The folders of whole checkpoints: those being written and those set aside have other names."""
    return [path for path in folder.glob('[0-9]*') if path.name.isdigit()]


def exists(workdir):
    """Whether a run has a checkpoint."""
    return bool(_steps(_folder(workdir)))


def _set_aside(folder, error):
    """Renames a checkpoint that can not be read, so that its step can be saved again."""
    print(
        f'{folder}: can not be restored ({type(error).__name__}); set aside, an older one is tried'
    )
    names = (folder.with_name(f'damaged_{i}_{folder.name}') for i in itertools.count(1))
    if jax.process_index() == 0:
        folder.rename(next(name for name in names if not name.exists()))


def save(manager, step, state, best=None):
    """Writes a state of host arrays. `best` is the value that competes; None loses to any other."""
    model, rest = split_state(state)
    if step in manager.all_steps():
        return
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model)):
        raise FloatingPointError(
            f'parameters are not finite after step {step}; lower config.learning_rate or look at the data'
        )
    manager.save(
        step,
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(model), rest=ocp.args.StandardSave(rest)
        ),
        metrics={'best': float('-inf') if best is None else float(best)},
    )


def restore_latest(manager, state):
    """The newest readable checkpoint as a state like `state`, or None when there is none. A damaged one is set aside with a line."""
    like, steps = (
        jax.tree.map(np.asarray, split_state(state)),
        sorted(manager.all_steps(), reverse=True),
    )
    for step in steps:
        try:
            items = manager.restore(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardRestore(like[0]), rest=ocp.args.StandardRestore(like[1])
                ),
            )
            return join_state(state, items.model, items.rest)
        except Exception as error:  # orbax raises whatever its storage layer raises
            _set_aside(pathlib.Path(manager.directory) / str(step), error)
            manager.reload()
    if steps:
        raise InputError(
            f'{manager.directory}: none of the {len(steps)} checkpoints there can be restored; choose another --workdir'
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
    best_fn = (lambda metrics: metrics['best']) if has_best else None
    options = ocp.CheckpointManagerOptions(
        read_only=True, best_fn=best_fn
    )  # it may still be training
    model = ocp.args.Composite(model=ocp.args.StandardRestore())
    try:
        with ocp.CheckpointManager(_folder(workdir), options=options) as checkpoints:
            step = checkpoints.best_step() if best else checkpoints.latest_step()
            return checkpoints.restore(step, args=model).model, step
    except Exception as error:  # Orbax raises whatever its storage layer raises
        raise InputError(
            f'config.{key}={workdir}: a checkpoint there is damaged ({type(error).__name__}); '
            'run that training again'
        ) from None

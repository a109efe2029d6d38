"""The contract between a kind of training and the one loop, and what the steps of all kinds share.

A training (covjax.training.cyclegan, covjax.training.classification) is a Task; `loop.fit` is the
only loop. AXIS is the name under which a step sees the other devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import struct
from jax import lax

AXIS = 'devices'  # the axis that pmap names, and that steps average over


class Task(NamedTuple):
    """All that `loop.fit` needs of a kind of training; a new kind is a new Task and nothing else.

    The *state* is a flax.struct dataclass of the task's own, with an int32 scalar `step` that
    starts at 0 and that train_step raises by 1. The loop reads nothing else of it. In a checkpoint
    the leaves under `params` and `batch_stats` become the item `model`, which is what apply needs,
    and all others (those under `opt_state` among them) the item `rest`.

    A *batch* is {name: array [B, ...]}, B examples along the first axis of each array. Steps are
    compiled for the names, dtypes and shapes that a batch has, and each device sees its part of it.

    *train_step* must leave every device with the same state: it averages gradients and running
    statistics with `lax.pmean(..., AXIS)` (`Net.update` does so for gradients) and returns scalars
    that were averaged too. The rng is the same on every device and another in every step; what is
    drawn for one example is to depend on its index in the global batch, `first_index` plus its own.

    *Evaluation* shows every example exactly once. Its batches carry 'mask', which the loop pops
    before eval_step sees them, and it drops the outputs of rows where the mask is False. That name
    is taken, so a segmentation target is called 'target'. An output of rank 4 [B, H, W, C] or more
    is taken for images: only the first few examples of it reach `summarize`, so what scores are
    computed from must have a lower rank.
    """

    # (step) -> batch of the update from `step` to `step` + 1, config.batch_size examples in all. A
    # pure function of the step, so that a resumed training needs no state of an iterator.
    train_batch: Callable
    # () -> {split: iterable of batches with 'mask' bool [B]}, as data.batches.padded_batches makes
    # them: B is config.batch_size, and the mask is False on rows that only fill up the last batch.
    # {} evaluates nothing.
    eval_batches: Callable
    # (rng, batch of one example) -> the state before the first step.
    init: Callable
    # (state, batch, rng) -> (state, {name: scalar}). Pure; compiled under an axis named AXIS.
    train_step: Callable
    # (state, batch) -> {name: array [B, ...]}, one row an example. Pure; compiled under AXIS too.
    eval_step: Callable
    # ({name: NumPy array [N, ...]} of one split) -> ({name: number}, {name: uint8 [N, H, W, C]}).
    # Both are logged as val/<split>/<name>, or val/<name> for a split called ''.
    summarize: Callable
    # Updates in the whole training; a task may count them in epochs.
    steps: int
    # {config key of a data set: rows of the examples that are drawn from}. Lineage records what a
    # task uses, not what its config says that it should.
    sources: dict
    # What the outputs of the network mean: names of the classes of its logits, in their order; ()
    # where its outputs are no classes.
    classes: tuple[str, ...] = ()
    # The names under which an evaluation logs its numbers, one of which config.best may name.
    scalars: tuple[str, ...] = ()


@struct.dataclass
class Net:
    """The parameters of one or several networks and the state of the optimizer that moves them."""

    params: Any
    opt_state: Any

    @classmethod
    def create(cls, params, tx):
        """The Net of a tree of parameters before the first update by `tx`, an optax optimizer."""
        return cls(params, tx.init(params))

    def update(self, grads, tx):
        """The Net after one step of `tx` on gradients that are first averaged over all devices."""
        updates, opt_state = tx.update(lax.pmean(grads, AXIS), self.opt_state, self.params)
        return Net(optax.apply_updates(self.params, updates), opt_state)


@struct.dataclass
class State:
    """Everything that a step changes when one network is trained."""

    step: jax.Array
    net: Net
    batch_stats: dict  # running statistics of BatchNorm, the same on every device


def first_index(local_batch):
    """The index in the global batch of the first of the `local_batch` examples on this device."""
    return lax.axis_index(AXIS) * local_batch


def count_params(tree):
    """The number of scalars in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

"""The contract between a task (CycleGAN, classification) and the one training loop, and what both kinds of step share."""

from typing import Any, Callable, NamedTuple

import jax
import optax
from flax import struct
from jax import lax

AXIS = 'devices'  # the axis that pmap names, and that steps average over


class Task(NamedTuple):
    """Six callables and a number; `train.fit` needs nothing else. State is a flax.struct dataclass of the task's own, of which the loop reads only `step`.

    `sources` is {config key: rows of the examples drawn from}: lineage records what a task uses, not what its config says it should.
    """

    train_batch: Callable  # (step) -> {name: uint8 or int array [B, ...]}; a pure function of the step, so resuming needs no iterator state
    eval_batches: Callable  # () -> {split: iterable of batches with 'mask' [B] bool}; every example exactly once on any device count
    init: Callable  # (rng, batch) -> state
    train_step: (
        Callable  # (state, batch, rng) -> (state, scalars); pure, runs under an axis named AXIS
    )
    eval_step: Callable  # (state, batch) -> {name: per-example array [B, ...]}; pure
    summarize: Callable  # {name: np.ndarray [N, ...]} -> (scalars, {name: uint8 images [N, H, W, C]}); NumPy, once per split
    steps: int  # updates of the whole training: a task may count them in epochs
    sources: dict


@struct.dataclass
class Net:
    """Parameters and the state of the optimizer that moves them."""

    params: Any
    opt_state: Any

    @classmethod
    def create(cls, params, tx):
        return cls(params, tx.init(params))

    def update(self, grads, tx):
        """One optimizer step on gradients averaged over all devices, so every device moves alike."""
        updates, opt_state = tx.update(lax.pmean(grads, AXIS), self.opt_state, self.params)
        return Net(optax.apply_updates(self.params, updates), opt_state)


def first_index(local_batch):
    """The index in the global batch of the first example on this device."""
    return lax.axis_index(AXIS) * local_batch


def count_params(tree):
    """Number of scalars in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

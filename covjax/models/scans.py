"""Networks that decide on a whole scan: a backbone on every slice, and one answer from all of them.

A scan is a bag of slices [K, H, W, C], or of patches around candidates for lesions, some of which
may only fill it up. POOLING says how the bag
becomes one answer: by the maximum of each feature (COVNet; Li et al. 2020, Radiology 296:E65), by
their mean, by attention (Ilse et al. 2018, ICML), or by noisy-OR of what each slice says (Xu et
al. 2020, Engineering 6:1122). Neither the order of the slices nor what fills up a bag changes an
answer, to the last bit: sums are of sorted numbers.
"""

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from covjax.models import layers

ATTENTION = 128  # features of the attention
LOCATION = (256, 16), (16, 16)  # features of the location head, before and after the location
LEAST = 1e-6  # probabilities of a slice are kept this far from 0 and 1
NORMS = ('frozen', 'scan', 'batch')


class Pooled(NamedTuple):
    """What is made of the features of all slices of a bag."""

    log_probabilities: jax.Array  # float32 [B, C]
    weights: jax.Array  # float32 [B, K], how much each slice counts; they add up to 1


def total(values: jax.Array, valid: jax.Array) -> jax.Array:
    """The sum over slices, the same in any order and with any number of slices that do not count.

    Args:
        values: float [B, K, F].
        valid: bool [B, K].

    Returns:
        float [B, F].
    """
    values = jnp.where(valid[..., None], values, jnp.inf)
    ordered = jnp.sort(values, axis=1)
    counted = jnp.where(jnp.isposinf(ordered), 0.0, ordered)
    return reduce(jnp.add, jnp.moveaxis(counted, 1, 0))


def each_slice(layers: Any, features: jax.Array) -> jax.Array:
    """Layers on the features [B, K, F] of one slice after another.

    A product of all at once may be rounded otherwise where there are more of them.
    """
    step = lambda layers, carry, each: (carry, layers(each))
    broadcast = {'variable_broadcast': 'params', 'split_rngs': {'params': False}}
    return nn.scan(step, in_axes=1, out_axes=1, **broadcast)(layers, None, features)[1]


class Attention(nn.Module):
    """The gated attention of Ilse et al. 2018 before its softmax: [B, F] -> [B]."""

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """w (tanh(V features) * sigmoid(U features))."""
        gate = nn.sigmoid(nn.Dense(ATTENTION, name='gate')(features))
        hidden = jnp.tanh(nn.Dense(ATTENTION, name='hidden')(features))
        return nn.Dense(1, use_bias=False, name='weight')(hidden * gate)[..., 0]


def by_max(features: jax.Array, valid: jax.Array, head: Any, negative: Any) -> Any:
    """COVNet's: the head on the maximum of each feature. A slice weighs what share it gives."""
    del negative
    shown = jnp.where(valid[..., None], features, -jnp.inf)
    highest = shown.max(1)
    gives = (shown == highest[:, None]).astype(jnp.float32)
    shares = gives / gives.sum(1, keepdims=True)
    return Pooled(jax.nn.log_softmax(head(highest)), shares.mean(-1))


def by_mean(features: jax.Array, valid: jax.Array, head: Any, negative: Any) -> Any:
    """The head on the mean of each feature. Every slice weighs the same."""
    del negative
    weights = valid / valid.sum(1, keepdims=True)
    mean = total(features, valid) / valid.sum(1, keepdims=True)
    return Pooled(jax.nn.log_softmax(head(mean)), weights)


def by_attention(features: jax.Array, valid: jax.Array, head: Any, negative: Any) -> Any:
    """The head on a mean in which each slice has the weight of a gated attention."""
    del negative
    logits = each_slice(Attention(name='attention'), features)
    logits = jnp.where(valid, logits, -jnp.inf)
    shares = jnp.exp(logits - logits.max(1, keepdims=True))[..., None]
    weights = shares / total(shares, valid)[:, None]
    pooled = total(features * weights, valid)
    return Pooled(jax.nn.log_softmax(head(pooled)), weights[..., 0])


def by_noisy_or(features: jax.Array, valid: jax.Array, head: Any, negative: Any) -> Any:
    """A disease is there unless no slice has it: 1 - prod(1 - P of a slice), of each disease.

    The negative class is there where no slice has any disease; of several diseases all
    probabilities are then divided by their sum, which is our reading. A slice weighs in proportion
    to its probability of a disease.
    """
    present = jnp.clip(jax.nn.softmax(each_slice(head, features)), LEAST, 1 - LEAST)
    absent = total(jnp.log1p(-present), valid)  # log prod(1 - P)
    is_negative = jnp.arange(present.shape[-1]) == negative
    diseased = jnp.where(is_negative[None, None], 0.0, present).sum(-1)
    nowhere = total(jnp.log1p(-jnp.clip(diseased, LEAST, 1 - LEAST))[..., None], valid)
    there = jax.nn.log1mexp(jnp.maximum(-absent, LEAST))  # which a bag without slices has
    diseased = jnp.where(valid, diseased, 0.0)
    weights = diseased / jnp.maximum(total(diseased[..., None], valid), LEAST)
    return Pooled(jax.nn.log_softmax(jnp.where(is_negative[None], nowhere, there)), weights)


POOLING = {'max': by_max, 'mean': by_mean, 'attention': by_attention, 'noisy_or': by_noisy_or}


class ScanNet(nn.Module):
    """Classifies bags of slices: images [B, K, H, W, C] -> Pooled.

    The variables are those of the backbone under 'backbone', and the last layer 'head'.
    """

    backbone: Any  # models.backbone.Backbone with num_classes=None
    num_classes: int = 2
    pooling: str = 'max'  # a key of POOLING
    # Of BatchNorm: frozen keeps the running statistics that the backbone came with, scan takes
    # those of the slices of each scan, in evaluation too, and batch is the usual way.
    norm: str = 'frozen'
    negative: int = 0  # the class of scans without disease, for noisy_or
    dropout: float = 0.0  # of features, before the head
    axis_name: str | None = None  # devices that share the batch

    @nn.compact
    def __call__(
        self, images: jax.Array, valid: jax.Array, location: Any = None, train: bool = False
    ) -> Any:
        """Applies the network.

        Args:
            images: float [B, K, H, W, C].
            valid: bool [B, K], which slices count; at least one of each bag, but for noisy_or, to
                which a bag without any is one without disease.
            location: float [B, K], where an image is in the lungs; with it the head is that of Xu
                et al. 2020, whose layers see it beside few features of the image.
            train: whether dropout is on, and BatchNorm takes the statistics of the batch (norm
                'batch').

        Returns:
            Pooled.
        """
        features = self.features(images, valid, train)
        drop = layers.ExampleDropout(self.dropout, self.axis_name)
        features = drop(features, deterministic=not train)
        if location is not None:
            joined = jnp.concatenate([features, location[..., None]], -1)
            features = each_slice(Located(name='location'), joined)
        head = nn.Dense(self.num_classes, name='head')
        return POOLING[self.pooling](features, valid, head, self.negative)

    @nn.compact
    def features(self, images: jax.Array, valid: jax.Array, train: bool) -> jax.Array:
        """Pooled features of every slice, float32 [B, K, F]."""
        bags, slices = valid.shape
        flat = images.reshape(-1, *images.shape[2:])
        counted = {'frozen': None, 'scan': valid, 'batch': valid.reshape(-1)}[self.norm]
        by_batch = self.norm == 'scan' or (self.norm == 'batch' and train)
        features = self.backbone(flat, by_batch, valid=counted if by_batch else None)
        return features.reshape(bags, slices, -1)


class Located(nn.Module):
    """The layers of the location head before the last: features and a location [B, F + 1]."""

    @nn.compact
    def __call__(self, joined: jax.Array) -> jax.Array:
        """[B, F + 1] -> [B, 16]."""
        before, after = LOCATION
        features, location = joined[:, :-1], joined[:, -1:]
        for i, width in enumerate(before, 1):
            features = nn.relu(nn.Dense(width, name=f'dense{i}')(features))
        features = jnp.concatenate([features, location], -1)
        for i, width in enumerate(after, len(before) + 1):
            features = nn.relu(nn.Dense(width, name=f'dense{i}')(features))
        return features

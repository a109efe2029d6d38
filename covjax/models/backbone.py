"""The shell around every classification backbone: it checks the input, runs the family's body and applies the one head that all share."""

from typing import Any, Callable

import jax.numpy as jnp
from flax import linen as nn

from covjax import InputError
from covjax.models import layers


class Backbone(nn.Module):
    """Images [B, H, W, C] float in the family's input scale ([-1, 1] when trained from scratch), C = 1 or 3 -> logits [B, num_classes] float32.

    num_classes=None gives the pooled features [B, F]. With endpoints=True the result is (that, {name: map [B, h, w, f]}); each family's file lists
    its names, and 'features' is always the map that is pooled. Variables: 'params' and, but for VGG, 'batch_stats'; the head is params['head'].
    """

    family: str
    body: Callable  # (x, conv, norm) -> {name: map}; conv and norm are layers that lack only their own settings
    smallest: int  # least height and width of the images
    num_classes: int | None = 2
    dtype: Any = jnp.float32  # of the computation; parameters, statistics and logits are float32
    axis_name: str | None = (
        None  # device axis over which BatchNorm statistics are averaged in training
    )
    bn_momentum: float = 0.99
    dropout: float = 0.0  # before the last layer
    hidden: tuple[
        int, ...
    ] = ()  # fully connected layers on the flattened map instead of pooling: VGG16's own top is (4096, 4096), for one image size

    @nn.compact
    def __call__(self, x, train=False, endpoints=False):
        if x.ndim != 4 or x.shape[-1] not in (1, 3):
            raise InputError(f'{self.family} needs images [B, H, W, 1 or 3], got {list(x.shape)}')
        if min(x.shape[1:3]) < self.smallest:
            raise InputError(
                f'{self.family} needs images of at least {self.smallest}x{self.smallest}, got {x.shape[1]}x{x.shape[2]}; choose a larger image_size'
            )
        norm = layers.batch_norm(train, self.bn_momentum, self.dtype, self.axis_name)
        maps = self.body(x.astype(self.dtype), layers.conv(self.dtype), norm)
        x = list(maps.values())[-1].astype(jnp.float32)
        maps['features'] = x
        if self.hidden:
            x = x.reshape(len(x), -1)
            for i, width in enumerate(self.hidden):
                x = nn.relu(nn.Dense(width, name=f'hidden{i + 1}')(x))
        else:
            x = x.mean((1, 2))
        if self.num_classes is not None:
            x = layers.ExampleDropout(self.dropout, self.axis_name)(x, deterministic=not train)
            x = nn.Dense(self.num_classes, name='head')(x)
        return (x, maps) if endpoints else x

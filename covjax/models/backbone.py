"""The shell around every backbone: it checks the input, runs the body and applies the head.

A family gives its body and a few facts; the head is one and the same for all.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from covjax import InputError
from covjax.models import layers


class Backbone(nn.Module):
    """A classification network: images [B, H, W, C] -> logits [B, num_classes] float32.

    Images are float, in [-1, 1] where weights were trained from scratch and in the scale of the
    published weights otherwise; C is 1 or 3. With num_classes=None the pooled features [B, F] are
    returned instead. The variables are 'params' and, but for VGG, 'batch_stats'; the last layer is
    params['head'].
    """

    family: str  # its name in models.MODELS
    body: Any  # (x, conv, norm) -> {name: map}; conv and norm lack only their own settings
    smallest: int  # least height and width of the images
    reference: str  # the implementation that it equals, weight for weight
    num_classes: int | None = 2
    dtype: Any = jnp.float32  # of the computation; parameters, statistics and logits are float32
    axis_name: str | None = None  # devices over which BatchNorm averages statistics in training
    bn_momentum: float = 0.99
    dropout: float = 0.0  # before the last layer
    # Widths of fully connected layers on the flattened last map, instead of pooling, for one image
    # size: VGG16's own top has (4096, 4096).
    hidden: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, endpoints: bool = False, valid: Any = None
    ) -> Any:
        """Applies the network.

        Args:
            x: images float [B, H, W, C].
            train: whether BatchNorm uses the statistics of the batch, and dropout is on.
            endpoints: whether to return inner maps too.
            valid: bool [B], which images those statistics are of, or [S, B / S], each of S scans
                for itself; None is all of them. See layers.BatchNorm.

        Returns:
            Logits or pooled features; with endpoints=True (logits or features, {name: map [B, h, w,
            f]}). The file of each family lists its names; 'features' is always the map that is
            pooled.

        Raises:
            InputError: the images have another rank, number of channels or are too small.
        """
        self._check(x.shape)
        norm = layers.batch_norm(train, self.bn_momentum, self.dtype, self.axis_name, valid)
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

    def _check(self, shape):
        """Raises an InputError where images of this shape do not fit."""
        if len(shape) != 4 or shape[-1] not in (1, 3):
            raise InputError(f'{self.family} needs images [B, H, W, 1 or 3], got {list(shape)}')
        height, width = shape[1:3]
        if height < self.smallest or width < self.smallest:
            raise InputError(
                f'{self.family} needs images of at least {self.smallest}x{self.smallest}, '
                f'got {height}x{width}; choose a larger image_size'
            )

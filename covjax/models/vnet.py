"""V-Net and VB-Net: a class for every voxel of a volume.

V-Net (Milletari et al. 2016, arXiv 1606.04797) is in the form that MONAI gives it, with BatchNorm
and ELU, and without its dropout. VB-Net (Shan et al. 2020, arXiv 2003.04655) puts bottlenecks in
place of the convolutions of the deeper levels; its structure is that of a public toolkit from the
laboratory of one of its authors, with GroupNorm of one group.

Endpoints: 'down0'..'down4', the maps on the way down, the last of them the bottom; 'up3'..'up0',
those on the way up; 'features' is the last, which the head sees.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from covjax import InputError, choice
from covjax.models import layers, layers_3d
from covjax.models.unet import check_widths

WIDTHS = (16, 32, 64, 128, 256)  # features of the levels on the way down, as published
BOTTLENECKS = (None, 1, 3)
NARROW, DEEP = 4, 2  # how many times fewer features a bottleneck has, and from which level on


class Family(NamedTuple):
    """What V-Net and VB-Net do not have in common."""

    down: tuple[int, ...]  # convolutions of levels 1, 2, ... on the way down
    up: tuple[int, ...]  # of levels 0, 1, ... on the way up
    kernel: int
    norm: str  # batch, or group: one of all features
    activation: Callable
    use_bias: bool  # in convolutions before a norm
    # Whether the last convolution of a level is followed by an activation before what entered the
    # level is added, and by another one after.
    active_twice: bool
    adds_input: bool  # whether the first level adds the image, too
    norms_logits: bool


FAMILIES = {
    'vnet': Family((1, 2, 3, 2), (1, 1, 2, 2), 5, 'batch', nn.elu, False, True, True, False),
    'vbnet': Family((1, 2, 3, 3), (1, 2, 3, 3), 3, 'group', nn.relu, True, False, False, True),
}


class VNet(nn.Module):
    """A segmentation network: volumes [B, D, H, W, 1] -> logits [B, D, H, W, num_classes] float32.

    Volumes are float in [-1, 1], and their sides may be any: those that the network cannot halve
    often enough are continued by their edge, and the logits are cropped back. The variables are
    'params' and, of a V-Net, 'batch_stats'; the last layer is params['head'].
    """

    family: str  # one of FAMILIES
    num_classes: int = 2  # the background is one of them
    widths: tuple[int, ...] = WIDTHS
    # The kernel at both ends of the bottlenecks of the deeper levels: 1 in the words of Shan et
    # al., 3 in the toolkit; None for plain convolutions.
    bottleneck: int | None = None
    dtype: Any = jnp.float32  # of the computation; parameters, statistics and logits are float32
    axis_name: str | None = None  # devices over which BatchNorm averages statistics in training
    bn_momentum: float = 0.9  # how much of the old running statistics a step keeps

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, endpoints: bool = False) -> Any:
        """Applies the network.

        Args:
            x: volumes float [B, D, H, W, 1].
            train: whether BatchNorm uses the statistics of the batch.
            endpoints: whether to return inner maps too.

        Returns:
            Logits; with endpoints=True (logits, {name: map [B, d, h, w, f]}), the maps with their
            padding.

        Raises:
            InputError: the volumes have another rank or number of channels, or `family`, `widths`
                or `bottleneck` is not valid.
        """
        self._check(x.shape)
        family, unit = FAMILIES[self.family], partial(self._unit, train=train)
        sides, levels = x.shape[1:4], len(self.widths)
        margins = ((0, 0), *((0, -side % 2 ** (levels - 1)) for side in sides), (0, 0))
        x, maps = jnp.pad(x.astype(self.dtype), margins, mode='edge'), {}

        first = unit(x, self._conv(self.widths[0]), 'down0', active=not family.adds_input)
        if family.adds_input:
            first = family.activation(first + jnp.repeat(x, self.widths[0], -1))
        x = maps['down0'] = first
        for level in range(1, levels):
            features, name = self.widths[level], f'down{level}'
            x = unit(x, self._between(layers_3d.Halved, features), f'{name}_halved')
            x = maps[name] = self._level(x, family.down[level - 1], name, level, train)
        for level in range(levels - 2, -1, -1):
            features, name = self.widths[level + 1] // 2, f'up{level}'
            x = unit(x, self._between(layers_3d.Doubled, features), f'{name}_doubled')
            x = jnp.concatenate([x, maps[f'down{level}']], -1)
            x = maps[name] = self._level(x, family.up[level], name, level, train)

        maps['features'] = x
        x = unit(x, self._conv(self.num_classes), 'logits')
        logits = layers_3d.Conv(self.num_classes, 1, dtype=self.dtype, name='head')(x)
        if family.norms_logits:
            logits = self._norm(logits, 'head_norm', train)
        logits = logits[:, : sides[0], : sides[1], : sides[2]].astype(jnp.float32)
        return (logits, maps) if endpoints else logits

    def _level(self, x, count, name, level, train):
        """So many convolutions, or bottlenecks, around which x is added: the same shape."""
        family, features = FAMILIES[self.family], x.shape[-1]
        narrow, y = self.bottleneck and level >= DEEP, x
        for i in range(1, count + 1):
            place = f'{name}_conv{i}'
            active = i < count or family.active_twice
            if narrow:
                fewer, ends = features // NARROW, self.bottleneck
                y = self._unit(y, self._conv(fewer, ends), f'{place}_narrowed', train=train)
                y = self._unit(y, self._conv(fewer), f'{place}_narrow', train=train)
            layer = self._conv(features, self.bottleneck if narrow else None)
            y = self._unit(y, layer, place, active, train)
        return family.activation(y + x)

    def _unit(self, x, layer, name, active=True, train=False):
        """A layer, a norm and, if `active`, an activation."""
        x = self._norm(layer(name=name)(x), f'{name}_norm', train)
        return FAMILIES[self.family].activation(x) if active else x

    def _conv(self, features, size=None):
        """A convolution as a function of its name; its kernel is that of the family by default."""
        family = FAMILIES[self.family]
        size = size or family.kernel
        return partial(layers_3d.Conv, features, size, family.use_bias, self.dtype)

    def _between(self, layer, features):
        """What halves or doubles the size, as a function of its name."""
        # Transposed convolutions have a bias in both families.
        use_bias = FAMILIES[self.family].use_bias or layer is layers_3d.Doubled
        return partial(layer, features, use_bias, self.dtype)

    def _norm(self, x, name, train):
        """The norm of the family, of all voxels of a batch or of each volume: the same shape."""
        if FAMILIES[self.family].norm == 'group':
            return layers_3d.NormOfAll(dtype=self.dtype, name=name)(x)
        norm = layers.batch_norm(train, self.bn_momentum, self.dtype, self.axis_name)
        return norm(name=name)(x.reshape(-1, *x.shape[2:])).reshape(x.shape)

    def _check(self, shape):
        """Raises an InputError where volumes or fields do not fit."""
        if len(shape) != 5 or shape[-1] != 1:
            raise InputError(f'{self.family} needs volumes [B, D, H, W, 1], got {list(shape)}')
        choice({'family': self.family}, 'family', FAMILIES)
        choice({'bottleneck': self.bottleneck}, 'bottleneck', BOTTLENECKS)
        check_widths(self.widths, 'transposed')
        most = len(FAMILIES[self.family].down) + 1
        if len(self.widths) > most or any(width % 2 for width in self.widths):
            raise InputError(
                f'config.widths={self.widths}: {self.family} has at most {most} levels of an even '
                'number of features'
            )


V_NET = partial(VNet, 'vnet')
VB_NET = partial(VNet, 'vbnet', bottleneck=1)

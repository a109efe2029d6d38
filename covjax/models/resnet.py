"""ResNet-50 v1 as in keras.applications, and ResNet-18 and ResNet-50 as in torchvision.

He et al. 2015, arXiv 1512.03385. The ResNet-50 of Keras has the stride in the first 1x1 convolution
of a stage, and biases; those of torchvision have it in the first 3x3 convolution, and no biases.

Endpoints: 'stage2'..'stage5', the map after each stage. H and W >= 32.
"""

from functools import partial
from typing import Any, NamedTuple

from flax import linen as nn

from covjax.models import layers
from covjax.models.backbone import Backbone


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to 4 times the width, around the shortcut.

    The stride is that of the first 1x1 or, where it is `late`, that of the 3x3, which then has a
    margin of one pixel.
    """

    width: int
    stride: int
    conv: Any
    norm: Any
    late: bool = False

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> [B, H/stride, W/stride, 4 * width]."""
        conv, norm, width = self.conv, self.norm, self.width
        shortcut = _shortcut(x, 4 * width, self.stride, conv, norm)
        first, second = (1, self.stride) if self.late else (self.stride, 1)
        padding = 1 if self.late else 'SAME'
        y = nn.relu(norm(name='norm1')(conv(width, (1, 1), first, name='conv1')(x)))
        conv2 = conv(width, (3, 3), second, padding=padding, name='conv2')
        y = nn.relu(norm(name='norm2')(conv2(y)))
        y = norm(name='norm3')(conv(4 * width, (1, 1), name='conv3')(y))
        return nn.relu(shortcut + y)


class Basic(nn.Module):
    """3x3 (with the stride) and 3x3, with a margin of one pixel, around the shortcut."""

    width: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        """[B, H, W, C] -> [B, H/stride, W/stride, width]."""
        conv, norm = partial(self.conv, self.width, (3, 3), padding=1), self.norm
        shortcut = _shortcut(x, self.width, self.stride, self.conv, norm)
        y = nn.relu(norm(name='norm1')(conv(self.stride, name='conv1')(x)))
        y = norm(name='norm2')(conv(name='conv2')(y))
        return nn.relu(shortcut + y)


def _shortcut(x, features, stride, conv, norm):
    """x itself or, where a block changes the number of features, projected by a 1x1 convolution."""
    if x.shape[-1] == features:
        return x
    return norm(name='norm0')(conv(features, (1, 1), stride, name='conv0')(x))


class Variant(NamedTuple):
    """What a member of the family is made of."""

    block: Any  # what makes a block, of Bottleneck or Basic
    counts: tuple[int, ...]  # blocks of the stages, of widths 64, 128, 256, 512
    bias: bool  # whether convolutions have one
    epsilon: float  # of BatchNorm


RESNET18 = Variant(Basic, (2, 2, 2, 2), bias=False, epsilon=1e-5)
RESNET50 = Variant(Bottleneck, (3, 4, 6, 3), bias=True, epsilon=1.001e-5)
RESNET50_TORCH = Variant(partial(Bottleneck, late=True), (3, 4, 6, 3), bias=False, epsilon=1e-5)


def body(variant, x, conv, norm):
    """[B, H, W, C] -> endpoints; the last is [B, H/32, W/32, 512], or 2048 of a ResNet-50."""
    norm = partial(norm, epsilon=variant.epsilon)
    conv = partial(conv, use_bias=variant.bias)
    x = layers.stem_7x7(x, conv, norm)
    maps = {}
    for stage, count in enumerate(variant.counts):
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            name = f'stage{stage + 2}_block{i + 1}'
            x = variant.block(64 * 2**stage, stride, conv, norm, name=name)(x)
        maps[f'stage{stage + 2}'] = x
    return maps


ResNet18 = partial(Backbone, 'resnet18', partial(body, RESNET18), 32, 'torchvision resnet18')
ResNet50Torch = partial(
    Backbone, 'resnet50_torch', partial(body, RESNET50_TORCH), 32, 'torchvision resnet50'
)
ResNet50 = partial(Backbone, 'resnet50', partial(body, RESNET50), 32, 'keras.applications.ResNet50')

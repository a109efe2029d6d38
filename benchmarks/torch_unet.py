"""U-Net in PyTorch, the peer of tests/test_unet.py and benchmarks/segmenters.py.

Written from the description of milesial's implementation: padded convolutions without bias,
BatchNorm, and a 2x2 transposed convolution or bilinear interpolation on the way up.
"""

import torch
from torch import nn

NORMS = {
    'batch': nn.BatchNorm2d,
    'instance': lambda features: nn.InstanceNorm2d(features, affine=True),
}


def twice(channels, first, second, norm):
    """Two 3x3 convolutions, each with a norm and a ReLU."""
    layers = []
    for a, b in ((channels, first), (first, second)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), NORMS[norm](b), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images [B, channels, H, W] -> logits [B, classes, H, W]; sides in 2^(levels - 1)."""

    def __init__(self, widths, classes, up='transposed', norm='batch', channels=1):
        super().__init__()
        halved = 1 if up == 'transposed' else 2
        sizes = [*widths[:-1], widths[-1] // halved]
        pairs = zip((channels, *sizes), sizes)
        self.down = nn.ModuleList(twice(a, b, b, norm) for a, b in pairs)
        self.doubled, self.up = nn.ModuleList(), nn.ModuleList()
        below = sizes[-1]
        for level in reversed(range(len(widths) - 1)):
            features = widths[level]
            if up == 'bilinear':
                enlarge = nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True)
            else:
                enlarge = nn.ConvTranspose2d(below, features, 2, 2)
            below = features // halved if level else features
            self.doubled.append(enlarge)
            self.up.append(twice(2 * features, features, below, norm))
        self.head = nn.Conv2d(below, classes, 1)

    def forward(self, x):
        """[B, channels, H, W] -> [B, classes, H, W]."""
        maps = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else nn.functional.max_pool2d(x, 2))
            maps.append(x)
        maps.pop()
        for enlarge, block in zip(self.doubled, self.up):
            x = block(torch.cat([maps.pop(), enlarge(x)], 1))
        return self.head(x)

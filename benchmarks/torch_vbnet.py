"""VB-Net in PyTorch, the peer of tests/test_vnet.py and benchmarks/segmenters.py.

Written from the description of its public toolkit (docs/models.md).
"""

import torch
from torch import nn


def vb_net(bottleneck, width=16):
    """A VB-Net of five levels.

    Args:
        bottleneck: kernel at both ends of the bottlenecks, 1 or 3; None for none.
        width: features of the first level.

    Returns:
        ({our name: module}, which is filled by the first call, function of volumes [B, 1, D, H, W]
        that gives logits [B, 2, D, H, W]).
    """
    named, relu = {}, torch.relu

    def unit(x, name, features, size=3, active=True, kind='Conv3d'):
        halves = {'kernel_size': 2, 'stride': 2}
        options = {'kernel_size': size, 'padding': size // 2} if size else halves
        if name not in named:
            named[name] = getattr(nn, kind)(x.shape[1], features, **options)
            named[f'{name}_norm'] = nn.GroupNorm(1, features)
        x = named[f'{name}_norm'](named[name](x))
        return relu(x) if active else x

    def level(x, name, count, narrow):
        y, features = x, x.shape[1]
        for i in range(1, count + 1):
            place, size = f'{name}_conv{i}', bottleneck if narrow else 3
            if narrow:
                y = unit(y, f'{place}_narrowed', features // 4, size)
                y = unit(y, f'{place}_narrow', features // 4)
            y = unit(y, place, features, size, active=i < count)
        return relu(x + y)

    def network(x):
        skips = [x := unit(x, 'down0', width)]
        for depth, count in enumerate((1, 2, 3, 3), 1):
            x = unit(x, f'down{depth}_halved', width << depth, size=0)
            skips.append(x := level(x, f'down{depth}', count, bottleneck and depth > 1))
        for depth, count in zip((3, 2, 1, 0), (3, 3, 2, 1)):
            x = unit(x, f'up{depth}_doubled', width << depth, size=0, kind='ConvTranspose3d')
            x = torch.cat([x, skips[depth]], 1)
            x = level(x, f'up{depth}', count, bottleneck and depth > 1)
        x = unit(x, 'logits', 2)
        return unit(x, 'head', 2, size=1, active=False)

    return named, network

"""The networks of keras.applications in PyTorch: peers of ours.

Keras describes a network as layers and what goes into each; here the same layers are PyTorch's, in
the same order. PyTorch runs them as it runs its own networks, on images with channels last.
"""

import keras
import torch
from torch import nn

NCHW = 1  # the axis of channels in PyTorch


class Concatenated(nn.Module):
    """Several maps along their channels."""

    def forward(self, *maps):
        """Each [B, C, H, W]."""
        return torch.cat(maps, NCHW)


class Summed(nn.Module):
    """A map and another one times a number."""

    def __init__(self, scale):
        """The number; 1 in all residual networks but Inception-ResNet."""
        super().__init__()
        self.scale = scale

    def forward(self, x, y):
        """Both [B, C, H, W]."""
        return x.add(y, alpha=self.scale)


class Averaged(nn.Module):
    """The mean of each channel."""

    def forward(self, x):
        """[B, C, H, W] -> [B, C]."""
        return x.mean((2, 3))


def _padding(layer):
    """How many zeros a layer that makes maps as large as its own puts around them."""
    size = getattr(layer, 'kernel_size', None) or layer.pool_size
    if layer.padding == 'valid':
        return (0, 0)
    assert set(layer.strides) == {1}, layer
    return tuple(n // 2 for n in size)


def _convolution(layer):
    """A convolution, with a ReLU where Keras has that in the same layer."""
    options = {'padding': _padding(layer), 'bias': layer.use_bias}
    channels = layer.input.shape[-1]
    conv = nn.Conv2d(channels, layer.filters, layer.kernel_size, layer.strides, **options)
    activation = keras.activations.serialize(layer.activation)
    return {'linear': conv, 'relu': nn.Sequential(conv, nn.ReLU(inplace=True))}[activation]


def _average_pool(layer):
    """Means of those pixels of a window that are inside the image."""
    options = {'padding': _padding(layer), 'count_include_pad': False}
    return nn.AvgPool2d(layer.pool_size, layer.strides, **options)


def _zeros(layer):
    """A margin of zeros."""
    (above, below), (left, right) = layer.padding
    return nn.ZeroPad2d((left, right, above, below))


def _relu(layer):
    """A ReLU that writes where it reads, unless another layer reads there too."""
    (node,) = layer._inbound_nodes
    (before,) = node.parent_nodes
    return nn.ReLU(inplace=len(before.operation._outbound_nodes) == 1)


MAKE = {
    'Conv2D': _convolution,
    'BatchNormalization': lambda layer: nn.BatchNorm2d(layer.input.shape[-1], layer.epsilon),
    'Activation': _relu,
    'ReLU': _relu,
    'MaxPooling2D': lambda layer: nn.MaxPool2d(layer.pool_size, layer.strides, _padding(layer)),
    'AveragePooling2D': _average_pool,
    'ZeroPadding2D': _zeros,
    'Concatenate': lambda layer: Concatenated(),
    'Add': lambda layer: Summed(1.0),
    'CustomScaleLayer': lambda layer: Summed(layer.scale),
    'GlobalAveragePooling2D': lambda layer: Averaged(),
}


class Network(nn.Module):
    """A body of keras.applications with a dense layer after it.

    Attributes:
        layers: ModuleDict by the names of Keras, of all that are more than a name.
        inputs: {name: [names of the layers whose results it takes]}, in the order of computation.
    """

    def __init__(self, body, outputs):
        """The layers of a keras.Model that ends with the means of its channels."""
        super().__init__()
        layers = [layer for layer in body.layers if type(layer).__name__ in MAKE]
        self.first = body.layers[0].name
        self.inputs = {layer.name: _before(layer) for layer in layers}
        made = {layer.name: MAKE[type(layer).__name__](layer) for layer in layers}
        self.layers = nn.ModuleDict(made)
        self.head = nn.Linear(body.output.shape[-1], outputs)

    def forward(self, x):
        """[B, 3, H, W] -> logits [B, outputs]."""
        maps = {self.first: x}
        left = {name: len(readers) for name, readers in self._readers().items()}
        for name, before in self.inputs.items():
            maps[name] = self.layers[name](*(maps[each] for each in before))
            for each in before:  # what nobody needs any more is no memory, as in written-out code
                left[each] -= 1
                if not left[each]:
                    del maps[each]
        return self.head(maps[name])

    def _readers(self):
        """{name of a layer: the layers that take its result}."""
        readers = {}
        for name, before in self.inputs.items():
            for each in before:
                readers.setdefault(each, []).append(name)
        return readers


def _before(layer):
    """The names of the layers whose results a layer takes."""
    (node,) = layer._inbound_nodes
    return [parent.operation.name for parent in node.parent_nodes]

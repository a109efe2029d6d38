"""What benchmarks compare ours with is the same network: PyTorch's logits are those of Keras."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
keras_models = pytest.importorskip('keras_models')
from benchmarks import torch_keras  # noqa: E402


def set_weights(module, layer, arrays):
    """Has a module of PyTorch the arrays of a layer of Keras."""
    module = module[0] if isinstance(module, torch.nn.Sequential) else module
    names = ['weight', 'bias']
    if isinstance(module, torch.nn.BatchNorm2d):
        used = {'weight': layer.scale, 'bias': layer.center}
        names = [name for name in names if used[name]] + ['running_mean', 'running_var']
    for name, array in zip(names, arrays):
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        getattr(module, name).data = torch.from_numpy(np.ascontiguousarray(array))


@pytest.mark.parametrize('name', ['VGG16', 'ResNet50', 'InceptionV3'])
def test_a_network_of_keras_gives_the_same_in_pytorch(name):
    shape, rng = (75, 75, 3), np.random.default_rng(0)
    body = keras_models.create(name, include_top=False, pooling='avg', input_shape=shape)
    network = torch_keras.Network(body, 2).eval()
    for layer in body.layers:
        if layer.name in network.layers and layer.weights:
            if 'BatchNormalization' in type(layer).__name__:
                layer.set_weights([rng.uniform(0.5, 1.5, each.shape) for each in layer.weights])
            set_weights(network.layers[layer.name], layer, layer.get_weights())
    network.head = torch.nn.Identity()
    images = rng.uniform(-1, 1, (2, *shape)).astype(np.float32)
    with torch.no_grad():
        found = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    expected = np.asarray(body(images))
    assert found.shape == expected.shape and expected.std() > 0
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())

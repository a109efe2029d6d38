"""Networks of scans: what pooling computes, that order and filling change nothing, COVNet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from covjax import models
from covjax.models import scans
from covjax.models.scans import POOLING, ScanNet
from covjax.training.task import count_params

SLICES = 6
every_pooling = pytest.mark.parametrize('pooling', POOLING)


class Few(nn.Module):
    """A backbone of a few features, for what is not about the backbone."""

    @nn.compact
    def __call__(self, x, train=False, valid=None):
        return nn.Dense(5)(x.mean((1, 2)))


def bags(slices=SLICES, size=8, seed=0):
    """(images float32 [3, K, size, size, 1], valid: 6, 4 and 1 slices)."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(3, slices, size, size, 1)).astype(np.float32)
    return images, np.arange(slices)[None] < np.array([[6], [4], [1]])


@functools.cache
def small(pooling, classes=3, **options):
    """(jitted apply of a ScanNet on Few, its variables)."""
    net = ScanNet(Few(), num_classes=classes, pooling=pooling, **options)
    images, valid = bags()
    return jax.jit(net.apply), net.init(jax.random.key(1), images, valid)


def probabilities(pooling, features, kernel, bias):
    """What pooling says of the features [K, F] of one bag, in NumPy."""
    softmax = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    if pooling == 'max':
        return softmax(features.max(0) @ kernel + bias)
    if pooling == 'mean':
        return softmax(features.mean(0) @ kernel + bias)
    of_slices = softmax(features @ kernel + bias)  # class 0 is that without disease
    found = 1 - np.prod(1 - of_slices[:, 1:], 0)
    whole = np.array([np.prod(1 - of_slices[:, 1:].sum(1)), *found])
    return whole / whole.sum()


@pytest.mark.fast
@pytest.mark.parametrize('pooling', ['max', 'mean', 'noisy_or'])
def test_pooling_is_that_of_numpy(pooling):
    apply, variables = small(pooling)
    images, valid = bags()
    found, weights = apply(variables, images, valid)
    params = jax.device_get(variables['params'])
    features = images.mean((2, 3)) @ params['backbone']['Dense_0']['kernel']
    features += params['backbone']['Dense_0']['bias']
    for i in range(3):
        expected = probabilities(pooling, features[i, valid[i]], **params['head'])
        np.testing.assert_allclose(np.exp(found[i]), expected, atol=1e-5)


@pytest.mark.fast
def test_attention_is_that_of_numpy():
    """Ilse et al. 2018: softmax of w (tanh(V h) * sigmoid(U h)) over the slices of a bag."""
    apply, variables = small('attention')
    images, valid = bags()
    found, weights = apply(variables, images, valid)
    params = jax.device_get(variables['params'])
    dense = lambda layer, x: x @ layer['kernel'] + layer['bias']
    features = images.mean((2, 3)) @ params['backbone']['Dense_0']['kernel']
    for i in range(3):
        h = features[i, valid[i]]
        layers = params['attention']
        gated = np.tanh(dense(layers['hidden'], h)) / (1 + np.exp(-dense(layers['gate'], h)))
        shares = np.exp((gated @ layers['weight']['kernel'])[:, 0])
        shares /= shares.sum()
        logits = dense(params['head'], shares @ h)
        np.testing.assert_allclose(np.exp(found[i]), np.exp(logits) / np.exp(logits).sum(), 1e-4)
        np.testing.assert_allclose(weights[i, valid[i]], shares, atol=1e-5)


@pytest.mark.fast
@every_pooling
@pytest.mark.parametrize('classes', [2, 3, 4])
def test_probabilities_and_weights_add_up_to_1(pooling, classes):
    apply, variables = small(pooling, classes)
    images, valid = bags()
    found, weights = apply(variables, images, valid)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert (np.asarray(weights)[~valid] == 0).all() and (np.asarray(weights) >= 0).all()


@pytest.mark.parametrize('norm', ['scan', 'batch'])
def test_bags_without_slices_alone_leave_numbers_finite(norm):
    """There are no statistics of a batch then; layer by layer the maps would grow."""
    net = ScanNet(models.create('resnet18', num_classes=None), pooling='noisy_or', norm=norm)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 2, 32, 32, 1)).astype(np.float32)
    variables = jax.jit(net.init)(jax.random.key(0), images, np.ones((2, 2), bool))

    @jax.jit
    def loss(params, images):
        known = {**variables, 'params': params}
        none = jnp.zeros((2, 2), bool)
        found, updated = net.apply(known, images, none, train=True, mutable=['batch_stats'])
        return -found.log_probabilities[:, 0].sum(), updated['batch_stats']

    for shown in (images, 1e3 * images):
        grads, stats = jax.grad(loss, has_aux=True)(variables['params'], shown)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        for before, after in zip(*map(jax.tree.leaves, (variables['batch_stats'], stats))):
            np.testing.assert_allclose(after, before, atol=1e-6)


def same_after(change, net, variables, images, valid):
    """Whether a change of bags leaves all answers as they were, to the last bit."""
    apply = jax.jit(net.apply)
    before, after = apply(variables, images, valid), apply(variables, *change(images, valid))
    return np.array_equal(before[0], after[0])


def filled(images, valid):
    """More slices that do not count, with something in them."""
    more = np.random.default_rng(5).normal(size=(len(images), 5, *images.shape[2:]))
    images = np.concatenate([images, 100 * more.astype(np.float32)], 1)
    return images, np.concatenate([valid, np.zeros((len(images), 5), bool)], 1)


def shuffled(images, valid):
    order = np.random.default_rng(2).permutation(images.shape[1])
    return images[:, order], valid[:, order]


@pytest.mark.parametrize('change', [filled, shuffled])
@pytest.mark.parametrize(
    'backbone, pooling',
    [*(('plain8', pooling) for pooling in POOLING), ('resnet18', 'attention')],
)
def test_order_and_filling_change_no_score(pooling, change, backbone):
    """To the last bit, weights too, through the whole network."""
    net = ScanNet(models.create(backbone, None), num_classes=3, pooling=pooling)
    images, valid = bags(size=32)
    variables = jax.jit(net.init)(jax.random.key(0), images, valid)
    assert same_after(change, net, variables, images, valid)


@pytest.mark.fast
def test_slices_weigh_the_same_in_any_order():
    images, valid = bags()
    order = np.random.default_rng(2).permutation(SLICES)
    for pooling in POOLING:
        apply, variables = small(pooling)
        _, weights = apply(variables, images, valid)
        _, moved = apply(variables, images[:, order], valid[:, order])
        np.testing.assert_array_equal(moved, np.asarray(weights)[:, order])


@pytest.mark.fast
def test_the_maximum_of_a_bag_that_is_repeated_is_the_same():
    apply, variables = small('max')
    images, _ = bags()
    everything = np.ones((3, SLICES), bool)
    once, _ = apply(variables, images, everything)
    twice, _ = apply(variables, np.tile(images, (1, 2, 1, 1, 1)), np.tile(everything, 2))
    np.testing.assert_array_equal(once, twice)


class Same(nn.Module):
    """A head whose logits are the features."""

    @nn.compact
    def __call__(self, features):
        return features


class NoisyOr(nn.Module):
    """Noisy-OR of logits that are given, [B, K, C]."""

    @nn.compact
    def __call__(self, logits, valid):
        return scans.by_noisy_or(logits, valid, Same(), 0)


def noisy_or(logits):
    """log P [B, C] of bags without filling."""
    valid = jnp.ones(logits.shape[:2], bool)
    return NoisyOr().apply({}, logits, valid).log_probabilities


@pytest.mark.fast
def test_noisy_or_of_one_slice_is_what_the_slice_says():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1, 2)), jnp.float32)
    np.testing.assert_allclose(np.exp(noisy_or(features)), jax.nn.softmax(features)[:, 0], 1e-5)


@pytest.mark.fast
@pytest.mark.parametrize('certain', [-80.0, -20.0, 0.0, 20.0, 80.0])
def test_noisy_or_of_many_slices_is_finite_with_its_gradients(certain):
    features = jnp.zeros((1, 128, 2)).at[..., 1].set(certain)
    loss = jax.jit(jax.value_and_grad(lambda logits: -noisy_or(logits).sum()))
    value, gradient = loss(features)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.fast
@every_pooling
def test_every_slice_of_a_bag_can_learn(pooling):
    """Slices that only fill up a bag get no gradient."""
    images, valid = bags()
    net = ScanNet(Few(), pooling=pooling)
    variables = net.init(jax.random.key(0), images, valid)
    loss = lambda images: net.apply(variables, images, valid).log_probabilities[:, 1].sum()
    gradient = np.abs(jax.jit(jax.grad(loss))(images)).max((2, 3, 4))
    assert np.isfinite(gradient).all() and (gradient[~valid] == 0).all()
    assert (gradient[valid] > 0).all() or pooling == 'max'
    assert (gradient.max(1) > 0).all()


# ---- norms


@pytest.mark.fast
@pytest.mark.parametrize('norm', scans.NORMS)
def test_norms_see_the_slices_that_they_are_to_see(norm):
    """Frozen statistics stay; those of a batch move; those of a scan are its own in evaluation."""
    body = lambda x, conv, norm: {'a': norm(name='norm')(x)}
    backbone = models.backbone.Backbone('toy', body, 1, 'none', num_classes=None)
    net = ScanNet(backbone, norm=norm)
    images, valid = bags()
    variables = net.init(jax.random.key(0), images, valid)
    _, updated = net.apply(variables, images, valid, train=True, mutable=['batch_stats'])
    old, new = (flatten_dict(each['batch_stats']) for each in (variables, updated))
    moved = any((old[path] != new[path]).any() for path in old)
    assert moved == (norm == 'batch')
    features = net.apply(variables, images, valid, False, method='features')
    if norm == 'scan':  # each feature of a scan has mean 0 over its own slices
        for scan, counts in zip(features, valid):
            np.testing.assert_allclose(scan[counts].mean(0), 0, atol=1e-5)
    else:
        np.testing.assert_allclose(features, images.mean((2, 3)), atol=1e-4)


# ---- the published systems


@pytest.mark.fast
def test_the_counts_of_covnet():
    """Parameters of three classes, and of Gozes's two, for RGB images."""
    for classes, count in ((3, 23_514_179), (2, 23_512_130)):
        net = ScanNet(models.create('resnet50_torch', None), num_classes=classes)
        shown = jnp.zeros((1, 2, 64, 64, 3)), jnp.ones((1, 2), bool)
        variables = jax.eval_shape(net.init, jax.random.key(0), *shown)
        assert count_params(variables['params']) == count
        assert count_params(variables['batch_stats']) == 53_120


@pytest.mark.parametrize('norm', ['frozen', 'scan'])
def test_covnet_is_that_of_pytorch(norm):
    """A bag of five slices; theirs takes the statistics of a scan in evaluation too ('scan')."""
    torch = pytest.importorskip('torch')
    from test_pytorch import nhwc, of_resnet, uniform, with_statistics, with_weights_of

    from benchmarks.torch_resnet import ResNet50

    peer = with_statistics(ResNet50())
    peer.fc = torch.nn.Identity()
    head = torch.nn.Linear(2048, 3)
    peer.add_module('head', head)
    slices = uniform(5, 3, 64, 64)
    net = ScanNet(models.create('resnet50_torch', None), num_classes=3, norm=norm)
    shown = nhwc(slices)[None], np.ones((1, 5), bool)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *shown)
    theirs = lambda name: name if name == 'head' else of_resnet(name.removeprefix('backbone/'))
    variables = with_weights_of(peer, shapes, theirs)
    peer.train(norm == 'scan')
    logits = head(peer(slices).max(0, keepdim=True)[0])
    found = jax.jit(net.apply)(variables, *shown).log_probabilities
    expected = torch.log_softmax(logits, 1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.fast
def test_the_location_decides_with_the_image():
    """Xu et al. 2020: 256 and 16 features, the location beside them, 16 and 16 more."""
    net = ScanNet(Few(), num_classes=3, pooling='noisy_or')
    images, valid = bags()
    location = np.random.default_rng(1).uniform(size=valid.shape).astype(np.float32)
    variables = net.init(jax.random.key(0), images, valid, location)
    layers = {**variables['params']['location'], 'head': variables['params']['head']}
    assert {name: layer['kernel'].shape for name, layer in layers.items()} == {
        'dense1': (5, 256),
        'dense2': (256, 16),
        'dense3': (17, 16),
        'dense4': (16, 16),
        'head': (16, 3),
    }
    first, second = (
        net.apply(variables, images, valid, where).log_probabilities
        for where in (location, 1 - location)
    )
    assert (first != second).any(1).all()

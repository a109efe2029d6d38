"""DRE-Net against NumPy and against PyTorch: its parts, what it cuts out, its logits and losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from covjax import InputError, models
from covjax.models import dre_net
from covjax.training.task import count_params

CANDIDATES = {'small': dre_net.SMALL, 'large': dre_net.LARGE}


def suppressed(scores, boxes, count):
    """Non-maximum suppression as it is usually written: sort, take, drop what overlaps."""
    order = list(np.argsort(-scores, kind='stable'))
    taken = []
    while order and len(taken) < count:
        best = order.pop(0)
        taken.append(best)
        order = [i for i in order if overlap(boxes[i], boxes[best]) < dre_net.OVERLAP]
    return taken


def overlap(a, b):
    """Intersection over union of two boxes."""
    height = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    width = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])
    return height * width / (area(a) + area(b) - height * width)


def parts_of(scores):
    """[(index in all scores, box in pixels of 448)] of the six parts, by plain suppression."""
    first, chosen = 0, []
    for grids in CANDIDATES.values():
        boxes = np.round(448 * dre_net.squares(grids)).astype(int)
        indices = suppressed(scores[first : first + len(boxes)], boxes, dre_net.TAKEN)
        assert len(indices) == dre_net.TAKEN
        chosen += [(first + j, boxes[j]) for j in indices]
        first += len(boxes)
    return chosen


@pytest.mark.fast
def test_the_parts_are_those_that_were_published():
    small, large = (np.round(448 * dre_net.squares(grids)) for grids in CANDIDATES.values())
    assert small.shape == (14 * 14 + 7 * 7, 4) and large.shape == (16, 4)
    np.testing.assert_array_equal(small[0], [-8, -8, 40, 40])  # 48 pixels around (16, 16)
    np.testing.assert_array_equal(small[1], [-8, 24, 40, 72])
    np.testing.assert_array_equal(small[196], [-16, -16, 80, 80])  # 96 pixels around (32, 32)
    np.testing.assert_array_equal(large[-1], [352, 352, 544, 544])  # 192 around (448, 448)


@pytest.mark.fast
@pytest.mark.parametrize('kind', CANDIDATES)
def test_the_best_parts_are_those_of_suppression(kind):
    boxes = dre_net.squares(CANDIDATES[kind])
    overlapping = dre_net.overlaps(boxes)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(100):
        scores = rng.normal(size=len(boxes)).astype(np.float32)
        found = np.asarray(dre_net.best(scores[None], overlapping))[0].tolist()
        expected = suppressed(scores, boxes, dre_net.TAKEN)
        assert found == expected + expected[:1] * (dre_net.TAKEN - len(expected))
        seen.add(len(expected))
    assert dre_net.TAKEN in seen


@pytest.mark.fast
def test_where_nothing_is_left_the_first_part_is_taken_again():
    everything = np.ones((4, 4), bool)
    found = dre_net.best(jnp.array([[0.1, 0.9, 0.2, 0.3]]), everything)
    np.testing.assert_array_equal(found, [[1, 1, 1]])


@pytest.mark.fast
def test_a_box_of_the_whole_image_is_the_image():
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    whole = jnp.array([[0.0, 0.0, 1.0, 1.0]] * 2)
    np.testing.assert_allclose(dre_net.cut(images, whole, 12), images, atol=1e-5)


@pytest.mark.fast
def test_boxes_are_cut_as_pytorch_interpolates_them():
    """Boxes that reach beyond the image too, which is 0 there."""
    torch = pytest.importorskip('torch')
    images = np.random.default_rng(0).normal(size=(1, 40, 40, 1)).astype(np.float32)
    padded = np.pad(images[0, ..., 0], 20)
    for top, left, side in ((0, 0, 16), (-8, 3, 24), (30, -5, 20), (11, 29, 12)):
        box = jnp.array([[top, left, top + side, left + side]]) / 40
        part = padded[top + 20 : top + 20 + side, left + 20 : left + 20 + side]
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(part.copy())[None, None], (20, 20), mode='bilinear', align_corners=True
        )
        found = dre_net.cut(images, box, 20)[0, ..., 0]
        np.testing.assert_allclose(found, expected.numpy()[0, 0], atol=1e-5)


@pytest.mark.fast
def test_the_published_count():
    """Parameters of two classes for RGB images, and the statistics of BatchNorm beside them."""
    variables = jax.eval_shape(
        models.create('dre_net').init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
    assert count_params(variables['params']) == 26_203_977
    assert count_params(variables['batch_stats']) == 53_120


@pytest.mark.fast
def test_images_that_are_not_square():
    with pytest.raises(InputError, match='square'):
        jax.eval_shape(models.create('dre_net').init, jax.random.key(0), jnp.zeros((1, 64, 96, 1)))


# ---- the same in PyTorch


def theirs(module):
    """The name of a module of ours, 'body/stage2_block1/conv1', in torch_network."""
    from test_pytorch import of_resnet

    first, _, rest = module.partition('/')
    if first == 'body':
        return f'body.{of_resnet(rest)}'
    return rest if first == 'proposals' else first


def test_logits_and_losses_are_those_of_pytorch():
    """At 448x448 with four classes: every output, and the loss that is added to that of logits."""
    torch = pytest.importorskip('torch')
    from test_pytorch import nhwc, uniform, with_statistics, with_weights_of
    from torch_dre_net import DRENet

    module = with_statistics(DRENet(4, parts_of))
    model = models.create('dre_net', num_classes=4, backbone='resnet18')
    images = uniform(2, 3, 448, 448)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 448, 448, 3)))
    variables = with_weights_of(module, shapes, theirs)
    apply = jax.jit(functools.partial(model.apply, endpoints=True))
    logits, maps = apply(variables, nhwc(images))
    expected = [output.detach() for output in module(images)]
    for found, output in zip((logits, maps['whole'], maps['parts'], maps['scores']), expected):
        np.testing.assert_allclose(found, output.numpy(), atol=1e-4, rtol=1e-4)
    labels = torch.tensor([1, 3])
    _, whole, parts, scores = expected
    entropy = functools.partial(torch.nn.functional.cross_entropy, reduction='none')
    of_parts = entropy(parts.reshape(12, 4), labels.repeat_interleave(6)).reshape(2, 6)
    ranking = torch.zeros(2)
    for i in range(6):
        worse = (of_parts > of_parts[:, i : i + 1]).float()
        ranking += (torch.relu(1 - scores[:, i : i + 1] + scores) * worse).sum(1)
    total = entropy(whole, labels) + of_parts.mean(1) + ranking
    found = models.AUXILIARY_LOSSES['dre_net'](maps, labels.numpy())
    np.testing.assert_allclose(found, total.numpy(), rtol=1e-3)


def test_what_is_cut_out_teaches_the_body_and_not_the_choice():
    """The scores learn from the ranking alone; logits say nothing to the network that chooses."""
    model = models.create('dre_net', backbone='resnet18')
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 1)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    def loss(params):
        return model.apply({**variables, 'params': params}, images)[:, 1].sum()

    grads = flatten_dict(jax.jit(jax.grad(loss))(variables['params']), sep='/')
    moved = {path.split('/')[0] for path, grad in grads.items() if np.abs(grad).max() > 0}
    assert moved == {'body', 'head'}

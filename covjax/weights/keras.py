"""Weights that Keras wrote (keras.applications) as variables of covjax modules, from a file.

    model = models.create('inception_v3', num_classes=None)
    file = 'inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5'
    variables, preprocess = keras.load(model, file)
    features = model.apply(variables, preprocess(images))  # images [B, H, W, 1] float in [-1, 1]

`preprocess` is the input scaling that the weights expect. All layouts are read: `.h5` with a group
a layer, as Keras publishes them, `.weights.h5` of Keras 3, and `.keras`, which has one inside. A
network may be one layer of another, as in Sequential([ResNet50(...), Dense(2)]).

As in Keras itself a weight is known by its place: names count instances (conv2d_94), differ between
layouts, and some published files name layers otherwise than the code does. Keras lists layers by
their distance to the output, so branches of a block are interleaved; `_nearest_last` says how.
"""

import difflib
import functools
import io
import pathlib
import re
import zipfile
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from covjax import InputError
from covjax.models import densenet, inception, inception_resnet, resnet, vgg

SHOWN = 12  # wrong weights that a message lists of each kind
CAFFE_MEAN = (103.939, 116.779, 123.68)  # ImageNet, BGR, 0..255
TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, RGB, 0..1
KINDS = {4: 'conv', 2: 'dense', 1: 'norm'}  # by the rank of a layer's first weight
READABLE = 'give a .h5, .weights.h5 or .keras that Keras wrote'
INSIDE = 'model.weights.h5'  # of a .keras file
MOST_BYTES = 1 << 31  # of an array, or of the weights in a .keras file
MOST_PACKED = 1000  # how many times smaller than in memory an array can be in a file
# Layers of a residual block by their names in the files of before Keras 2.2.5, some of which list
# the shortcut ('1') after the third convolution; where it belongs among the others is said here.
OLD_BLOCK = re.compile(r'(?:res|bn)(?P<stage>\d)(?P<block>[a-z])_branch(?P<branch>2a|2b|1|2c)')
BRANCHES = ('2a', '2b', '1', '2c')
# What h5py raises where a file is not what it seems.
UNREADABLE = (
    *(OSError, KeyError, ValueError, AttributeError, TypeError, RuntimeError, IndexError),
    *(zipfile.BadZipFile, EOFError, NotImplementedError),
)


class Family(NamedTuple):
    """What Keras does with one architecture."""

    convs: list[str]  # our paths of the convolutions of the body, in the order of Keras
    norms: list[str]  # of the norms
    scaling: str  # of the input: 'caffe', 'torch' or 'tf'


class Layer(NamedTuple):
    """A layer of a network or of a file, with its weights in the order of Keras."""

    name: str
    weights: list[Any]  # arrays or, of a network, anything else with a shape

    @property
    def shapes(self):
        """'3x3x64x128 128'."""
        return ' '.join('x'.join(map(str, weight.shape)) for weight in self.weights)

    def __str__(self):
        return f'{self.name} {self.shapes}'


def load(
    model: Any,
    path: str | pathlib.Path,
    channels: int = 1,
    new_head: bool = False,
    image_size: int = 224,
    rng: Any = None,
) -> tuple[dict[str, Any], Callable]:
    """Reads the weights of a network from a file that Keras wrote of the same network.

    The file may be one with or without the last layer (`include_top`).

    Args:
        model: models.backbone.Backbone. Its last layer is read too, unless num_classes is None.
        path: of the file.
        channels: 1 or 3, of the images that preprocess will be given.
        new_head: whether the last layer is drawn at random instead.
        image_size: matters to models with `hidden` layers only.
        rng: key for the new head; key(0) by default.

    Returns:
        (variables of `model`, the function `preprocess` of its family).

    Raises:
        InputError: Keras publishes no weights for the model, or the file is missing, damaged, or
            does not fit; the message lists the weights that are missing, extra or of another shape.
    """
    family = _family(model.family)
    # Three equal channels give what one gives with the sum of the kernels.
    summed = channels == 1 and family.scaling == 'tf'
    draws_head = new_head and model.num_classes is not None
    reads_head = not new_head and model.num_classes is not None
    stored = _read(path)
    if summed and stored['conv']:
        stored['conv'][0] = _with_one_channel(stored['conv'][0])
    if not reads_head:
        stored['dense'] = stored['dense'][: len(model.hidden)]

    image = jnp.zeros((1, image_size, image_size, 1 if summed else 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    wanted = traverse_util.flatten_dict(shapes, sep='/')
    dense = [f'hidden{i + 1}' for i in range(len(model.hidden))] + ['head'] * reads_head
    paths = {'conv': family.convs, 'norm': family.norms, 'dense': dense}
    values = _match(paths, stored, wanted, f'{path}: does not fit {model.family}')
    if draws_head:
        features = wanted['params/head/kernel'].shape[0]
        values |= _new_head(model.num_classes, features, jax.random.key(0) if rng is None else rng)
    variables = traverse_util.unflatten_dict(values, sep='/')
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), variables)
    return variables, preprocess(model.family, channels)


def _family(name):
    """The Family of a model."""
    if name not in FAMILIES:
        valid = ', '.join(FAMILIES)
        raise InputError(
            f'{name}: Keras publishes no weights for this model; choose one of {valid}'
        )
    return FAMILIES[name]


def _with_one_channel(layer):
    """The first convolution, for images of one channel instead of three equal ones."""
    kernel, *bias = layer.weights
    return Layer(layer.name, [kernel.sum(2, keepdims=True), *bias])


def _new_head(num_classes, features, rng):
    """{flat name: array} of a last layer drawn at random."""
    head = nn.Dense(num_classes).init(rng, jnp.zeros((1, features)))
    return {f'params/head/{name}': value for name, value in head['params'].items()}


@functools.cache
def preprocess(family: str, channels: int = 1) -> Callable:
    """The function from images to what published weights of a family were trained on.

    VGG16 and ResNet-50 take BGR in 0..255 minus the ImageNet mean ('caffe'), DenseNet takes
    standardised RGB ('torch'), the Inceptions take [-1, 1] ('tf'). Grey images stay one channel for
    'tf' and are repeated for the others, whose channels differ in scale, so that zero padding means
    something else in each.

    Args:
        family: a name in models.MODELS for which Keras publishes weights.
        channels: 1 or 3, of the images.

    Returns:
        A function, which can be jitted, from images [B, H, W, channels] float in [-1, 1], RGB where
        there are three channels, to [B, H, W, 1 or 3].

    Raises:
        InputError: Keras publishes no weights for the family; from the function: the images have
            another number of channels.
    """
    scaling = _family(family).scaling

    def scaled(images):
        if images.shape[-1] != channels:
            raise InputError(
                f'preprocess was made for images [B, H, W, {channels}], got {list(images.shape)}; '
                f'load the weights with channels={images.shape[-1]}'
            )
        if scaling == 'tf':
            return images
        rgb = jnp.broadcast_to(images, (*images.shape[:-1], 3))
        if scaling == 'caffe':
            return (rgb[..., ::-1] + 1) * 127.5 - _per_channel(CAFFE_MEAN)
        return ((rgb + 1) / 2 - _per_channel(TORCH_MEAN)) / _per_channel(TORCH_STD)

    return scaled


def _per_channel(values):
    return jnp.array(values).reshape(1, 1, 1, 3)


# ---- weights of a file -> our names


def _match(paths, stored, wanted, refusal):
    """Pairs the layers of a network with those of a file, by place and shape.

    Args:
        paths: {kind: [our path]}, each list in the order of Keras.
        stored: {kind: [Layer]} of the file, as `_read` returns them.
        wanted: {flat name: something with a shape} of all our variables.
        refusal: what the message begins with where they do not fit.

    Returns:
        {our flat name: array}.
    """
    values, missing, extra, wrong = {}, [], [], []
    for kind, ours in paths.items():
        names = {path: [name for name in _leaves(path) if name in wanted] for path in ours}
        expected = [Layer(path, [wanted[name] for name in names[path]]) for path in ours]
        for layer, found in _aligned(expected, stored[kind]):
            if found is None:
                missing.append(str(layer))
            elif layer is None:
                extra.append(str(found))
            elif layer.shapes != found.shapes:
                wrong.append(f'{layer.name} is {layer.shapes}, {found}')
            else:
                values |= zip(names[layer.name], found.weights)
    extra += map(str, stored['other'])
    problems = {'missing': missing, 'extra': extra, 'of another shape': wrong}
    messages = [_listed(what, layers) for what, layers in problems.items() if layers]
    if messages:
        raise InputError(f'{refusal}; {"; ".join(messages)}')
    return values


def _aligned(expected, stored):
    """Yields pairs of layers (expected, stored), in order; None where one has no counterpart."""
    shapes = [[layer.shapes for layer in layers] for layers in (expected, stored)]
    matcher = difflib.SequenceMatcher(None, *shapes, autojunk=False)
    for _, i, i_end, j, j_end in matcher.get_opcodes():
        yield from zip_longest(expected[i:i_end], stored[j:j_end])


def _listed(what, layers):
    """'2 missing: a 3x3x8x8, b 8', cut where there are many."""
    more = ', ...' if len(layers) > SHOWN else ''
    return f'{len(layers)} {what}: {", ".join(layers[:SHOWN])}{more}'


def _leaves(path):
    """Our names of a layer's weights in the order of Keras; a layer has only some of them."""
    return [
        f'params/{path}/kernel',
        f'params/{path}/scale',
        f'params/{path}/bias',
        f'batch_stats/{path}/mean',
        f'batch_stats/{path}/var',
    ]


# ---- files


def _read(path):
    """{'conv', 'norm', 'dense', 'other': [Layer]} of a file, each in the order of Keras."""
    import h5py  # only this function needs it

    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise InputError(f'{path}: no such file; {READABLE}')
    try:
        content = io.BytesIO(_inside(path)) if zipfile.is_zipfile(path) else path
        with h5py.File(content) as file:
            layers = _layers(file)
    except UNREADABLE as error:
        kind = type(error).__name__
        raise InputError(f'{path}: is damaged or not an HDF5 file ({kind}); {READABLE}') from None
    if layers is None:
        raise InputError(
            f'{path}: holds no weights in a layout of Keras; write them with model.save_weights'
        )
    stored = {'conv': [], 'norm': [], 'dense': [], 'other': []}
    for layer in layers:
        if layer.weights:
            stored[KINDS.get(layer.weights[0].ndim, 'other')].append(layer)
    for layers in stored.values():
        _reorder(layers)
    return stored


def _inside(path):
    """The bytes of the weights in a .keras file."""
    with zipfile.ZipFile(path) as whole:
        entry = whole.getinfo(INSIDE)
        # Weights hardly shrink when they are packed.
        if entry.file_size > min(MOST_BYTES, 100 * entry.compress_size):
            raise ValueError('its weights are too large')
        return whole.read(INSIDE)


def _reorder(layers):
    """Puts those [Layer] that OLD_BLOCK knows into the order of today, in their places."""
    matches = [OLD_BLOCK.fullmatch(layer.name) for layer in layers]
    places = [i for i, match in enumerate(matches) if match]
    rank = lambda i: (
        matches[i]['stage'],
        matches[i]['block'],
        BRANCHES.index(matches[i]['branch']),
    )
    ordered = [layers[i] for i in sorted(places, key=rank)]
    for i, layer in zip(places, ordered):
        layers[i] = layer


def _layers(file):
    """[Layer] of an open file in the order of Keras, or None where it has neither layout."""
    group = file['model_weights'] if 'model_weights' in file else file
    if not {'layer_names', 'layer_names0'}.isdisjoint(group.attrs):
        names = _texts(group, 'layer_names')
        return [layer for name in names for layer in _of_group(name, group[name])]
    if 'layers' in file:
        return list(_of_keras3(file['layers']))
    return None


def _of_group(name, group):
    """[Layer] of one group of the published layout, whose attributes order its weights.

    That is one Layer, or all of a network that is a layer itself: what is trained comes first
    there, so the weights of a layer are known by what their names have in common.
    """
    weights = {}
    for weight in _texts(group, 'weight_names'):
        weights.setdefault(weight.rpartition('/')[0], []).append(_array(group[weight]))
    if len(weights) <= 1:
        return [Layer(name, arrays) for arrays in weights.values()]
    return [Layer(prefix.rpartition('/')[2], arrays) for prefix, arrays in weights.items()]


def _of_keras3(groups):
    """Yields the Layers of a group of Keras 3 and those inside them; weights are numbered."""
    for name in sorted(groups, key=_counted):
        group = groups[name]
        if 'layers' in group:
            yield from _of_keras3(group['layers'])
        numbers = sorted(group.get('vars', ()), key=int)
        yield Layer(name, [_array(group['vars'][number]) for number in numbers])


def _array(dataset):
    """A weight as a NumPy array; a ValueError where it is none, or larger than its file."""
    if dataset.dtype.kind not in 'fiu':
        raise ValueError(f'{dataset.name} is no array of numbers')
    if dataset.nbytes > min(MOST_BYTES, MOST_PACKED * dataset.id.get_storage_size()):
        raise ValueError(f'{dataset.name} claims more than the file has')
    return dataset[()]


def _texts(group, name):
    """A list of names among the attributes of a group; long ones are stored as name0, name1, ..."""
    keys = [name]
    if name not in group.attrs:
        parts = (key for key in group.attrs if re.fullmatch(rf'{name}\d+', key))
        keys = sorted(parts, key=_counted)
    texts = [text for key in keys for text in group.attrs[key]]
    return [text.decode() if isinstance(text, bytes) else text for text in texts]


def _counted(name):
    """'conv2d_10' -> ('conv2d', 10), which sorts after conv2d_9; the first has no number."""
    base, number = re.fullmatch(r'(.*?)_?(\d+)?', name).groups()
    return base, int(number or 0)


# ---- the order of Keras


def _nearest_last(prefix, branches):
    """Our paths of the units of a block (models.inception.BLOCKS) as Keras lists them.

    The farther from the block's output the earlier, then by branch.
    """
    units = []
    for i, steps in enumerate(branches, 1):
        distance = 0
        for j, step in reversed(list(enumerate(steps, 1))):
            if step in (inception.AVG, inception.MAX):
                distance += 1
            elif isinstance(step, list):  # a fork: one more layer, which concatenates
                distance += 4
                units += [(distance, f'{prefix}/branch{i}_{j}{letter}') for letter in 'ab']
            else:
                distance += 3  # convolution, norm, ReLU
                units.append((distance, f'{prefix}/branch{i}_{j}'))
    return [path for _, path in sorted(units, key=lambda unit: -unit[0])]


def _units(paths):
    """(convolutions, norms) of the units at these paths."""
    return [f'{path}/conv' for path in paths], [f'{path}/norm' for path in paths]


STEM = [f'stem{i}' for i in range(1, 6)]  # units of both Inceptions


def _vgg():
    convs = []
    for i, (_, count) in enumerate(vgg.BLOCKS, 1):
        convs += [f'block{i}_conv{j + 1}' for j in range(count)]
    return Family(convs, [], 'caffe')


def _resnet():
    convs, norms = ['stem_conv'], ['stem_norm']
    for stage, count in enumerate(resnet.RESNET50.counts, 2):
        for i in range(count):
            # The projection is as near to the sum as the third convolution.
            order = (1, 2, 3) if i else (1, 2, 0, 3)
            convs += [f'stage{stage}_block{i + 1}/conv{k}' for k in order]
            norms += [f'stage{stage}_block{i + 1}/norm{k}' for k in order]
    return Family(convs, norms, 'caffe')


def _densenet():
    convs, norms = ['stem_conv'], ['stem_norm']
    for i, count in enumerate(densenet.BLOCKS, 1):
        layers = [f'block{i}_layer{j + 1}' for j in range(count)]
        convs += [f'{layer}_conv{k}' for layer in layers for k in (1, 2)]
        norms += [f'{layer}_norm{k}' for layer in layers for k in (1, 2)]
        last = i == len(densenet.BLOCKS)
        convs += [] if last else [f'transition{i}_conv']
        norms += ['norm'] if last else [f'transition{i}_norm']
    return Family(convs, norms, 'torch')


def _inception():
    paths = list(STEM)
    for name, branches in inception.BLOCKS.items():
        paths += _nearest_last(name, branches)
    return Family(*_units(paths), 'tf')


def _inception_resnet():
    convs, norms = _units(STEM)
    for name, block in inception_resnet.BLOCKS.items():
        if isinstance(block, list):
            prefixes, branches = [name], block
        else:
            branches, count, _ = block
            prefixes = [f'{name}_{i + 1}/mixed' for i in range(count)]
        for prefix in prefixes:
            block_convs, block_norms = _units(_nearest_last(prefix, branches))
            convs += block_convs
            norms += block_norms
            if prefix != name:  # a residual block has one more convolution
                convs.append(prefix.replace('mixed', 'conv'))
    return Family([*convs, 'conv_7b/conv'], [*norms, 'conv_7b/norm'], 'tf')


FAMILIES = {
    'vgg16': _vgg(),
    'resnet50': _resnet(),
    'inception_v3': _inception(),
    'inception_resnet_v2': _inception_resnet(),
    'densenet169': _densenet(),
}

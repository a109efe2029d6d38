"""Weights that Keras wrote (keras.applications) as variables of our modules, from a file, and the input scaling that they expect.

    model = models.create('inception_v3', num_classes=None)
    variables, preprocess = pretrained.load(model, 'inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5')
    features = model.apply(variables, preprocess(images))                      # images [B, H, W, 1] float in [-1, 1]

Both layouts are read: `.h5` with a group a layer, as Keras publishes them, and `.weights.h5` of Keras 3. As in Keras itself a weight is known by its
place: names count instances (conv2d_94), differ between layouts, and some published files name layers otherwise than the code does. Keras lists
layers by their distance to the output, so branches of a block are interleaved; `_nearest_last` says how.
"""

import difflib
import pathlib
import re
from itertools import zip_longest
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from covjax import InputError
from covjax.models import densenet, inception, inception_resnet, resnet, vgg

SHOWN = 12  # wrong weights that a message lists of each kind
CAFFE_MEAN = (103.939, 116.779, 123.68)  # ImageNet, BGR, 0..255
TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, RGB, 0..1


class Family(NamedTuple):
    """Paths of the convolutions and norms of a body in the order of Keras, and the name of the input scaling."""

    convs: list[str]
    norms: list[str]
    scaling: str


def load(model, path, channels=1, new_head=False, image_size=224, rng=None):
    """(variables of `model`, preprocess) from a file of the same network written by Keras, with or without its top.

    model: a Backbone. Its top is read too, unless num_classes is None, or new_head=True: then the last layer is drawn from `rng` (key(0) by default).
    channels: 1 or 3, of the images that preprocess will be given. image_size matters to models with `hidden` layers only.
    Raises InputError with the weights that are missing, extra or of another shape.
    """
    family = FAMILIES[model.family]
    exact_sum = (
        channels == 1 and family.scaling == 'tf'
    )  # three equal channels: as good as one with the sum of the kernels
    found = _read(path)
    if exact_sum and found['conv']:
        name, (kernel, *bias) = found['conv'][0]
        found['conv'][0] = name, [kernel.sum(2, keepdims=True), *bias]
    image = jnp.zeros((1, image_size, image_size, 1 if exact_sum else 3))
    wanted = traverse_util.flatten_dict(
        jax.eval_shape(model.init, jax.random.key(0), image), sep='/'
    )
    tops = [f'hidden{i + 1}' for i in range(len(model.hidden))] + (
        ['head'] if model.num_classes is not None and not new_head else []
    )
    if new_head or model.num_classes is None:
        found['dense'] = found['dense'][: len(model.hidden)]
    values = _match(
        {'conv': family.convs, 'norm': family.norms, 'dense': tops},
        found,
        wanted,
        path,
        model.family,
    )
    if new_head and model.num_classes is not None:
        features = wanted['params/head/kernel'].shape[0]
        head = nn.Dense(model.num_classes).init(
            jax.random.key(0) if rng is None else rng, jnp.zeros((1, features))
        )
        values |= {f'params/head/{name}': value for name, value in head['params'].items()}
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), traverse_util.unflatten_dict(values, sep='/')
    ), preprocess(model.family, channels)


def preprocess(family, channels=1):
    """The function from images [B, H, W, channels] float in [-1, 1] (RGB) to what weights of that family were trained on, jittable.

    VGG16 and ResNet-50: BGR in 0..255 minus the ImageNet mean ('caffe'); DenseNet: standardised RGB ('torch'); the Inceptions: [-1, 1] ('tf').
    Grey images stay one channel for 'tf' and are repeated for the others, whose channels differ in scale, so that zero padding means something else
    in each.
    """
    scaling = FAMILIES[family].scaling

    def scaled(images):
        if images.shape[-1] != channels:
            raise InputError(
                f'preprocess was made for images [B, H, W, {channels}], got {list(images.shape)}; load the weights with channels={images.shape[-1]}'
            )
        if scaling == 'tf':
            return images
        rgb = jnp.broadcast_to(images, (*images.shape[:-1], 3))
        if scaling == 'caffe':
            return (rgb[..., ::-1] + 1) * 127.5 - jnp.array(CAFFE_MEAN).reshape(1, 1, 1, 3)
        return ((rgb + 1) / 2 - jnp.array(TORCH_MEAN).reshape(1, 1, 1, 3)) / jnp.array(
            TORCH_STD
        ).reshape(1, 1, 1, 3)

    return scaled


def _match(paths, found, wanted, file, family):
    """{our flat name: array}; paths and found are by kind (conv, norm, dense), each in the order of Keras."""
    values, missing, extra, wrong = {}, [], [], []
    for kind, ours in paths.items():
        names = [[name for name in _leaves(path) if name in wanted] for path in ours]
        expected, there = (
            [[wanted[n].shape for n in leaf] for leaf in names],
            [[w.shape for w in weights] for _, weights in found[kind]],
        )
        as_keys = lambda shapes: [str(shape) for shape in shapes]
        for tag, i, i_end, j, j_end in difflib.SequenceMatcher(
            None, as_keys(expected), as_keys(there), autojunk=False
        ).get_opcodes():
            for a, b in zip_longest(range(i, i_end), range(j, j_end)):
                if tag == 'equal':
                    values |= zip(names[a], found[kind][b][1])
                elif b is None:
                    missing.append(f'{ours[a]} {_show(expected[a])}')
                elif a is None:
                    extra.append(f'{found[kind][b][0]} {_show(there[b])}')
                else:
                    wrong.append(
                        f'{ours[a]} is {_show(expected[a])}, {found[kind][b][0]} {_show(there[b])}'
                    )
    extra += [f'{name} {_show([w.shape for w in weights])}' for name, weights in found['other']]
    told = [
        f'{len(names)} {what}: {", ".join(names[:SHOWN])}{", ..." if len(names) > SHOWN else ""}'
        for what, names in (('missing', missing), ('extra', extra), ('of another shape', wrong))
        if names
    ]
    if told:
        raise InputError(f'{file}: does not fit {family}; {"; ".join(told)}')
    return values


def _leaves(path):
    """Our names of a layer's weights in the order in which Keras stores them; a layer has only some of them."""
    return [
        f'params/{path}/kernel',
        f'params/{path}/scale',
        f'params/{path}/bias',
        f'batch_stats/{path}/mean',
        f'batch_stats/{path}/var',
    ]


def _show(shapes):
    return ' '.join('x'.join(map(str, shape)) for shape in shapes)


def _read(path):
    """{'conv', 'norm', 'dense', 'other': [(name, [arrays])]} of a file, each in the order of Keras."""
    import h5py  # only this function needs it

    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise InputError(f'{path}: no such file; give a .h5 or .weights.h5 that Keras wrote')
    try:
        with h5py.File(path) as file:
            group = file['model_weights'] if 'model_weights' in file else file
            if not {'layer_names', 'layer_names0'}.isdisjoint(group.attrs):
                layers = [
                    (
                        name,
                        [group[name][weight][()] for weight in _texts(group[name], 'weight_names')],
                    )
                    for name in _texts(group, 'layer_names')
                ]
            elif 'layers' in file:
                stored = file['layers']
                layers = [
                    (
                        name,
                        [
                            stored[name]['vars'][key][()]
                            for key in sorted(stored[name].get('vars', ()), key=int)
                        ],
                    )
                    for name in sorted(stored, key=_counted)
                ]
            else:
                raise InputError(
                    f'{path}: holds no weights in a layout of Keras; write them with model.save_weights'
                )
    except (
        OSError,
        KeyError,
        ValueError,
        AttributeError,
        TypeError,
        RuntimeError,
    ) as error:  # whatever h5py finds instead
        if isinstance(error, InputError):
            raise
        raise InputError(
            f'{path}: is damaged or not an HDF5 file ({type(error).__name__}); give a .h5 or .weights.h5 that Keras wrote'
        ) from None
    found = {'conv': [], 'norm': [], 'dense': [], 'other': []}
    for name, weights in layers:
        if weights:
            found[{4: 'conv', 2: 'dense', 1: 'norm'}.get(weights[0].ndim, 'other')].append(
                (name, weights)
            )
    return found


def _texts(group, name):
    """A list of names among the attributes of a group; long ones are stored as name0, name1, ..."""
    keys = (
        [name]
        if name in group.attrs
        else sorted((key for key in group.attrs if re.fullmatch(rf'{name}\d+', key)), key=_counted)
    )
    return [
        text.decode() if isinstance(text, bytes) else text
        for key in keys
        for text in group.attrs[key]
    ]


def _counted(name):
    """'conv2d_10' -> ('conv2d', 10), so that it sorts after conv2d_9; the first of a class has no number."""
    base, number = re.fullmatch(r'(.*?)_?(\d+)?', name).groups()
    return base, int(number or 0)


def _nearest_last(prefix, branches):
    """Paths of the units of a block (models.inception.BLOCKS) as Keras lists them: the farther from the block's output the earlier, then by branch."""
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
    return [f'{path}/conv' for path in paths], [f'{path}/norm' for path in paths]


def _vgg():
    return Family(
        [
            f'block{i}_conv{j + 1}'
            for i, (_, count) in enumerate(vgg.BLOCKS, 1)
            for j in range(count)
        ],
        [],
        'caffe',
    )


def _resnet():
    layers = [
        (f'stage{stage}_block{block + 1}', i)
        for stage, count in enumerate(resnet.BLOCKS, 2)
        for block in range(count)
        for i in ((1, 2, 3) if block else (1, 2, 0, 3))
    ]  # the projection is as near to the sum as the third convolution
    return Family(
        ['stem_conv', *(f'{block}/conv{i}' for block, i in layers)],
        ['stem_norm', *(f'{block}/norm{i}' for block, i in layers)],
        'caffe',
    )


def _densenet():
    convs, norms = ['stem_conv'], ['stem_norm']
    for i, count in enumerate(densenet.BLOCKS, 1):
        layers = [f'block{i}_layer{j + 1}' for j in range(count)]
        convs += [f'{layer}_conv{k}' for layer in layers for k in (1, 2)] + [f'transition{i}_conv']
        norms += [f'{layer}_norm{k}' for layer in layers for k in (1, 2)] + [f'transition{i}_norm']
    return Family(convs[:-1], [*norms[:-1], 'norm'], 'torch')


def _inception():
    return Family(
        *_units(
            [f'stem{i}' for i in range(1, 6)]
            + [
                path
                for name, block in inception.BLOCKS.items()
                for path in _nearest_last(name, block)
            ]
        ),
        'tf',
    )


def _inception_resnet():
    convs, norms = _units([f'stem{i}' for i in range(1, 6)])
    for name, block in inception_resnet.BLOCKS.items():
        branches, count, _ = (block, 0, None) if isinstance(block, list) else block
        for prefix in [f'{name}_{i + 1}/mixed' for i in range(count)] or [name]:
            more = _units(_nearest_last(prefix, branches))
            convs += more[0] + ([prefix.replace('mixed', 'conv')] if count else [])
            norms += more[1]
    return Family([*convs, 'conv_7b/conv'], [*norms, 'conv_7b/norm'], 'tf')


FAMILIES = {
    'vgg16': _vgg(),
    'resnet50': _resnet(),
    'densenet169': _densenet(),
    'inception_v3': _inception(),
    'inception_resnet_v2': _inception_resnet(),
}

"""Weights through files that Keras itself writes: logits, statistics and scaling are Keras' own.

Weights are random. Every model that names a network of keras.applications as its reference is
compared with it; what is said of files alone needs one family only.
"""

import functools
import itertools
import re

import h5py
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from covjax import InputError, features, models
from covjax.models import layers
from covjax.weights import keras as keras_weights

keras = pytest.importorskip('keras')
import keras_models  # noqa: E402

APPLICATIONS = 'keras.applications.'
REFERENCES = {name: models.create(name).reference for name in models.MODELS}
KERAS = {
    name: reference.removeprefix(APPLICATIONS)
    for name, reference in REFERENCES.items()
    if reference.startswith(APPLICATIONS)
}
MODULES = {'densenet169': 'densenet'}  # of keras.applications, where it is not our name
CLASSES = 5
# Of the weights of a BatchNorm, away from their defaults.
RANGES = {
    'gamma': (0.5, 1.5),
    'beta': (-0.2, 0.2),
    'moving_mean': (-0.2, 0.2),
    'moving_variance': (0.5, 1.5),
}
LAYOUTS = ('.h5', '.weights.h5')
TOP = {'vgg16': {'hidden': (4096, 4096)}}  # layers between the pooled features and the last
FLATTENED = {'vgg16': 512}  # width of a map that Keras flattens instead of pooling
FIRST_KERNEL = ('params', 'stem1', 'conv', 'kernel')  # of the Inceptions
LARGER = 22  # pixels than the smallest size, so that maps have even and odd sides

every_family = pytest.mark.parametrize('name', KERAS)


def build(name, size):
    """A keras.applications model with a top of five classes and random weights everywhere."""
    model = keras_models.create(
        KERAS[name], classes=CLASSES, input_shape=(size, size, 3), classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(*RANGES[w.name], w.shape) for w in layer.weights])
    return model


def write(model, path):
    """The file in the layout that its name tells: groups of layers (as published), or Keras 3."""
    save = model.save_weights if path.name.endswith('.weights.h5') else model.save
    save(str(path))
    return path


def ours(name, num_classes=CLASSES):
    top = TOP.get(name, {}) if num_classes else {}
    return models.create(name, num_classes=num_classes, **top)


@functools.cache
def stateless(model, training):
    """The stateless call of a Keras model, compiled once."""
    return jax.jit(lambda *arguments: model.stateless_call(*arguments, training=training))


def run(model, images, training=False):
    """The output of a Keras model, whose running statistics move in training."""
    variables = [model.trainable_variables, model.non_trainable_variables]
    values = [[variable.value for variable in group] for group in variables]
    with jax.numpy_rank_promotion('allow'):
        output, moved = stateless(model, training)(*values, images)
    for variable, value in zip(model.non_trainable_variables, moved):
        variable.assign(value)
    return jax.tree.map(np.asarray, output)


@functools.cache
def forward(model, **options):
    """model.apply, compiled once."""
    return jax.jit(lambda variables, images: model.apply(variables, images, **options))


def uniform(*shape):
    """Images in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def inputs(name, size, batch=2):
    """Images in the scale of a family's weights."""
    return keras_weights.preprocess(name, 3)(uniform(batch, size, size, 3))


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def shift_names():
    """Makes bare layers, so that the names of the next count on from conv2d_95."""
    for _ in range(95):
        for layer in ('Conv2D', 'BatchNormalization', 'Activation', 'Concatenate'):
            arguments = {'Conv2D': (1, 1), 'Activation': ('relu',)}.get(layer, ())
            getattr(keras.layers, layer)(*arguments)


class Pair:
    """A network of Keras, and its weights in files with top and without.

    The last layer without top is the pooling, or Flatten in VGG16.
    """

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.size = models.create(name).smallest + LARGER
        shift_names()
        self.reference = build(name, self.size)
        pooled = self.reference.layers[-4 if name in TOP else -2].output
        bottom = keras.Model(self.reference.inputs, pooled)
        self.parts = {'whole': self.reference, 'bottom': bottom}
        self.both = keras.Model(self.reference.inputs, [self.reference.output, pooled])
        self.inputs = inputs(name, self.size)

    def file(self, part, layout):
        """The file of a part, written when it is first asked for: some are of 200 megabytes."""
        path = self.folder / f'{part}{layout}'
        return path if path.exists() else write(self.parts[part], path)

    @functools.cached_property
    def variables(self):
        """Ours, with top."""
        return self.load(ours(self.name))[0]

    def expected(self, images):
        """(logits, pooled features) of Keras."""
        logits, pooled = run(self.both, images)
        return logits, pooled.reshape(2, -1, FLATTENED.get(self.name, pooled.shape[1])).mean(1)

    def forward(self, variables, images):
        """(logits, {name: map}) of ours."""
        return forward(ours(self.name), endpoints=True)(variables, images)

    def load(self, model, part='whole', layout='.h5', **options):
        """(variables, preprocess) of one of the files."""
        options = {'channels': 3, 'image_size': self.size, **options}
        return keras_weights.load(model, self.file(part, layout), **options)


@pytest.fixture(scope='module', params=KERAS)
def pair(request, tmp_path_factory):
    yield Pair(request.param, tmp_path_factory.mktemp(request.param))
    # A family takes up to a gigabyte, which the next one needs.
    for function in (stateless, forward):
        function.cache_clear()
    keras.backend.clear_session()
    jax.clear_caches()


# The logits of every family are compared with those of Keras in any case.
DEEP = ('densenet169', 'inception_v3', 'inception_resnet_v2')
DEEP_ARE_SLOW = [
    pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else []) for name in KERAS
]


def test_every_family_has_its_order_and_scaling():
    assert keras_weights.FAMILIES.keys() == KERAS.keys()


@pytest.mark.parametrize('layout', LAYOUTS)
def test_logits(pair, layout):
    variables, preprocess = pair.load(ours(pair.name), layout=layout)
    images = preprocess(uniform(2, pair.size, pair.size, 3))
    logits, _ = pair.forward(variables, images)
    close(logits, pair.expected(images)[0])


@pytest.mark.parametrize('pair', DEEP_ARE_SLOW, indirect=True)
def test_features(pair):
    """The map that is pooled; files with top and without give the same variables for it."""
    _, maps = pair.forward(pair.variables, pair.inputs)
    close(np.asarray(maps['features']).mean((1, 2)), pair.expected(pair.inputs)[1])
    top = ('head', 'hidden1', 'hidden2')
    params = pair.variables['params']
    body = {'params': {name: params[name] for name in params if name not in top}}
    for part, layout in itertools.product(pair.parts, LAYOUTS):
        variables, _ = pair.load(ours(pair.name, None), part, layout)
        jax.tree.map(np.testing.assert_array_equal, variables, pair.variables | body)


@pytest.mark.parametrize('pair', DEEP_ARE_SLOW, indirect=True)
def test_running_statistics(pair):
    # Two 1x1 maps normalised over each other would only amplify rounding.
    images = inputs(pair.name, pair.size, batch=8)
    model = ours(pair.name)
    _, moved = forward(model, train=True, mutable='batch_stats')(pair.variables, images)
    kept = [variable.numpy() for variable in pair.reference.non_trainable_variables]
    run(pair.reference, images, training=True)
    write(pair.reference, pair.folder / 'moved.weights.h5')
    for variable, value in zip(pair.reference.non_trainable_variables, kept):
        variable.assign(value)
    after, _ = keras_weights.load(
        model, pair.folder / 'moved.weights.h5', channels=3, image_size=pair.size
    )
    before, after, moved = (
        flatten_dict(variables.get('batch_stats', {}), sep='/')
        for variables in (pair.variables, after, moved)
    )
    assert bool(after) == bool(pair.variables.get('batch_stats'))
    for path, expected in after.items():
        close(moved[path], expected)
        assert not np.array_equal(before[path], expected), path


def test_grey_equals_three_equal_channels(pair):
    """Networks see the same, or what sees it is one convolution with the sum of its kernels."""
    grey = uniform(2, 5, 5, 1)
    model = ours(pair.name, None)
    (one, scale_one), (three, scale_three) = (pair.load(model, channels=n) for n in (1, 3))
    shown, shown_in_colour = scale_one(grey), scale_three(grey.repeat(3, -1))
    one, three = flatten_dict(one), flatten_dict(three)
    differ = [path for path in three if not np.array_equal(one[path], three[path])]
    if differ:
        assert differ == [FIRST_KERNEL]
        convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=layers.NHWC)
        shown = convolve(shown, one[FIRST_KERNEL], (2, 2), 'VALID')
        shown_in_colour = convolve(shown_in_colour, three[FIRST_KERNEL], (2, 2), 'VALID')
    close(shown, shown_in_colour)


@pytest.mark.parametrize('pair', ['inception_v3'], indirect=True)
def test_inception_as_features(pair, monkeypatch):
    """What sets of images are compared in are Keras' own pooled features of grey images.

    At a smaller size than the published one.
    """
    monkeypatch.setattr(features, 'INCEPTION', pair.size)
    grey = np.random.default_rng(0).integers(0, 256, (2, pair.size, pair.size, 1), np.uint8)
    extract = jax.jit(features.extractor(str(pair.file('bottom', '.h5'))))
    images = np.float32(grey / 127.5 - 1).repeat(3, -1)
    close(extract(grey), pair.expected(images)[1])


@every_family
def test_input_scaling(name):
    images = uniform(2, 5, 5, 3)
    module = getattr(keras.applications, MODULES.get(name, name))
    expected = module.preprocess_input((images + 1) * 127.5)
    np.testing.assert_allclose(keras_weights.preprocess(name, 3)(images), expected, atol=1e-4)
    with pytest.raises(InputError, match='channels=3'):
        keras_weights.preprocess(name, 1)(images)


@pytest.mark.parametrize('name', sorted(models.MODELS.keys() - KERAS.keys()))
def test_models_without_weights_of_keras_are_refused(name, tmp_path):
    message = f'^{name}: Keras publishes no weights for this model; choose one of vgg16, resnet50, '
    with pytest.raises(InputError, match=message):
        keras_weights.load(models.create(name), tmp_path / 'a.h5')
    with pytest.raises(InputError, match=message):
        keras_weights.preprocess(name)


# ---- files, whatever the family


@pytest.fixture(scope='module')
def resnet(tmp_path_factory):
    """(Keras ResNet-50 of the smallest size, folder with its weights as a.h5)."""
    folder = tmp_path_factory.mktemp('files')
    reference = build('resnet50', 32)
    write(reference, folder / 'a.h5')
    return reference, folder


def edited(folder, change):
    """A copy of the file in the layout of groups, changed."""
    path = folder / 'edited.h5'
    path.write_bytes((folder / 'a.h5').read_bytes())
    with h5py.File(path, 'r+') as file:
        change(file['model_weights'])
    return path


def drop(group):
    names = list(group.attrs['layer_names'])
    names.remove('conv3_block2_2_conv')
    group.attrs['layer_names'] = names


def add(group):
    group.attrs['layer_names'] = [*group.attrs['layer_names'], 'conv3_block2_2_bn']


def reshape(group):
    layer = group['conv3_block2_2_conv']
    name = layer.attrs['weight_names'][0]
    value = layer[name][()]
    del layer[name]
    layer[name] = value[..., :-1]


def swap(group):
    names = list(group.attrs['layer_names'])
    i, j = names.index('conv3_block2_2_conv'), names.index('conv3_block3_2_conv')
    names[i], names[j] = names[j], names[i]
    group.attrs['layer_names'] = names


@pytest.mark.parametrize(
    'change, problem',
    [
        (drop, '1 missing: stage3_block2/conv2 3x3x128x128 128'),
        (add, '1 extra: conv3_block2_2_bn 128'),
        (
            reshape,
            '1 of another shape: stage3_block2/conv2 is 3x3x128x128 128, '
            'conv3_block2_2_conv 3x3x128x127',
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed(resnet, change, problem):
    with pytest.raises(InputError, match=problem) as error:
        keras_weights.load(ours('resnet50'), edited(resnet[1], change), channels=3)
    assert 'edited.h5: does not fit resnet50' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', sorted(KERAS.keys() - {'resnet50'}))
def test_weights_of_another_family(resnet, name):
    with pytest.raises(InputError, match=f'does not fit {name}; .*(missing|extra|another shape)'):
        keras_weights.load(ours(name, None), resnet[1] / 'a.h5')


def test_another_head_needs_to_be_asked_for(resnet):
    """A top of two classes, where the file has one of five."""
    two, file = models.create('resnet50', num_classes=2), resnet[1] / 'a.h5'
    with pytest.raises(InputError, match='head'):
        keras_weights.load(two, file, channels=3)
    variables, _ = keras_weights.load(two, file, channels=3, new_head=True)
    kernel = np.asarray(variables['params']['head']['kernel'])
    assert kernel.shape == (2048, 2) and (kernel != 0).all()


def weights_alone(path, target):
    """Writes a file of groups without the description of the model, which Keras loads by place."""
    with h5py.File(path) as file, h5py.File(target, 'w') as out:
        group = file['model_weights']
        for name in group:
            file.copy(group[name], out, name)
        for key, value in group.attrs.items():
            out.attrs[key] = value
    return target


def test_order_in_the_file_decides_as_in_keras(resnet):
    """A swap of two layers of one shape is followed, not undone by their names."""
    reference, folder = resnet
    path = edited(folder, swap)
    alone = weights_alone(path, folder / 'swapped.h5')
    model, images = ours('resnet50'), inputs('resnet50', 32)
    swapped, swapped_alone, plain = (
        forward(model)(keras_weights.load(model, file, channels=3)[0], images)
        for file in (path, alone, folder / 'a.h5')
    )
    close(plain, run(reference, images))
    reference.load_weights(str(alone))
    expected = run(reference, images)
    close(swapped, expected)
    close(swapped_alone, expected)
    assert np.abs(plain - expected).max() > 1e-2 * np.abs(expected).max()
    reference.load_weights(str(folder / 'a.h5'))  # as other tests find it


@pytest.mark.parametrize(
    'make, problem',
    [
        (lambda path, whole: None, 'no such file'),
        (lambda path, whole: path.write_text('weights'), 'not an HDF5 file'),
        (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), 'is damaged'),
        (lambda path, whole: h5py.File(path, 'w').close(), 'no weights'),
    ],
)
def test_files_that_are_not_weights(resnet, tmp_path, make, problem):
    path = tmp_path / 'weights.h5'
    make(path, (resnet[1] / 'a.h5').read_bytes())
    with pytest.raises(InputError, match=f'weights.h5: .*{problem}'):
        keras_weights.load(ours('resnet50'), path)


# ---- the same weights, as other versions and other models keep them


def nested(reference):
    """The reference as one layer of a model that goes on."""
    body = keras.Model(reference.inputs, reference.layers[-2].output, name='body')
    return keras.Sequential([body, keras.layers.Dense(3)])


@pytest.mark.parametrize('ending', ['.h5', '.weights.h5', '.keras'])
@pytest.mark.parametrize('whole', [True, False])
def test_keras_files_of_every_kind(resnet, tmp_path, ending, whole):
    """Of a network alone, and of one that is a layer of another."""
    reference, folder = resnet
    path = write(reference if whole else nested(reference), tmp_path / f'a{ending}')
    model = ours('resnet50', None)
    expected, _ = keras_weights.load(model, folder / 'a.h5', channels=3)
    variables, _ = keras_weights.load(model, path, channels=3)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def old_name(name):
    """'conv2_block1_0_conv' -> 'res2a_branch1', as files of before Keras 2.2.5 have it."""
    match = re.fullmatch(r'conv(\d)_block(\d)_(\d)_(conv|bn)', name)
    if not match:
        return {'conv1_conv': 'conv1', 'conv1_bn': 'bn_conv1'}.get(name, name)
    stage, block, number, kind = match.groups()
    branch = ('1', '2a', '2b', '2c')[int(number)]
    letter = 'abcdef'[int(block) - 1]
    return f'{"res" if kind == "conv" else "bn"}{stage}{letter}_branch{branch}'


def as_before(folder, path):
    """The file with old names, in which shortcuts come after the third convolution."""
    with h5py.File(folder / 'a.h5') as file, h5py.File(path, 'w') as out:
        group, names = file['model_weights'], []
        for name in (name for name in group.attrs['layer_names'] if len(group[name].attrs)):
            layer = out.create_group(old_name(name))
            weights = []
            for i, weight in enumerate(group[name].attrs['weight_names']):
                weights.append(f'{old_name(name)}_W_{i}:0')
                layer[weights[-1]] = group[name][weight][()]
            layer.attrs['weight_names'] = weights
            if weights:
                names.append(old_name(name))
        shortcuts = [name for name in names if name.endswith('branch1')]
        for name in shortcuts:
            names.remove(name)
            names.insert(names.index(name.replace('branch1', 'branch2c')) + 1, name)
        out.attrs['layer_names'] = names
    return path


def test_a_file_of_before_keras_2_2_5(resnet, tmp_path):
    """The order that it has is not the one of today, and its names say where layers belong."""
    model, folder = ours('resnet50', None), resnet[1]
    path = as_before(folder, tmp_path / 'resnet50_weights_tf_dim_ordering_tf_kernels.h5')
    expected, _ = keras_weights.load(model, folder / 'a.h5', channels=3)
    variables, _ = keras_weights.load(model, path, channels=3)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def text_for_numbers(layer, weight):
    del layer[weight]
    layer[weight] = 'weights'


def group_for_numbers(layer, weight):
    del layer[weight]
    layer.create_group(weight)


def four_gigabytes(layer, weight):
    """In a file of some kilobytes."""
    del layer[weight]
    layer.create_dataset(weight, (1 << 30,), np.float32, chunks=(1 << 20,), fillvalue=1)


def eight_terabytes(layer, weight):
    del layer[weight]
    layer.create_dataset(weight, (1 << 40,), np.float64, chunks=(1 << 20,), fillvalue=1)


@pytest.mark.parametrize(
    'spoil', [text_for_numbers, group_for_numbers, four_gigabytes, eight_terabytes]
)
def test_weights_that_are_none(resnet, spoil):
    def change(group):
        layer = group['conv3_block2_2_conv']
        spoil(layer, layer.attrs['weight_names'][0])

    with pytest.raises(InputError, match='edited.h5: is damaged') as caught:
        keras_weights.load(ours('resnet50'), edited(resnet[1], change), channels=3)
    assert '\n' not in str(caught.value)

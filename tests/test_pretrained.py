"""Weights through files that Keras itself writes: the same logits, running statistics and input scaling as keras.applications, random weights."""

import functools

import h5py
import jax
import numpy as np
import pytest
from flax import traverse_util

from covjax import InputError, models
from covjax import features as image_features
from covjax.weights import keras as keras_weights

keras = pytest.importorskip('keras')
KERAS = {
    'vgg16': 'VGG16',
    'resnet50': 'ResNet50',
    'inception_v3': 'InceptionV3',
    'inception_resnet_v2': 'InceptionResNetV2',
    'densenet169': 'DenseNet169',
}
CLASSES = 5
RANGES = {
    'gamma': (0.5, 1.5),
    'beta': (-0.2, 0.2),
    'moving_mean': (-0.2, 0.2),
    'moving_variance': (0.5, 1.5),
}  # away from their defaults
LAYOUTS = ('.h5', '.weights.h5')


def test_every_family_has_its_order_and_scaling():
    assert set(keras_weights.FAMILIES) == set(models.MODELS) == set(KERAS)


def build(name, size, seed):
    """A keras.applications model with a top of five classes and random weights everywhere."""
    keras.utils.set_random_seed(seed)
    model = getattr(keras.applications, KERAS[name])(
        weights=None, classes=CLASSES, input_shape=(size, size, 3), classifier_activation=None
    )
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(*RANGES[w.name], w.shape) for w in layer.weights])
    return model


def write(model, path):
    """The file in the layout that its name tells: groups of layers (as published), or that of Keras 3."""
    (model.save_weights if path.name.endswith('.weights.h5') else model.save)(str(path))
    return path


def ours(name, num_classes=CLASSES):
    top = {'hidden': (4096, 4096)} if name == 'vgg16' and num_classes else {}
    return models.create(name, num_classes=num_classes, **top)


def run(model, images, training=False):
    """The output of a Keras model, whose running statistics move in training."""
    values = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    with jax.numpy_rank_promotion('allow'):
        forward = jax.jit(lambda *args: model.stateless_call(*args, training=training))
        output, moved = forward(*values, images)
    for variable, value in zip(model.non_trainable_variables, moved):
        variable.assign(value)
    return np.asarray(output)


@functools.lru_cache
def forward(model, **kwargs):
    """model.apply, compiled once."""
    return jax.jit(lambda variables, images: model.apply(variables, images, **kwargs))


def scaled_images(name, size, channels=3, batch=2):
    images = (
        np.random.default_rng(0).uniform(-1, 1, (batch, size, size, channels)).astype(np.float32)
    )
    return images, keras_weights.preprocess(name, channels)(images)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope='module', params=models.MODELS)
def pair(request, tmp_path_factory):
    """(name, [(size, Keras model)] of two sizes, folder), both alive in one process, so that the names of the second count on."""
    name = request.param
    smallest = models.create(name).smallest
    return (
        name,
        [(size, build(name, size, seed)) for seed, size in enumerate((smallest, smallest + 22))],
        tmp_path_factory.mktemp(name),
    )


def test_logits(pair):
    name, instances, folder = pair
    for i, (size, reference) in enumerate(instances):
        images, inputs = scaled_images(name, size)
        expected = run(reference, inputs)
        for layout in LAYOUTS:
            variables, preprocess = keras_weights.load(
                ours(name), write(reference, folder / f'{i}{layout}'), channels=3, image_size=size
            )
            close(forward(ours(name))(variables, preprocess(images)), expected)


def test_running_statistics(pair):
    name, [_, (size, reference)], folder = pair
    _, inputs = scaled_images(
        name, size, batch=8
    )  # two 1x1 maps normalised over each other would only amplify rounding
    before, _ = keras_weights.load(
        ours(name), write(reference, folder / 'before.weights.h5'), channels=3, image_size=size
    )
    _, updated = forward(ours(name), train=True, mutable='batch_stats')(before, inputs)
    run(reference, inputs, training=True)
    after, _ = keras_weights.load(
        ours(name), write(reference, folder / 'after.weights.h5'), channels=3, image_size=size
    )
    flat = traverse_util.flatten_dict(after.get('batch_stats', {}), sep='/')
    assert bool(flat) == (name != 'vgg16')
    got, old = (
        traverse_util.flatten_dict(stats.get('batch_stats', {}), sep='/')
        for stats in (updated, before)
    )
    for path, expected in flat.items():
        close(got[path], expected)
        assert not np.array_equal(old[path], expected), path


def test_without_top_and_new_head(pair):
    name, [(size, reference), _], folder = pair
    bottom = keras.Model(
        reference.inputs, reference.layers[-4 if name == 'vgg16' else -2].output
    )  # Flatten or pooling, as last layer
    _, inputs = scaled_images(name, size)
    features, two = models.create(name, num_classes=None), models.create(name, num_classes=2)
    found = []
    for layout in LAYOUTS:
        file, whole = (
            write(bottom, folder / f'bottom{layout}'),
            write(reference, folder / f'whole{layout}'),
        )
        found += [keras_weights.load(features, path, channels=3)[0] for path in (file, whole)]
        with pytest.raises(InputError, match='head'):
            keras_weights.load(two, file, channels=3)
        variables, _ = keras_weights.load(two, file, channels=3, new_head=True)
        assert (
            jax.eval_shape(two.apply, variables, inputs).shape == (2, 2)
            and (np.asarray(variables['params']['head']['kernel']) != 0).all()
        )
    for variables in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, variables, found[0])
    pooled = forward(features)(found[0], inputs)
    close(pooled, run(bottom, inputs).reshape(2, -1, pooled.shape[1]).mean(1))


@pytest.mark.parametrize('pair', ['inception_v3'], indirect=True)
def test_inception_as_features(pair, monkeypatch):
    """What distances between sets of images are measured in: Keras' own pooled features of grey pictures. Shown at a smaller size than the published one."""
    _, [(size, reference), _], folder = pair
    monkeypatch.setattr(image_features, 'INCEPTION', size)
    grey = np.random.default_rng(0).integers(0, 256, (2, size, size, 1), np.uint8)
    bottom = keras.Model(reference.inputs, reference.layers[-2].output)
    close(
        jax.jit(image_features.extractor(str(write(bottom, folder / 'features.h5'))))(grey),
        run(bottom, np.float32(grey / 127.5 - 1).repeat(3, -1)),
    )


def test_grey_equals_three_equal_channels(pair):
    name, [(size, reference), _], folder = pair
    grey, _ = scaled_images(name, size, channels=1)
    file, model = write(reference, folder / 'grey.h5'), models.create(name, num_classes=None)
    one, three = (keras_weights.load(model, file, channels=channels) for channels in (1, 3))
    close(
        forward(model)(one[0], one[1](grey)), forward(model)(three[0], three[1](grey.repeat(3, -1)))
    )


@pytest.mark.parametrize('name', models.MODELS)
def test_input_scaling(name):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 5, 5, 3)).astype(np.float32)
    module = getattr(
        keras.applications,
        {'inception_resnet_v2': 'inception_resnet_v2', 'densenet169': 'densenet'}.get(name, name),
    )
    np.testing.assert_allclose(
        keras_weights.preprocess(name, 3)(images),
        module.preprocess_input((images + 1) * 127.5),
        atol=1e-4,
    )
    with pytest.raises(InputError, match='channels=3'):
        keras_weights.preprocess(name, 1)(images)


# What follows is about files, and needs one family only.
@pytest.fixture(scope='module')
def resnet(tmp_path_factory):
    """(Keras ResNet-50, folder with its weights in both layouts)"""
    folder = tmp_path_factory.mktemp('files')
    reference = build('resnet50', 32, 0)
    for layout in LAYOUTS:
        write(reference, folder / f'a{layout}')
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
    'change, told',
    [
        (drop, '1 missing: stage3_block2/conv2 3x3x128x128 128'),
        (add, '1 extra: conv3_block2_2_bn 128'),
        (
            reshape,
            '1 of another shape: stage3_block2/conv2 is 3x3x128x128 128, conv3_block2_2_conv 3x3x128x127',
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed(resnet, change, told):
    with pytest.raises(InputError, match=told) as error:
        keras_weights.load(ours('resnet50'), edited(resnet[1], change), channels=3)
    assert 'edited.h5: does not fit resnet50' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', sorted(set(models.MODELS) - {'resnet50'}))
def test_weights_of_another_family(resnet, name):
    with pytest.raises(InputError, match=f'does not fit {name}; .*(missing|extra|another shape)'):
        keras_weights.load(models.create(name, num_classes=None), resnet[1] / 'a.h5')


def test_order_in_the_file_decides_as_in_keras(resnet):
    """A swap of two layers of one shape is followed, not undone by their names."""
    reference, folder = resnet
    path, (_, inputs) = edited(folder, swap), scaled_images('resnet50', 32)
    with (
        h5py.File(path) as file,
        h5py.File(folder / 'swapped.h5', 'w') as out,
    ):  # weights alone, which Keras loads by place
        file.copy(file['model_weights'], out, 'g')
        for name in list(out['g']):
            out.move(f'g/{name}', name)
        for key, value in out['g'].attrs.items():
            out.attrs[key] = value
        del out['g']
    results = [
        forward(ours('resnet50'))(keras_weights.load(ours('resnet50'), file, channels=3)[0], inputs)
        for file in (path, folder / 'swapped.h5', folder / 'a.h5')
    ]
    other = keras.models.clone_model(reference)
    other.load_weights(str(folder / 'swapped.h5'))
    expected = run(other, inputs)
    close(results[0], expected)
    close(results[1], expected)
    assert np.abs(results[2] - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize(
    'make, told',
    [
        (lambda path, whole: None, 'no such file'),
        (lambda path, whole: path.write_text('weights'), 'not an HDF5 file'),
        (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), 'is damaged'),
        (lambda path, whole: h5py.File(path, 'w').close(), 'no weights'),
    ],
)
def test_files_that_are_not_weights(resnet, tmp_path, make, told):
    path = tmp_path / 'weights.h5'
    make(path, (resnet[1] / 'a.h5').read_bytes())
    with pytest.raises(InputError, match=f'weights.h5: .*{told}'):
        keras_weights.load(ours('resnet50'), path)

"""Weights through files that Keras itself writes: the same logits, running statistics and input scaling as keras.applications, random weights."""
import h5py
import jax
import numpy as np
import pytest
from flax import traverse_util

from covjax import InputError, models
from covjax.models import pretrained

keras = pytest.importorskip('keras')
KERAS = {'vgg16': 'VGG16', 'resnet50': 'ResNet50', 'inception_v3': 'InceptionV3', 'inception_resnet_v2': 'InceptionResNetV2', 'densenet169': 'DenseNet169'}
CLASSES = 5
RANGES = {'gamma': (.5, 1.5), 'beta': (-.2, .2), 'moving_mean': (-.2, .2), 'moving_variance': (.5, 1.5)}     # away from their defaults
LAYOUTS = ('.h5', '.weights.h5')


def test_every_family_has_its_order_and_scaling():
    assert set(pretrained.FAMILIES) == set(models.MODELS) == set(KERAS)


def build(name, size, seed):
    """A keras.applications model with a top of five classes and random weights everywhere."""
    keras.utils.set_random_seed(seed)
    model = getattr(keras.applications, KERAS[name])(weights=None, classes=CLASSES, input_shape=(size, size, 3), classifier_activation=None)
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


def run(model, images, **kwargs):
    with jax.numpy_rank_promotion('allow'):
        return np.asarray(model(images, **kwargs))


def scaled_images(name, size, channels=3, batch=2):
    images = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, channels)).astype(np.float32)
    return images, pretrained.preprocess(name, channels)(images)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope='module', params=models.MODELS)
def pair(request, tmp_path_factory):
    """(name, [(size, Keras model)] of two sizes, folder), both alive in one process, so that the names of the second count on."""
    name = request.param
    smallest = models.create(name).smallest
    return name, [(size, build(name, size, seed)) for seed, size in enumerate((smallest, smallest + 22))], tmp_path_factory.mktemp(name)


def test_logits(pair):
    name, instances, folder = pair
    for i, (size, reference) in enumerate(instances):
        images, inputs = scaled_images(name, size)
        expected = run(reference, inputs)
        for layout in LAYOUTS:
            variables, preprocess = pretrained.load(ours(name), write(reference, folder / f'{i}{layout}'), channels=3, image_size=size)
            close(ours(name).apply(variables, preprocess(images)), expected)


def test_running_statistics(pair):
    name, [_, (size, reference)], folder = pair
    _, inputs = scaled_images(name, size, batch=8)         # two 1x1 maps normalised over each other would only amplify rounding
    before, _ = pretrained.load(ours(name), write(reference, folder / 'before.weights.h5'), channels=3, image_size=size)
    _, updated = ours(name).apply(before, inputs, train=True, mutable=['batch_stats'])
    run(reference, inputs, training=True)
    after, _ = pretrained.load(ours(name), write(reference, folder / 'after.weights.h5'), channels=3, image_size=size)
    flat = traverse_util.flatten_dict(after.get('batch_stats', {}), sep='/')
    assert bool(flat) == (name != 'vgg16')
    got, old = (traverse_util.flatten_dict(stats.get('batch_stats', {}), sep='/') for stats in (updated, before))
    for path, expected in flat.items():
        close(got[path], expected)
        assert not np.array_equal(old[path], expected), path


def test_without_top_and_new_head(pair):
    name, [(size, reference), _], folder = pair
    bottom = keras.Model(reference.inputs, reference.layers[-4 if name == 'vgg16' else -2].output)     # Flatten or pooling, as last layer
    _, inputs = scaled_images(name, size)
    expected = models.create(name, num_classes=None)
    for layout in LAYOUTS:
        file, whole = write(bottom, folder / f'bottom{layout}'), write(reference, folder / f'whole{layout}')
        pooled = [expected.apply(pretrained.load(expected, path, channels=3)[0], inputs) for path in (file, whole)]
        np.testing.assert_array_equal(*pooled)
        close(pooled[0], run(bottom, inputs).reshape(2, -1, pooled[0].shape[1]).mean(1))
        model = models.create(name, num_classes=2)
        with pytest.raises(InputError, match='head'):
            pretrained.load(model, file, channels=3)
        variables, _ = pretrained.load(model, file, channels=3, new_head=True)
        assert model.apply(variables, inputs).shape == (2, 2) and (np.asarray(variables['params']['head']['kernel']) != 0).all()


def test_grey_equals_three_equal_channels(pair):
    name, [(size, reference), _], folder = pair
    grey, _ = scaled_images(name, size, channels=1)
    file, model = write(reference, folder / 'grey.h5'), models.create(name, num_classes=None)
    one, three = (pretrained.load(model, file, channels=channels) for channels in (1, 3))
    close(model.apply(one[0], one[1](grey)), model.apply(three[0], three[1](grey.repeat(3, -1))))


@pytest.mark.parametrize('name', models.MODELS)
def test_input_scaling(name):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 5, 5, 3)).astype(np.float32)
    module = getattr(keras.applications, {'inception_resnet_v2': 'inception_resnet_v2', 'densenet169': 'densenet'}.get(name, name))
    np.testing.assert_allclose(pretrained.preprocess(name, 3)(images), module.preprocess_input((images + 1) * 127.5), atol=1e-4)
    with pytest.raises(InputError, match='channels=3'):
        pretrained.preprocess(name, 1)(images)


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


@pytest.mark.parametrize('change, told', [
    (drop, '1 missing: stage3_block2/conv2 3x3x128x128 128'), (add, '1 extra: conv3_block2_2_bn 128'),
    (reshape, '1 of another shape: stage3_block2/conv2 is 3x3x128x128 128, conv3_block2_2_conv 3x3x128x127')])
def test_weights_that_do_not_fit_are_listed(resnet, change, told):
    with pytest.raises(InputError, match=told) as error:
        pretrained.load(ours('resnet50'), edited(resnet[1], change), channels=3)
    assert 'edited.h5: does not fit resnet50' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', sorted(set(models.MODELS) - {'resnet50'}))
def test_weights_of_another_family(resnet, name):
    with pytest.raises(InputError, match=f'does not fit {name}; .*(missing|extra|another shape)'):
        pretrained.load(models.create(name, num_classes=None), resnet[1] / 'a.h5')


def test_order_in_the_file_decides_as_in_keras(resnet):
    """A swap of two layers of one shape is followed, not undone by their names."""
    reference, folder = resnet
    path, (_, inputs) = edited(folder, swap), scaled_images('resnet50', 32)
    with h5py.File(path) as file, h5py.File(folder / 'swapped.h5', 'w') as out:                # weights alone, which Keras loads by place
        file.copy(file['model_weights'], out, 'g')
        for name in list(out['g']):
            out.move(f'g/{name}', name)
        for key, value in out['g'].attrs.items():
            out.attrs[key] = value
        del out['g']
    results = [ours('resnet50').apply(pretrained.load(ours('resnet50'), file, channels=3)[0], inputs) for file in (path, folder / 'swapped.h5', folder / 'a.h5')]
    other = keras.models.clone_model(reference)
    other.load_weights(str(folder / 'swapped.h5'))
    expected = run(other, inputs)
    close(results[0], expected)
    close(results[1], expected)
    assert np.abs(results[2] - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize('make, told', [
    (lambda path, whole: None, 'no such file'), (lambda path, whole: path.write_text('weights'), 'not an HDF5 file'),
    (lambda path, whole: path.write_bytes(whole[:len(whole) // 2]), 'is damaged'), (lambda path, whole: h5py.File(path, 'w').close(), 'no weights')])
def test_files_that_are_not_weights(resnet, tmp_path, make, told):
    path = tmp_path / 'weights.h5'
    make(path, (resnet[1] / 'a.h5').read_bytes())
    with pytest.raises(InputError, match=f'weights.h5: .*{told}'):
        pretrained.load(ours('resnet50'), path)

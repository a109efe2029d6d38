"""Networks in the layout of lungmask, against PyTorch and through `segment`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk

from configs import segment as config_file
from covjax import InputError, models, segmenter
from covjax.ct import body, windows
from covjax.models.lungmask import WIDTHS, LungmaskUNet
from covjax.phantom import ct_scans
from covjax.runs import segment
from covjax.weights import lungmask

torch = pytest.importorskip('torch')
functional = torch.nn.functional
DARK = -500.0  # HU below which the network of `dark_pixels` sees the right lung


def random_state(widths=(4, 6, 10), classes=3, seed=0):
    """A state dict with random values, in the names and order of the published files."""
    rng = np.random.default_rng(seed)
    state = {}

    def conv(name, features, inputs, size):
        scale = 1 / np.sqrt(inputs * size * size)
        state[f'{name}.weight'] = scale * rng.normal(size=(features, inputs, size, size))
        state[f'{name}.bias'] = 0.1 * rng.normal(size=features)

    def norm(name, features):
        state[f'{name}.weight'] = rng.uniform(0.5, 1.5, features)
        state[f'{name}.bias'] = 0.1 * rng.normal(size=features)
        state[f'{name}.running_mean'] = 0.1 * rng.normal(size=features)
        state[f'{name}.running_var'] = rng.uniform(0.5, 1.5, features)
        state[f'{name}.num_batches_tracked'] = np.array(7)

    def block(name, features, inputs):
        conv(f'{name}.residual_input_conv', features, inputs, 1)  # stored, never used
        norm(f'{name}.residual_batchnorm', features)
        for i, before in ((0, inputs), (3, features)):
            conv(f'{name}.block.{i}', features, before, 3)
            norm(f'{name}.block.{i + 2}', features)

    for i, features in enumerate(widths):
        block(f'down_path.{i}', features, widths[i - 1] if i else 1)
    for i, features in enumerate(widths[-2::-1]):
        inputs = widths[len(widths) - 1 - i]
        conv(f'up_path.{i}.residual_input_conv', features, inputs, 1)
        norm(f'up_path.{i}.residual_batchnorm', features)
        conv(f'up_path.{i}.up.1', features, inputs, 1)
        block(f'up_path.{i}.conv_block', features, 2 * features)
    conv('last', classes, widths[0], 1)
    return {name: torch.tensor(np.asarray(array, np.float32)) for name, array in state.items()}


def logits_by_pytorch(state, images):
    """The logits of a state dict; images are float [B, 1, H, W] in 0..1, of sides to be halved."""

    def conv(x, name):
        weight = state[f'{name}.weight']
        return functional.conv2d(x, weight, state[f'{name}.bias'], padding=weight.shape[-1] // 2)

    def block(x, name):
        for i in (0, 3):
            norm = f'{name}.block.{i + 2}'
            entries = ('running_mean', 'running_var', 'weight', 'bias')
            x = functional.relu(conv(x, f'{name}.block.{i}'))
            x = functional.batch_norm(x, *(state[f'{norm}.{entry}'] for entry in entries))
        return x

    levels = sum(name.endswith('.block.0.bias') and 'down' in name for name in state)
    x, kept = images, []
    for i in range(levels):
        x = block(functional.avg_pool2d(x, 2) if i else x, f'down_path.{i}')
        kept.append(x)
    for i in range(levels - 1):
        x = functional.interpolate(x, scale_factor=2, mode='bilinear')
        x = torch.cat([conv(x, f'up_path.{i}.up.1'), kept[-2 - i]], 1)
        x = block(x, f'up_path.{i}.conv_block')
    return conv(x, 'last')


def dark_pixels(classes=3):
    """A state dict of the published depth whose network sees the right lung in dark pixels."""
    state = random_state((2, 2, 2, 2, 2), classes)
    for name, tensor in state.items():
        tensor[...] = 1 if 'running_var' in name or name.endswith(('.2.weight', '.5.weight')) else 0
    for path in ('down_path.0.block', 'up_path.3.conv_block.block'):
        for i in (0, 3):
            state[f'{path}.{i}.weight'][0, 0, 1, 1] = 1
    # What the way up gives comes first, and what the way down gave after it.
    state['up_path.3.conv_block.block.0.weight'][0, 0, 1, 1] = 0
    state['up_path.3.conv_block.block.0.weight'][0, 2, 1, 1] = 1
    limit = (DARK + 1024) / 1624
    state['last.weight'][:2, 0, 0, 0] = torch.tensor([200.0, -200.0])
    state['last.bias'][:] = -1e3
    state['last.bias'][:2] = torch.tensor([-200 * limit, 200 * limit])
    return state


@pytest.mark.parametrize('widths', [(4, 6, 10), (4, 8, 8, 6, 12), (5,)], ids=str)
def test_logits_are_those_of_pytorch(widths):
    state = random_state(widths)
    images = np.random.default_rng(1).uniform(size=(2, 48, 32, 1)).astype(np.float32)
    expected = logits_by_pytorch(state, torch.tensor(images).permute(0, 3, 1, 2))
    model, variables = lungmask.network_from({n: t.numpy() for n, t in state.items()})
    found = model.apply(variables, 2 * images - 1)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=2e-5)


@pytest.mark.fast
def test_the_published_widths_have_the_published_number_of_parameters():
    model, image = LungmaskUNet(), jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count(variables['params']) == 28_953_539
    assert count(variables['batch_stats']) == 11_776
    assert model.widths == WIDTHS == (64, 128, 256, 512, 1024)


@pytest.mark.fast
@pytest.mark.parametrize('size', [(16, 16), (17, 31), (1, 3)])
def test_images_may_have_any_size(size):
    model, variables = lungmask.network_from(
        {n: t.numpy() for n, t in random_state((4, 6, 10)).items()}
    )
    logits, maps = model.apply(variables, jnp.zeros((1, *size, 1)), endpoints=True)
    assert logits.shape == (1, *size, 3) and logits.dtype == jnp.float32
    assert set(maps) == {'down1', 'down2', 'down3', 'up2', 'up1', 'features'}


def save(path, state):
    torch.save(state, path)
    return path


@pytest.mark.parametrize('classes', [3, 6])
def test_a_file_is_a_segmenter(tmp_path, classes):
    network = segmenter.load(save(tmp_path / 'a.pth', dark_pixels(classes)))
    assert network.classes == lungmask.CLASSES[classes] and network.size == 256
    assert (network.window, network.crops, network.sees_volumes) == ('lungmask', True, False)


def phantom(folder):
    """(path of a phantom scan, its HU [z, y, x])."""
    drawn = ct_scans._draw(np.random.default_rng(0), 128, 4)
    ct_scans._write_volume(folder / 'scan.nii.gz', drawn.hu, drawn.spacing)
    return folder / 'scan.nii.gz', drawn.hu


def test_it_draws_on_the_grid_of_a_scan(tmp_path):
    path, hu = phantom(tmp_path)
    config = config_file.get_config()
    network = save(tmp_path / 'a.pth', dark_pixels())
    config.update({'segmenter': str(network), 'input': str(path), 'pieces': 0})
    (tmp_path / 'run').mkdir()
    segment.run(config, tmp_path / 'run')
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / 'run' / 'masks' / 'scan.nii.gz')))
    inside = np.zeros(hu.shape, bool)
    for z, plane in enumerate(hu):
        place = body.place(windows.to_grey(plane, windows.WINDOWS['lungmask']), LUNGMASK)
        inside[z][place] = True
    expected = (hu < DARK) & inside
    dice = 2 * ((mask > 0) & expected).sum() / ((mask > 0).sum() + expected.sum())
    assert dice > 0.97 and not (mask > 0)[~inside].any()


LUNGMASK = windows.WINDOWS['lungmask']


def test_the_body_is_where_lungmask_finds_it():
    """Within two of the pixels of the small image that both look at."""
    utils = pytest.importorskip('lungmask.utils')
    _, hu = phantom_hu()
    for plane in hu:
        rows, columns = body.place(windows.to_grey(plane, LUNGMASK), LUNGMASK)
        _, box = utils.crop_and_resize(plane.astype(float), 256, 256)
        found = (rows.start, columns.start, rows.stop, columns.stop)
        np.testing.assert_allclose(found, box, atol=2)


def phantom_hu():
    drawn = ct_scans._draw(np.random.default_rng(0), 128, 4)
    return drawn, drawn.hu


@pytest.mark.fast
@pytest.mark.parametrize('grey', [np.zeros((40, 30), np.uint8), np.full((7, 9), 255, np.uint8)])
def test_a_slice_without_body_or_without_air_stays_whole(grey):
    assert grey[body.place(grey, LUNGMASK)].shape == grey.shape


def without_a_bias(state):
    return {name: tensor for name, tensor in state.items() if name != 'last.bias'}


def without_a_block(state):
    return {name: t for name, t in state.items() if not name.startswith('down_path.1.block.3')}


def with_another(state):
    return state | {'extra.weight': torch.zeros(3)}


def with_nan(state):
    return state | {'last.bias': torch.full((3,), float('nan'))}


def of_another_shape(state):
    return state | {'down_path.1.block.3.weight': torch.zeros(6, 5, 3, 3)}


def of_four_classes(state):
    return random_state(classes=4)


@pytest.mark.parametrize(
    'spoil',
    [
        *(without_a_bias, without_a_block, with_another, with_nan, of_another_shape),
        *(of_four_classes, lambda state: {'model.1.weight': torch.zeros(3)}),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, spoil):
    path = save(tmp_path / 'a.pth', spoil(random_state()))
    with pytest.raises(InputError, match=f'^{path}: .*unet_r231') as caught:
        segmenter.load(path)
    assert '\n' not in str(caught.value)


def test_a_missing_and_a_damaged_file(tmp_path):
    with pytest.raises(
        InputError, match='nowhere.pth: no such file; give a file such as unet_r231'
    ):
        segmenter.load(tmp_path / 'nowhere.pth')
    (tmp_path / 'a.pth').write_bytes(b'no torch')
    with pytest.raises(InputError, match='a.pth: holds no dict of tensors .* unet_r231'):
        segmenter.load(tmp_path / 'a.pth')


def test_it_is_no_model_to_train():
    assert 'lungmask' not in models.SEGMENTERS

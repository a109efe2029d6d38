"""Segmenters on files: masks on the grid of the file, what is measured, and segmenters reused."""

import csv
import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT
from ml_collections import ConfigDict
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy.special import expit
from segmenters import DARK, write_run

from configs import export as export_config
from configs import segment as config_file
from covjax import InputError, lung_view, segmenter, trained
from covjax.ct import masks, picture, windows
from covjax.data import batches
from covjax.phantom import chest
from covjax.runs import export, segment
from covjax.workdir import AGAIN

SIZE = 32
CODES = [''.join(code) for code in itertools.product('LR', 'AP', 'SI')]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The workdir of a segmenter that calls dark pixels lung."""
    workdir = tmp_path_factory.mktemp('segmenter')
    write_run(workdir)
    return workdir


@pytest.fixture(scope='module')
def lesions(tmp_path_factory):
    """The workdir of one whose region is called lesion."""
    workdir = tmp_path_factory.mktemp('lesions')
    write_run(workdir, ('background', 'lesion'))
    return workdir


@pytest.fixture(scope='module')
def opened(run):
    """The same, as trained.Trained."""
    return trained.open_run(run, 'segmentation', 'segmenter')


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
    """The segmenter as a file."""
    config, folder = export_config.get_config(), tmp_path_factory.mktemp('exported')
    config.segmenter = str(run)
    export.run(config, folder)
    return folder / 'unet.safetensors'


@pytest.fixture(scope='module')
def hu():
    """HU int16 [slices, SIZE, SIZE] of a phantom in LPS, every slice another."""
    person = chest.draw_chest(np.random.default_rng(0), opacities=3)
    slices = [chest.render(person, z, SIZE, 350 / SIZE) for z in np.linspace(-20, 20, 5)]
    return np.stack(slices).round().clip(-1024).astype(np.int16)


def config_of(network, source, **fields):
    config = config_file.get_config()
    config.update({'segmenter': str(network), 'input': str(source), 'pieces': 0} | fields)
    return config


def segmented(network, source, workdir, **fields):
    """Runs `segment`; returns the workdir."""
    workdir.mkdir(exist_ok=True)
    segment.run(config_of(network, source, **fields), workdir)
    return workdir


def write_volume(path, hu, code='LPS', spacing=(0.8, 0.9, 2.5)):
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing)
    image.SetOrigin((12.5, -30.25, 100.0))
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(path))


def rows(workdir):
    with (workdir / 'table.csv').open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


# ---- volumes


@pytest.mark.parametrize('code', CODES)
def test_a_mask_lies_on_the_grid_and_in_the_orientation_of_its_scan(lesions, hu, tmp_path, code):
    write_volume(tmp_path / 'scan.nii.gz', hu, code)
    workdir = segmented(lesions, tmp_path / 'scan.nii.gz', tmp_path / 'run', lungs='')
    scan, mask = (
        sitk.ReadImage(str(path))
        for path in (tmp_path / 'scan.nii.gz', workdir / 'masks' / 'scan.nii.gz')
    )
    for fact in ('GetSize', 'GetSpacing', 'GetOrigin', 'GetDirection'):
        np.testing.assert_allclose(getattr(mask, fact)(), getattr(scan, fact)(), atol=1e-5)
    expected = windows.to_grey(sitk.GetArrayFromImage(scan)) < DARK
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), expected)


@pytest.mark.parametrize('end', ['.mha', '.mhd', '.nrrd', '.nii'])
def test_every_format_is_read(lesions, hu, tmp_path, end):
    write_volume(tmp_path / f'scan{end}', hu)
    workdir = segmented(lesions, tmp_path / f'scan{end}', tmp_path / 'run', lungs='')
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(workdir / 'masks' / 'scan.nii.gz')))
    np.testing.assert_array_equal(found, windows.to_grey(hu) < DARK)


@pytest.mark.parametrize('code', ['LPS', 'RAI', 'SAR'])
@pytest.mark.parametrize('spacing', [0.0, 1.5])
def test_networks_of_volumes_give_masks_on_the_grid_of_the_scan(tmp_path, code, spacing, capsys):
    """Blocks of 10 mm, of which the edges are a mixture; on the file's own grid in any case."""
    blocks = np.where(np.random.default_rng(0).random((4, 4, 5)) > 0.5, -900, 0)
    hu = blocks.repeat(4, 0).repeat(11, 1).repeat(12, 2).astype(np.int16)
    write_volume(tmp_path / 'scan.nii.gz', hu, code)
    (tmp_path / 'network').mkdir()
    write_run(
        tmp_path / 'network',
        ('background', 'lesion'),
        **{'model': 'vnet', 'patch': (16, 16, 16), 'spacing': spacing},
    )
    fields = {'lungs': '', 'hu': '1,0'}
    workdir = segmented(tmp_path / 'network', tmp_path / 'scan.nii.gz', tmp_path / 'run', **fields)
    scan, mask = (
        sitk.ReadImage(str(path))
        for path in (tmp_path / 'scan.nii.gz', workdir / 'masks' / 'scan.nii.gz')
    )
    for fact in ('GetSize', 'GetSpacing', 'GetOrigin', 'GetDirection'):
        np.testing.assert_allclose(getattr(mask, fact)(), getattr(scan, fact)(), atol=1e-5)
    truth, found = sitk.GetArrayFromImage(scan) < -500, sitk.GetArrayFromImage(mask) > 0
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice == 1 if not spacing else dice > 0.9
    shown = capsys.readouterr().out
    seen = ' as 32 x 26 x 27 of 1.5 mm, 27 tiles' if spacing else ', 35 tiles'
    assert f'scan (1 of 1): 60 x 44 x 16 voxels{seen}' in shown or code != 'LPS'
    assert re.search(r'scan: \d+ s, peak of memory \d+\.\d GiB', shown)


@pytest.mark.parametrize('kind', ['of volumes', 'of slices'])
def test_a_folder_may_hold_many_scans(lesions, hu, tmp_path, kind):
    for i, name in enumerate(('a.nii.gz', 'b/a.mha', 'b/c.nrrd')):
        (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(tmp_path / 'in' / name, np.roll(hu, i, 0))
    network = lesions
    if kind == 'of volumes':
        network = tmp_path / 'network'
        network.mkdir()
        fields = {'model': 'vnet', 'patch': (8, 16, 16), 'spacing': 0.0}
        write_run(network, ('background', 'lesion'), **fields)
    workdir = segmented(network, tmp_path / 'in', tmp_path / 'run')
    for i, name in enumerate(('a', 'b/a', 'b/c')):
        mask = sitk.ReadImage(str(workdir / 'masks' / f'{name}.nii.gz'))
        expected = windows.to_grey(np.roll(hu, i, 0)) < DARK
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), expected)
    assert {row['file'] for row in rows(workdir)} == {'a', 'b/a', 'b/c'}


def test_only_what_is_not_used_is_said_to_be_left_out(lesions, hu, tmp_path, capsys):
    """The voxels beside a header are not, whatever ends its name."""
    (tmp_path / 'in').mkdir()
    for name in ('a.mhd', 'b.1.2.nhdr'):
        write_volume(tmp_path / 'in' / name, hu)
    (tmp_path / 'in' / 'note.txt').touch()
    segmented(lesions, tmp_path / 'in', tmp_path / 'run', lungs='')
    shown = capsys.readouterr().out
    assert 'left out 1 file that is neither a picture nor CT: note.txt' in shown
    assert 'masks of 2 files' in shown


def test_two_scans_whose_masks_would_have_one_name_are_refused(lesions, hu, tmp_path):
    for end in ('.mha', '.nrrd'):
        write_volume(tmp_path / f'a{end}', hu)
    with pytest.raises(InputError, match='a.nrrd: differs from a.mha only in its ending'):
        segmented(lesions, tmp_path, tmp_path / 'run')


def test_pictures_are_refused_by_networks_of_volumes(tmp_path):
    write_run(tmp_path, model='vnet', patch=(8, 16, 16))
    picture.save(tmp_path / 'in' / 'a.png', np.zeros((40, 40), np.uint8))
    with pytest.raises(InputError, match='config.input=.*: has pictures, and .* sees volumes'):
        segmented(tmp_path, tmp_path / 'in', tmp_path / 'run')


def test_a_scale_of_hu_is_refused_beside_pictures(lesions, tmp_path):
    picture.save(tmp_path / 'in' / 'a.png', np.zeros((40, 40), np.uint8))
    for source in (tmp_path / 'in', tmp_path / 'in' / 'a.png'):
        with pytest.raises(InputError, match='config.hu=1,-1024: .* have no HU'):
            segmented(lesions, source, tmp_path / 'run', hu='1,-1024')


def test_slices_of_another_size_than_in_training_are_resized_and_back(lesions, tmp_path):
    """Of blocks of 4x4 pixels, which the network sees as one."""
    blocks = np.where(np.random.default_rng(0).random((3, 8, 8)) > 0.5, -900, 0)
    hu = blocks.repeat(12, 1).repeat(12, 2).astype(np.int16)
    write_volume(tmp_path / 'scan.nii.gz', hu)
    fields = {'lungs': '', 'hu': '1,0'}
    workdir = segmented(lesions, tmp_path / 'scan.nii.gz', tmp_path / 'run', **fields)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(workdir / 'masks' / 'scan.nii.gz')))
    truth = hu < -500
    assert 2 * (found.astype(bool) & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_tiles_and_the_whole_slice_give_one_mask(hu, tmp_path):
    """Of a network of single pixels, trained on quarters of a slice."""
    (tmp_path / 'tiles').mkdir()
    write_run(tmp_path / 'tiles', ('background', 'lesion'), patch=(16, 16))
    write_volume(tmp_path / 'scan.nii.gz', hu)
    workdir = segmented(tmp_path / 'tiles', tmp_path / 'scan.nii.gz', tmp_path / 'run', lungs='')
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(workdir / 'masks' / 'scan.nii.gz')))
    np.testing.assert_array_equal(found, windows.to_grey(hu) < DARK)


def test_litres_and_percentage_are_those_of_the_voxels(lesions, hu, tmp_path):
    write_volume(tmp_path / 'scan.nii.gz', hu, spacing=(0.8, 0.9, 2.5))
    found = rows(segmented(lesions, tmp_path / 'scan.nii.gz', tmp_path / 'run'))
    lesion, lung = (row for row in found if row['side'] == 'both')
    voxels = (windows.to_grey(hu) < DARK).sum()
    assert lesion['region'] == 'lesion' and int(lesion['voxels']) == voxels
    assert float(lesion['litres']) == pytest.approx(voxels * 0.8 * 0.9 * 2.5 / 1e6, abs=1e-4)
    assert lung['region'] == 'lungs' and not lung['percent of lungs']
    percent = 100 * voxels / int(lung['voxels'])
    assert float(lesion['percent of lungs']) == pytest.approx(percent, abs=0.01)


def two_lungs():
    """(lungs, classes) of a scan in LPS: lesions in a tenth of the right one, half of the left."""
    lung, classes = np.zeros((4, 30, 40), bool), np.zeros((4, 30, 40), np.uint8)
    lung[:, 5:25, 4:14] = lung[:, 5:25, 24:36] = True
    classes[:, 5:7, 4:14] = classes[:, 5:15, 24:36] = 1
    return lung, classes


def test_either_side_has_the_percentage_of_its_own_lung():
    lung, classes = two_lungs()
    found = segment.Found('a', classes, classes, lung, 0.001)
    table = segment.measured(found, ('background', 'lesion'))
    shown = {row[1:3]: (row[4], row[5], row[6]) for row in table}
    assert shown == {
        ('lesion', 'both'): (560, 0.0006, 31.82),
        ('lesion', 'left'): (480, 0.0005, 50.0),
        ('lesion', 'right'): (80, 0.0001, 10.0),
        ('lungs', 'both'): (1760, 0.0018, ''),
        ('lungs', 'left'): (960, 0.001, ''),
        ('lungs', 'right'): (800, 0.0008, ''),
    }


@pytest.mark.parametrize('known', ['no lungs', 'a picture'])
def test_sides_are_told_apart_only_where_they_are_known(known):
    lung, classes = two_lungs()
    lung, millilitres = (None, 0.001) if known == 'no lungs' else (lung, None)
    found = segment.Found('a', classes, classes, lung, millilitres)
    assert {row[2] for row in segment.measured(found, ('background', 'lesion'))} == {'both'}


def test_the_lungs_of_a_segmenter_can_be_what_lesions_are_a_percentage_of(
    lesions, run, exported, hu, tmp_path
):
    write_volume(tmp_path / 'scan.nii.gz', hu)
    for lungs in (run, exported):
        workdir = segmented(lesions, tmp_path / 'scan.nii.gz', tmp_path / 'run', lungs=str(lungs))
        assert rows(workdir)[0]['percent of lungs'] == '100.0'


@pytest.mark.parametrize(
    'name, is_lung',
    [
        ('lung', True),
        ('right_upper_lobe', True),
        ('lung_lesion', False),
        ('lung_nodule', False),
        ('airway', False),
        ('background', False),
    ],
)
def test_a_lesion_of_the_lung_is_no_lung(name, is_lung):
    assert masks.is_lung(name) == is_lung


@pytest.mark.parametrize('threshold', [0.2, 0.5, 0.8])
def test_a_pixel_is_of_a_region_from_the_threshold_on(threshold, tmp_path):
    (tmp_path / 'soft').mkdir()
    write_run(tmp_path / 'soft', sharpness=1.5)
    ramp = np.linspace(0, 255, SIZE * SIZE).astype(np.uint8).reshape(SIZE, SIZE)
    Image.fromarray(ramp).save(tmp_path / 'ramp.png')
    fields = {'lungs': '', 'threshold': threshold, 'pieces': 0}
    workdir = segmented(tmp_path / 'soft', tmp_path / 'ramp.png', tmp_path / 'run', **fields)
    found = np.asarray(Image.open(workdir / 'masks' / 'ramp.png'))
    probability = expit(3 * (DARK - 0.5 - ramp.astype(np.float32)) / 127.5)
    np.testing.assert_array_equal(found > 0, probability >= threshold)
    assert 0 < found.mean() < 1


class Showing(NamedTuple):
    """A network that a function stands in for."""

    apply: Callable


def test_tiles_overlap_as_much_as_is_asked():
    """Of a network that says how far from the left edge of its tile a pixel is."""
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32) / 15, (16, 16))
    logits = jnp.log(jnp.stack([1 - ramp, ramp], -1))
    shown = lambda variables, images: jnp.broadcast_to(logits, (len(images), *logits.shape))
    network = segmenter.Segmenter(
        model=Showing(shown),
        variables={},
        classes=('background', 'lung'),
        size=SIZE,
        patch=(16, 16),
    )
    image = [np.zeros((SIZE, SIZE), np.uint8)]
    (apart,) = segmenter.predict(network, image, 8, overlap=0)
    np.testing.assert_allclose(apart[..., 1], np.tile(ramp, (2, 2)), atol=1e-6)
    (half,) = segmenter.predict(network, image, 8, overlap=0.5)
    # The seam of two tiles is the middle of a third.
    assert half[16, 15, 1] == pytest.approx(7 / 15, abs=0.05)
    assert np.abs(np.diff(half[16, :, 1])).max() < 0.3 < np.abs(np.diff(apart[16, :, 1])).max()


def test_only_the_largest_pieces_of_lungs_are_kept(run, tmp_path):
    hu = np.zeros((2, SIZE, SIZE), np.int16)
    hu[:, 2:20, 2:10] = hu[:, 4:18, 14:22] = hu[:, 25:28, 25:28] = -900
    write_volume(tmp_path / 'scan.nii.gz', hu)
    fields = {'pieces': 2, 'hu': '1,0'}
    workdir = segmented(run, tmp_path / 'scan.nii.gz', tmp_path / 'run', **fields)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(workdir / 'masks' / 'scan.nii.gz')))
    hu[:, 25:28, 25:28] = 0
    np.testing.assert_array_equal(found, hu < -500)


# ---- pictures


def test_masks_of_pictures_are_their_classes_in_colour(lesions, tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / 'pictures'
    images = {f'{i}/slice {i}.jpg'.replace('jpg', ('png', 'bmp')[i % 2]): None for i in range(11)}
    for name in images:
        images[name] = rng.integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray(images[name]).save(folder / name)
    workdir = segmented(lesions, folder, tmp_path / 'run', batch_size=4)
    for name, image in images.items():
        mask = Image.open((workdir / 'masks' / name).with_suffix('.png'))
        assert mask.mode == 'P' and mask.getpalette()[3:6] == list(masks.COLOURS['orange'])
        np.testing.assert_array_equal(np.asarray(mask), image < DARK)
    assert [row['file'] for row in rows(workdir) if row['region'] == 'lesion'] == sorted(
        images, key=lambda name: folder / name
    )
    assert (workdir / 'segment.html').stat().st_size > 1000


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'segmenter': ''}, 'config.segmenter is empty'),
        ({'input': ''}, 'config.input is empty'),
        ({'input': 'nowhere'}, 'config.input=nowhere: no such file'),
        ({'lungs': 'LESIONS'}, 'config.lungs=.*: segments lesion; give a segmenter with'),
    ],
    ids=str,
)
def test_wrong_words_are_refused_before_anything_is_written(lesions, tmp_path, fields, message):
    (tmp_path / 'pictures').mkdir()
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(tmp_path / 'pictures' / 'a.png')
    fields = {key: value.replace('LESIONS', str(lesions)) for key, value in fields.items()}
    with pytest.raises(InputError, match=message):
        segmented(lesions, tmp_path / 'pictures', tmp_path / 'run', **fields)
    assert not list((tmp_path / 'run').iterdir())


@pytest.mark.parametrize('count, words', [(1, 'mask of 1 file in'), (2, 'masks of 2 files in')])
def test_the_screen_says_how_many_files_there_were(lesions, tmp_path, capsys, count, words):
    (tmp_path / 'pictures').mkdir()
    for i in range(count):
        Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(tmp_path / f'pictures/{i}.png')
    segmented(lesions, tmp_path / 'pictures', tmp_path / 'run')
    assert f'\n{words} ' in capsys.readouterr().out


def test_two_pictures_whose_masks_would_have_one_name_are_refused(lesions, tmp_path):
    for name in ('a.png', 'a.bmp'):
        Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(tmp_path / name)
    with pytest.raises(InputError, match='a.png: differs from a.bmp only in its ending'):
        segmented(lesions, tmp_path, tmp_path / 'run')
    assert not list((tmp_path / 'run').iterdir())


def test_values_that_are_no_hu_are_refused_by_launch(launch, lesions, hu, tmp_path):
    write_volume(tmp_path / 'grey.nii.gz', windows.to_grey(hu))
    result = launch(
        '--config=configs/segment.py',
        f'--workdir={tmp_path / "run"}',
        f'--config.segmenter={lesions}',
        f'--config.input={tmp_path / "grey.nii.gz"}',
    )
    assert result.returncode == 2 and 'is not in HU' in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / 'run').exists()


# ---- reuse


def test_workdir_and_export_are_one_segmenter(run, exported):
    grey = np.random.default_rng(0).integers(0, 256, (2, 24, 40, 1)).astype(np.uint8)
    for source in (run, exported):
        loaded = segmenter.load(source)
        assert (loaded.classes, loaded.size, loaded.patch) == (('background', 'lung'), 32, (32, 32))
        found = segmenter.decided(segmenter.apply_uint8(loaded)(grey))
        np.testing.assert_array_equal(found, grey[..., 0] < DARK)


def test_probabilities_of_any_size_add_up_to_one(run):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (n, 90 - n)).astype(np.uint8) for n in (20, 32, 45, 50, 70)]
    found = list(segmenter.predict(segmenter.load(run), images, 2))
    assert [p.shape[:2] for p in found] == [image.shape for image in images]
    for p in found:
        np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)


def test_a_pixel_is_of_the_likeliest_region_where_regions_together_are_likely():
    p = np.array([[0.4, 0.3, 0.3], [0.5, 0.1, 0.4], [0.6, 0.4, 0.0]], np.float32)
    assert segmenter.decided(p).tolist() == [1, 2, 0]
    assert segmenter.decided(p, 0.3).tolist() == [1, 2, 1]


def test_another_network_under_the_name_of_a_segmenter_is_refused(exported, tmp_path):
    _, arrays = content_of(exported)
    arrays['params/head/kernel'] = arrays['params/head/kernel'][..., :1].copy()
    copy_of(exported, tmp_path / 'wrong.safetensors', arrays)
    with pytest.raises(InputError, match='wrong.safetensors: .*head/kernel'):
        segmenter.load(tmp_path / 'wrong.safetensors')


def content_of(path):
    """(header, {name: array}) of an exported file."""
    with safe_open(path, 'numpy') as file:
        return json.loads(file.metadata()['covjax']), load_file(path)


def copy_of(path, target, arrays=None, **fields):
    """Writes an exported file again with other arrays or other keys of its header."""
    about, stored = content_of(path)
    unknown = {} if arrays is None else {'hash': None}  # as of versions before there was one
    about = json.dumps(about | unknown | fields)
    save_file(stored if arrays is None else arrays, target, metadata={'covjax': about})


ODD = [  # what no network has, of a header or of a config.json
    *({'patch': patch} for patch in ([2, 32, 32], [32, 16], [], [32], [0, 0], [-1, -1], [64, 64])),
    *({'patch': patch} for patch in ([16.5, 16.5], ['a', 'a'], None, 32)),
    *({'widths': widths} for widths in ([], [0], [-2], [2.5], ['a'], None, 2, [2] * 9, [9000])),
    {'widths': [1, 1], 'up': 'bilinear'},
    *({'image_size': size} for size in (0, -1, 9000, 1.5, 'a', None)),
    *({key: 'x'} for key in ('model', 'up', 'norm', 'dtype')),
    {'model': 'resnet50'},
    *({'widths': [3]}, {'norm': 'instance'}, {'widths': [2, 4]}),  # of another network
]
ODD_CLASSES = [
    *(['lung'], ['background'], [], ['lung', 'background'], ['background', 'lung', 'lung']),
    *(['background', 'background'], ['background', 'lung', 'lesion']),
    *(['background', *map(str, range(254))], 'lung', None, [1, 2]),
]


@pytest.mark.parametrize('fields', [*ODD, *({'labels': labels} for labels in ODD_CLASSES)], ids=str)
def test_an_exported_file_whose_header_makes_no_sense_is_refused(exported, tmp_path, fields):
    copy_of(exported, tmp_path / 'odd.safetensors', **fields)
    with pytest.raises(InputError, match='odd.safetensors: ') as caught:
        segmenter.load(tmp_path / 'odd.safetensors')
    message = str(caught.value)
    assert '\n' not in message and message.endswith('write it again with configs/export.py')


@pytest.mark.parametrize('fields', ODD, ids=str)
def test_a_run_whose_config_does_not_fit_its_checkpoint_is_refused(opened, fields):
    config = ConfigDict(json.loads(opened.config.to_json()) | fields)  # as it is read
    with pytest.raises(InputError, match=f'{opened.folder}') as caught:
        segmenter.of_run(dataclasses.replace(opened, config=config))
    message = str(caught.value)
    assert '\n' not in message and message.endswith(AGAIN)


@pytest.mark.parametrize('classes', ODD_CLASSES, ids=str)
def test_a_run_whose_classes_do_not_fit_its_checkpoint_is_refused(opened, tmp_path, classes):
    (tmp_path / 'classes.json').write_text(json.dumps(classes))
    with pytest.raises(InputError, match=f'{tmp_path}') as caught:
        segmenter.of_run(dataclasses.replace(opened, folder=tmp_path))
    message = str(caught.value)
    assert '\n' not in message and message.endswith(AGAIN)


@pytest.mark.parametrize('batch_size', [1, 3, 100_000])
@pytest.mark.parametrize('patch', [(32, 32), (16, 16)])
def test_masks_do_not_depend_on_the_batch_and_batches_have_no_more_than_there_is(
    tmp_path, monkeypatch, batch_size, patch
):
    write_run(tmp_path, patch=patch)
    loaded, used = segmenter.load(tmp_path), []
    predict = batches.predict
    count = lambda apply, images, size: (used.append(size), predict(apply, images, size))[1]
    monkeypatch.setattr(batches, 'predict', count)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32)).astype(np.uint8)
    for image, found in zip(images, segmenter.predict(loaded, images, batch_size)):
        np.testing.assert_array_equal(segmenter.decided(found), image < DARK)
    tiles_of_first = min(batch_size, len(images)) * (1 if patch == (32, 32) else 9)
    assert set(used) == {min(batch_size, tiles_of_first)}


def test_the_documented_snippets_run(run, hu, tmp_path):
    text = (ROOT / 'docs' / 'models.md').read_text(encoding='utf-8')
    snippets = re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    code, of_scan = (snippet for snippet in snippets if 'segmenter.load(' in snippet)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 40, 32, 1)).astype(np.float32)
    names = {'images': images}
    exec(code.replace("'runs/lesions'", repr(str(run))), names)
    dark = (images[..., 0] + 1) * 127.5 < DARK - 0.5
    np.testing.assert_array_equal(names['probabilities'][..., 1] > 0.5, dark)
    write_volume(tmp_path / 'scan.nii.gz', hu)
    of_scan = of_scan.replace("'scan.nii.gz'", repr(str(tmp_path / 'scan.nii.gz')))
    exec(of_scan.replace("'runs/lesions'", repr(str(run))), names)
    np.testing.assert_array_equal(names['found'][..., 1] > 0.5, windows.to_grey(hu) < DARK)


def test_a_segmenter_needs_no_training_code(run):
    code = (
        'import sys; from covjax import segmenter; segmenter.load(sys.argv[1]); '
        'print([m for m in sys.modules if m.startswith(("covjax.training", "tensorflow"))])'
    )
    words = [sys.executable, '-c', code, str(run)]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == '[]'


@pytest.mark.parametrize('named', ['nowhere', 'Otsu'])
def test_messages_about_lungs_name_the_key_that_was_given(lesions, tmp_path, named):
    config = ConfigDict({'lungs': 'crop', 'lung_segmenter': named})
    with pytest.raises(InputError, match=f'config.lung_segmenter={named}: no config.json there'):
        lung_view.of_config(config)
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match=f'config.lungs={named}: no config.json there'):
        segmented(lesions, tmp_path / 'a.png', tmp_path / 'run', lungs=named)


@pytest.mark.fast
def test_equal_networks_are_one_function(tmp_path):
    """So that an evaluation of a hundred seeds compiles one program."""
    loaded = []
    for sharpness in (100.0, 200.0):
        folder = tmp_path / str(sharpness)
        folder.mkdir()
        write_run(folder, sharpness=sharpness)
        loaded.append(segmenter.apply_uint8(segmenter.load(folder)))
    assert jax.tree.structure(loaded[0]) == jax.tree.structure(loaded[1])

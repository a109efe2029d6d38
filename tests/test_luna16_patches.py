"""Patches and candidates of LUNA16: against SimpleITK, from archives, from turned volumes."""

import io
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
import tensorflow_datasets as tfds
from PIL import Image

import tfds_builders
from covjax import InputError
from covjax.ct import archive, geometry, luna16, windows
from covjax.ct.volume import find_volumes, load_volume, open_volume, read_slice
from covjax.runs import prepare
from tfds_builders.luna16_patches.luna16_patches_dataset_builder import examples, patches

SPLITS = ('train', 'validation', 'test')


def stored(name, folder):
    """{id: example} of all splits."""
    found = {}
    for split in SPLITS:
        source = tfds.data_source(name, split=split, data_dir=str(folder), download=False)
        found |= {example['id'].decode(): example for example in source}
    return found


def assert_same(first, second):
    assert list(first) == list(second)
    for key, example in first.items():
        np.testing.assert_equal(example, second[key])


def read_whole(path):
    with archive.on_disk(path) as plain:
        return sitk.ReadImage(str(plain))


@pytest.fixture(scope='module')
def annotations(raw):
    return luna16.read_nodules(raw / 'luna16' / 'annotations.csv')


def resampled(volume, world, millimetres, spacing, dimensions):
    """SimpleITK's resampling of the whole volume onto a grid around a point."""
    n = round(millimetres / spacing)
    grid = sitk.Image([n, n, n if dimensions == 3 else 1], sitk.sitkFloat32)
    grid.SetSpacing([spacing] * 3)
    corner = lambda centre, count: centre - (count - 1) / 2 * spacing
    grid.SetOrigin([corner(*pair) for pair in zip(world, grid.GetSize())])
    whole = sitk.Cast(sitk.Maximum(read_whole(volume.path), -1024), sitk.sitkFloat32)
    image = sitk.Resample(whole, grid, sitk.Transform(), sitk.sitkLinear, -1024.0)
    hu = sitk.GetArrayFromImage(image)
    return hu if dimensions == 3 else hu[0]


@pytest.mark.fast
@pytest.mark.parametrize('dimensions, millimetres, spacing', [(2, 30, 0.5), (3, 9, 0.75)])
def test_patch_equals_resampling_the_whole_volume(
    raw, annotations, dimensions, millimetres, spacing
):
    """Away from the edge of the volume, in both orientations, read in part or whole."""
    paths, n = find_volumes(raw / 'luna16'), round(millimetres / spacing)
    assert len(annotations) >= 10
    for nodule in annotations:
        volume, size = open_volume(paths[nodule.series]), (millimetres, spacing, dimensions)
        patch = geometry.patch(volume, nodule.world, *size)
        assert patch.shape == (n,) * dimensions
        np.testing.assert_allclose(patch, resampled(volume, nodule.world, *size), atol=0.01)
        whole = geometry.patch(load_volume(volume), nodule.world, *size)
        np.testing.assert_array_equal(patch, whole)


@pytest.mark.fast
def test_patch_beyond_the_volume_is_air(raw):
    volume = open_volume(next(iter(find_volumes(raw / 'luna16').values())))
    corner = volume.image.TransformIndexToPhysicalPoint([0, 0, 0])
    patch = geometry.patch(volume, corner, 20, 1, 3)
    assert patch.shape == (20, 20, 20)
    assert (patch[0] == windows.AIR).all()
    assert patch.min() >= windows.AIR


def test_patches_are_centred_on_their_nodule(raw, annotations, tmp_path):
    prepare.build('luna16_patches/patches', raw / 'luna16', str(tmp_path))
    examples = stored('luna16_patches/patches', tmp_path)
    assert len(examples) == len(annotations)
    y, x = np.mgrid[:128, :128] + 0.5
    for example in examples.values():
        image, nodules, diameter = example['image'][..., 0], example['nodules'], example['diameter']
        assert image.shape == (128, 128)
        own = list(nodules['row']).index(example['row'])
        ymin, xmin, ymax, xmax = nodules['box'][own]
        np.testing.assert_allclose([ymin + ymax, xmin + xmax], 1, atol=1e-6)
        # The plane goes through the centre.
        np.testing.assert_allclose((ymax - ymin) * 64, diameter, rtol=1e-5)
        np.testing.assert_array_equal(nodules['centre'][own], 0)
        if diameter > 6:
            radii = np.hypot(y - 64, x - 64) * 0.5 / (diameter / 2)
            around = np.median(image[(radii > 1.4) & (radii < 2)])
            assert image[radii < 0.7].mean() > around + 40


def test_candidates_have_the_class_of_the_table(raw, annotations, tmp_path):
    prepare.build('luna16_patches/candidates', raw / 'luna16', str(tmp_path))
    examples = stored('luna16_patches/candidates', tmp_path).values()
    candidates = luna16.read_candidates(raw / 'luna16' / 'candidates.csv')
    expected = {candidate.row: int(candidate.nodule) for candidate in candidates}
    assert {example['row']: example['label'] for example in examples} == expected
    nodules = [example['nodules']['row'] for example in examples if example['label']]
    assert set(np.concatenate(nodules)) >= {annotation.row for annotation in annotations}


@pytest.fixture(scope='module')
def packed(raw, tmp_path_factory):
    """The raw folder with its subsets as downloaded: .zip archives."""
    folder = tmp_path_factory.mktemp('packed')
    for table in (raw / 'luna16').glob('*.csv'):
        shutil.copy(table, folder)
    for subset in (raw / 'luna16').glob('subset*'):
        with zipfile.ZipFile(folder / f'{subset.name}.zip', 'w', zipfile.ZIP_DEFLATED) as file:
            for path in sorted(subset.iterdir()):
                file.write(path, f'{subset.name}/{path.name}')
    return folder


@pytest.mark.parametrize(
    'name, workers',
    [
        ('nodules', 0),
        ('patches_3d', 0),
        ('candidates', 2),
        pytest.param('nodules', 2, marks=pytest.mark.slow),
        pytest.param('patches_3d', 2, marks=pytest.mark.slow),
    ],
)
def test_archives_and_workers_give_the_same_examples(raw, packed, tmp_path, name, workers):
    """As unpacked ones in one process; plain, compressed and turned volumes are among them."""
    name = f'luna16_patches/{name}'
    prepare.build(name, raw / 'luna16', str(tmp_path / 'a'))
    prepare.build(name, packed, str(tmp_path / 'b'), workers=workers)
    examples = stored(name, tmp_path / 'b')
    assert_same(stored(name, tmp_path / 'a'), examples)
    assert {example['fold'] for example in examples.values()} == {0, 1}


def test_beam_gives_the_same_examples(raw, data_dir, tmp_path):
    pytest.importorskip('apache_beam')
    name, runner = 'luna16_patches/nodules', '--runner=DirectRunner'
    prepare.build(name, raw / 'luna16', str(tmp_path), beam=runner)
    first, second = (dict(sorted(stored(name, folder).items())) for folder in (data_dir, tmp_path))
    assert_same(first, second)


@pytest.fixture
def copied(raw, tmp_path):
    """A raw folder of one's own."""
    return pathlib.Path(shutil.copytree(raw / 'luna16', tmp_path / 'luna16'))


def test_an_unpacked_series_counts_before_its_archive(copied):
    path = next(copied.rglob('*.mhd'))
    with zipfile.ZipFile(copied / 'subset7.zip', 'w') as file:
        file.write(path, f'subset7/{path.name}')
    assert find_volumes(copied)[path.stem] == path
    shutil.copy(copied / 'subset7.zip', copied / 'subset8.zip')
    path.unlink()
    with pytest.raises(InputError, match='subset8.zip.*is also at .*subset7.zip'):
        find_volumes(copied)


@pytest.mark.parametrize('is_packed', [False, True])
def test_lung_masks_are_not_ct(copied, is_packed):
    """seg-lungs-LUNA16 has an .mhd of the same name for every series."""
    before, masks = find_volumes(copied), 'seg-lungs-LUNA16'
    shutil.copytree(copied / 'subset0', copied / masks)
    if is_packed:
        shutil.make_archive(copied / masks, 'zip', copied, masks)
        shutil.rmtree(copied / masks)
    assert find_volumes(copied) == before


@pytest.mark.parametrize(
    'prefix, fold',
    [('subset3/', 3), ('./subset3/', 3), ('subset3\\\\', 3), ('', 4)],
)
def test_ways_to_write_paths_in_an_archive(raw, tmp_path, prefix, fold):
    path = next((raw / 'luna16').rglob('*.raw'))
    header = path.with_suffix('.mhd')
    with zipfile.ZipFile(tmp_path / 'subset4.zip', 'w') as file:
        for part in (path, header):
            file.writestr(prefix + part.name, part.read_bytes())
    (tmp_path / 'folder.zip').mkdir()  # a folder may be called so
    found = find_volumes(tmp_path)[path.stem]
    packed, plain = (read_slice(open_volume(file), 1) for file in (found, header))
    np.testing.assert_array_equal(packed, plain)
    assert luna16.challenge_fold(found) == fold


def test_linked_folders_are_followed(raw, tmp_path):
    subset = raw / 'luna16' / 'subset0'
    (tmp_path / 'subset0').symlink_to(subset, target_is_directory=True)
    # And a link to itself is no trap.
    (tmp_path / 'subset0b').symlink_to(tmp_path, target_is_directory=True)
    assert set(find_volumes(tmp_path)) == {path.stem for path in subset.glob('*.mhd')}


@pytest.mark.fast
@pytest.mark.parametrize(
    'name, pixels',
    [
        ('patches_2d_64mm_500um', 128),
        ('candidates_3d_32mm_1000um_hu', 32),
        ('patches_3d_10mm_300um', 33),
    ],
)
def test_a_patch_is_named_by_its_size(name, pixels):
    assert patches(name).pixels == pixels


@pytest.mark.fast
@pytest.mark.parametrize('name', ['patches_4d_1mm_1um', 'patchwork'])
def test_what_names_no_patch(name):
    assert patches(name) is None


@pytest.mark.parametrize(
    'name',
    ['patches_2d_64mm_0um', 'patches_3d_300mm_1000um', 'patches_2d_1mm_9000um'],
)
def test_impossible_patches(raw, tmp_path, name):
    with pytest.raises(InputError, match='is no patch of 1 to'):
        prepare.build(f'luna16_patches/{name}', raw / 'luna16', str(tmp_path / 'data'))
    assert not (tmp_path / 'data').exists()


def pixels(example):
    image = example['image']
    return np.asarray(Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image, float)


@pytest.mark.parametrize('name', ['nodules', 'nodules_hu', 'patches', 'patches_3d'])
def test_real_volume_turned_round(real, tmp_path, name):
    """LIDC-IDRI-0001 and a copy stored the other way round in x and y (negative directions).

    Both give the same slice, boxes and patches.
    """
    series = '1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192'
    straight, copy = real / 'volumes' / f'{series}.mhd', tmp_path / f'{series}.mhd'
    sitk.WriteImage(sitk.Flip(read_whole(straight), [True, True, False]), str(copy))
    assert open_volume(copy).flips == (True, True, False)
    annotations = luna16.read_nodules(real / 'luna16_csv' / 'annotations.csv')
    nodules = [annotation for annotation in annotations if annotation.series == series]
    config = tfds_builders.BUILDERS['luna16_patches'].builder_configs[name]
    ((_, first),) = examples(config, (open_volume(straight), nodules, nodules))
    ((_, second),) = examples(config, (open_volume(copy), nodules, nodules))
    np.testing.assert_allclose(pixels(first), pixels(second), atol=1 if 'patches' in name else 0)
    for one, other in zip(first['nodules'], second['nodules'], strict=True):
        np.testing.assert_allclose(one.get('box', 0), other.get('box', 0), atol=1e-6)


def rewritten(raw, folder, change, ending='.mhd'):
    """A copy of the raw folder whose volumes are `change(SimpleITK image)` in another format."""
    copied = shutil.copytree(raw / 'luna16', folder)
    for path in find_volumes(copied).values():
        image = change(read_whole(path))
        for old in path.parent.glob(f'{path.stem}.*'):
            old.unlink()
        with archive.on_disk(path.with_name(path.stem + ending)) as file:
            sitk.WriteImage(image, str(file))
    return copied


@pytest.mark.parametrize('ending', ['.mha', '.nii.gz', '.nrrd'])
def test_volumes_of_other_formats_give_the_same_data_set(raw, data_dir, tmp_path, ending):
    folder = rewritten(raw, tmp_path / 'raw', lambda image: image, ending)
    prepare.build('luna16_patches/nodules', folder, str(tmp_path / 'data'))
    first, second = (
        stored('luna16_patches/nodules', place) for place in (data_dir, tmp_path / 'data')
    )
    assert list(first) == list(second)
    for key, example in first.items():
        np.testing.assert_array_equal(example['image'], second[key]['image'])
        np.testing.assert_allclose(example['voxel'], second[key]['voxel'], atol=1e-3)


def above_air(image):
    return image + 1024


def with_a_hole(image):
    whole = sitk.GetArrayFromImage(image).astype(np.float32)
    whole[:, :3] = np.nan
    hole = sitk.GetImageFromArray(whole)
    hole.CopyInformation(image)
    return hole


@pytest.mark.parametrize('name', ['nodules', 'nodules_hu', 'nodules_minmax', 'patches'])
@pytest.mark.parametrize('change, words', [(above_air, 'not in HU'), (with_a_hole, 'not finite')])
def test_values_that_are_no_hu_are_refused(raw, tmp_path, name, change, words):
    folder = rewritten(raw, tmp_path / 'raw', change)
    with pytest.raises(InputError, match=words):
        prepare.build(f'luna16_patches/{name}', folder, str(tmp_path / 'data'))
    assert not (tmp_path / 'data').exists()


def test_config_hu_says_what_values_are(raw, data_dir, tmp_path):
    """And data that were prepared with another one are not taken for these."""
    folder = rewritten(raw, tmp_path / 'raw', above_air)
    name, place = 'luna16_patches/nodules', tmp_path / 'data'
    prepare.build(name, folder, str(place), hu='1,-1024')
    assert_same(stored(name, data_dir), stored(name, place))
    with pytest.raises(InputError, match='config.overwrite'):
        prepare.build(name, folder, str(place), hu='1,-1000')

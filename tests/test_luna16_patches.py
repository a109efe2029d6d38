"""Patches and candidates of LUNA16 against SimpleITK on the whole volume, from archives, and from volumes stored the other way round."""

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
    return {
        example['id'].decode(): example
        for split in SPLITS
        for example in tfds.data_source(name, split=split, data_dir=str(folder), download=False)
    }


def same(first, second):
    assert list(first) == list(second)
    for key, example in first.items():
        np.testing.assert_equal(example, second[key])


def whole(path):
    with archive.on_disk(path) as plain:
        return sitk.ReadImage(str(plain))


def test_patch_equals_resampling_the_whole_volume(raw):
    """Away from the edge of the volume, in both orientations: SimpleITK's resampling onto a grid around the nodule."""
    volumes, compared = find_volumes(raw / 'luna16'), 0
    for nodule in luna16.read_nodules(raw / 'luna16' / 'annotations.csv'):
        volume = open_volume(volumes[nodule.series])
        for dimensions, millimetres, spacing in ((2, 30, 0.5), (3, 9, 0.75)):
            n = round(millimetres / spacing)
            grid = sitk.Image([n, n, n if dimensions == 3 else 1], sitk.sitkFloat32)
            grid.SetSpacing([spacing] * 3)
            grid.SetOrigin(
                [w - (count - 1) / 2 * spacing for w, count in zip(nodule.world, grid.GetSize())]
            )
            expected = sitk.GetArrayFromImage(
                sitk.Resample(
                    sitk.Cast(sitk.Maximum(whole(volume.path), -1024), sitk.sitkFloat32),
                    grid,
                    sitk.Transform(),
                    sitk.sitkLinear,
                    -1024.0,
                )
            )
            patch = geometry.patch(volume, nodule.world, millimetres, spacing, dimensions)
            assert patch.shape == (n,) * dimensions
            np.testing.assert_allclose(
                patch, expected if dimensions == 3 else expected[0], atol=0.01
            )
            np.testing.assert_array_equal(
                patch,
                geometry.patch(load_volume(volume), nodule.world, millimetres, spacing, dimensions),
            )
            compared += 1
    assert compared >= 20


def test_patch_beyond_the_volume_is_air(raw):
    volume = open_volume(next(iter(find_volumes(raw / 'luna16').values())))
    corner = volume.image.TransformIndexToPhysicalPoint([0, 0, 0])
    patch = geometry.patch(volume, corner, 20, 1, 3)
    assert (
        patch.shape == (20, 20, 20)
        and (patch[0] == windows.AIR).all()
        and patch.min() >= windows.AIR
    )


def test_patches_are_centred_on_their_nodule(raw, tmp_path):
    prepare.build('luna16_patches/patches', raw / 'luna16', str(tmp_path))
    rows = stored('luna16_patches/patches', tmp_path)
    assert len(rows) == len(luna16.read_nodules(raw / 'luna16' / 'annotations.csv'))
    for row in rows.values():
        image, nodules = row['image'][..., 0], row['nodules']
        own = list(nodules['row']).index(row['row'])
        ymin, xmin, ymax, xmax = nodules['box'][own]
        assert image.shape == (128, 128)
        np.testing.assert_allclose([ymin + ymax, xmin + xmax], 1, atol=1e-6)
        np.testing.assert_allclose(
            (ymax - ymin) * 64, row['diameter'], rtol=1e-5
        )  # the plane goes through the centre
        np.testing.assert_array_equal(nodules['centre'][own], 0)
        y, x = np.mgrid[:128, :128] + 0.5
        distance = np.hypot(y - 64, x - 64) * 0.5 / (row['diameter'] / 2)
        if row['diameter'] > 6:
            assert (
                image[distance < 0.7].mean()
                > np.median(image[(distance > 1.4) & (distance < 2)]) + 40
            )


def test_candidates_have_the_class_of_the_table(raw, tmp_path):
    prepare.build('luna16_patches/candidates', raw / 'luna16', str(tmp_path))
    rows = stored('luna16_patches/candidates', tmp_path)
    table = luna16.read_candidates(raw / 'luna16' / 'candidates.csv')
    assert {row['row']: row['label'] for row in rows.values()} == {
        candidate.row: int(candidate.nodule) for candidate in table
    }
    nodules = {nodule.row for nodule in luna16.read_nodules(raw / 'luna16' / 'annotations.csv')}
    assert {n for row in rows.values() if row['label'] for n in row['nodules']['row']} >= nodules


@pytest.mark.parametrize('name', ['nodules', 'patches_3d', 'candidates'])
def test_archives_and_workers_give_the_same_examples(raw, tmp_path, name):
    """The subsets as downloaded (.zip), from two worker processes, against the unpacked ones in one; plain, compressed and turned volumes are among them."""
    packed = tmp_path / 'packed'
    packed.mkdir()
    for table in (raw / 'luna16').glob('*.csv'):
        shutil.copy(table, packed)
    for subset in (raw / 'luna16').glob('subset*'):
        with zipfile.ZipFile(packed / f'{subset.name}.zip', 'w', zipfile.ZIP_DEFLATED) as file:
            for path in sorted(subset.iterdir()):
                file.write(path, f'{subset.name}/{path.name}')
    prepare.build(f'luna16_patches/{name}', raw / 'luna16', str(tmp_path / 'a'))
    prepare.build(f'luna16_patches/{name}', packed, str(tmp_path / 'b'), workers=2)
    first, second = (stored(f'luna16_patches/{name}', tmp_path / folder) for folder in 'ab')
    same(first, second)
    assert {row['fold'] for row in second.values()} == {0, 1}


def test_beam_gives_the_same_examples(raw, tmp_path):
    pytest.importorskip('apache_beam')
    prepare.build('luna16_patches/nodules', raw / 'luna16', str(tmp_path / 'a'))
    prepare.build(
        'luna16_patches/nodules', raw / 'luna16', str(tmp_path / 'b'), beam='--runner=DirectRunner'
    )
    same(
        *(
            dict(sorted(stored('luna16_patches/nodules', tmp_path / folder).items()))
            for folder in 'ab'
        )
    )


def test_an_unpacked_series_counts_before_its_archive(raw, tmp_path):
    folder = pathlib.Path(shutil.copytree(raw / 'luna16', tmp_path / 'luna16'))
    path = next(folder.rglob('*.mhd'))
    with zipfile.ZipFile(folder / 'subset7.zip', 'w') as file:
        file.write(path, f'subset7/{path.name}')
    assert find_volumes(folder)[path.stem] == path
    shutil.copy(folder / 'subset7.zip', folder / 'subset8.zip')
    path.unlink()
    with pytest.raises(InputError, match='subset8.zip.*is also at .*subset7.zip'):
        find_volumes(folder)


@pytest.mark.parametrize('packed', [False, True])
def test_lung_masks_are_not_ct(raw, tmp_path, packed):
    """seg-lungs-LUNA16 has an .mhd of the same name for every series."""
    folder = pathlib.Path(shutil.copytree(raw / 'luna16', tmp_path / 'luna16'))
    before = find_volumes(folder)
    shutil.copytree(folder / 'subset0', folder / 'seg-lungs-LUNA16')
    if packed:
        shutil.make_archive(folder / 'seg-lungs-LUNA16', 'zip', folder, 'seg-lungs-LUNA16')
        shutil.rmtree(folder / 'seg-lungs-LUNA16')
    assert find_volumes(folder) == before


@pytest.mark.parametrize(
    'prefix, fold', [('subset3/', 3), ('./subset3/', 3), ('subset3\\\\', 3), ('', 4)]
)
def test_ways_to_write_paths_in_an_archive(raw, tmp_path, prefix, fold):
    path = next((raw / 'luna16').rglob('*.raw'))
    with zipfile.ZipFile(tmp_path / 'subset4.zip', 'w') as file:
        for part in (path, path.with_suffix('.mhd')):
            file.writestr(prefix + part.name, part.read_bytes())
    (tmp_path / 'folder.zip').mkdir()  # a folder may be called so
    found = find_volumes(tmp_path)[path.stem]
    np.testing.assert_array_equal(
        read_slice(open_volume(found), 1),
        read_slice(open_volume(path.with_suffix('.mhd')), 1),
    )
    assert luna16.challenge_fold(found) == fold


def test_linked_folders_are_followed(raw, tmp_path):
    (tmp_path / 'subset0').symlink_to(raw / 'luna16' / 'subset0', target_is_directory=True)
    (tmp_path / 'subset0b').symlink_to(
        tmp_path, target_is_directory=True
    )  # and one to itself is no trap
    assert set(find_volumes(tmp_path)) == {
        path.stem for path in (raw / 'luna16' / 'subset0').glob('*.mhd')
    }


@pytest.mark.parametrize(
    'name, pixels',
    [
        ('patches_2d_64mm_500um', 128),
        ('candidates_3d_32mm_1000um_hu', 32),
        ('patches_3d_10mm_300um', 33),
        ('patches_4d_1mm_1um', None),
        ('patchwork', None),
    ],
)
def test_a_patch_is_named_by_its_size(name, pixels):
    assert (patches(name).pixels if patches(name) else None) == pixels


@pytest.mark.parametrize(
    'name', ['patches_2d_64mm_0um', 'patches_3d_300mm_1000um', 'patches_2d_1mm_9000um']
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
    """LIDC-IDRI-0001 and a copy stored the other way round in x and y (negative direction cosines): the same slice, boxes and patches."""
    series = '1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192'
    straight, copy = real / 'volumes' / f'{series}.mhd', tmp_path / f'{series}.mhd'
    sitk.WriteImage(sitk.Flip(whole(straight), [True, True, False]), str(copy))
    assert open_volume(copy).flips == (True, True, False)
    nodules = [
        nodule
        for nodule in luna16.read_nodules(real / 'luna16_csv' / 'annotations.csv')
        if nodule.series == series
    ]
    config = tfds_builders.BUILDERS['luna16_patches'].builder_configs[name]
    ((_, first),) = examples(config, (open_volume(straight), nodules, nodules))
    ((_, second),) = examples(config, (open_volume(copy), nodules, nodules))
    np.testing.assert_allclose(pixels(first), pixels(second), atol=1 if 'patches' in name else 0)
    for one, other in zip(first['nodules'], second['nodules'], strict=True):
        np.testing.assert_allclose(one.get('box', 0), other.get('box', 0), atol=1e-6)

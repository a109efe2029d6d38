"""The phantoms have the layouts and the anatomy that they claim."""

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from covjax import InputError
from covjax.ct import archive, luna16
from covjax.ct.volume import find_volumes
from covjax.phantom import raw_files
from covjax.phantom.chest import draw_chest, render, render_parts

pytestmark = pytest.mark.fast


def test_luna16_layout(raw):
    volumes = find_volumes(raw / 'luna16')
    assert len(volumes) == 10
    assert {path.parent.name for path in volumes.values()} == {'subset0', 'subset1'}
    assert list(raw.rglob('*.zraw')) and list(raw.rglob('*.raw'))
    splits = {luna16.series_split(series) for series in volumes}
    assert splits == {'train', 'validation', 'test'}


def test_volumes_have_a_round_field_of_view(raw):
    outside = set()
    for path in find_volumes(raw / 'luna16').values():
        with archive.on_disk(path) as plain:
            hu = sitk.GetArrayFromImage(sitk.ReadImage(str(plain)))
        assert hu.dtype == np.int16
        assert (hu == hu.min()).mean() > 0.1  # the corners
        outside.add(int(hu.min()))
    assert outside == {-2048, -3024}


def test_covid_ct_layout(raw):
    folder = raw / 'covid_ct'
    files = [path for part in ('CT_COVID', 'CT_NonCOVID') for path in (folder / part).iterdir()]
    lists = (folder / 'Data-split').rglob('*.txt')
    listed = [name for path in lists for name in path.read_text().split()]
    assert sorted(path.name for path in files) == sorted(listed)
    assert len(listed) == 2 * (8 + 4 + 6)
    assert any('%' in name for name in listed)


def test_pictures_vary_as_collected_ones_do(raw):
    images = [Image.open(path) for path in (raw / 'covid_ct').glob('CT_*/*')]
    assert len({image.size for image in images}) > 10
    assert len({image.mode for image in images}) >= 2
    assert {image.format for image in images} == {'PNG', 'JPEG'}


def test_too_few_series_for_three_splits(tmp_path):
    with pytest.raises(InputError, match='at least 3'):
        raw_files.write_luna16(tmp_path / 'few', series=2)
    assert not (tmp_path / 'few').exists()


def test_same_seed_same_files(tmp_path):
    for name in ('a', 'b'):
        raw_files.write_luna16(tmp_path / name, seed=1, series=3, slices=1, size=64)
        raw_files.write_covid_ct(tmp_path / name, seed=1, train=1, validation=1, test=1)
    files = [path for path in (tmp_path / 'a').rglob('*') if path.is_file()]
    assert len(files) > 15
    for path in files:
        twin = tmp_path / 'b' / path.relative_to(tmp_path / 'a')
        assert path.read_bytes() == twin.read_bytes(), path.name


def healthy_and_sick():
    """HU [256, 256] of one chest without and with ground-glass opacity."""
    healthy = draw_chest(np.random.default_rng(0))
    sick = draw_chest(np.random.default_rng(0), opacities=6)
    sick = healthy._replace(opacities=sick.opacities)
    return [render(person, 0.0, size=256, pixel=1.4) for person in (healthy, sick)]


def test_anatomy():
    hu, sick = healthy_and_sick()
    inside = np.hypot(*np.mgrid[-128:128, -128:128]) < 128
    lung = (hu > -980) & (hu < -650) & inside
    left, right = lung[:, :128].sum(), lung[:, 128:].sum()
    assert 0.5 < left / right < 2
    assert 0.08 < lung.mean() < 0.35
    assert (hu > 300).mean() > 0.005  # ribs, spine, sternum
    deep = ndimage.binary_erosion(ndimage.binary_closing(lung, iterations=4), iterations=8)
    vessels = (hu > -500) & deep
    assert 20 < vessels.sum() < 0.2 * deep.sum()
    ground_glass = lambda hu: ((hu > -700) & (hu < -250) & inside).sum()
    assert ground_glass(sick) > 1.3 * ground_glass(hu)


@pytest.mark.parametrize('seed', range(3))
def test_parts_are_those_of_the_slice_that_is_drawn(seed):
    chest = draw_chest(np.random.default_rng(seed), nodules=1, opacities=5)
    parts = render_parts(chest, 5.0, 128, 2.8, -3024.0)
    assert parts.hu.tobytes() == render(chest, 5.0, 128, 2.8, -3024.0).tobytes()
    assert 0 <= parts.opacity.min() and parts.lung.max() <= 1
    assert (parts.opacity <= parts.lung + 1e-6).all()


def test_lung_is_dark_and_opacity_is_dense_where_parts_say_so():
    chest = draw_chest(np.random.default_rng(0), opacities=6)
    parts = render_parts(chest, 0.0, 256, 1.4)
    clear = (parts.lung > 0.99) & (parts.opacity < 0.01)
    dense = parts.opacity > 0.6
    assert clear.sum() > 5000 and dense.sum() > 300
    assert np.median(parts.hu[clear]) < -800 and np.median(parts.hu[dense]) > -650
    elsewhere = (parts.lung < 0.01) & (np.hypot(*np.mgrid[-128:128, -128:128]) < 50)
    assert np.median(parts.hu[elsewhere]) > -100  # what lies between the lungs


def test_without_opacities_and_beyond_the_field_of_view_there_are_none():
    parts = render_parts(draw_chest(np.random.default_rng(0)), 0.0, 128, 1.4)
    beyond = np.hypot(*(np.mgrid[:128, :128] - 63.5)) > 64
    assert not parts.opacity.any() and not parts.lung[beyond].any() and parts.lung.any()


def test_opacities_are_the_change_that_they_make():
    """Where there is opacity, the same chest without it is darker; elsewhere it is the same."""
    sick = draw_chest(np.random.default_rng(4), opacities=4)._replace(noise=0.0)
    parts = render_parts(sick, 0.0, 128, 2.8)
    change = parts.hu - render(sick._replace(opacities=sick.opacities[:0]), 0.0, 128, 2.8)
    assert (change[parts.opacity > 0.5] > 30).mean() > 0.95
    assert np.abs(change[parts.opacity == 0]).max() < 1

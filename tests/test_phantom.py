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
from covjax.phantom.chest import draw_chest, render

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

"""The phantoms have the layouts and the anatomy they claim."""

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


def test_luna16_layout(raw):
    folder = raw / 'luna16'
    volumes = find_volumes(folder)
    assert len(volumes) == 10 and {path.parent.name for path in volumes.values()} == {
        'subset0',
        'subset1',
    }
    assert list(folder.rglob('*.zraw')) and list(folder.rglob('*.raw'))
    assert {luna16.series_split(series) for series in volumes} == {
        'train',
        'validation',
        'test',
    }
    outside = set()
    for path in volumes.values():
        with archive.on_disk(path) as plain:
            hu = sitk.GetArrayFromImage(sitk.ReadImage(str(plain)))
        assert hu.dtype == np.int16
        outside.add(int(hu.min()))
        assert (hu == hu.min()).mean() > 0.1  # the corners
    assert outside == {-2048, -3024}


def test_covid_ct_layout(raw):
    folder = raw / 'covid_ct'
    files = [path for part in ('CT_COVID', 'CT_NonCOVID') for path in (folder / part).iterdir()]
    listed = [
        name for path in (folder / 'Data-split').rglob('*.txt') for name in path.read_text().split()
    ]
    assert sorted(path.name for path in files) == sorted(listed) and len(listed) == 2 * (8 + 4 + 6)
    images = [Image.open(path) for path in files]
    assert (
        len({image.size for image in images}) > 10
        and len({image.mode for image in images}) >= 2
        and {image.format for image in images} == {'PNG', 'JPEG'}
    )
    assert any('%' in name for name in listed)


def test_too_few_series_for_three_splits(tmp_path):
    with pytest.raises(InputError, match='at least 3'):
        raw_files.write_luna16(tmp_path / 'few', series=2)
    assert not (tmp_path / 'few').exists()


def test_same_seed_same_files(raw, tmp_path):
    raw_files.write_covid_ct(tmp_path, seed=1, train=8, validation=4, test=6)
    for path in tmp_path.rglob('*.png'):
        assert path.read_bytes() == (raw / 'covid_ct' / path.relative_to(tmp_path)).read_bytes()


def test_anatomy():
    rng = np.random.default_rng(0)
    healthy = draw_chest(rng)
    sick = draw_chest(np.random.default_rng(0), opacities=6)._replace(
        vessels=healthy.vessels,
        body=healthy.body,
        lungs=healthy.lungs,
        heart=healthy.heart,
        seed=healthy.seed,
        noise=healthy.noise,
    )
    hu = render(healthy, 0.0, size=256, pixel=1.4)
    inside = np.hypot(*np.mgrid[-128:128, -128:128]) < 128
    lung = (hu > -980) & (hu < -650) & inside
    left, right = lung[:, :128].sum(), lung[:, 128:].sum()
    assert 0.5 < left / right < 2 and 0.08 < lung.mean() < 0.35
    assert (hu > 300).mean() > 0.005  # ribs, spine, sternum
    deep = ndimage.binary_erosion(ndimage.binary_closing(lung, iterations=4), iterations=8)
    vessels = (hu > -500) & deep
    assert 20 < vessels.sum() < 0.2 * deep.sum()
    more = render(sick, 0.0, size=256, pixel=1.4)
    ground_glass = lambda a: ((a > -700) & (a < -250) & inside).sum()
    assert ground_glass(more) > 1.3 * ground_glass(hu)

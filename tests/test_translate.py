"""Generators used on files: pictures of any size, volumes of any format, and what is written back."""

import json
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT
from PIL import Image
from test_cyclegan import task_of

from configs import export as export_config
from configs import translate as config_file
from covjax import InputError, generator
from covjax.ct import archive, windows
from covjax.ct import scan as scan_reader
from covjax.data import augment
from covjax.runs import export, translate
from covjax.weights import checkpoint


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The workdir of a CycleGAN before its first step, with a checkpoint."""
    workdir = tmp_path_factory.mktemp('cyclegan')
    config, task = task_of()
    (workdir / 'config.json').write_text(config.to_json())
    with checkpoint.manager(workdir) as checkpoints:
        checkpoint.save(
            checkpoints, 1, jax.device_get(task.init(jax.random.key(0), task.train_batch(0)))
        )
    return workdir


def translated(run, source, workdir, **fields):
    config = config_file.get_config()
    config.update({'generator': str(run), 'input': str(source), **fields})
    workdir.mkdir(exist_ok=True)
    translate.run(config, workdir)
    return workdir / 'translated'


def test_an_exported_generator_is_the_generator(run, tmp_path):
    config = export_config.get_config()
    config.generator = str(run)
    export.run(config, tmp_path)
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 1)), jnp.float32)
    outputs = []
    for direction in generator.DIRECTIONS:
        a, b = (
            generator.load(path, direction) for path in (run, tmp_path / f'{direction}.safetensors')
        )
        assert a.model == b.model
        outputs += [generator.apply(t)(images) for t in (a, b)]
        np.testing.assert_array_equal(*outputs[-2:])
    assert np.abs(outputs[0] - outputs[2]).max() > 0
    for path, direction, message in (
        (tmp_path / 'to_covid.safetensors', 'to_cancer', 'direction=to_covid'),
        (run, 'sideways', 'to_covid, to_cancer'),
        (tmp_path / 'none.safetensors', 'to_covid', 'no such file'),
    ):
        with pytest.raises(InputError, match=message):
            generator.load(path, direction)


def test_snippet_of_the_readme(run):
    """In a process of its own, on NumPy images, without training code, TFDS or SimpleITK."""
    (snippet,) = re.findall(
        r'```python\n(from covjax import generator.*?)```',
        (ROOT / 'README.md').read_text(),
        re.DOTALL,
    )
    script = f"""
import numpy as np, sys
images = np.random.default_rng(0).uniform(-1, 1, (2, 33, 45, 1)).astype(np.float32)
{snippet.replace("'runs/cyclegan'", repr(str(run)))}
assert synthetic.shape == images.shape and np.isfinite(synthetic).all()
assert not {{'covjax.training', 'covjax.data.datasets', 'tensorflow_datasets', 'SimpleITK'}} & set(sys.modules)
"""
    result = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, text=True, capture_output=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('height, width', [(8, 8), (9, 15), (33, 45), (32, 64)])
def test_any_size(run, height, width):
    """Mirrored up to multiples of 4 and cropped back; where 4 divides the sides nothing is mirrored."""
    translator = generator.load(run, 'to_covid')
    images = np.random.default_rng(0).uniform(-1, 1, (2, height, width, 1)).astype(np.float32)
    mirrored = np.pad(images, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)), mode='reflect')
    expected = translator.model.apply(translator.variables, mirrored)[:, :height, :width]
    np.testing.assert_allclose(generator.apply(translator)(images), expected, atol=1e-5)
    with pytest.raises(InputError, match='at least 8x8'):
        generator.apply(translator)(images[:, :7])


def test_pictures(run, tmp_path):
    """Names, folders, sizes and formats are kept, and pixels are those of the generator."""
    rng, source = np.random.default_rng(0), tmp_path / 'in % ü'
    grey = {'a.png': (33, 45), 'sub/b.png': (40, 32), 'c.PNG': (33, 45)}
    for name, shape in grey.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(source / name)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(source / 'd.jpg')
    target = translated(run, source, tmp_path / 'run', side_by_side=True)
    assert {str(path.relative_to(target)) for path in target.rglob('*') if path.is_file()} == {
        *grey,
        'd.jpg',
    }
    apply = generator.apply(generator.load(run, 'to_covid'))
    for name in grey:
        pixels = np.asarray(Image.open(source / name))
        expected = augment.to_uint8(apply(augment.to_float(jnp.asarray(pixels))[None, ..., None]))[
            0, ..., 0
        ]
        assert (
            np.abs(np.asarray(Image.open(target / name)).astype(int) - np.asarray(expected)).max()
            <= 1
        )
    assert Image.open(target / 'd.jpg').format == 'JPEG' and Image.open(
        tmp_path / 'run' / 'side_by_side.png'
    ).size == (4 * 256, 2 * 256)
    one = translated(run, source / 'a.png', tmp_path / 'one', image_size=32)
    assert [path.name for path in one.iterdir()] == ['a.png'] and Image.open(
        one / 'a.png'
    ).size == (32, 32)


def test_the_shown_command(run, launch, tmp_path):
    """Through launch.py, as the config's text says."""
    (tmp_path / 'in').mkdir()
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / 'in' / 'a.png')
    result = launch(
        '--config=configs/translate.py',
        f'--workdir={tmp_path / "run"}',
        f'--config.generator={run}',
        f'--config.input={tmp_path / "in"}',
    )
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / 'run' / 'translated' / 'a.png').size == (24, 20)


@pytest.fixture(scope='module')
def scan():
    """A small LPS volume of HU with air, soft tissue, bone and the -3024 that stands outside the field of view."""
    rng = np.random.default_rng(0)
    array = rng.normal(-600, 300, (6, 40, 36)).astype(np.int16)
    array[:, :3], array[2, 10:20, 10:20], array[3, 5] = -3024, 60, 1200
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-10.0, 20.0, -30.0))
    return image


def write_dicom(image, folder):
    """One file a slice, as scanners write them: stored values with a rescale to HU."""
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(image.GetDepth()):
        part = image[:, :, z]
        tags = {
            '0008|0060': 'CT',
            '0020|000e': '1.2.3.4',
            '0020|000d': '1.2.3',
            '0008|0018': f'1.2.3.4.{z + 1}',
            '0008|0016': '1.2.840.10008.5.1.4.1.1.2',
            '0020|0032': '\\'.join(map(str, image.TransformIndexToPhysicalPoint((0, 0, z)))),
            '0020|0037': '1\\0\\0\\0\\1\\0',
            '0020|0013': str(z + 1),
            '0028|1052': '-1024',
            '0028|1053': '1',
            '0018|0050': '2.5',
        }
        for tag, value in tags.items():
            part.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f'{z}.dcm'))
        writer.Execute(part)


@pytest.mark.parametrize(
    'form', ['a.nii.gz', 'a.mhd', 'LOUD.NII.GZ', 'turned.nii.gz', 'real.nii', 'dicom']
)
def test_volumes(run, scan, tmp_path, form):
    """Every format gives the same HU on the same geometry: those of the generator on windowed slices, none outside the window."""
    source = tmp_path / 'in %' / form
    source.parent.mkdir()
    image = scan
    if form == 'turned.nii.gz':
        image = sitk.DICOMOrient(scan, 'RAI')
    if form == 'real.nii':
        image = sitk.Cast(scan, sitk.sitkFloat32)
    if form == 'dicom':
        write_dicom(scan, source)
    else:
        with archive.on_disk(source) as file:
            sitk.WriteImage(image, str(file.with_name(file.name.lower())))
            file.with_name(file.name.lower()).rename(file)
    target = translated(run, source, tmp_path / 'run', side_by_side=True, batch_size=4)
    result, _ = scan_reader.read(
        target / {'dicom': 'dicom.nii.gz', 'LOUD.NII.GZ': 'LOUD.nii.gz'}.get(form, form)
    )
    np.testing.assert_allclose(
        [*result.GetSpacing(), *result.GetOrigin()],
        [*scan.GetSpacing(), *scan.GetOrigin()],
        atol=1e-4,
    )
    hu = sitk.GetArrayFromImage(result)
    window, array = windows.WINDOWS['lung'], sitk.GetArrayFromImage(scan).astype(np.float32)
    grey = 2 * (np.clip(array, *window) - window.low) / (window.high - window.low) - 1
    expected = window.low + (
        np.asarray(generator.apply(generator.load(run, 'to_covid'))(grey[..., None]))[..., 0] + 1
    ) / 2 * (window.high - window.low)
    assert (
        hu.dtype == np.int16
        and np.abs(hu - expected).max() <= 1
        and hu.std() > 1
        and hu.min() >= window.low
        and hu.max() <= window.high
    )
    assert Image.open(tmp_path / 'run' / 'side_by_side.png').size == (6 * 256, 2 * 256)
    if form == 'turned.nii.gz':  # the file itself is turned as the input was
        assert sitk.ReadImage(str(target / form)).GetDirection() == pytest.approx(
            image.GetDirection(), abs=1e-6
        )


def deep(folder):
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / 'deep.png')


def broken(folder):
    (folder / 'broken.jpg').write_bytes(b'no picture')


def small(folder):
    Image.new('L', (20, 5)).save(folder / 'small.png')


def nothing(folder):
    (folder / 'notes.txt').write_text('x')


@pytest.mark.parametrize(
    'spoil, message',
    [
        (deep, 'deep.png.*8 bits'),
        (broken, 'broken.jpg.*not a readable picture'),
        (small, '5x20 are too small'),
        (nothing, 'holds 0 DICOM series'),
    ],
)
def test_wrong_folders(run, tmp_path, spoil, message):
    source = tmp_path / 'in'
    source.mkdir()
    spoil(source)
    with pytest.raises(InputError, match=message):
        translated(run, source, tmp_path / 'run')
    assert not list((tmp_path / 'run').iterdir())


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(generator=''), 'config.generator is empty'),
        (dict(input=''), 'config.input is empty'),
        (dict(input='none'), 'config.input=none'),
        (dict(window='bone'), 'lung'),
        (dict(generator='none'), 'no config.json'),
        (dict(direction='up'), 'to_covid, to_cancer'),
    ],
)
def test_wrong_words(run, tmp_path, fields, message):
    (tmp_path / 'in').mkdir()
    with pytest.raises(InputError, match=message):
        translated(run, tmp_path / 'in', tmp_path / 'run', **fields)


@pytest.mark.parametrize(
    'name, content',
    [
        ('a.nii.gz', b'x'),
        ('a.mhd', b'ObjectType = Image\n'),
        ('a.txt', b'x'),
        ('b.mhd', b'DimSize = a b c\nElementType = MET_SHORT\nElementDataFile = b.raw\n'),
    ],
)
def test_wrong_volumes(run, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        translated(run, tmp_path / name, tmp_path / 'run')


def test_old_workdirs_still_load(run, tmp_path):
    """A config.json from before the switches means what they were then."""
    shutil.copytree(run, tmp_path / 'old')
    config = json.loads((run / 'config.json').read_text())
    keys = (
        'norm',
        'upsample',
        'dtype',
        'loss',
        'real_label',
        'lambda_identity',
        'disc_last_stride',
        'constant_epochs',
        'decay_epochs',
        'epoch_images',
    )
    (tmp_path / 'old' / 'config.json').write_text(
        json.dumps(
            {key: value for key, value in config.items() if key not in keys}
            | {'constant_share': 0.5}
        )
    )
    images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 1)).astype(np.float32)
    old, new = (
        generator.apply(generator.load(path, 'to_covid'))(images)
        for path in (tmp_path / 'old', run)
    )
    np.testing.assert_array_equal(old, new)


def cut(path):
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    'name, damaged, spoil',
    [
        ('a.nii', 'a.nii', cut),
        ('a.nii.gz', 'a.nii.gz', cut),
        ('a.nii.gz', 'a.nii.gz', flip),
        ('a.mhd', 'a.zraw', cut),
        ('a.mhd', 'a.zraw', flip),
    ],
)
def test_damaged_volumes(run, scan, tmp_path, name, damaged, spoil):
    sitk.WriteImage(scan, str(tmp_path / name), useCompression=True)
    spoil(tmp_path / damaged)
    with pytest.raises(InputError, match=damaged):
        translated(run, tmp_path / name, tmp_path / 'run')
    assert not list((tmp_path / 'run').iterdir())


def drop_slice(folder):
    (folder / '3.dcm').unlink()


def preview(folder):
    Image.new('L', (40, 40)).save(folder / 'preview.jpg')


@pytest.mark.parametrize(
    'spoil, message',
    [
        (drop_slice, '2.5 to 5 mm apart'),
        (lambda folder: cut(folder / '3.dcm'), '3.dcm'),
        (preview, 'preview.jpg'),
    ],
    ids=['missing', 'cut', 'preview'],
)
def test_damaged_series(run, scan, tmp_path, spoil, message):
    write_dicom(scan, tmp_path / 'dicom')
    spoil(tmp_path / 'dicom')
    with pytest.raises(InputError, match=message):
        translated(run, tmp_path / 'dicom', tmp_path / 'run')
    assert not list((tmp_path / 'run').iterdir())


def test_voxels_that_are_not_numbers(run, scan, tmp_path):
    array = sitk.GetArrayFromImage(scan).astype(np.float32)
    array[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / 'a.mhd'))
    with pytest.raises(InputError, match='a.mhd.*not finite'):
        translated(run, tmp_path / 'a.mhd', tmp_path / 'run')

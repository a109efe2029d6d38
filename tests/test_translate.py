"""Generators used on files: pictures of any size, volumes of any format, and what comes back."""

import json
import re
import shutil
import subprocess
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from configs import cyclegan as cyclegan_config
from configs import export as export_config
from configs import synthesize as synthesize_config
from configs import translate as config_file
from covjax import InputError, generator
from covjax.ct import archive, volume, windows
from covjax.data import augment
from covjax.runs import export, synthesize, translate
from covjax.training.task import Net
from covjax.weights import checkpoint

# Keys that a config.json from before there were such switches does not have.
SWITCHES = (
    *('norm', 'upsample', 'dtype', 'loss', 'real_label', 'lambda_identity'),
    *('disc_last_stride', 'constant_epochs', 'decay_epochs', 'epoch_images'),
)


@flax.struct.dataclass
class State:
    """What is needed of the state of a CycleGAN."""

    gen: Net
    step: jax.Array


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The workdir of a CycleGAN that nobody trained, with a checkpoint."""
    workdir, config = tmp_path_factory.mktemp('cyclegan'), cyclegan_config.get_config('small')
    config.update({'gen_filters': 4, 'gen_blocks': 1})
    init = jax.jit(generator.network(config).init)
    params = {
        direction: init(jax.random.key(i), jnp.zeros((1, 32, 32, 1)))['params']
        for i, direction in enumerate(generator.DIRECTIONS)
    }
    (workdir / 'config.json').write_text(config.to_json())
    with checkpoint.manager(workdir) as checkpoints:
        checkpoint.save(checkpoints, 1, jax.device_get(State(Net(params, ()), jnp.int32(1))))
    return workdir


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
    """The folder with both generators of the run as files."""
    config, folder = export_config.get_config(), tmp_path_factory.mktemp('exported')
    config.generator = str(run)
    export.run(config, folder)
    return folder


@pytest.fixture(scope='module')
def to_covid(exported):
    """The path of one of them, which loads faster than a workdir."""
    return exported / 'to_covid.safetensors'


@pytest.fixture(scope='module')
def apply(to_covid):
    """Its function on images [B, H, W, 1] in [-1, 1]."""
    return jax.jit(generator.apply(generator.load(to_covid, 'to_covid')))


def translated(path, source, workdir, **fields):
    """Runs `translate` -> the folder of translations."""
    config = config_file.get_config()
    config.update({'generator': str(path), 'input': str(source), **fields})
    workdir.mkdir(exist_ok=True)
    translate.run(config, workdir)
    return workdir / 'translated'


def random_images(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize('direction', generator.DIRECTIONS)
def test_an_exported_generator_is_the_generator(run, exported, direction):
    first = generator.load(run, direction)
    second = generator.load(exported / f'{direction}.safetensors', direction)
    assert first.model == second.model
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


def test_the_two_directions_differ(exported):
    first, second = (
        generator.load(exported / f'{direction}.safetensors', direction).variables
        for direction in generator.DIRECTIONS
    )
    stems = [np.asarray(variables['params']['stem']['kernel']) for variables in (first, second)]
    assert np.abs(stems[0] - stems[1]).max() > 0


def test_a_file_holds_one_direction(to_covid):
    with pytest.raises(InputError, match='direction=to_covid'):
        generator.load(to_covid, 'to_cancer')


def test_a_direction_that_there_is_not(run):
    with pytest.raises(InputError, match='to_covid, to_cancer'):
        generator.load(run, 'sideways')


HEADERS = {  # what is wrong with the header of an exported generator: what it says
    **{key: {key: None} for key in ('gen_filters', 'gen_blocks', 'norm', 'direction', 'kind')},
    'no filters': {'gen_filters': 0},
    'absurd filters': {'gen_filters': 10**9},
    'absurd blocks': {'gen_blocks': 10**6},
    'another number of blocks': {'gen_blocks': 2},
    'filters as text': {'gen_filters': '4'},
    'no such norm': {'norm': 'batch'},
    'a frozen norm': {'norm': 'frozen'},
    'no such way up': {'upsample': 'sideways'},
    'a list': {'direction': ['to_covid']},
}


@pytest.mark.parametrize('wrong', HEADERS)
def test_exports_with_a_wrong_header_are_one_line(to_covid, tmp_path, wrong):
    with safe_open(to_covid, 'numpy') as file:
        about = json.loads(file.metadata()['covjax']) | HEADERS[wrong]
    metadata = {'covjax': json.dumps(about)}
    save_file(load_file(to_covid), tmp_path / 'a.safetensors', metadata=metadata)
    with pytest.raises(InputError) as caught:
        generator.load(tmp_path / 'a.safetensors', 'to_covid')
    assert '\n' not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        generator.load(tmp_path / 'none.safetensors', 'to_covid')


SNIPPET = re.compile(r'```python\n(from covjax import generator.*?)```', re.DOTALL)
AROUND = """
import numpy as np, sys
images = np.random.default_rng(0).uniform(-1, 1, (2, 33, 45, 1)).astype(np.float32)
{snippet}
assert synthetic.shape == images.shape and np.isfinite(synthetic).all()
outside = {{'covjax.training', 'covjax.data.datasets', 'tensorflow_datasets', 'SimpleITK'}}
assert not outside & set(sys.modules)
"""


def test_documented_snippet(run):
    """In a process of its own, on NumPy images, without training code, TFDS or SimpleITK."""
    (snippet,) = SNIPPET.findall((ROOT / 'docs' / 'models.md').read_text(encoding='utf-8'))
    script = AROUND.format(snippet=snippet.replace("'runs/cyclegan'", repr(str(run))))
    command = [sys.executable, '-c', script]
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('height, width', [(8, 12), (9, 15)])
def test_any_size(to_covid, apply, height, width):
    """Mirrored up to multiples of 4 and cropped back; where 4 divides the sides nothing is."""
    translator, images = generator.load(to_covid, 'to_covid'), random_images(2, height, width, 1)
    mirrored = np.pad(images, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)), mode='reflect')
    whole = jax.jit(translator.model.apply)(translator.variables, mirrored)
    np.testing.assert_allclose(apply(images), whole[:, :height, :width], atol=1e-5)


def test_images_that_are_too_small(apply):
    with pytest.raises(InputError, match='at least 8x8'):
        apply(random_images(2, 7, 15, 1))


GREY = {'a.png': (17, 21), 'sub/b.png': (16, 12), 'c.PNG': (17, 21)}


@pytest.fixture(scope='module')
def pictures(to_covid, tmp_path_factory):
    """(folder of pictures, folder of their translations)."""
    folder, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    source = folder / 'in % ü'
    for name, shape in GREY.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(source / name)
    Image.fromarray(rng.integers(0, 256, (16, 12, 3), np.uint8)).save(source / 'd.jpg')
    return source, translated(to_covid, source, folder / 'run', side_by_side=True)


def test_pictures_keep_names_folders_and_formats(pictures):
    _, target = pictures
    files = {str(path.relative_to(target)) for path in target.rglob('*') if path.is_file()}
    assert files == {*GREY, 'd.jpg'}
    assert Image.open(target / 'd.jpg').format == 'JPEG'
    assert Image.open(target.parent / 'side_by_side.png').size == (4 * 256, 2 * 256)


@pytest.mark.parametrize('name', GREY)
def test_pictures_are_those_of_the_generator(pictures, apply, name):
    source, target = pictures
    image = augment.to_float(jnp.asarray(np.asarray(Image.open(source / name))))
    expected = np.asarray(augment.to_uint8(apply(image[None, ..., None])))[0, ..., 0]
    pixels = np.asarray(Image.open(target / name)).astype(int)
    assert np.abs(pixels - expected).max() <= 1


def test_one_picture_can_be_resized(pictures, to_covid, tmp_path):
    source, _ = pictures
    target = translated(to_covid, source / 'a.png', tmp_path / 'run', image_size=12)
    assert [path.name for path in target.iterdir()] == ['a.png']
    assert Image.open(target / 'a.png').size == (12, 12)


def test_the_shown_command(run, launch, tmp_path):
    """Through launch.py, as the config's text says."""
    (tmp_path / 'in').mkdir()
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(tmp_path / 'in' / 'a.png')
    result = launch(
        '--config=configs/translate.py',
        f'--workdir={tmp_path / "run"}',
        f'--config.generator={run}',
        f'--config.input={tmp_path / "in"}',
    )
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / 'run' / 'translated' / 'a.png').size == (12, 16)


@pytest.fixture(scope='module')
def scan():
    """A small LPS volume with air, soft tissue, bone and -3024 outside the field of view, in HU."""
    array = np.random.default_rng(0).normal(-600, 300, (6, 20, 16)).astype(np.int16)
    array[:, :3], array[2, 5:10, 5:10], array[3, 4] = -3024, 60, 1200
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-10.0, 20.0, -30.0))
    return image


@pytest.fixture(scope='module')
def expected_hu(scan, apply):
    """The translation of that volume: of the generator on windowed slices."""
    low, high = windows.WINDOWS['lung']
    hu = np.clip(sitk.GetArrayFromImage(scan).astype(np.float32), low, high)
    output = np.asarray(apply((2 * (hu - low) / (high - low) - 1)[..., None]))[..., 0]
    return low + (output + 1) / 2 * (high - low)


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


def write_volume(image, path):
    """A file of any name; SimpleITK knows formats by endings in lower case."""
    with archive.on_disk(path) as file:
        plain = file.with_name(file.name.lower())
        sitk.WriteImage(image, str(plain))
        plain.rename(file)


def turned(image):
    return sitk.DICOMOrient(image, 'RAI')


def write_form(scan, path):
    """The volume in one of the forms that are tested; their names say what they are."""
    path.parent.mkdir()
    if path.name == 'dicom':
        write_dicom(scan, path)
    elif path.name == 'turned.nii.gz':
        write_volume(turned(scan), path)
    elif path.name == 'real.nii':
        write_volume(sitk.Cast(scan, sitk.sitkFloat32), path)
    else:
        write_volume(scan, path)


# What is given -> what comes out.
FORMS = {
    'a.nii.gz': 'a.nii.gz',
    'a.mhd': 'a.mhd',
    'LOUD.NII.GZ': 'LOUD.nii.gz',
    'turned.nii.gz': 'turned.nii.gz',
    'real.nii': 'real.nii',
    'dicom': 'dicom.nii.gz',
}


@pytest.mark.parametrize('form', FORMS)
def test_volumes_of_every_format_give_the_same_hu(to_covid, scan, expected_hu, tmp_path, form):
    """On the same geometry, and none outside the window."""
    write_form(scan, tmp_path / 'in %' / form)
    options = {'side_by_side': True, 'batch_size': 4}
    target = translated(to_covid, tmp_path / 'in %' / form, tmp_path / 'run', **options)
    hu, grid, _ = volume.lps(volume.open_volume(target / FORMS[form]))
    np.testing.assert_allclose(grid.spacing, scan.GetSpacing(), atol=1e-4)
    np.testing.assert_allclose(grid.origin, scan.GetOrigin(), atol=1e-4)
    window = windows.WINDOWS['lung']
    assert hu.dtype == np.int16
    assert hu.std() > 1
    assert np.abs(hu - expected_hu).max() <= 1
    assert window.low <= hu.min() <= hu.max() <= window.high
    assert Image.open(tmp_path / 'run' / 'side_by_side.png').size == (6 * 256, 2 * 256)


def test_a_turned_volume_comes_back_turned(to_covid, scan, tmp_path):
    write_volume(turned(scan), tmp_path / 'a.nii.gz')
    target = translated(to_covid, tmp_path / 'a.nii.gz', tmp_path / 'run', batch_size=4)
    direction = sitk.ReadImage(str(target / 'a.nii.gz')).GetDirection()
    assert direction == pytest.approx(turned(scan).GetDirection(), abs=1e-6)


def test_its_own_output_is_no_input(to_covid, tmp_path):
    """A workdir may lie in the folder that is translated; a second run gives the same files."""
    for name in ('a.png', 'b.tif', 'c.bmp'):
        Image.fromarray(np.zeros((16, 12), np.uint8)).save(tmp_path / name)
    for _ in range(2):
        target = translated(to_covid, tmp_path, tmp_path / 'run', side_by_side=True)
        assert {path.name for path in target.iterdir()} == {'a.png', 'b.tif', 'c.bmp'}


def test_the_workdir_is_not_the_input(to_covid, tmp_path):
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match='is the --workdir too'):
        translated(to_covid, tmp_path, tmp_path)


def test_what_is_left_out_is_counted_and_named(to_covid, tmp_path, capsys):
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(tmp_path / 'a.png')
    for name in ('._a.png', '.DS_Store', 'notes.txt', 'b.xml', 'c', 'd', 'e'):
        (tmp_path / name).write_bytes(b'x')
    target = translated(to_covid, tmp_path, tmp_path / 'run')
    assert [path.name for path in target.iterdir()] == ['a.png']
    line = 'left out 7 files that are neither pictures nor CT: .DS_Store, ._a.png, b.xml, c, d, ...'
    assert line in capsys.readouterr().out


def test_values_that_are_no_hu(to_covid, scan, tmp_path):
    """config.hu gives the translation that the volume in HU has."""
    hu = sitk.Maximum(scan, -1024)
    sitk.WriteImage(hu, str(tmp_path / 'hu.nii'))
    sitk.WriteImage(hu + 1024, str(tmp_path / 'other.nii'))
    assert_refused(to_covid, tmp_path / 'other.nii', tmp_path / 'run', 'config.hu=1,-1024')
    expected = translated(to_covid, tmp_path / 'hu.nii', tmp_path / 'a') / 'hu.nii'
    options = {'hu': '1,-1024'}
    actual = translated(to_covid, tmp_path / 'other.nii', tmp_path / 'b', **options) / 'other.nii'
    first, second = (sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (expected, actual))
    np.testing.assert_array_equal(first, second)


def assert_refused(path, source, workdir, message):
    """The translation fails with one line, and leaves nothing."""
    with pytest.raises(InputError, match=message):
        translated(path, source, workdir)
    assert not list(workdir.iterdir())


def deep(folder):
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / 'deep.png')


def broken(folder):
    (folder / 'broken.jpg').write_bytes(b'no picture')


def small(folder):
    Image.new('L', (20, 5)).save(folder / 'small.png')


def nothing(folder):
    (folder / 'notes.txt').write_text('x')


def picture_and_volume(folder):
    small(folder)
    (folder / 'a.nii').write_bytes(b'x')


@pytest.mark.parametrize(
    'spoil, message',
    [
        (deep, 'deep.png.*8 bits'),
        (broken, 'broken.jpg.*not a readable picture'),
        (small, '5x20 are too small'),
        (nothing, 'holds no picture and no CT.*notes.txt'),
        (picture_and_volume, 'a folder of one kind'),
    ],
)
def test_wrong_folders(to_covid, tmp_path, spoil, message):
    (tmp_path / 'in').mkdir()
    spoil(tmp_path / 'in')
    assert_refused(to_covid, tmp_path / 'in', tmp_path / 'run', message)


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
def test_wrong_words(to_covid, tmp_path, fields, message):
    (tmp_path / 'in').mkdir()
    with pytest.raises(InputError, match=message):
        translated(to_covid, tmp_path / 'in', tmp_path / 'run', **fields)


@pytest.mark.parametrize(
    'name, content',
    [
        ('a.nii.gz', b'x'),
        ('a.mhd', b'ObjectType = Image\n'),
        ('a.txt', b'x'),
        ('b.mhd', b'DimSize = a b c\nElementType = MET_SHORT\nElementDataFile = b.raw\n'),
    ],
)
def test_wrong_volumes(to_covid, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_refused(to_covid, tmp_path / name, tmp_path / 'run', name)


def test_a_volume_is_not_resized(to_covid, scan, tmp_path):
    write_volume(scan, tmp_path / 'a.nii')
    with pytest.raises(InputError, match='config.image_size=12'):
        translated(to_covid, tmp_path / 'a.nii', tmp_path / 'run', image_size=12)


def test_a_config_from_before_the_switches_means_what_they_were_then(run, tmp_path):
    shutil.copytree(run, tmp_path / 'old')
    config = json.loads((run / 'config.json').read_text())
    old = {key: value for key, value in config.items() if key not in SWITCHES}
    (tmp_path / 'old' / 'config.json').write_text(json.dumps(old | {'constant_share': 0.5}))
    first, second = (generator.load(path, 'to_covid') for path in (run, tmp_path / 'old'))
    assert first.model == second.model
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)


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
def test_damaged_volumes(to_covid, scan, tmp_path, name, damaged, spoil):
    sitk.WriteImage(scan, str(tmp_path / name), useCompression=True)
    spoil(tmp_path / damaged)
    assert_refused(to_covid, tmp_path / name, tmp_path / 'run', damaged)


def drop_slice(folder):
    (folder / '3.dcm').unlink()


def cut_slice(folder):
    cut(folder / '3.dcm')


def add_preview(folder):
    Image.new('L', (40, 40)).save(folder / 'preview.jpg')


@pytest.mark.parametrize(
    'spoil, message',
    [
        (drop_slice, '2.5 to 5 mm apart'),
        (cut_slice, '3.dcm'),
        (add_preview, 'preview.jpg'),
    ],
)
def test_damaged_series(to_covid, scan, tmp_path, spoil, message):
    write_dicom(scan, tmp_path / 'dicom')
    spoil(tmp_path / 'dicom')
    assert_refused(to_covid, tmp_path / 'dicom', tmp_path / 'run', message)


def test_voxels_that_are_not_numbers(to_covid, scan, tmp_path):
    array = sitk.GetArrayFromImage(scan).astype(np.float32)
    array[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / 'a.mhd'))
    assert_refused(to_covid, tmp_path / 'a.mhd', tmp_path / 'run', 'a.mhd.*not finite')


def real_scans(real):
    """{what is given: SimpleITK's own reading of it}."""
    folder = next((real / 'covid_ct_md' / 'COVID-19 subjects').iterdir())
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    files = [*(real / 'covid_ct_md').rglob('*.nii.gz'), *(real / 'volumes').glob('*.mhd')]
    return {folder: reader.Execute()} | {file: sitk.ReadImage(str(file)) for file in files}


@pytest.mark.slow
def test_real_scans_are_translated_on_their_grid(real, to_covid, tmp_path):
    """One DICOM series (JPEG Lossless), two NIfTI and two MetaImage volumes, in HU."""
    apply = jax.jit(generator.apply(generator.load(to_covid, 'to_covid')))
    low, high = windows.WINDOWS['lung']
    for i, (source, scan) in enumerate(real_scans(real).items()):
        written = translated(to_covid, source, tmp_path / str(i)).iterdir()
        (file,) = (path for path in written if volume.suffix(path))  # and not its .zraw
        result = sitk.ReadImage(str(file))
        assert result.GetSize() == scan.GetSize() and result.GetPixelID() == sitk.sitkInt16
        for name in ('GetOrigin', 'GetSpacing', 'GetDirection'):
            expected = getattr(scan, name)()
            np.testing.assert_allclose(getattr(result, name)(), expected, atol=1e-3)
        z = scan.GetDepth() // 2
        hu = np.clip(sitk.GetArrayViewFromImage(scan)[z].astype(np.float32), low, high)
        image = (2 * (hu - low) / (high - low) - 1)[None, ..., None]
        expected = low + (np.asarray(apply(image))[0, ..., 0] + 1) / 2 * (high - low)
        assert np.abs(sitk.GetArrayViewFromImage(result)[z] - expected).max() <= 1


def test_a_generator_without_lineage_is_refused_before_anything_is_made(run, tmp_path):
    """Of images whose generator saw nobody knows what, no evaluation could be trusted."""
    config = synthesize_config.get_config()
    config.update({'generator': str(run), 'cancer': 'luna16_patches/nodules'})
    with pytest.raises(InputError, match='lineage.json: no such file'):
        synthesize.run(config, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['data/notes.txt', 'synthetic/notes.txt', 'data/covid_ct/clean/x'])
def test_folders_of_somebody_else_are_not_replaced(run, tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text('mine')
    with pytest.raises(InputError, match='is not of such a run; choose another'):
        synthesize.fresh_draft(tmp_path, [])
    assert file.read_text() == 'mine'

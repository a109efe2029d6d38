"""Every data set, by iteration: built on phantoms without TensorFlow, read back by plain TFDS."""

import dataclasses
import functools
import hashlib
import io
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import tfds_builders
from covjax import InputError
from covjax.ct import luna16, picture, windows
from covjax.ct.volume import find_volumes, open_volume, read_slice
from covjax.data import datasets, specs
from covjax.data.lesion_masks import LESIONS, SHAM
from covjax.data.synthetic import SyntheticRow, read_manifest, write_manifest
from covjax.phantom import ct_scans
from covjax.runs import prepare, synthesize_pairs
from tfds_builders._base import read_grey, stored

NAMES = tfds_builders.names() + [
    'luna16_patches/patches_3d_12mm_750um',
    'ct_scans/mosmed_3000um',
]
CARDS = pathlib.Path(tfds_builders.__file__).parent
SPLITS = ('train', 'validation', 'test')


def write_slices(volumes, folder):
    """Ready-made pictures of the first and last slice of each series."""
    for series, path in volumes.items():
        volume = open_volume(path)
        for z in (0, volume.size[2] - 1):
            grey = windows.to_grey(read_slice(volume, z))
            picture.save(folder / f'{series}.mhd_{z}.png', grey)


def write_synthetic(data_dir, folder):
    """What synthesize writes, with inverted slices for translated ones."""
    rows = []
    for split in ('train', 'test'):
        for grey, row in datasets.read_native(f'luna16_patches/nodules:{split}', data_dir):
            rows.append(SyntheticRow.of_source(row, 'luna16_patches/nodules', split, 'none', 0))
            picture.save(folder / rows[-1].file, 255 - grey)
    (folder / 'lineage.json').write_text('[]')
    write_manifest(folder, rows)


def write_neutral(synthetic, folder):
    """What synthesize writes of other classes than covid: the same images, called nodular."""
    rows = [dataclasses.replace(row, label='nodular', z=None) for row in read_manifest(synthetic)]
    for row in rows:
        picture.save(folder / row.file, picture.read(synthetic / row.file))
    (folder / 'lineage.json').write_text('[]')
    (folder / 'meta.json').write_text('{"classes": ["healthy", "nodular"]}')
    write_manifest(folder, rows)


def write_pairs(synthetic, folder, masks='drawn'):
    """What synthesize_pairs writes: of every picture of a folder a lesion and a sham."""
    rows, gate, lesion = [], np.full((512, 512), 255, np.uint8), LESIONS[masks][0]
    picture.save(folder / 'gates/all.png', gate)
    for row in read_manifest(synthetic):
        pair = {'lesion': lesion, 'pair': row.id, 'gate': 'gates/all.png', 'masks': masks}
        for kind, label in ((lesion, 'covid'), (SHAM, 'noncovid')):
            file = f'images/{row.id}_{kind}.png'
            facts = {'id': f'{row.id}_{kind}', 'file': file, 'kind': kind, 'label': label}
            for name in (file, row.input):
                picture.save(folder / name, picture.read(synthetic / row.file))
            rows.append(dataclasses.replace(row, **facts, **pair))
    (folder / 'lineage.json').write_text('[]')
    write_manifest(folder, rows)


def layout_of(name):
    """The layout of phantoms that a config of ct_scans reads; several read the same."""
    layout = name.removeprefix('ct_scans/').removesuffix('_slices')
    layout = layout.removesuffix('_severity').removesuffix('_3000um')
    if layout in ('folder', 'annotated'):
        layout = 'folder_volumes' if name.endswith('_slices') else 'folder_pictures'
    return layout


@pytest.fixture(scope='module')
def sources(raw, data_dir, tmp_path_factory):
    """{data set: its raw folder}."""
    slices, synthetic = tmp_path_factory.mktemp('slices'), tmp_path_factory.mktemp('synthetic')
    write_slices(find_volumes(raw / 'luna16'), slices)
    write_synthetic(data_dir, synthetic)
    pairs = {masks: tmp_path_factory.mktemp(masks) for masks in LESIONS}
    for masks, folder in pairs.items():
        write_pairs(synthetic, folder, masks)
    raws = {'covid_ct': raw / 'covid_ct', 'luna16_patches': raw / 'luna16'}
    folders = {name: raws.get(name.partition('/')[0]) for name in NAMES}
    layouts = {name: layout_of(name) for name in NAMES if name.startswith('ct_scans/')}
    written = {layout: tmp_path_factory.mktemp(layout) for layout in {*layouts.values()}}
    for layout, folder in written.items():
        ct_scans.write_ct_scans(folder, layout, seed=2, size=64, slices=6)
    scans = {name: written[layout] for name, layout in layouts.items()}
    of_pictures = dict.fromkeys(('luna16_patches/slices', 'luna16_patches/slices_framed'), slices)
    neutral = tmp_path_factory.mktemp('neutral')
    write_neutral(synthetic, neutral)
    made = {'synthetic_covid_ct': synthetic, 'synthetic_ct': neutral}
    for masks, names in synthesize_pairs.DATA_SETS.items():
        made |= dict.fromkeys(names, pairs[masks])
    return folders | scans | of_pictures | made


@pytest.fixture(scope='module')
def built(sources, tmp_path_factory):
    """built(name) -> the folder of prepared data that has a data set; each is built once."""
    folder = str(tmp_path_factory.mktemp('built'))

    @functools.cache
    def build(name):
        prepare.build(name, sources[name], folder)
        return folder

    return build


@pytest.mark.parametrize('masks, other', [('drawn', 'procedural'), ('procedural', 'drawn')])
def test_masks_from_elsewhere_are_refused(sources, masks, other, tmp_path):
    for name in synthesize_pairs.DATA_SETS[masks]:
        folder = sources[synthesize_pairs.DATA_SETS[other][0]]
        with pytest.raises(InputError, match=f'{other} masks'):
            prepare.build(name, folder, str(tmp_path))


def read_plainly(name, split, data_dir):
    """The examples of a split by TFDS alone."""
    return list(tfds.data_source(name, split=split, data_dir=data_dir, download=False))


def splits_of(name, data_dir):
    return tfds.builder(name, data_dir=data_dir).info.splits


@pytest.mark.parametrize('name', NAMES)
def test_builds_and_reads(name, built):
    data_dir, dtype = built(name), np.int16 if name.endswith(('_hu', '_3d')) else np.uint8
    for split, info in splits_of(name, data_dir).items():
        examples = read_plainly(name, split, data_dir)
        assert len(examples) == info.num_examples
        assert len({example['id'] for example in examples}) == len(examples)
        for example in examples:
            image = example['image']
            assert image.dtype == dtype
            assert image.shape[-1] == 1
            pixels = repr(image.shape[:-1]).encode() + image.tobytes()
            assert example['sha256'].decode() == hashlib.sha256(pixels).hexdigest()


@pytest.mark.parametrize('name', NAMES)
def test_no_group_is_in_two_splits(name, built):
    data_dir, groups = built(name), {}
    for split in splits_of(name, data_dir):
        groups[split] = {row.group for row in datasets.read_rows(f'{name}:{split}', data_dir)}
    if name == 'ct_scans/covid_semiseg':  # its published test split is kept, near-copies and all
        del groups['test']
    assert sum(map(len, groups.values())) == len(set.union(*groups.values()))
    if not name.startswith(('covid_ct/', 'ct_scans/')):  # whose splits are lists, or by patient
        for split, series in groups.items():
            assert {luna16.series_split(name) for name in series} == {split}


@pytest.mark.fast
@pytest.mark.parametrize('name', NAMES)
def test_has_a_card(name):
    folder = CARDS / name.partition('/')[0]
    for card in ('README.md', 'CITATIONS.bib', 'TAGS.txt'):
        assert (folder / card).read_text().strip()


def test_box_lies_on_the_nodule(data_dir):
    """In every orientation and compression: bright inside, lung around."""
    checked = 0
    for split in SPLITS:
        for grey, row in datasets.read_native(f'luna16_patches/nodules:{split}', data_dir):
            assert grey.shape == (512, 512)
            assert row.others['row'] in [nodule.row for nodule in row.nodules]
            for nodule in row.nodules:
                checked += is_seen(grey, nodule, row.others['spacing'][1] * 128 / 512)
    assert checked >= 5


def is_seen(grey, nodule, pixel):
    """Checks a nodule of an image with pixels of so many mm; False for one too small to check."""
    ymin, xmin, ymax, xmax = np.array(nodule.box) * 512
    height, width = ymax - ymin, xmax - xmin
    if height < 12:  # small discs blur into the lung
        return False
    y, x = np.mgrid[:512, :512] + 0.5
    y, x = (y - (ymin + ymax) / 2) / height, (x - (xmin + xmax) / 2) / width
    distance = np.hypot(y, x) * 2  # in radii
    around = np.median(grey[(distance > 1.4) & (distance < 2)])
    assert grey[distance < 0.8].mean() > around + 40
    assert nodule.chord == pytest.approx(height * pixel, rel=1e-3)
    return True


NODULES = 'luna16_patches/nodules'
SEEN_THROUGH = {
    NODULES: lambda hu: windows.WINDOWS['lung'],
    f'{NODULES}_wide': lambda hu: windows.WINDOWS['wide'],
    f'{NODULES}_minmax': windows.whole_range,
}


@pytest.fixture(scope='module')
def slices(raw, built):
    """[(HU of a stored slice, Row)] of the training examples of nodules."""
    volumes = {series: open_volume(path) for series, path in find_volumes(raw / 'luna16').items()}
    rows = datasets.read_rows(f'{NODULES}:train', built(NODULES))
    return [(read_slice(volumes[row.series], row.z), row) for row in rows]


@pytest.mark.parametrize('name', SEEN_THROUGH)
def test_a_window_shows_the_hu_of_the_volume(name, slices, built):
    """Row for row, resized to 512x512."""
    examples = read_plainly(name, 'train', built(name))
    for (hu, row), example in zip(slices, examples, strict=True):
        grey = Image.fromarray(windows.to_grey(hu, SEEN_THROUGH[name](hu)))
        expected = np.asarray(grey.resize((512, 512), Image.Resampling.BILINEAR))
        assert example['id'].decode() == row.id
        np.testing.assert_array_equal(example['image'][..., 0], expected)


def test_hu_are_stored_without_loss(slices, built):
    examples = read_plainly(f'{NODULES}_hu', 'train', built(f'{NODULES}_hu'))
    for (hu, row), example in zip(slices, examples, strict=True):
        assert example['id'].decode() == row.id
        np.testing.assert_array_equal(example['image'][..., 0], hu)


def test_networks_see_hu_through_the_lung_window(built):
    grey, hu = (
        datasets.read(f'{name}:train', built(name), 64).images.astype(int)
        for name in (NODULES, f'{NODULES}_hu')
    )
    assert np.abs(hu - grey).mean() < 3


def test_malignancy_and_fold(raw, tmp_path):
    """Ratings find their nodule by place, not by row; the fold is the subset folder."""
    source = pathlib.Path(shutil.copytree(raw / 'luna16', tmp_path / 'luna16'))
    header, _, *lines = (source / 'annotations.csv').read_text().splitlines()
    # All but the first nodule are rated, in turn malignant and benign.
    ratings = [f'{line},{i % 2 == 0}' for i, line in enumerate(lines)]
    table = '\n'.join([f'{header},mal_bool', *reversed(ratings)])
    (source / 'annotations_with_malignancy.csv').write_text(table)
    prepare.build(NODULES, source, str(tmp_path / 'data'))
    rated, volumes = {}, find_volumes(source)
    for split in SPLITS:
        for row in datasets.read_rows(f'{NODULES}:{split}', str(tmp_path / 'data')):
            rated |= {nodule.row: nodule.malignancy for nodule in row.nodules}
            assert row.others['fold'] == int(volumes[row.series].parent.name[-1])
    assert rated.pop(0) == -1
    assert all(malignancy == i % 2 for i, malignancy in rated.items())


def test_repeated_annotations_count_once_whatever_their_digits(raw, tmp_path, capsys):
    """A spreadsheet writes -5.199999999999999 as -5.2, and 6 as 6.0."""
    source = pathlib.Path(shutil.copytree(raw / 'luna16', tmp_path / 'luna16'))
    file = source / 'annotations.csv'
    header, *lines = file.read_text().splitlines()
    series, *numbers = lines[0].split(',')
    again = ','.join([series, *(f'{float(number):.6f}' for number in numbers)])
    apart = ','.join([series, str(float(numbers[0]) + 0.01), *numbers[1:]])
    assert again != lines[0]
    file.write_text('\n'.join([header, *lines, again, apart]))
    prepare.build(NODULES, source, str(tmp_path / 'data'))
    assert f'left out 1 repeated row (first {len(lines)})' in capsys.readouterr().out
    rows = [
        row
        for split in SPLITS
        for row in datasets.read_rows(f'{NODULES}:{split}', str(tmp_path / 'data'))
    ]
    assert len(rows) == len(lines) + 1


def write_picture(folder, mode):
    """A picture of grey level 90 in a mode of Pillow."""
    path = folder / ('picture.png' if mode == 'LA' else 'picture.tif')
    image = Image.fromarray(np.full((5, 5), 90, np.uint8))
    image = image.convert('I') if mode == 'I;16' else image
    image.convert(mode).save(path)
    return path


@pytest.mark.fast
@pytest.mark.parametrize('mode', ['I;16', 'F'])
def test_more_than_eight_bits_are_refused(mode, tmp_path):
    with pytest.raises(InputError, match='8 bits'):
        read_grey(write_picture(tmp_path, mode))


@pytest.mark.fast
@pytest.mark.parametrize('mode', ['P', 'LA', 'CMYK'])
def test_any_mode_of_eight_bits_is_taken(mode, tmp_path):
    grey, _ = read_grey(write_picture(tmp_path, mode))
    assert abs(int(grey[0, 0]) - 90) <= 1


def as_seen(image):
    """What datasets.read_native makes of a stored image."""
    image = image[..., 0]
    plane = image[len(image) // 2] if image.ndim == 3 else image
    return windows.to_grey(plane) if plane.dtype == np.int16 else plane


@pytest.mark.parametrize('name', NAMES)
def test_tfds_load_reads_the_same_examples(name, built):
    pytest.importorskip('tensorflow')
    data_dir = built(name)
    load = functools.partial(tfds.load, name, split='train[:50%]', data_dir=data_dir)
    plain = datasets.read_native(f'{name}:train[:50%]', data_dir)
    examples = tfds.as_numpy(load(download=False))
    for example, (grey, row) in zip(examples, plain, strict=True):
        np.testing.assert_array_equal(as_seen(example['image']), grey)
        assert example['id'].decode() == row.id
        assert example.get('label', -1) == row.label
    labels = [row.label for _, row in plain]
    if set(labels) != {-1}:
        pairs = tfds.as_numpy(load(download=False, as_supervised=True))
        assert [int(label) for _, label in pairs] == labels


@pytest.mark.fast
def test_a_png_survives_the_builder():
    grey = np.random.default_rng(0).integers(0, 256, (7, 9), np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored(grey)['image']))), grey)


def test_slice_pictures_of_other_kinds_are_named(raw, tmp_path, capsys):
    folder = tmp_path / 'slices'
    folder.mkdir()
    for name in ('1.2.mhd_3.png', '1.2.mhd_4.PNG', '1.2.mhd_5.tif', '1.2.mhd_6.jpg', 'notes.txt'):
        if name.endswith('txt'):
            (folder / name).write_text('not CT')
        else:
            Image.fromarray(np.full((32, 32), 90, np.uint8)).save(folder / name)
    data_dir = str(tmp_path / 'data')
    prepare.build('luna16_patches/slices', folder, data_dir)
    ((_, split),) = specs.splits('luna16_patches/slices', data_dir)
    rows = datasets.read_rows(f'luna16_patches/slices:{split}', data_dir)
    assert sorted(row.z for row in rows) == [3, 4]
    said = 'left out 3 files that are no PNG: 1.2.mhd_5.tif, 1.2.mhd_6.jpg, notes.txt'
    assert said in capsys.readouterr().out

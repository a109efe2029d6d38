"""ct_scans: every layout read as its phantom was drawn, every trap read right or refused."""

import csv
import functools
import pathlib
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tensorflow_datasets as tfds
from conftest import ROOT
from PIL import Image
from scipy import ndimage

from covjax import InputError
from covjax.ct import luna16, lungs, resampling
from covjax.ct.grid import Grid
from covjax.data import datasets, segmented
from covjax.phantom import ct_scans
from covjax.runs import prepare
from tfds_builders.ct_scans import layouts

WRITTEN = tuple(ct_scans.WRITERS)
VOLUMES = tuple(name for name in WRITTEN if name not in ('covid_semiseg', 'folder_pictures'))
SPLITS = ('train', 'validation', 'test')
STRAIGHT = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)


def config_of(written):
    """The config that reads what a writer of phantoms writes."""
    return 'folder' if written.startswith('folder') else written


@pytest.fixture(scope='module')
def phantoms(tmp_path_factory):
    """phantoms(written) -> (raw folder, {id: Truth}); each is drawn once."""

    @functools.cache
    def write(written):
        folder = tmp_path_factory.mktemp(f'raw % {written}')
        truths = ct_scans.write_ct_scans(folder, written, seed=3)
        return folder, {truth.id: truth for truth in truths}

    return write


@pytest.fixture(scope='module')
def built(phantoms, tmp_path_factory):
    """built(written, ending) -> (spec without split, data folder); each is built once."""

    @functools.cache
    def build(written, ending=''):
        folder, _ = phantoms(written)
        data_dir = str(tmp_path_factory.mktemp('data'))
        name = f'ct_scans/{config_of(written)}{ending}'
        prepare.build(name, str(folder), data_dir)
        return name, data_dir

    return build


@pytest.fixture
def raw(phantoms, tmp_path):
    """raw(written) -> a copy of a raw folder to spoil."""
    return lambda written: pathlib.Path(shutil.copytree(phantoms(written)[0], tmp_path / 'raw'))


def splits_of(name, data_dir):
    return tuple(tfds.builder(name, data_dir=data_dir).info.splits)


def examples_of(name, data_dir):
    """{split: [example as TFDS reads it]}."""
    read = lambda split: list(tfds.data_source(name, split=split, data_dir=data_dir))
    return {split: read(split) for split in splits_of(name, data_dir)}


def all_of(name, data_dir):
    """{id: (split, example)}."""
    return {
        example['id'].decode(): (split, example)
        for split, examples in examples_of(name, data_dir).items()
        for example in examples
    }


def grey_of(hu):
    """HU through the lung window, as the README of the data set says."""
    return np.floor(np.clip((hu.astype(float) + 1000) / 1400, 0, 1 - 1e-9) * 256).astype(np.uint8)


def assert_mask(classes, names, regions):
    """The classes have the names and the places of the regions."""
    assert names[0] == 'background' and set(names[1:]) >= set(regions)
    for i, name in enumerate(names[1:], 1):
        expected = regions.get(name, np.zeros(classes.shape, bool))
        np.testing.assert_array_equal(classes == i, expected, err_msg=name)


# ---- read back


@pytest.mark.parametrize('written', WRITTEN)
def test_every_scan_is_there_once(written, phantoms, built):
    assert set(all_of(*built(written))) == set(phantoms(written)[1])


@pytest.mark.parametrize('written', WRITTEN)
def test_images_are_those_that_were_drawn(written, phantoms, built):
    for name, (_, example) in all_of(*built(written)).items():
        truth = phantoms(written)[1][name].image
        expected = truth if truth.dtype == np.uint8 else grey_of(truth)
        np.testing.assert_array_equal(example['image'][..., 0], expected)


@pytest.mark.parametrize('written', VOLUMES)
def test_hu_are_those_that_were_drawn(written, phantoms, built):
    for name, (_, example) in all_of(*built(written, '_hu')).items():
        assert example['image'].dtype == np.int16
        np.testing.assert_array_equal(example['image'][..., 0], phantoms(written)[1][name].image)


@pytest.mark.parametrize('written', WRITTEN)
def test_masks_are_those_that_were_drawn(written, phantoms, built):
    name, data_dir = built(written)
    names = datasets.mask_classes(name, data_dir)
    for split in splits_of(name, data_dir):
        for record in datasets.records(f'{name}:{split}', data_dir):
            regions = phantoms(written)[1][record.row.id].regions
            assert (record.mask is None) == (not regions)
            if regions:
                assert_mask(datasets.volume(record.mask), names, regions)


@pytest.mark.parametrize('written', WRITTEN)
def test_facts_are_those_of_the_files(written, phantoms, built):
    name, data_dir = built(written)
    features = tfds.builder(name, data_dir=data_dir).info.features
    for key, (split, example) in all_of(name, data_dir).items():
        truth = phantoms(written)[1][key]
        assert example['patient'].decode() == truth.patient
        np.testing.assert_allclose(example['spacing'], truth.spacing, rtol=1e-5)
        assert example.get('kernel', b'').decode() == truth.kernel
        assert split == truth.split or not truth.split or written == 'covid_semiseg'
        if 'label' in features:
            assert features['label'].int2str(int(example['label'])) == truth.label
        if truth.patient:
            assert example['group'].decode() == truth.patient


@pytest.mark.parametrize('written', WRITTEN)
def test_no_group_is_in_two_splits_unless_published_so(written, built):
    groups = {
        split: {example['group'] for example in examples}
        for split, examples in examples_of(*built(written)).items()
    }
    shared = [
        {first, second}
        for first in groups
        for second in groups
        if first < second and groups[first] & groups[second]
    ]
    if written == 'covid_semiseg':
        assert all('test' in pair for pair in shared)
    else:
        assert not shared


@pytest.mark.parametrize(
    'written, ending',
    [*((written, '_3900um_hu') for written in VOLUMES), ('covid_ct_seg', '_3900um')],
)
def test_voxels_have_the_size_in_the_name(written, ending, phantoms, built):
    """Volumes, masks and their classes, in the splits of those that stay as they are."""
    name, data_dir = built(written, ending)
    of_volume = {key: split for key, (split, _) in all_of(*built(written)).items()}
    names = datasets.mask_classes(name, data_dir)
    for split in splits_of(name, data_dir):
        for record in datasets.records(f'{name}:{split}', data_dir):
            row, truth = record.row, phantoms(written)[1][record.row.id]
            grid = Grid(truth.image.shape[::-1], truth.spacing[::-1], (0,) * 3, STRAIGHT)
            expected, target = resampling.to_spacing(truth.image, grid, 3.9)
            expected = expected if ending.endswith('_hu') else grey_of(expected)
            found = record.image[..., 0].astype(int)  # spacings of files are rounded
            np.testing.assert_allclose(found, expected.astype(int), rtol=0, atol=1)
            np.testing.assert_allclose(row.others['spacing'], target.spacing)
            assert split == of_volume[row.id]
            if truth.regions:
                regions = {
                    region: resampling.classes_to_spacing(where.astype(np.uint8), grid, 3.9) > 0
                    for region, where in truth.regions.items()
                }
                assert_mask(datasets.volume(record.mask), names, regions)


@pytest.mark.parametrize(
    'name', ['folder_299um', 'folder_10001um', 'folder_slices_1500um', 'folder_15um']
)
def test_sizes_of_voxels_that_no_data_set_has(name, tmp_path):
    with pytest.raises(InputError, match=f'ct_scans/{name}: no such data set'):
        prepare.build(f'ct_scans/{name}', tmp_path, str(tmp_path / 'data'))


@pytest.mark.parametrize('written', VOLUMES)
def test_slices_are_those_of_the_volume_from_foot_to_head(written, phantoms, built):
    name, data_dir = built(written, '_slices')
    names, seen = datasets.mask_classes(name, data_dir), set()
    for split in splits_of(name, data_dir):
        for record in datasets.records(f'{name}:{split}', data_dir):
            row, truth = record.row, phantoms(written)[1][record.row.others['scan']]
            assert row.id == f'{truth.id}/z{row.z:03d}'
            np.testing.assert_array_equal(
                datasets.decoded(record.image), grey_of(truth.image[row.z])
            )
            if truth.regions:
                regions = {name: inside[row.z] for name, inside in truth.regions.items()}
                assert_mask(datasets.volume(record.mask), names, regions)
            seen.add((truth.id, row.z))
    truths = phantoms(written)[1].values()
    assert seen == {(truth.id, z) for truth in truths for z in range(len(truth.image))}


def test_slices_in_hu_are_int16(phantoms, built):
    name, data_dir = built('mosmed', '_slices_hu')
    for key, (_, example) in all_of(name, data_dir).items():
        scan, z = key.split('/z')
        hu = phantoms('mosmed')[1][scan].image[int(z)]
        np.testing.assert_array_equal(example['image'][..., 0], hu)


@pytest.mark.parametrize('written', VOLUMES)
def test_slices_are_in_the_splits_of_their_volumes(written, built):
    of_volume = {key: split for key, (split, _) in all_of(*built(written)).items()}
    for split, example in all_of(*built(written, '_slices')).values():
        assert split == of_volume[example['scan'].decode()]


def test_labels_of_slices_are_those_of_their_slice(phantoms, built):
    """By the corrected table, from head to foot, past the index that is left out; else -1."""
    checked = set()
    infected = phantoms('covid_ct_md')[1]['P001'].by_slice['infected']
    assert (infected != infected[::-1]).any()  # or the order would not matter
    for key, (_, example) in all_of(*built('covid_ct_md', '_slices')).items():
        case, z = key.split('/z')
        tables = phantoms('covid_ct_md')[1][case].by_slice
        for feature, shape in layouts.LAYOUTS['covid_ct_md'].by_slice.items():
            expected = tables[feature][int(z)] if tables else np.full(shape, -1)
            np.testing.assert_array_equal(example[feature], expected)
        checked |= {(case, int(example['infected']))}
    assert {('P001', 1), ('P044', 1), ('cap001', 1), ('normal001', -1)} <= checked


def test_slices_beyond_the_table_are_not_known(raw, tmp_path):
    folder = raw('covid_ct_md')
    for path in folder.glob('*.npy'):
        np.save(path, np.load(path)[:, :5])
    prepare.build('ct_scans/covid_ct_md_slices', folder, str(tmp_path / 'data'))
    for key, (_, example) in all_of('ct_scans/covid_ct_md_slices', str(tmp_path / 'data')).items():
        if key.startswith('P'):
            is_known = int(key[-3:]) >= 3  # of eight slices the upper five
            assert (example['infected'] >= 0) == is_known
            assert ((example['lobes'] >= 0) == is_known).all()


def test_the_severity_of_a_study_is_its_label(phantoms, tmp_path):
    """Of all studies, those without masks too."""
    folder, truths = phantoms('mosmed')
    prepare.build('ct_scans/mosmed_severity', folder, str(tmp_path))
    builder = tfds.builder('ct_scans/mosmed_severity', data_dir=str(tmp_path))
    examples = all_of('ct_scans/mosmed_severity', str(tmp_path)).values()
    word = builder.info.features['label'].int2str
    labels = [word(int(example['label'])) for _, example in examples]
    assert 'mask' not in builder.info.features
    assert sorted(labels) == ['ct_0', *['ct_1'] * (len(truths) + 1), 'ct_2', 'ct_3', 'ct_4']


def test_segmenters_read_what_was_drawn(phantoms, built):
    name, data_dir = built('covid_ct_seg')
    read = segmented.read(f'{name}:train', data_dir, regions='lung+lesion')
    assert read.classes == ('background', 'lung+lesion')
    for target, row in zip(read.targets, read.rows):
        regions = phantoms('covid_ct_seg')[1][row.id].regions
        np.testing.assert_array_equal(target, regions['lung'] | regions['lesion'])


def test_networks_read_the_middle_slice_of_a_volume(phantoms, built):
    name, data_dir = built('covid_ct_md')
    read = datasets.read(f'{name}:train', data_dir, 32)
    for image, row in zip(read.images, read.rows):
        whole = grey_of(phantoms('covid_ct_md')[1][row.id].image)
        middle = Image.fromarray(whole[len(whole) // 2])
        expected = np.asarray(middle.resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(image[..., 0], expected)


def test_several_workers_make_the_same_examples(phantoms, built, tmp_path):
    name, data_dir = built('folder_volumes')
    prepare.build(name, phantoms('folder_volumes')[0], str(tmp_path), workers=2)
    one, two = all_of(name, data_dir), all_of(name, str(tmp_path))
    assert {key: split for key, (split, _) in one.items()} == {
        key: split for key, (split, _) in two.items()
    }
    for key, (_, example) in one.items():
        assert example['sha256'] == two[key][1]['sha256']
        np.testing.assert_equal(example, two[key][1])


def test_data_are_read_without_tensorflow_and_without_the_builders(built):
    name, data_dir = built('folder_pictures')
    code = (
        'import sys; from covjax.data import datasets; '
        f'records = list(datasets.records({name + ":train"!r}, {data_dir!r})); '
        'assert records and all(record.mask for record in records); '
        'assert "tensorflow" not in sys.modules and "tfds_builders" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_plain_tfds_reads_a_folder_that_is_gone(raw, tmp_path):
    """What is prepared says itself what it is."""
    folder = raw('folder_pictures')
    prepare.build('ct_scans/folder', folder, str(tmp_path / 'data'))
    shutil.rmtree(folder)
    source = tfds.data_source('ct_scans/folder', split='test', data_dir=str(tmp_path / 'data'))
    assert len(source) and {'image', 'mask', 'label'} <= set(source[0])


def test_facts_of_the_original_picture_files_are_kept_for_audits(built):
    files = [example['file'] for _, example in all_of(*built('covid_semiseg')).values()]
    assert {file['container'].decode() for file in files} == {'JPEG'}


# ---- splits


def test_ten_training_pictures_are_held_out_as_whole_groups(phantoms, built):
    examples = examples_of(*built('covid_semiseg'))
    assert {split: len(part) for split, part in examples.items()} == {
        'train': 5,
        'validation': 10,
        'test': 3,
    }
    groups = {split: {example['group'] for example in part} for split, part in examples.items()}
    assert not groups['train'] & groups['validation']
    published = {truth.id: truth.split for truth in phantoms('covid_semiseg')[1].values()}
    for split, part in examples.items():
        expected = {'validation': 'train'}.get(split, split)
        assert {published[example['id'].decode()] for example in part} == {expected}


def test_pictures_of_one_phantom_are_one_group(built):
    """Nothing but their likeness says so; two follow one another in the numbering."""
    groups = {}
    for key, (_, example) in all_of(*built('covid_semiseg')).items():
        groups.setdefault(int(key.split('/')[1]) // 2, set()).add(example['group'])
    assert all(len(found) == 1 for found in groups.values())
    assert len(set.union(*groups.values())) == len(groups)


def test_two_scans_of_one_patient_are_in_one_split(built):
    examples = all_of(*built('covid_ct_seg'))
    pair = [examples[f'radiopaedia_10_85902_{i}'] for i in (1, 3)]
    assert pair[0][0] == pair[1][0] and pair[0][1]['group'] == pair[1][1]['group']


def test_series_are_in_the_split_that_they_have_everywhere(built):
    for key, (split, _) in all_of(*built('luna16_lungs')).items():
        assert split == luna16.series_split(key)


def table_of(folder):
    """The rows of scans.csv, the header first."""
    with (folder / 'scans.csv').open(newline='', encoding='utf-8') as file:
        return list(csv.reader(file))


def write_table(folder, rows, name='scans.csv'):
    with (folder / name).open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(rows)


def change(folder, column, values):
    """Writes a column of scans.csv; values(row number) gives its cells, None leaves it out."""
    head, *rows = table_of(folder)
    kept = [i for i, name in enumerate(head) if name != column]
    head = [head[i] for i in kept]
    rows = [[row[i] for i in kept] for row in rows]
    if values:
        head, rows = [*head, column], [[*row, values(i)] for i, row in enumerate(rows)]
    write_table(folder, [head, *rows])


def splits_in(folder, tmp_path):
    """{id: (split, group)} of a folder of pictures."""
    data_dir = str(tmp_path / 'data')
    prepare.build('ct_scans/folder', folder, data_dir)
    examples = all_of('ct_scans/folder', data_dir)
    return {key: (split, example['group']) for key, (split, example) in examples.items()}


def test_a_split_given_to_one_picture_of_a_patient_is_that_of_the_patient(raw, tmp_path):
    folder = raw('folder_pictures')
    change(folder, 'split', lambda i: 'test' if i % 4 == 0 else '')  # the first of two of half
    found = splits_in(folder, tmp_path)
    of_group = {}
    for split, group in found.values():
        of_group.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in of_group.values())
    # Where the table names test scans, these are all there are.
    assert sum(splits == {'test'} for splits in of_group.values()) == 4


def test_a_split_that_divides_pictures_alike_is_kept_and_remarked(raw, tmp_path, capsys):
    folder = raw('folder_pictures')
    change(folder, 'patient', None)
    change(folder, 'split', lambda i: 'test' if i % 2 else 'train')
    found = splits_in(folder, tmp_path)
    assert sorted(split for split, _ in found.values()) == ['test'] * 8 + ['train'] * 8
    assert 'in more than one of the splits as published: ' in capsys.readouterr().out


def test_without_patients_files_in_runs_and_pictures_alike_stay_together(raw, tmp_path, capsys):
    folder = raw('folder_pictures')
    change(folder, 'patient', None)
    found = splits_in(folder, tmp_path)
    runs = {}
    for key, (_, group) in found.items():
        runs.setdefault(key.rpartition(' (')[0], set()).add(group)
    assert all(len(groups) == 1 for groups in runs.values())
    assert 'patients are not known: pictures that look alike' in capsys.readouterr().out


def test_volumes_without_patients_are_groups_of_their_own(raw, tmp_path, capsys):
    folder = raw('folder_volumes')
    change(folder, 'patient', None)
    groups = [group for _, group in splits_in(folder, tmp_path).values()]
    assert len(groups) == len(set(groups)) == 4
    assert 'each scan is a group of its own' in capsys.readouterr().out


@pytest.mark.fast
@pytest.mark.parametrize(
    'names, expected',
    [
        ({'covid', 'noncovid'}, ('noncovid', 'covid')),
        ({'covid', 'cap', 'normal'}, ('normal', 'cap', 'covid')),
        ({'flu', 'bacterial'}, ('bacterial', 'flu')),
    ],
)
def test_classes_begin_with_normal_and_end_with_covid(names, expected):
    """As those of COVID-CT-MD, so that a network of one data set is tested on the other."""
    assert layouts._in_order(names) == expected


def test_labels_are_in_the_order_of_covjax_classes(built):
    """The positive class last."""
    name, data_dir = built('folder_pictures')
    labels = tfds.builder(name, data_dir=data_dir).info.features['label'].names
    assert labels == ['non_covid', 'covid']


# ---- remarks


def test_scans_without_a_mask_are_left_out_and_counted(phantoms, tmp_path, capsys):
    prepare.build('ct_scans/luna16_lungs', phantoms('luna16_lungs')[0], str(tmp_path))
    assert 'scans without a mask are left out: 1 (first 2.25.1)' in capsys.readouterr().out


def each_mask(folder, pattern, function):
    """Changes every mask: function(array [z, y, x] as stored) -> array."""
    for path in folder.rglob(pattern):
        image = sitk.ReadImage(str(path))
        array = np.ascontiguousarray(function(sitk.GetArrayFromImage(image)))
        changed = sitk.GetImageFromArray(array)
        if array.shape == sitk.GetArrayFromImage(image).shape:
            changed.CopyInformation(image)
        sitk.WriteImage(changed, str(path), useCompression=True)


@pytest.mark.parametrize('ending, workers', [('', 0), ('_slices', 2)])
def test_masks_that_are_all_empty_are_remarked(raw, tmp_path, capsys, ending, workers):
    folder = raw('mosmed')
    each_mask(folder, '*_mask.nii.gz', lambda array: 0 * array)
    prepare.build(f'ct_scans/mosmed{ending}', folder, str(tmp_path / 'data'), workers=workers)
    assert f'ct_scans/mosmed{ending}: all masks are empty\n' in capsys.readouterr().out


def test_one_empty_mask_is_a_scan_without_lesions(raw, tmp_path, capsys):
    folder = raw('mosmed')
    each_mask(folder, '*0255_mask.nii.gz', lambda array: 0 * array)
    prepare.build('ct_scans/mosmed', folder, str(tmp_path / 'data'))
    _, example = all_of('ct_scans/mosmed', str(tmp_path / 'data'))['study_0255']
    assert not example['mask']['classes'].any()
    assert 'empty' not in capsys.readouterr().out


def test_a_region_that_no_mask_has_is_named(raw, tmp_path, capsys):
    folder = raw('luna16_lungs')
    each_mask(folder / 'seg-lungs-LUNA16', '*.mhd', lambda array: np.where(array == 5, 0, array))
    prepare.build('ct_scans/luna16_lungs', folder, str(tmp_path / 'data'))
    assert 'ct_scans/luna16_lungs: no mask has airway\n' in capsys.readouterr().out


def test_masks_that_could_not_be_compared_are_told(phantoms, tmp_path, capfd):
    """Outside of the masked lungs of COVNet there is nothing to find them by."""
    prepare.build('ct_scans/covnet', phantoms('covnet')[0], str(tmp_path))
    errors = capfd.readouterr().err
    assert errors.count('mask.nii.gz: lungs are found in no image') == 3


def test_a_contact_sheet_shows_the_masks(launch, phantoms, tmp_path):
    keys = ['--config.dataset=ct_scans/mosmed', f'--config.source={phantoms("mosmed")[0]}']
    result = launch(
        *('--config=configs/prepare.py', *keys, f'--config.data_dir={tmp_path / "data"}'),
        f'--workdir={tmp_path / "run"}',
    )
    assert result.returncode == 0, result.stderr
    sheet = np.asarray(Image.open(tmp_path / 'run/images/ct_scans_mosmed_train.png')).astype(int)
    assert sheet.shape == (192, 2 * 192, 3)
    for tile in np.split(sheet, 2, 1):
        coloured = np.ptp(tile, 2) > 20
        assert 0.001 < coloured.mean() < 0.2  # opacities, in the slice that has most


# ---- traps


@pytest.fixture
def refused(tmp_path):
    """refused(written, folder, *words): a build raises one line with all words, leaving nothing."""

    def check(written, folder, *words, **options):
        data_dir = tmp_path / 'refused'
        with pytest.raises(InputError) as caught:
            prepare.build(f'ct_scans/{config_of(written)}', folder, str(data_dir), **options)
        message = str(caught.value)
        assert '\n' not in message and len(message) < 600, message
        assert all(word in message for word in words), message
        assert not {'Failed', 'builder_kwargs'} & {*message.replace('"', ' ').split()}, message
        assert not data_dir.exists()

    return check


UPSIDE_DOWN = lambda array: array[:, ::-1]
POSITIONS = {
    'mirrored': lambda array: array[:, :, ::-1],
    'upside down': UPSIDE_DOWN,
    'turned by 180 degrees': lambda array: array[:, ::-1, ::-1],
    'turned by 90 degrees': lambda array: np.rot90(array, 1, (1, 2)),
    'on its side': lambda array: array.swapaxes(1, 2),
    'head to foot': lambda array: array[::-1],
}
MASKS = {  # {written: pattern of the masks that are read}
    'luna16_lungs': 'seg-lungs-LUNA16/*.mhd',
    'covid_ct_seg': 'lung_and_infection_mask/*.nii',
    'mosmed': 'masks/*.nii.gz',
    'folder_volumes': 'masks/*.nii.gz',
}


@pytest.mark.parametrize('how', POSITIONS)
@pytest.mark.parametrize('written', MASKS)
def test_masks_in_another_position_are_refused(written, how, raw, refused):
    folder = raw(written)
    each_mask(folder, MASKS[written], POSITIONS[how])
    refused(written, folder, 'unchecked_masks=True')


def on_another_grid(path, how):
    """Writes a mask again with the same values and another place of them."""
    image = sitk.ReadImage(str(path))
    if how == 'spacing':
        image.SetSpacing([2 * mm for mm in image.GetSpacing()])
    elif how == 'origin':
        image.SetOrigin([mm + 30 for mm in image.GetOrigin()])
    else:
        sine, cosine = np.sin(0.1), np.cos(0.1)
        turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
        image.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel())
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize('how', ['spacing', 'origin', 'direction'])
def test_masks_on_another_grid_are_refused_until_they_were_looked_at(how, raw, refused, tmp_path):
    folder = raw('mosmed')
    path = folder / 'masks/study_0255_mask.nii.gz'
    on_another_grid(path, how)
    named = f'{path.name}: lies on a different grid from its scan: {how}'
    refused('mosmed', folder, named, 'unchecked_masks=True')
    prepare.build('ct_scans/mosmed', folder, str(tmp_path / 'data'), unchecked_masks=True)


def test_masks_that_were_looked_at_are_taken(raw, tmp_path):
    folder = raw('mosmed')
    each_mask(folder, MASKS['mosmed'], UPSIDE_DOWN)
    data_dir = str(tmp_path / 'data')
    prepare.build('ct_scans/mosmed', folder, data_dir, unchecked_masks=True)
    assert len(all_of('ct_scans/mosmed', data_dir)) == 4


def pictures_of(folder, pattern, function):
    """Changes every mask picture: function(array [y, x]) -> array."""
    for path in folder.rglob(pattern):
        with Image.open(path) as image:
            palette, pixels = image.getpalette(), np.asarray(image)
        changed = Image.fromarray(np.ascontiguousarray(function(pixels)))
        if palette:
            changed.putpalette(palette)
        changed.save(path)


FLIPS = {
    'mirrored': lambda array: array[:, ::-1],
    'upside down': lambda array: array[::-1],
    'turned': lambda array: array[::-1, ::-1],
}


@pytest.mark.parametrize('how', FLIPS)
@pytest.mark.parametrize(
    'written, pattern',
    [('covid_semiseg', 'GT-multiclass/*.png'), ('folder_pictures', 'masks/*.png')],
)
def test_masks_of_pictures_in_another_position_are_refused(written, pattern, how, raw, refused):
    folder = raw(written)
    pictures_of(folder, pattern, FLIPS[how])
    refused(written, folder, 'fits its image better', str(folder))


def test_pictures_that_lie_on_their_side_beside_upright_masks_are_refused(raw, refused):
    folder = raw('covid_semiseg')
    pictures_of(folder, 'GT-multiclass/*.png', lambda array: array.T)
    refused('covid_semiseg', folder, '.png: is ', 'give the mask of that image')


@pytest.mark.parametrize('written', MASKS)
def test_a_mask_of_another_size_is_refused(written, raw, refused):
    folder = raw(written)
    each_mask(folder, MASKS[written], lambda array: array[:-1])
    refused(written, folder, 'is 96 x 96 x 7, its image 96 x 96 x 8')


@pytest.mark.parametrize('written', MASKS)
def test_a_value_beyond_the_list_is_refused(written, raw, refused):
    folder = raw(written)
    each_mask(folder, MASKS[written], lambda array: np.where(array == array.max(), 77, array))
    refused(written, folder, 'has the values 77 besides those listed')


def test_masks_of_0_and_255_for_one_region_are_read_as_those_of_0_and_1(raw, phantoms, tmp_path):
    folder = raw('folder_pictures')
    pictures_of(folder, 'masks/*.png', lambda array: array // 255)
    data_dir = str(tmp_path / 'data')
    prepare.build('ct_scans/folder', folder, data_dir)
    for key, (_, example) in all_of('ct_scans/folder', data_dir).items():
        lesion = phantoms('folder_pictures')[1][key].regions['lesion']
        np.testing.assert_array_equal(example['mask'][..., 0], lesion)


@pytest.mark.parametrize('written, pattern', [('mosmed', '*_mask.nii.gz')])
def test_the_mask_of_another_scan_is_refused(written, pattern, raw, refused):
    """Every mask is that of the next study; where lesions were there is healthy lung."""
    folder = raw(written)
    paths = sorted(folder.rglob(pattern))
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents[1:] + contents[:1]):
        path.write_bytes(content)
    refused(written, folder, 'unchecked_masks=True')


def drop(pattern):
    """A spoiler of a raw folder that lacks the first file of a pattern."""

    def spoil(folder):
        path = sorted(folder.rglob(pattern))[0]
        path.unlink()
        return path.name

    return spoil


def replace(pattern, content):
    """A spoiler of a raw folder that has other bytes in the first file of a pattern."""

    def spoil(folder):
        path = sorted(folder.rglob(pattern))[0]
        path.write_bytes(content(path.read_bytes()))
        return path.name

    return spoil


def without_training(folder):
    shutil.rmtree(folder / 'train')
    return 'give the folder of COVID-SemiSeg with train and test'


def without_a_slice(folder):
    sorted(folder.rglob('P001/*.dcm'))[0].unlink()
    return 'P001: slices are 5 to 10 mm apart'


def without_index_column(folder):
    path = folder / 'Index.csv'
    path.write_text(path.read_text().replace('Label Index', 'Number'))
    return 'Label Index'


def with_short_tables(folder):
    for path in folder.glob('*.npy'):
        np.save(path, np.load(path)[:40])
    return 'P044 as row 43'


def with_flat_table(folder):
    path = folder / 'Slice-level-labels-updated-1.npy'
    np.save(path, np.load(path)[..., None])
    return path.name


def with_a_case_twice(folder):
    path = next(folder.rglob('cap001.nii.gz'))
    shutil.copy(path, path.with_name('cap001.nii.GZ'))
    return 'cap001 is also at'


def with_a_scan_twice(folder):
    path = next(folder.rglob('coronacases_org_001.nii'))
    shutil.copy(path, path.with_name('coronacases_001.nii'))
    return 'coronacases_001 is there twice'


def with_a_label_of_3(folder):
    (folder / 'train.csv').write_text('case,label\ncase0,3\n')
    return 'line 2 has the label 3'


def with_a_case_in_both_lists(folder):
    shutil.copy(folder / 'train.csv', folder / 'val.csv')
    return 'case0 is there twice'


def in_an_archive(folder):
    archive = shutil.make_archive(folder.with_name('packed'), 'zip', folder)
    shutil.rmtree(folder)
    folder.mkdir()
    shutil.move(archive, folder / 'packed.zip')
    return 'unpack packed.zip'


def grey_through(low, high):
    """A spoiler that stores a scan through another window as 0..255."""

    def spoil(folder):
        path = sorted(folder.rglob('radiopaedia_org*.nii'))[0]
        hu = lambda array: array.astype(float) * 1500 / 255 - 1250
        grey = lambda array: np.clip((hu(array) - low) / (high - low), 0, 1) * 255
        each_mask(folder, path.name, lambda array: grey(array).astype(np.uint8))
        return f'{path.name}: is not in HU'

    return spoil


def labels_for_a_scan(folder):
    """The mask in place of a scan: 0 to 3."""
    mask = folder / 'lung_and_infection_mask' / 'radiopaedia_7_85703_0.nii'
    scan = next(folder.rglob('radiopaedia_org*7_85703_0-dcm.nii'))
    shutil.copy(mask, scan)
    return f'{scan.name}: is not in HU'


SPOILED = [
    ('covid_semiseg', drop('GT-multiclass/*.png')),
    ('covid_semiseg', without_training),
    ('covid_semiseg', replace('test/Imgs/*.jpg', lambda content: content[:200])),
    ('covid_ct_md', drop('Index.csv')),
    ('covid_ct_md', without_index_column),
    ('covid_ct_md', with_short_tables),
    ('covid_ct_md', with_flat_table),
    ('covid_ct_md', with_a_case_twice),
    ('covid_ct_md', without_a_slice),
    ('covid_ct_md', replace('*updated-1.npy', lambda content: content[:100])),
    ('covid_ct_md', replace('P044/*.dcm', lambda content: content[:-1000])),
    ('covid_ct_md', in_an_archive),
    ('luna16_lungs', drop('seg-lungs-LUNA16/*.zraw')),
    ('luna16_lungs', replace('subset2/*.zraw', lambda content: content[:-100])),
    ('covid_ct_seg', with_a_scan_twice),
    ('covid_ct_seg', grey_through(-160, 240)),
    ('covid_ct_seg', grey_through(-1000, 400)),
    ('covid_ct_seg', grey_through(250, -1250)),
    ('covid_ct_seg', labels_for_a_scan),
    ('mosmed', replace('*_mask.nii.gz', lambda content: content[:-100])),
    ('covnet', drop('val.csv')),
    ('covnet', drop('masked_ct.nii')),
    ('covnet', with_a_label_of_3),
    ('covnet', with_a_case_in_both_lists),
]


@pytest.mark.parametrize('written, spoil', SPOILED)
def test_a_folder_that_is_not_whole_is_refused(written, spoil, raw, refused):
    folder = raw(written)
    refused(written, folder, spoil(folder) or '')


def test_a_mask_in_place_of_a_scan_is_refused_unchecked_too(raw, refused):
    folder = raw('covid_ct_seg')
    refused('covid_ct_seg', folder, labels_for_a_scan(folder), unchecked_masks=True)


@pytest.mark.parametrize('name', [*layouts.LAYOUTS, 'folder'])
def test_an_empty_folder_is_refused_with_what_to_give(name, tmp_path, refused):
    empty = tmp_path / 'empty'
    empty.mkdir()
    refused(name, empty, str(empty), 'give')


@pytest.mark.parametrize('name', [*layouts.LAYOUTS, 'folder'])
def test_the_folder_of_another_data_set_is_refused(name, phantoms, refused):
    other = 'mosmed' if name == 'covid_semiseg' else 'covid_semiseg'
    refused(name, phantoms(other)[0], 'give')


def header(old, new):
    """A spoiler of the header of scans.csv."""

    def spoil(rows):
        rows[0] = [new if name == old else name for name in rows[0]]

    return spoil


def cell(line, column, text):
    """A spoiler of a cell of scans.csv."""

    def spoil(rows):
        rows[line - 1][rows[0].index(column)] = text

    return spoil


TABLES = [  # of pictures: what is done to the rows of scans.csv, words of the message
    (header('label', 'diagnosis'), 'has the columns file, mask, diagnosis, patient'),
    (header('file', 'path'), 'give a folder with scans.csv'),
    (header('label', 'file'), 'has the columns file, mask, file, patient'),
    (cell(3, 'file', 'nothing.png'), 'line 3 names nothing.png, which is not there'),
    (cell(3, 'mask', 'nothing.png'), 'line 3 names nothing.png, which is no file'),
    (cell(3, 'mask', 'masks'), 'line 3 names masks, which is no file'),
    (cell(3, 'file', ''), 'line 3 has no file; fill it in'),
    (cell(3, 'label', ''), 'has no label, others have'),
    (cell(3, 'mask', ''), 'has no mask, others have'),
    (cell(3, 'mask', 'masks/1_2.png'), 'two lines have the mask 1_2.png'),
    (lambda rows: rows.append(['./' + rows[1][0], 'masks/x.png', 'a', 'b']), 'is there twice'),
    (lambda rows: rows[4].append('more'), 'line 5 has more cells than the header'),
    (lambda rows: rows.__delitem__(slice(1, None)), 'has no lines'),
    (lambda rows: rows.clear(), 'has the columns none'),
]


@pytest.mark.parametrize('spoil, words', TABLES)
def test_a_table_that_is_wrong_is_refused(spoil, words, raw, refused):
    folder = raw('folder_pictures')
    shutil.copy(folder / 'masks/0_2.png', folder / 'masks/x.png')
    rows = table_of(folder)
    spoil(rows)
    write_table(folder, rows)
    refused('folder', folder, 'scans.csv' if 'twice' not in words else 'keep one', words)


@pytest.mark.parametrize('split', ['val', 'Train', 'all'])
def test_a_split_of_another_name_is_refused(split, raw, refused):
    folder = raw('folder_pictures')
    change(folder, 'split', lambda i: split if i == 4 else '')
    refused('folder', folder, f'line 6 has the split {split}; write one of train, validation')


@pytest.mark.parametrize('splits', [('train', 'test'), ('validation', 'test'), ('test', 'train')])
def test_a_patient_in_two_splits_is_refused(splits, raw, refused):
    folder = raw('folder_pictures')
    change(folder, 'split', lambda i: splits[i % 2] if 4 <= i < 6 else '')
    first, second = splits
    expected = (
        f'scans.csv: patient person 2 is in {first} (Non-COVID/person 2 (2).png) and {second} '
    )
    refused('folder', folder, expected)


@pytest.mark.parametrize('separator', [';', '\t'])
def test_a_table_with_other_separators_is_read_as_one_with_commas(separator, raw, tmp_path):
    folder = raw('folder_pictures')
    expected = splits_in(folder, tmp_path / 'commas')
    path = folder / 'scans.csv'
    path.write_text(path.read_text().replace(',', separator))
    assert splits_in(folder, tmp_path / 'others') == expected


def test_a_table_may_lie_elsewhere_and_have_further_columns(raw, tmp_path):
    """Files are below the source then, whether their paths are relative or absolute."""
    folder = raw('folder_pictures')
    expected = splits_in(folder, tmp_path / 'inside')
    head, *rows = table_of(folder)
    file = head.index('file')
    for row in rows[::2]:
        row[file] = str(folder / row[file])
    rows = [[*row, f'{i / 100}', 'x'] for i, row in enumerate(rows)]
    (folder / 'scans.csv').unlink()
    table = tmp_path / 'scores.csv'
    write_table(tmp_path, [[*head, 'score', 'scanner'], *rows], table.name)
    data_dir = str(tmp_path / 'elsewhere')
    prepare.build('ct_scans/folder', folder, data_dir, table=str(table))
    examples = all_of('ct_scans/folder', data_dir)
    found = {key: (split, example['group']) for key, (split, example) in examples.items()}
    assert found == expected
    with pytest.raises(InputError, match='was prepared from other files'):
        write_table(tmp_path, [[*head, 'score', 'scanner'], *rows[:-1]], table.name)
        prepare.build('ct_scans/folder', folder, data_dir, table=str(table))


def test_two_folders_of_one_class_are_said(tmp_path, capsys):
    """Their names differ in case and spaces alone, which could be an oversight."""
    for name in ('COVID-19', 'covid 19', 'normal'):
        for i in range(3):
            grey = np.random.default_rng(i).integers(0, 256, (40, 40 + len(name)), np.uint8)
            (tmp_path / 'own' / name / f'p{i}').mkdir(parents=True)
            Image.fromarray(grey).save(tmp_path / 'own' / name / f'p{i}' / 'a.png')
    prepare.build('ct_scans/folder', tmp_path / 'own', str(tmp_path / 'data'))
    said = capsys.readouterr().out
    assert 'the folders COVID-19 and covid 19 are one class, covid_19' in said


@pytest.mark.parametrize('content', [b'\xff\xfe\x00', b'file\n"a,b\n', b'file\na\x00b\n'])
def test_a_table_that_is_no_csv_is_refused(content, raw, refused):
    folder = raw('folder_pictures')
    (folder / 'scans.csv').write_bytes(content)
    refused('folder', folder, 'scans.csv')


def test_tables_of_other_programs_are_read(raw, tmp_path):
    """With a byte order mark, capitals, spaces, blank lines and Windows line ends."""
    folder = raw('folder_pictures')
    path = folder / 'scans.csv'
    text = path.read_text().replace('file,mask,label', ' File , MASK,Label ', 1)
    text = text.replace('\n', '\n\n').replace('\n', '\r\n')
    path.write_bytes(text.encode('utf-8-sig'))
    assert len(splits_in(folder, tmp_path)) == 16


def write_classes(source):
    """Writes pictures in a folder for each class, and what is none -> {name: uint8 [16, 16]}."""
    grey = np.random.default_rng(0).integers(0, 256, (24, 16, 16), np.uint8)
    names = [f'Healthy lung/p{i // 2}/{i}.png' for i in range(12)]
    names += [f'sick/{i}.PNG' for i in range(12, 22)]
    names += [f'sick/deep/{i}/x.png' for i in (22, 23)]
    for name, image in zip(names, grey):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(source / name)
    others = ['notes.txt', 'loose.png', 'sick/notes.txt', 'sick/.hidden.png', '.git/x.png']
    for name in (*others, 'empty/x.gif', 'run/config.json', 'run/environment.json', 'run/a.png'):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b'x')
    return dict(zip(names, grey))


def test_without_a_table_folders_are_classes_and_those_in_them_patients(tmp_path, capsys):
    """Files of other kinds, hidden ones and workdirs of runs are left alone, and a line says so."""
    drawn = write_classes(tmp_path / 'scans')
    data_dir = str(tmp_path / 'data')
    prepare.build('ct_scans/folder', tmp_path / 'scans', data_dir)
    said = capsys.readouterr().out
    assert 'Healthy lung 12 (6 known patients) and sick 12 (1 known patients)' in said
    assert 'loose.png' in said
    found = all_of('ct_scans/folder', data_dir)
    assert set(found) == set(drawn)
    assert datasets.classes('ct_scans/folder:train', data_dir) == ('healthy_lung', 'sick')
    for name, image in drawn.items():
        _, example = found[name]
        np.testing.assert_array_equal(example['image'][..., 0], image)
        assert example['label'] == name.startswith('sick')
        patient = name.split('/')[1] if name.count('/') > 1 else ''
        assert example['patient'].decode() == patient
    of_patients = {(example['patient'], split) for split, example in found.values()}
    assert max(Counter(patient for patient, _ in of_patients if patient).values()) == 1


@pytest.mark.parametrize(
    'names',
    [
        *(['sick'], [], ['train', 'test'], ['Val', 'sick'], ['Training', 'Testing']),
        *(['train_set', 'valid'], ['images', 'masks'], ['+', 'n'], ['COVID+', 'COVID-']),
    ],
)
def test_folders_that_are_no_classes_are_refused(names, tmp_path):
    (tmp_path / 'scans').mkdir()
    for name in names:
        (tmp_path / 'scans' / name).mkdir()
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / 'scans' / name / 'a.png')
    with pytest.raises(InputError, match='give|name') as refused:
        prepare.build('ct_scans/folder', tmp_path / 'scans', str(tmp_path / 'data'))
    assert str(tmp_path / 'scans') in str(refused.value)
    assert not list(tmp_path.glob('data/*'))


def test_a_split_without_one_of_the_classes_is_reported(tmp_path, capsys):
    for i, label in enumerate(('ill', 'well', 'well', 'well')):
        path = tmp_path / 'scans' / label / f'p{i}' / 'a.png'
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((16, 16), i, np.uint8)).save(path)
    prepare.build('ct_scans/folder', tmp_path / 'scans', str(tmp_path / 'data'))
    assert 'test has no ill' in capsys.readouterr().out


MIXED = {
    'a picture beside a series': ('p/preview.jpg', 'keep files of one kind'),
    'a volume beside a series': ('p/ct.nii.gz', 'keep files of one kind'),
    'a loose slice': ('slice', 'put each series into a folder of its own'),
    'a mask': ('q/lung_mask.nii.gz', 'called like a mask'),
    'pictures and volumes': ('q/a.png', 'names pictures and volumes'),
}


@pytest.mark.parametrize('what', MIXED)
def test_what_has_two_meanings_in_folders_of_classes_is_refused(what, raw, tmp_path):
    folder, source = raw('folder_volumes'), tmp_path / 'scans'
    series = next(folder / row[0] for row in table_of(folder)[1:] if (folder / row[0]).is_dir())
    for label in ('ill', 'well'):
        shutil.copytree(series, source / label / 'p')
    name, words = MIXED[what]
    (source / 'ill' / name).parent.mkdir(exist_ok=True)
    shutil.copy(next(series.iterdir()), source / 'ill' / name)
    with pytest.raises(InputError, match=words) as refused:
        prepare.build('ct_scans/folder', source, str(tmp_path / 'data'))
    assert str(source) in str(refused.value) and not list(tmp_path.glob('data/*'))


def test_a_table_in_capitals_is_not_passed_over(raw, refused):
    folder = raw('folder_pictures')
    (folder / 'scans.csv').rename(folder / 'Scans.csv')
    refused('folder', folder, 'Scans.csv: is a table of another name; call it scans.csv')


@pytest.mark.parametrize('pair', [('COVID+', 'COVID-'), ('<50', '>50'), ('+', 'n')])
def test_labels_that_would_become_one_word_are_refused(pair, raw, refused):
    folder = raw('folder_pictures')
    rows = table_of(folder)
    column = rows[0].index('label')
    for i, row in enumerate(rows[1:]):
        row[column] = pair[i % 2]
    write_table(folder, rows)
    refused('folder', folder, 'label')


def test_volumes_and_series_lie_in_folders_of_classes_too(raw, tmp_path):
    folder, source = raw('folder_volumes'), tmp_path / 'scans'
    listed = [folder / row[0] for row in table_of(folder)[1:]]
    for number, path in enumerate(listed):
        target = source / f'class_{number % 2}' / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
    data_dir = str(tmp_path / 'data')
    prepare.build('ct_scans/folder', source, data_dir)
    found = all_of('ct_scans/folder', data_dir)
    assert set(found) == {f'class_{i % 2}/{path.name}' for i, path in enumerate(listed)}
    assert any(path.is_dir() for path in listed)


def test_a_line_is_called_by_its_number_in_the_file(raw, refused):
    folder = raw('folder_pictures')
    path = folder / 'scans.csv'
    head, *lines = path.read_text().splitlines()
    path.write_text('\n'.join([head, '', '', *lines, 'none.png,a.png,x,y']))
    refused('folder', folder, f'line {len(lines) + 4} names none.png')


def test_pictures_beside_volumes_are_refused(raw, refused):
    folder = raw('folder_volumes')
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / 'a.png')
    shutil.copy(folder / 'masks/0.nii.gz', folder / 'masks/x.nii.gz')
    write_table(folder, [*table_of(folder), ['a.png', 'masks/x.nii.gz', 'p', '']])
    refused('folder', folder, 'names pictures and volumes; make a folder of each')


KINDS = [  # a cell of a folder: whose, the column, what is written there, words of the message
    ('pictures', 'mask', 'x.nii.gz', 'x.nii.gz: is a volume, and the mask of a picture is'),
    ('volumes', 'mask', 'x.png', 'x.png: is no volume, as masks of volumes are; save'),
    ('volumes', 'mask', 'x.txt', 'x.txt: is no volume, as masks of volumes are; save'),
    ('volumes', 'file', 'x.txt', 'x.txt: is neither a picture nor a volume; save it'),
    ('volumes', 'file', 'x.gif', 'x.gif: is neither a picture nor a volume; save it'),
]


@pytest.mark.parametrize('what, column, name, words', KINDS)
def test_files_of_another_kind_than_the_others_are_refused(what, column, name, words, raw, refused):
    folder = raw(f'folder_{what}')
    (folder / name).write_bytes(b'x')
    rows = table_of(folder)
    cell(2, column, name)(rows)
    write_table(folder, rows)
    refused('folder', folder, words)


def test_a_volume_of_one_slice_is_read_among_others(raw, tmp_path):
    folder = raw('folder_volumes')
    for name in ('a/one.nii.gz', 'masks/0.nii.gz'):
        image = sitk.ReadImage(str(folder / name))
        sitk.WriteImage(image[:, :, 4:5], str(folder / name))
    data_dir = str(tmp_path / 'data')
    prepare.build('ct_scans/folder', folder, data_dir)
    depths = {
        key: len(found['image']) for key, (_, found) in all_of('ct_scans/folder', data_dir).items()
    }
    assert depths.pop('a/one.nii.gz') == 1 and set(depths.values()) == {8}


def test_a_folder_of_pictures_in_place_of_a_scan_is_refused(raw, refused):
    folder = raw('folder_volumes')
    for path in (folder / 'b/four').iterdir():
        path.unlink()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / 'b/four/1.png')
    refused('folder', folder, 'four: is a folder without DICOM; name a volume file')


@pytest.mark.parametrize('written', ['covid_semiseg'])
def test_patches_are_lesions_and_healthy_lung_of_the_same_pictures(written, phantoms, built):
    """Each lesion beside as much healthy lung, in the same group and split."""
    name, data_dir = built(written, '_lesions64')
    framed = f'ct_scans/{config_of(written)}_framed'
    prepare.build(framed, str(phantoms(written)[0]), data_dir)
    of_picture = {
        record.row.id: datasets.volume(record.mask) > 0
        for split in splits_of(framed, data_dir)
        for record in datasets.records(f'{framed}:{split}', data_dir)
    }
    patches = all_of(name, data_dir)
    assert patches
    for key, (split, example) in patches.items():
        picture, _, label = key.rpartition('_')
        twin = patches[f'{picture}_{ {"covid": "noncovid", "noncovid": "covid"}[label] }']
        assert twin[0] == split and twin[1]['group'] == example['group']
        assert twin[1]['image'].shape == example['image'].shape
        assert example['label'] == ('noncovid', 'covid').index(label)
        assert of_picture[picture.rpartition('/')[0]].any()


@pytest.mark.parametrize('written', ['covid_ct_md', 'folder_pictures'])
def test_patches_of_lesions_need_pictures_with_masks_and_no_labels(written, phantoms, tmp_path):
    name = f'ct_scans/{config_of(written)}_lesions64'
    with pytest.raises(InputError, match='patches of lesions come from pictures with masks'):
        prepare.build(name, str(phantoms(written)[0]), str(tmp_path))


def test_what_is_left_out_of_a_dicom_folder_is_said(raw, tmp_path, capsys):
    folder = raw('folder_volumes')
    series = folder / 'b/four'
    (series / 'LICENSE').write_text('CC BY')
    shutil.copy(min(series.glob('*[0-9]*')), series / 'again')
    prepare.build('ct_scans/folder', folder, str(tmp_path / 'data'))
    said = capsys.readouterr().err
    assert f'{series}: left out 1 file that is neither a picture nor CT: LICENSE' in said
    assert f'{series}: left out 1 copy of a slice' in said


REGIONS = [
    ([['value', 'name'], ['1', 'lung']], 'has the columns value, name; write the columns'),
    ([['value', 'region'], ['one', 'lung']], 'line 2 is one,lung; write the columns'),
    ([['value', 'region'], ['²', 'lung']], 'line 2 is ²,lung'),
    ([['value', 'region'], ['70000', 'lung']], 'line 2 is 70000,lung'),
    ([['value', 'region'], ['-1', 'lung']], 'line 2 is -1,lung'),
    ([['value', 'region'], ['1', '']], 'line 2 is 1,'),
    ([['value', 'region'], ['1', 'a'], ['1', 'b']], 'line 3 has 1 again'),
    ([['value', 'region'], ['0', 'background']], 'names no region'),
    ([['value', 'region'], ['0', 'lesion']], 'line 2 calls 0 lesion, and 0 is the background'),
    ([['value', 'region'], *([f'{i}', f'r{i}'] for i in range(1, 255))],
     'names more than 253 regions; join some'),
    ([['value', 'region']], 'has no lines'),
    ([['value', 'region'], ['20', 'left_lung']], 'has the values 10, 300 besides those listed'),
    ([['value', 'region'], ['10', 'left_lung'], ['20', 'right_lung'], ['300', 'lesion']],
     'has the left lung on the right of the patient'),
]  # fmt: skip


@pytest.mark.parametrize('rows, words', REGIONS)
def test_regions_that_are_wrong_are_refused(rows, words, raw, refused):
    folder = raw('folder_volumes')
    write_table(folder, rows, 'regions.csv')
    refused('folder', folder, words)


def test_regions_under_another_name_are_not_passed_over(raw, refused):
    folder = raw('folder_volumes')
    (folder / 'regions.csv').rename(folder / 'Regions.csv')
    refused('folder', folder, 'Regions.csv: is a table of another name; call it regions.csv')


def test_a_region_called_background_is_background(raw, phantoms, tmp_path):
    folder = raw('folder_volumes')
    rows = [['value', 'region'], [10, 'lung'], [20, 'lung'], [300, 'background']]
    write_table(folder, rows, 'regions.csv')
    data_dir = str(tmp_path / 'data')
    prepare.build('ct_scans/folder', folder, data_dir)
    assert datasets.mask_classes('ct_scans/folder', data_dir) == ('background', 'lung')
    for key, (_, example) in all_of('ct_scans/folder', data_dir).items():
        regions = phantoms('folder_volumes')[1][key].regions
        lung = regions['left_lung'] | regions['right_lung']
        np.testing.assert_array_equal(example['mask']['classes'][..., 0], lung)


def test_volumes_that_are_not_in_hu_are_refused_until_their_scale_is_given(
    raw, phantoms, refused, tmp_path
):
    folder = raw('folder_volumes')
    path = folder / 'a' / 'one.nii.gz'
    for name in [row[0] for row in table_of(folder)[2:]]:
        change_rows = [row for row in table_of(folder) if row[0] != name]
        write_table(folder, change_rows)
    each_mask(folder, 'a/one.nii.gz', lambda array: array.astype(np.int16) + 1024)
    refused('folder', folder, f'{path.name}: is not in HU', 'config.hu=1,-1024')
    data_dir = str(tmp_path / 'data')
    prepare.build('ct_scans/folder_hu', folder, data_dir, hu='1,-1024')
    _, example = all_of('ct_scans/folder_hu', data_dir)['a/one.nii.gz']
    truth = phantoms('folder_volumes')[1]['a/one.nii.gz']
    np.testing.assert_array_equal(example['image'][..., 0], truth.image)


@pytest.mark.parametrize(
    'ending, options', [('_slices', {}), ('_hu', {}), ('_1500um', {}), ('', {'hu': '1,0'})]
)
def test_pictures_have_no_slices_no_voxels_and_no_hu(ending, options, phantoms, tmp_path):
    folder = phantoms('folder_pictures')[0]
    with pytest.raises(InputError, match='^ct_scans/folder.*: pictures have no slices, no voxels'):
        prepare.build(f'ct_scans/folder{ending}', folder, str(tmp_path / 'data'), **options)


@pytest.mark.parametrize('name', ['covid', 'mosmed_wide', 'folder_hu_slices', 'slices'])
def test_a_config_that_is_not_described_lists_the_others(name, tmp_path):
    with pytest.raises(InputError, match='ct_scans/covid_ct_seg, .*ct_scans/mosmed_slices'):
        prepare.build(f'ct_scans/{name}', tmp_path, str(tmp_path / 'data'))


def test_many_pictures_without_patients_are_not_compared(raw, refused, monkeypatch):
    from tfds_builders.ct_scans import ct_scans_dataset_builder

    monkeypatch.setattr(ct_scans_dataset_builder, 'MOST_COMPARED', 15)
    folder = raw('folder_pictures')
    change(folder, 'patient', None)
    refused('folder', folder, '16 pictures without patients are too many to compare')


def test_a_wrong_folder_is_exit_code_2_and_leaves_nothing(launch, raw, tmp_path):
    folder = raw('mosmed')
    each_mask(folder, MASKS['mosmed'], UPSIDE_DOWN)
    keys = ['--config.dataset=ct_scans/mosmed', f'--config.source={folder}']
    result = launch(
        *('--config=configs/prepare.py', *keys, f'--config.data_dir={tmp_path / "data"}'),
        f'--workdir={tmp_path / "run"}',
    )
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith('covjax: ')]
    assert len(lines) == 1 and 'study_0255_mask.nii.gz: fits its image better' in lines[0]
    assert not (tmp_path / 'data').exists()
    assert not list(tmp_path.glob('run/images/*'))


def test_a_layout_that_no_phantom_has_is_refused(tmp_path):
    with pytest.raises(InputError, match='choose one of covid_semiseg'):
        ct_scans.write_ct_scans(tmp_path, 'lidc')


def test_every_layout_has_a_phantom():
    assert set(layouts.LAYOUTS) - {'mosmed_severity'} == set(WRITTEN) - {
        'folder_pictures',
        'folder_volumes',
    }


@pytest.mark.parametrize('written', WRITTEN)
def test_the_same_seed_draws_the_same_files(written, phantoms, tmp_path):
    folder, _ = phantoms(written)
    ct_scans.write_ct_scans(tmp_path, written, seed=3)
    paths = [path.relative_to(folder) for path in folder.rglob('*') if path.is_file()]
    assert len(paths) > 3
    for path in paths:
        assert (folder / path).read_bytes() == (tmp_path / path).read_bytes(), path


# ---- real files


@pytest.fixture(scope='module')
def real_built(real, tmp_path_factory):
    """real_built(config) -> (name, data folder) of COVID-SemiSeg or of the COVID-CT-MD sample."""
    folders = {'covid_semiseg': 'covid_semiseg', 'covid_ct_md_slices_hu': 'covid_ct_md'}

    @functools.cache
    def build(config):
        data_dir = str(tmp_path_factory.mktemp('real'))
        prepare.build(f'ct_scans/{config}', str(real / folders[config]), data_dir)
        return f'ct_scans/{config}', data_dir

    return build


def test_the_real_covid_semiseg_has_its_splits(real_built):
    examples = examples_of(*real_built('covid_semiseg'))
    counts = {split: len(part) for split, part in examples.items()}
    assert counts == {'train': 40, 'validation': 10, 'test': 48}


def test_the_real_covid_semiseg_is_read_upright_with_its_masks(real, real_built):
    for key, (_, example) in all_of(*real_built('covid_semiseg')).items():
        split, number = key.split('/')
        folder = real / 'covid_semiseg' / split
        grey = np.asarray(Image.open(folder / 'Imgs' / f'{number}.jpg').convert('L'))
        classes = np.asarray(Image.open(folder / 'GT-multiclass' / f'{number}.png'))
        np.testing.assert_array_equal(example['image'][..., 0], grey.T)
        np.testing.assert_array_equal(example['mask'][..., 0], classes.T)


@pytest.mark.parametrize('train, test', [(5, 93), (17, 91), (33, 97), (53, 21)])
def test_real_near_copies_in_train_and_test_share_a_group(train, test, real_built):
    examples = all_of(*real_built('covid_semiseg'))
    pair = [examples[f'train/{train}'][1], examples[f'test/{test}'][1]]
    assert pair[0]['group'] == pair[1]['group']


@pytest.mark.parametrize('how', FLIPS)
def test_real_masks_that_are_turned_are_refused(real, tmp_path, how, refused):
    folder = pathlib.Path(shutil.copytree(real / 'covid_semiseg', tmp_path / 'raw'))
    for path in [folder, *folder.rglob('*')]:
        path.chmod(0o755)
    pictures_of(folder, 'GT-multiclass/*.png', FLIPS[how])
    refused('covid_semiseg', folder, 'fits its image better')


def scan_of(name, data_dir, case):
    """The examples of the slices of a case, from foot to head."""
    found = {key: example for key, (_, example) in all_of(name, data_dir).items()}
    return [found[key] for key in sorted(found) if key.startswith(f'{case}/')]


def test_real_dicom_slices_are_in_the_order_of_their_location(real, real_built):
    """Names of files are not in that order."""
    folder = real / 'covid_ct_md' / 'COVID-19 subjects' / 'P001'
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    locations = [float(part.SliceLocation) for part in slices]
    assert locations != sorted(locations) and locations != sorted(locations)[::-1]
    slices = [slices[i] for i in np.argsort(locations)]
    examples = scan_of(*real_built('covid_ct_md_slices_hu'), 'P001')
    for example, part in zip(examples, slices, strict=True):
        hu = part.pixel_array * float(part.RescaleSlope) + float(part.RescaleIntercept)
        np.testing.assert_array_equal(example['image'][..., 0], hu)
        assert example['kernel'].decode() == part.ConvolutionKernel


@pytest.mark.parametrize(
    'case, row, infected',
    [pytest.param('P001', 0, 80, marks=pytest.mark.slow), ('cap001', 54, 86)],
)
def test_real_labels_of_slices_run_from_head_to_foot(case, row, infected, real, real_built):
    """In that order infected slices have more dense lung than others, in the other they do not."""
    examples = scan_of(*real_built('covid_ct_md_slices_hu'), case)
    labels = np.array([example['infected'] for example in examples])
    table = np.load(real / 'covid_ct_md' / 'Slice-level-labels-updated-1.npy')[row]
    np.testing.assert_array_equal(labels, table[: len(labels)][::-1])
    assert labels.sum() == infected and not table[len(labels) :].any()
    dense = np.array([dense_lung(example['image'][..., 0]) for example in examples])

    def area(labels):  # under the ROC curve
        sick, clear = dense[labels == 1][:, None], dense[labels == 0][None]
        return ((sick > clear) + 0.5 * (sick == clear)).mean()

    assert area(labels) > 0.88 > 0.8 > area(labels[::-1])


def dense_lung(hu):
    """How many mm2 or so of a slice are lung as dense as opacities, vessels smoothed away."""
    step = max(len(hu) // 256, 1)
    grey = grey_of(hu)
    lung = ndimage.binary_erosion(lungs.mask(grey)[::step, ::step], iterations=4)
    smooth = ndimage.median_filter(grey[::step, ::step], 7)
    return ((smooth >= 65) & (smooth <= 165) & lung).sum()


@pytest.mark.parametrize('written', [*WRITTEN])
def test_a_mask_that_is_edited_is_another_source_though_its_size_is_the_same(written, raw):
    folder = raw(written)
    source = {'source': str(folder)} if config_of(written) == 'folder' else {}
    open_builder = lambda: tfds.builder(f'ct_scans/{config_of(written)}', **source)
    before, (_, scans, _) = open_builder().fingerprint(folder), open_builder().scans(folder)
    masks = [scan.mask for scan in scans if scan.mask]
    for mask in masks[:1]:
        content = bytearray(mask.read_bytes())
        content[-1] ^= 1
        mask.write_bytes(content)
    assert (open_builder().fingerprint(folder) != before) == bool(masks)

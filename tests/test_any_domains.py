"""Translations and pairs of any two classes, and synthetic images in formats of others."""

import csv
import json
import re

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

from configs import cyclegan as cyclegan_config
from configs import export as networks_config
from configs import export_images as export_config
from configs import pairs as training_pairs_config
from configs import synthesize as synthesize_config
from configs import synthesize_pairs as pairs_config
from covjax import InputError, pair_pictures
from covjax.ct import picture, secondary_capture
from covjax.data import datasets, gaps, lineage, specs
from covjax.data.lesion_masks import KINDS
from covjax.data.synthetic import read_manifest
from covjax.phantom import ct_scans
from covjax.runs import export, export_images, prepare, synthesize, synthesize_pairs, train
from covjax.training import cyclegan, pairs
from covjax.workdir import claimed

FOLDER = 'ct_scans/folder'
SIDE = 32


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """ct_scans/folder and ct_scans/folder_framed of phantoms: healthy and pneumonia, with masks."""
    source, data = tmp_path_factory.mktemp('own'), str(tmp_path_factory.mktemp('data'))
    ct_scans.write_ct_scans(source, 'folder_pictures', seed=2, size=96)
    table = source / 'scans.csv'
    with table.open(newline='') as file:
        head, *rows = csv.reader(file)
    label, people = head.index('label'), sorted({row[head.index('patient')] for row in rows})
    splits = dict(zip(people, ['train'] * 4 + ['validation'] * 2 + ['test'] * 2))
    with table.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow([*head, 'split'])
        for row in rows:
            row[label] = 'pneumonia' if row[label] == 'COVID' else 'healthy'
            writer.writerow([*row, splits[row[head.index('patient')]]])
    for name in (FOLDER, f'{FOLDER}_framed'):
        prepare.build(name, source, data)
    return data


@pytest.fixture(scope='module')
def gan(data_dir, tmp_path_factory):
    """The workdir of a CycleGAN from healthy to pneumonia."""
    config, folder = cyclegan_config.get_config('rehearsal'), tmp_path_factory.mktemp('gan') / 'run'
    config.update(
        {
            **{'cancer': f'{FOLDER}:train@healthy', 'covid': f'{FOLDER}:train@pneumonia'},
            **{'val': '', 'image_size': SIDE, 'load_size': SIDE, 'data_dir': data_dir},
            **{'gen_filters': 4, 'gen_blocks': 1, 'disc_filters': 4, 'steps': 2, 'eval_every': 2},
        }
    )
    with claimed(config, folder) as workdir:
        train.run(config, workdir)
    return folder


def test_one_class_is_no_pair_of_domains(data_dir, tmp_path):
    same = f'{FOLDER}:train@healthy'
    config = cyclegan_config.get_config('rehearsal')
    config.update({'cancer': same, 'covid': same, 'val': ''})
    config.data_dir = data_dir
    with pytest.raises(InputError, match='config.cancer=.*, config.covid=.*: have .* in common'):
        cyclegan.make(config)


def test_masks_without_kinds_need_the_config_that_takes_them(data_dir):
    """And pictures with lesions are no slices without them."""
    framed = f'{FOLDER}_framed:train'
    config = training_pairs_config.get_config('rehearsal')
    config.update({'slices': f'{framed}@healthy', 'pictures': f'{framed}@pneumonia'})
    config.data_dir = data_dir
    with pytest.raises(InputError, match='no ground_glass or consolidation.*masks=outlined'):
        pairs.make(config)
    config = training_pairs_config.get_config('rehearsal_outlined')
    config.update({'slices': f'{framed}@pneumonia', 'pictures': f'{framed}@pneumonia'})
    config.update({'val': '', 'data_dir': data_dir})
    with pytest.raises(InputError, match='config.slices=.*, config.pictures=.*: have .* in common'):
        pairs.make(config)


def synthesized(gan, folder, **keys):
    config = synthesize_config.get_config()
    config.update({'generator': str(gan), 'cancer': f'{FOLDER}@healthy'} | keys)
    with claimed(config, folder) as workdir:
        synthesize.run(config, workdir)
    return folder


@pytest.fixture(scope='module')
def synthetic(gan, tmp_path_factory):
    return synthesized(gan, tmp_path_factory.mktemp('synthetic') / 'run')


def test_translations_have_the_class_that_the_generator_learned(synthetic, data_dir):
    places = f'{data_dir},{synthetic / "data"}'
    every = '+'.join(f'synthetic_ct:{split}' for split in ('train', 'validation', 'test'))
    rows = datasets.read_rows(every, places)
    sources = [
        row
        for _, split, _ in specs.every_part(FOLDER, data_dir)
        for row in datasets.read_rows(f'{FOLDER}:{split}@healthy', data_dir)
    ]
    assert {row.label_name for row in rows} == {'pneumonia'} and len(rows) == len(sources)
    assert {row.source_sha256 for row in rows} == {row.sha256 for row in sources}
    assert {row.group for row in rows} == {row.group for row in sources}
    joined = datasets.read(f'synthetic_ct:train+{FOLDER}:train@healthy', places, SIDE)
    assert joined.classes == ('healthy', 'pneumonia') and {*joined.labels} == {0, 1}
    roles = {record['role'] for record in lineage.read_lineage('synthetic_ct:train', places)}
    assert roles == {'cancer', 'covid'}


def test_the_data_set_of_covid_refuses_other_classes(synthetic, tmp_path):
    with pytest.raises(InputError, match='images of pneumonia, .*; prepare synthetic_ct'):
        prepare.build('synthetic_covid_ct', synthetic / 'synthetic', str(tmp_path))


def test_its_card_speaks_of_no_other_disease(synthetic):
    for file in ('README.md', 'meta.json'):
        text = (synthetic / 'synthetic' / file).read_text(encoding='utf-8')
        words = re.sub(r'"?covid"?: |lambda_covid|synthetic_covid', '', text)
        assert 'COVID' not in words and 'lung-cancer' not in words.lower()
    card = json.loads((synthetic / 'synthetic' / 'meta.json').read_text())
    assert card['classes'] == ['healthy', 'pneumonia'] and 'pneumonia CT' in card['what']


def test_the_card_of_its_generators_says_what_they_make_of_what(gan, tmp_path):
    """Their names are those of the paper, whatever the domains."""
    config = networks_config.get_config()
    config.generator = str(gan)
    export.run(config, tmp_path)
    card = (tmp_path / 'README.md').read_text(encoding='utf-8')
    made, of = f'{FOLDER}:train@pneumonia', f'{FOLDER}:train@healthy'
    assert f'to_covid makes images like those of `{made}` from those of `{of}`' in card
    assert 'no patient and no disease' in card and 'A score says' not in card


@pytest.mark.parametrize(
    'cancer, said',
    [
        (FOLDER, f'config.cancer={FOLDER}:train: has images of pneumonia, to which they would be'),
        (f'{FOLDER}:test@pneumonia', 'name those of another class'),
        (f'{FOLDER}@nobody', 'no such label'),
        ('', 'config.cancer is empty'),
    ],
)
def test_images_of_the_target_are_not_translated(cancer, said, gan, tmp_path):
    with pytest.raises(InputError, match=re.escape(said)):
        synthesized(gan, tmp_path / 'run', cancer=cancer)
    assert not (tmp_path / 'run').exists()


def test_a_part_of_a_class_is_translated_alone(gan, tmp_path):
    folder = synthesized(gan, tmp_path / 'run', cancer=f'{FOLDER}:test@healthy')
    rows = read_manifest(folder / 'synthetic')
    assert {row.split for row in rows} == {'test'} and len(rows) == 2
    assert {row.source_dataset for row in rows} == {f'{FOLDER}:test@healthy'}


def test_two_ids_that_would_be_one_file_are_refused(gan, tmp_path):
    for name in ('a/b.png', 'a_b.png', 'other/c.png'):
        image = np.random.default_rng(len(name)).integers(0, 256, (40, 40), np.uint8)
        picture.save(tmp_path / 'own' / name, image)
    rows = [['file', 'label'], ['a/b.png', 'healthy'], ['a_b.png', 'healthy']]
    rows.append(['other/c.png', 'pneumonia'])
    with (tmp_path / 'own/scans.csv').open('w', newline='') as file:
        csv.writer(file).writerows([*rows[:1], *([*row, 'train'] for row in rows[1:])])
    text = (tmp_path / 'own/scans.csv').read_text().replace('file,label', 'file,label,split', 1)
    (tmp_path / 'own/scans.csv').write_text(text)
    rows = [_row(name) for name in ('a/b.png', 'a_b.png')]
    with pytest.raises(InputError, match='would both be called a_b.png'):
        synthesize.check_new(rows, [], 'cancer')


def _row(name):
    from covjax.data.rows import Row

    return Row(id=name, group=name, sha256=name)


# ---- pairs


def test_lesions_that_are_outlined_without_a_kind_are_opacities(data_dir):
    spec = f'{FOLDER}_framed:train@pneumonia'
    found = pair_pictures.read({'masks': 'outlined', 'pictures': spec}, data_dir, SIDE)
    assert {int(value) for target in found.targets for value in np.unique(target)} == {
        0,
        KINDS.index('opacity'),
    }
    assert found.masks == 'outlined' and len(found.rows) == 4
    slices = gaps.read_slices(f'{FOLDER}_framed:train@healthy', data_dir, SIDE, 'slices')
    assert len(slices.rows) == 4


def test_slices_with_the_disease_are_refused_where_pairs_are_made(data_dir):
    with pytest.raises(InputError, match='no opacity in any picture'):
        spec = f'{FOLDER}_framed:train@healthy'
        pair_pictures.read({'masks': 'outlined', 'pictures': spec}, data_dir, SIDE)


def test_pairs_are_painted_into_any_slices(data_dir, tmp_path):
    config = pairs_config.get_config()
    config.update(
        {
            **{'maker': 'painted', 'image_size': 64, 'data_dir': data_dir},
            'slices': f'{FOLDER}_framed@healthy',
        }
    )
    with claimed(config, tmp_path / 'run') as workdir:
        synthesize_pairs.run(config, workdir)
    places = f'{data_dir},{tmp_path / "run/data"}'
    rows = datasets.read_rows('synthetic_pairs/slices_procedural:train', places)
    assert {row.label_name for row in rows} == {'covid', 'noncovid'}
    assert {row.z for row in rows} == {None} and {row.series for row in rows} == {''}


# ---- formats


def exported(synthetic, folder, form):
    config = export_config.get_config()
    config.update({'synthetic': str(synthetic), 'format': form})
    folder.mkdir()
    export_images.run(config, folder)
    return folder


def test_an_imagefolder_has_every_image_and_its_facts(synthetic, tmp_path):
    folder = exported(synthetic, tmp_path / 'out', 'imagefolder')
    rows = {row.id: row for row in read_manifest(synthetic / 'synthetic')}
    found = {}
    for file in folder.glob('*/metadata.jsonl'):
        for line in map(json.loads, file.read_text().splitlines()):
            row = rows[line['id']]
            assert file.parent.name == row.split and line['label'] == row.label == 'pneumonia'
            image = np.asarray(Image.open(file.parent / line['file_name']))
            assert (image == picture.read(synthetic / 'synthetic' / row.file)).all()
            found[row.id] = line
    assert found.keys() == rows.keys()
    assert (folder / 'README.md').read_text().startswith('---\npretty_name:')


def test_the_library_of_hugging_face_reads_an_imagefolder(synthetic, tmp_path):
    library = pytest.importorskip('datasets')
    folder = exported(synthetic, tmp_path / 'out', 'imagefolder')
    read = library.load_dataset('imagefolder', data_dir=str(folder), cache_dir=str(tmp_path / 'c'))
    assert sum(map(len, read.values())) == len(read_manifest(synthetic / 'synthetic'))
    assert set(read['train']['label']) == {'pneumonia'}


def test_dicom_is_marked_wherever_one_looks(synthetic, tmp_path):
    """By pydicom, whose writer it is, and by GDCM, which is another."""
    folder = exported(synthetic, tmp_path / 'out', 'dicom')
    files = sorted(folder.glob('*/*.dcm'))
    rows = read_manifest(synthetic / 'synthetic')
    assert len(files) == len(rows)
    seen = set()
    for file in files:
        ds = pydicom.dcmread(file)
        assert ds.SOPClassUID.name == 'Secondary Capture Image Storage'
        assert str(ds.PatientName) == 'SYNTHETIC^NOT FOR DIAGNOSIS'
        assert ds.ImageComments.startswith(secondary_capture.MARK)
        assert ds.BurnedInAnnotation == 'YES' and 'SYNTHETIC' in ds.ImageType
        assert ds.SOPInstanceUID.is_valid and len(ds.SOPInstanceUID) <= 44
        seen.add(ds.SOPInstanceUID)
        other = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0]
        assert (other == ds.pixel_array).all()
        strip = ds.pixel_array[-secondary_capture.STRIP :]
        assert (strip > 128).sum() > 200  # letters
    assert len(seen) == len(files)


@pytest.mark.fast
@pytest.mark.parametrize('height, width', [(64, 64), (175, 300), (512, 512), (33, 47)])
def test_a_marked_picture_keeps_every_pixel(height, width):
    grey = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    marked = secondary_capture.marked(grey)
    times = marked.shape[1] // width
    assert marked.shape == (height * times + secondary_capture.STRIP, width * times)
    assert min(marked.shape) >= secondary_capture.LEAST
    assert (marked[: height * times : times, ::times] == grey).all()


def test_the_same_picture_has_the_same_identifiers(tmp_path):
    grey = np.zeros((64, 64), np.uint8)
    uids = []
    for name in ('a', 'a', 'b'):
        path = tmp_path / f'{len(uids)}.dcm'
        secondary_capture.write(path, grey, name, 'series', 1, 'test', 'none')
        uids.append(pydicom.dcmread(path).SOPInstanceUID)
    assert uids[0] == uids[1] != uids[2]


@pytest.mark.parametrize(
    'keys, said',
    [
        ({'synthetic': ''}, 'config.synthetic is empty'),
        ({'synthetic': 'nowhere'}, 'nowhere'),
        ({'format': 'gif'}, 'config.format=gif'),
    ],
)
def test_wrong_keys_are_refused(keys, said, synthetic, tmp_path):
    config = export_config.get_config()
    config.update({'synthetic': str(synthetic)} | keys)
    with pytest.raises(InputError, match=said):
        export_images.run(config, tmp_path)

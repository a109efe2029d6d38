"""Every data set, by iteration: built on phantoms without TensorFlow, read back by plain TFDS."""

import hashlib
import io
import json
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
from covjax.data import datasets
from covjax.runs import prepare
from tfds_builders._base import read_grey, stored

NAMES = tfds_builders.names() + ['luna16_patches/patches_3d_12mm_750um']
CARDS = pathlib.Path(tfds_builders.__file__).parent


@pytest.fixture(scope='module')
def sources(raw, data_dir, tmp_path_factory):
    """A raw folder for every data set."""
    slices, synthetic = tmp_path_factory.mktemp('slices'), tmp_path_factory.mktemp('synthetic')
    rows = []
    for series, path in find_volumes(raw / 'luna16').items():
        volume = open_volume(path)
        for z in (0, volume.size[2] - 1):
            picture.save(slices / f'{series}.mhd_{z}.png', windows.to_grey(read_slice(volume, z)))
    for split in ('train', 'test'):
        for grey, row in datasets.read_native(f'luna16_patches/nodules:{split}', data_dir):
            picture.save(synthetic / 'images' / f'{row["id"]}.png', 255 - grey)
            nodules = [
                dict(zip(row['nodules'], values)) for values in zip(*row['nodules'].values())
            ]
            rows.append(
                {
                    'id': row['id'],
                    'file': f'images/{row["id"]}.png',
                    'split': split,
                    'group': row['group'],
                    'series': row['series'],
                    'z': row['z'],
                    'source_id': row['id'],
                    'source_sha256': row['sha256'],
                    'source_dataset': f'luna16_patches/nodules:{split}',
                    'nodules': nodules,
                    'generator': 'none',
                    'generator_step': 0,
                }
            )
    (synthetic / 'lineage.json').write_text('[]')
    (synthetic / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    raws = {'covid_ct': raw / 'covid_ct', 'luna16_patches': raw / 'luna16'}
    return {name: raws.get(name.partition('/')[0]) for name in NAMES} | {
        'luna16_patches/slices': slices,
        'synthetic_covid_ct': synthetic,
    }


@pytest.mark.parametrize('name', NAMES)
def test_builds_and_reads(name, sources, tmp_path):
    builder = prepare.build(name, sources[name], str(tmp_path))
    groups = {}
    for split in builder.info.splits:
        examples = list(tfds.data_source(name, split=split, data_dir=str(tmp_path), download=False))
        assert len(examples) == builder.info.splits[split].num_examples
        for example in examples:
            image = example['image']
            assert (
                image.dtype == (np.int16 if name.endswith(('_hu', '_3d')) else np.uint8)
                and image.shape[-1] == 1
            )
            assert (
                example['sha256'].decode()
                == hashlib.sha256(repr(image.shape[:-1]).encode() + image.tobytes()).hexdigest()
            )
        assert len({example['id'] for example in examples}) == len(examples)
        groups[split] = {example['group'] for example in examples}
        if 'covid_ct/' not in name:  # its splits are lists
            assert all(luna16.series_split(group.decode()) == split for group in groups[split])
    assert sum(map(len, groups.values())) == len(set.union(*groups.values()))


@pytest.mark.parametrize('name', NAMES)
def test_has_a_card(name):
    folder = CARDS / name.partition('/')[0]
    assert all(
        (folder / card).read_text().strip() for card in ('README.md', 'CITATIONS.bib', 'TAGS.txt')
    )


def test_box_lies_on_the_nodule(data_dir):
    """In every orientation and compression: bright inside, lung around."""
    checked = 0
    for split in ('train', 'validation', 'test'):
        for grey, row in datasets.read_native(f'luna16_patches/nodules:{split}', data_dir):
            assert grey.shape == (512, 512) and row['row'] in row['nodules']['row']
            for box, chord in zip(row['nodules']['box'], row['nodules']['chord']):
                ymin, xmin, ymax, xmax = np.array(box) * 512
                y, x = np.mgrid[:512, :512] + 0.5
                distance = (
                    np.hypot(
                        (y - (ymin + ymax) / 2) / (ymax - ymin),
                        (x - (xmin + xmax) / 2) / (xmax - xmin),
                    )
                    * 2
                )
                if ymax - ymin < 12:  # small discs blur into the lung
                    continue
                assert (
                    grey[distance < 0.8].mean()
                    > np.median(grey[(distance > 1.4) & (distance < 2)]) + 40
                )
                assert chord == pytest.approx(
                    (ymax - ymin) * row['spacing'][1] * 128 / 512, rel=1e-3
                )
                checked += 1
    assert checked >= 5


def test_windows_show_the_same_slices(raw, tmp_path):
    """Each config gives, row for row, the HU of the volume through its window; HU without loss."""
    names = ('nodules', 'nodules_wide', 'nodules_minmax', 'nodules_hu')
    for name in names:
        prepare.build(f'luna16_patches/{name}', raw / 'luna16', str(tmp_path))
    rows = {
        name: datasets.read_rows(f'luna16_patches/{name}:train', str(tmp_path)) for name in names
    }
    assert all(
        [row['id'] for row in rows[name]] == [row['id'] for row in rows['nodules']]
        for name in names
    )
    volumes = {series: open_volume(path) for series, path in find_volumes(raw / 'luna16').items()}
    stored = {
        name: tfds.data_source(
            f'luna16_patches/{name}', split='train', data_dir=str(tmp_path), download=False
        )
        for name in names
    }
    for i, row in enumerate(rows['nodules']):
        hu = read_slice(volumes[row['series']], row['z'])
        np.testing.assert_array_equal(stored['nodules_hu'][i]['image'][..., 0], hu)
        for name, window in (
            ('nodules', windows.WINDOWS['lung']),
            ('nodules_wide', windows.WINDOWS['wide']),
            ('nodules_minmax', windows.whole_range(hu)),
        ):
            grey = Image.fromarray(windows.to_grey(hu, window)).resize(
                (512, 512), Image.Resampling.BILINEAR
            )
            np.testing.assert_array_equal(stored[name][i]['image'][..., 0], np.asarray(grey))
    images = datasets.read(
        'luna16_patches/nodules_hu:train', str(tmp_path), 64
    ).images  # networks see HU through the lung window
    assert (
        np.abs(
            images.astype(int)
            - datasets.read('luna16_patches/nodules:train', str(tmp_path), 64).images
        ).mean()
        < 3
    )


def test_malignancy_and_fold(raw, tmp_path):
    """Ratings find their nodule by place, not by row; the fold is the subset folder."""
    source = pathlib.Path(shutil.copytree(raw / 'luna16', tmp_path / 'luna16'))
    header, *lines = (source / 'annotations.csv').read_text().splitlines()
    ratings = [
        f'{line},{i % 2 == 0}' for i, line in enumerate(lines[1:])
    ]  # the first nodule is not rated
    (source / 'annotations_with_malignancy.csv').write_text(
        '\n'.join([f'{header},mal_bool', *reversed(ratings)])
    )
    prepare.build('luna16_patches/nodules', source, str(tmp_path / 'data'))
    seen = {}
    for split in ('train', 'validation', 'test'):
        for row in datasets.read_rows(f'luna16_patches/nodules:{split}', str(tmp_path / 'data')):
            seen |= dict(zip(row['nodules']['row'], row['nodules']['malignancy']))
            path = find_volumes(source)[row['series']]
            assert row['fold'] == (
                int(path.parent.name[-1]) if 'subset' in path.parent.name else -1
            )
    assert seen[0] == -1 and all(seen[i] == int((i - 1) % 2 == 0) for i in seen if i)


@pytest.mark.parametrize('mode', ['I;16', 'F', 'P', 'LA', 'CMYK'])
def test_only_eight_bits_are_taken(mode, tmp_path):
    path = tmp_path / 'picture.tif' if mode != 'LA' else tmp_path / 'picture.png'
    Image.fromarray(np.full((5, 5), 90, np.uint8)).convert(mode if mode != 'I;16' else 'I').convert(
        mode
    ).save(path)
    if mode in ('I;16', 'F'):
        with pytest.raises(InputError, match='8 bits'):
            read_grey(path)
    else:
        assert abs(int(read_grey(path)[0][0, 0]) - 90) <= 1


@pytest.mark.parametrize('name', NAMES)
def test_tfds_load_reads_the_same_examples(name, sources, tmp_path):
    pytest.importorskip('tensorflow')
    prepare.build(name, sources[name], str(tmp_path))
    dataset = tfds.load(name, split='train[:50%]', data_dir=str(tmp_path), download=False)
    plain = datasets.read_native(f'{name}:train[:50%]', str(tmp_path))
    for example, (grey, row) in zip(tfds.as_numpy(dataset), plain, strict=True):
        image = example['image'][..., 0]
        image = image[len(image) // 2] if image.ndim == 3 else image
        np.testing.assert_array_equal(
            windows.to_grey(image) if image.dtype == np.int16 else image, grey
        )
        assert example['id'].decode() == row['id'] and example.get('label', -1) == row.get(
            'label', -1
        )
    if 'label' in plain[0][1]:
        pairs = tfds.load(
            name, split='train[:50%]', data_dir=str(tmp_path), download=False, as_supervised=True
        )
        assert [int(label) for _, label in tfds.as_numpy(pairs)] == [
            row['label'] for _, row in plain
        ]


def test_a_png_survives_the_builder():
    grey = np.random.default_rng(0).integers(0, 256, (7, 9), np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored(grey)['image']))), grey)

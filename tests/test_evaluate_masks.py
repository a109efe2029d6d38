"""Segmenters against masks: what is scored, rules without a network, maps of others."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit
from segmenters import DARK, write_run
from sklearn.metrics import f1_score

from configs import evaluate_masks as config_file
from covjax import InputError
from covjax.audit import mask_rules
from covjax.ct import framing
from covjax.data import lineage, segmented, soft_maps
from covjax.phantom import ct_scans
from covjax.runs import evaluate_masks, prepare
from tfds_builders.ct_scans.layouts import LAYOUTS

REGIONS = 'ground_glass+consolidation'
PICTURES, VOLUMES = 'ct_scans/covid_semiseg', 'ct_scans/covid_ct_seg'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Prepared phantoms: pictures with lesions, slices of volumes with lungs and lesions."""
    raw, data_dir = tmp_path_factory.mktemp('raw'), str(tmp_path_factory.mktemp('data'))
    for layout in ('covid_semiseg', 'covid_ct_seg'):
        ct_scans.write_ct_scans(raw / layout, layout, seed=3)
    for ending in ('', '_slices', '_slices_hu'):
        prepare.build(f'{VOLUMES}{ending}', str(raw / 'covid_ct_seg'), data_dir)
    prepare.build(PICTURES, str(raw / 'covid_semiseg'), data_dir)
    return data_dir


def run_of(folder, data_dir, dataset=PICTURES, regions=REGIONS, seed=0, **fields):
    """The workdir of a segmenter of dark pixels, as if chosen by the validation of a data set."""
    folder.mkdir()
    val = segmented.read(f'{dataset}:validation', data_dir, regions=regions)
    named = {'train': f'{dataset}:train', 'val': f'{dataset}:validation', 'regions': regions}
    write_run(
        folder,
        val.classes,
        lineage.record(named, data_dir, {'val': val.rows}),
        **{'data_dir': data_dir, 'image_size': 96, 'patch': (96, 96), 'seed': seed}
        | named
        | fields,
    )
    return folder


def evaluated(workdir, networks, **fields):
    """masks.json of a run of `evaluate_masks`."""
    config = config_file.get_config()
    named = {'segmenters': ','.join(map(str, networks)), 'tests': f'{PICTURES}:test'}
    config.update(named | fields)
    workdir.mkdir(exist_ok=True)
    evaluate_masks.run(config, workdir)
    return json.loads((workdir / 'masks.json').read_text())


def test_scores_are_those_of_masks_at_the_size_of_the_data_set(data, tmp_path):
    """Of a network of single pixels at that size, whose masks are known."""
    found = evaluated(tmp_path / 'run', [run_of(tmp_path / 'net', data)], protocol='official')
    truth = segmented.read(f'{PICTURES}:test', data, regions=REGIONS)
    (result,) = found['results']
    assert result['distances_in'] == 'pixels' and result['region'] == REGIONS
    for scan, image, target, row in zip(result['scans'], truth.images, truth.targets, truth.rows):
        assert scan['id'] == row.id
        if image.shape == (96, 96):
            dice = f1_score((target > 0).ravel(), (image < DARK).ravel())
            assert scan['dice'] == pytest.approx(dice, abs=1e-6)
    dice = [scan['dice'] for scan in result['scans']]
    assert result['summary']['means']['dice']['value'] == pytest.approx(np.mean(dice))


def test_slices_of_a_scan_are_scored_as_one_scan_in_mm(data, tmp_path):
    dataset = f'{VOLUMES}_slices'
    network = run_of(tmp_path / 'net', data, dataset, 'lung+lesion')
    found = evaluated(tmp_path / 'run', [network], tests=f'{dataset}:test', otsu=True)
    classes = ('background', 'lung+lesion')
    scans = evaluate_masks.read_scans(f'{dataset}:test', data, 'lung+lesion', classes)
    ours, otsu = found['results']
    assert [scan['id'] for scan in ours['scans']] == [scan.id for scan in scans]
    assert ours['distances_in'] == 'mm' and otsu['model'] == "Otsu's threshold"
    for scan, score in zip(scans, ours['scans']):
        assert scan.grey.ndim == 3 and scan.spacing[0] == 5.0
        dice = f1_score(scan.target.ravel() > 0, scan.grey.ravel() < DARK)
        assert score['dice'] == pytest.approx(dice, abs=1e-6)
    assert otsu['summary']['means']['dice']['value'] > 0.9


def test_lungs_that_are_found_are_not_scored_as_lesions(data, tmp_path):
    network = run_of(tmp_path / 'net', data)
    with pytest.raises(
        InputError, match='config.otsu=True: finds lungs, and the masks have ground'
    ):
        evaluated(tmp_path / 'run', [network], protocol='official', otsu=True)


def test_networks_of_volumes_are_scored_as_those_of_slices(data, tmp_path):
    """Of single voxels both, on voxels as they are: every number is the same."""
    fields = {'model': 'vnet', 'patch': (8, 32, 32), 'spacing': 0.0}
    networks = [
        run_of(tmp_path / 'slices', data, f'{VOLUMES}_slices', 'lung+lesion'),
        run_of(tmp_path / 'volumes', data, VOLUMES, 'lung+lesion', **fields),
    ]
    scores = []
    for network, ending in zip(networks, ('_slices', '')):
        run = tmp_path / f'run{ending}'
        (result,) = evaluated(run, [network], tests=f'{VOLUMES}{ending}:test')['results']
        scores.append(result['scans'])
    assert scores[0] == scores[1] and scores[0][0]['dice'] > 0.3


def test_networks_with_a_spacing_refuse_what_has_none(data, tmp_path):
    fields = {'model': 'vnet', 'patch': (8, 32, 32), 'spacing': 1.5}
    network = run_of(tmp_path / 'net', data, regions=REGIONS, **fields)
    with pytest.raises(InputError, match='the size of its voxels is not known, which .*net needs'):
        evaluated(tmp_path / 'run', [network], protocol='official')


def test_rules_and_seeds_stand_side_by_side_in_table_and_page(data, tmp_path):
    networks = [run_of(tmp_path / f'net{seed}', data, seed=seed) for seed in range(2)]
    fields = {'rules': f'{PICTURES}:train', 'protocol': 'official', 'negatives': f'{PICTURES}:test'}
    found = evaluated(tmp_path / 'run', networks, **fields)
    assert [(r['model'], r['seed']) for r in found['results']] == [
        *(('unet', 0), ('unet', 1)),
        *((rule, None) for rule in mask_rules.RULES),
    ]
    with (tmp_path / 'run' / 'table.csv').open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found['results'])
    for row, result in zip(rows, found['results']):
        for name, mean in result['summary']['means'].items():
            value = '' if mean['value'] is None else f'{mean["value"]:.3f}'
            # Cells that begin like a formula have an apostrophe before them.
            column = name.replace('mm', '').rstrip('_')  # their unit is a column
            assert row[column].lstrip("'").startswith(value)
        assert bool(row['dice_at_validation_threshold']) == (result['kind'] == 'network')
    page = (tmp_path / 'run' / 'masks.html').read_text(encoding='utf-8')
    assert all(rule in page for rule in mask_rules.RULES) and 'data:image/png' in page
    images = segmented.read(f'{PICTURES}:test', data, regions=REGIONS).images
    exact = [(image < DARK).mean() for image in images if image.shape == (96, 96)]
    assert [(row['seed'], row['region']) for row in found['negatives']] == [
        (0, REGIONS),
        (1, REGIONS),
    ]
    for row in found['negatives']:
        assert row['slices'] == len(images) and row['slices with over 1 %'] <= row['slices']
        if len(exact) == len(images):
            assert row['mean share'] == pytest.approx(np.mean(exact))


def test_maps_of_others_are_found_by_name_and_turned_as_the_config_says(data, tmp_path):
    truth, folder = segmented.read(f'{PICTURES}:test', data, regions=REGIONS), tmp_path / 'maps'
    folder.mkdir()
    for target, row in zip(truth.targets, truth.rows):
        grey = np.where(target > 0, 255, 60).astype(np.uint8).T
        Image.fromarray(grey).save(folder / f'{row.id.split("/")[-1]}.png')
    fields = {'maps': f'theirs={folder}', 'maps_sideways': True, 'protocol': 'official'}
    found = evaluated(tmp_path / 'run', [run_of(tmp_path / 'net', data)], **fields)
    means = found['results'][1]['summary']['means']
    assert found['results'][1]['model'] == 'theirs'
    assert means['dice']['value'] == means['lesion_f1']['value'] == 1.0
    # Stretched to 0..1 the maps are the masks, at every threshold above 0.
    assert means['dice_mean_of_256_thresholds']['value'] > 0.99
    with pytest.raises(InputError, match='differs in size from test/.*config.maps_sideways'):
        evaluated(tmp_path / 'run', [tmp_path / 'net'], **{**fields, 'maps_sideways': False})


def test_maps_need_no_segmenter_to_be_scored(data, tmp_path, capsys):
    """Alone they have the scores that they have beside one, and their own near-copies."""
    truth, folder = segmented.read(f'{PICTURES}:test', data, regions=REGIONS), tmp_path / 'maps'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for target, row in zip(truth.targets, truth.rows):
        grey = (rng.random(target.shape) * 128 + 120 * (target > 0)).astype(np.uint8)
        Image.fromarray(grey).save(folder / f'{row.id.rpartition("/")[2]}.png')
    fields = {'maps': f'theirs={folder}', 'rules': f'{PICTURES}:train', 'protocol': 'official'}
    beside = evaluated(tmp_path / 'beside', [run_of(tmp_path / 'net', data)], **fields)
    alone = evaluated(tmp_path / 'alone', [], regions=REGIONS, data_dir=data, **fields)
    assert alone['segmenters'] == [] and alone['results'] == beside['results'][1:]
    assert alone['results'][0]['overlap'] == []
    twice = {'maps': f'theirs={folder},theirs={folder}', 'regions': REGIONS, 'data_dir': data}
    with pytest.raises(InputError, match='config.maps=.*: names theirs twice'):
        evaluated(tmp_path / 'run', [], **twice)
    for regions in ('', REGIONS.replace('+', ',')):
        with pytest.raises(InputError, match=f'config.regions={regions}: maps and rules draw one'):
            evaluated(tmp_path / 'run', [], **twice | {'regions': regions})
    known = {'regions': REGIONS, 'data_dir': data, 'maps': f'theirs={folder}'}
    with pytest.raises(InputError, match='share a picture, patient, document'):
        evaluated(tmp_path / 'run', [], **known, maps_trained_on=f'{PICTURES}:test')
    with pytest.raises(InputError, match='config.negatives=.*: needs a network'):
        evaluated(tmp_path / 'run', [], **known, negatives=f'{PICTURES}:test')
    known |= {'protocol': 'official', 'maps_trained_on': f'{PICTURES}:test'}
    (result,) = evaluated(tmp_path / 'run', [], **known)['results']
    assert result['overlap'] == sorted(row.id for row in truth.rows)
    assert f'{len(truth.rows)} of {len(truth.rows)} scans overlap' in capsys.readouterr().out


@pytest.mark.fast
@pytest.mark.parametrize('sideways', [False, True])
def test_the_map_of_a_whole_picture_is_cropped_as_the_picture_was(tmp_path, sideways):
    grey = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    Image.fromarray(grey.T if sideways else grey).save(tmp_path / 'a.png')
    part = (slice(5, 30), slice(10, 50))
    frames = {'test/a': np.float32(framing.as_box(part, grey.shape)).tolist()}
    found = soft_maps.read(tmp_path, {'test/a': (25, 40)}, sideways, frames)
    np.testing.assert_array_equal(found['test/a'], grey[part])


def with_twin(folder):
    file = next(folder.iterdir())
    file.with_suffix('.bmp').write_bytes(file.read_bytes())


def as_palette(folder):
    image = Image.new('P', Image.open(next(folder.iterdir())).size)
    image.putpalette([*range(256)] * 3)
    image.save(next(folder.iterdir()))


def of_ones(folder):
    for file in folder.iterdir():
        Image.new('L', Image.open(file).size, 1).save(file)


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda folder: next(folder.iterdir()).unlink(), 'no map of test/.*; give a whole folder'),
        (with_twin, 'are both of test/.*; keep one'),
        (as_palette, 'has a palette'),
        (of_ones, 'no map has a grey level above 1; write 255'),
    ],
    ids=['missing', 'twice', 'palette', '0 and 1'],
)
def test_maps_that_cannot_be_meant_are_refused_before_anything_is_scored(
    data, tmp_path, damage, message, capsys
):
    folder = tmp_path / 'maps'
    folder.mkdir()
    test = segmented.read(f'{PICTURES}:test', data, regions=REGIONS)
    for image, row in zip(test.images, test.rows):
        Image.new('L', image.shape[::-1], 200).save(folder / f'{row.id.split("/")[-1]}.png')
    damage(folder)
    fields = {'maps': f'theirs={folder}', 'protocol': 'official'}
    with pytest.raises(InputError, match=message):
        evaluated(tmp_path / 'run', [run_of(tmp_path / 'net', data)], **fields)
    assert not list((tmp_path / 'run').iterdir()) and not capsys.readouterr().out


def test_maps_of_volumes_are_refused(data, tmp_path):
    dataset = f'{VOLUMES}_slices'
    network = run_of(tmp_path / 'net', data, dataset, 'lung+lesion')
    fields = {'maps': f'theirs={tmp_path}', 'tests': f'{dataset}:test'}
    with pytest.raises(InputError, match='maps are of pictures, and .* has many slices'):
        evaluated(tmp_path / 'run', [network], **fields)


def test_the_threshold_is_the_best_one_on_validation_scans(data, tmp_path):
    dataset, regions = f'{VOLUMES}_slices', 'lung+lesion'
    network = run_of(tmp_path / 'net', data, dataset, regions, sharpness=1.5)
    (result,) = evaluated(tmp_path / 'run', [network], tests=f'{dataset}:test')['results']
    classes = ('background', regions)
    scans = evaluate_masks.read_scans(f'{dataset}:validation', data, regions, classes)
    probability = lambda grey: expit(3 * (DARK - 0.5 - grey.astype(np.float32)) / 127.5)

    def mean_dice(threshold):
        pairs = [(scan.target > 0, probability(scan.grey) >= threshold) for scan in scans]
        return np.mean([f1_score(truth.ravel(), found.ravel()) for truth, found in pairs])

    dice = [mean_dice(threshold) for threshold in evaluate_masks.THRESHOLDS]
    assert len({*np.round(dice, 3)}) > 5  # it matters which
    assert result['threshold'] == evaluate_masks.THRESHOLDS[np.argmax(dice)]


def test_each_region_is_scored_by_its_own_probability(data, tmp_path):
    """Of a network that finds its first region, lung, in dark pixels, and the second nowhere."""
    dataset = f'{VOLUMES}_slices'
    network = run_of(tmp_path / 'net', data, dataset, 'lung,lesion')
    found = evaluated(tmp_path / 'run', [network], tests=f'{dataset}:test')['results']
    scans = evaluate_masks.read_scans(
        f'{dataset}:test', data, 'lung,lesion', ('background', 'lung', 'lesion')
    )
    assert [result['region'] for result in found] == ['lung', 'lesion']
    for scan, lung, lesion in zip(scans, *(result['scans'] for result in found)):
        dice = f1_score(scan.target.ravel() == 1, scan.grey.ravel() < DARK)
        assert lung['dice'] == pytest.approx(dice, abs=1e-6)
        assert lung['dice_mean_of_256_thresholds'] == pytest.approx(dice, abs=0.01)
        assert lesion['dice'] == 0 and lesion['dice_mean_of_256_thresholds'] < 0.5


def test_a_scan_of_one_slice_among_others_is_scored_as_a_scan():
    def scan_of(name, slices):
        grey = np.full((slices, 8, 8), 200, np.uint8)
        grey[:, 2:6, 2:6] = 50
        return evaluate_masks.Scan(name, name, grey, grey < DARK, (2.0, 1.0, 1.0), True, ())

    soft = lambda scan: np.stack([scan.grey >= DARK, scan.grey < DARK], -1).astype(np.float32)
    scans = [scan_of('thick', 3), scan_of('thin', 1)]
    (result,) = evaluate_masks.results_of(
        evaluate_masks.Model('net', 'network', soft), ('background', 'lung'), 'test', 'a:b', scans
    )
    assert [scan['dice'] for scan in result['scans']] == [1.0, 1.0]
    assert {'volume_error_ml'} <= {*result['summary']['means']}


def test_scans_of_one_name_in_two_data_sets_are_two_scans(data, tmp_path):
    spec = f'{VOLUMES}_slices:test'
    one = evaluate_masks.read_scans(spec, data, 'lung', ('background', 'lung'))
    both = evaluate_masks.read_scans(
        f'{spec}+{VOLUMES}_slices_hu:test', data, 'lung', ('background', 'lung')
    )
    assert [scan.id for scan in both] == 2 * [scan.id for scan in one]
    assert [scan.grey.shape for scan in both] == 2 * [scan.grey.shape for scan in one]


def test_a_threshold_is_not_chosen_on_other_images_than_the_checkpoint(data, tmp_path):
    network = run_of(tmp_path / 'net', data)
    records = lineage.read(network)
    records[0]['images'] = records[0]['images'][1:]
    (network / 'lineage.json').write_text(json.dumps(records))
    with pytest.raises(InputError, match='covid_semiseg:validation: does not hold the images'):
        evaluated(tmp_path / 'run', [network], protocol='official')
    assert not list((tmp_path / 'run').iterdir())


def test_training_images_are_refused_by_the_clean_protocol_and_left_out_beside(data, tmp_path):
    network = run_of(tmp_path / 'net', data)
    rows = segmented.read(f'{PICTURES}:test', data, regions=REGIONS).rows
    images = [[row.sha256, row.group, row.id] for row in rows[:1]]
    record = {'role': 'train', 'dataset': 'a', 'through': '', 'images': images}
    (val,) = lineage.read(network)
    val['images'] = [[sha256, 'group of its own', *rest] for sha256, _, *rest in val['images']]
    (network / 'lineage.json').write_text(json.dumps([record, val]))
    with pytest.raises(InputError, match='images share a picture, patient'):
        evaluated(tmp_path / 'run', [network])
    assert not list((tmp_path / 'run').iterdir())
    (result,) = evaluated(tmp_path / 'run', [network], protocol='official')['results']
    shared = {row.id for row in rows if row.group == rows[0].group}
    assert shared < {row.id for row in rows}
    assert set(result['overlap']) == shared
    assert result['without_overlap']['scans'] == len(rows) - len(shared)


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'segmenters': ''}, 'config.segmenters and config.maps name nothing; give workdirs'),
        ({'segmenters': ' ,'}, 'config.segmenters and config.maps name nothing; give workdirs'),
        ({'regions': REGIONS}, f'config.regions={re.escape(REGIONS)}: is for maps and rules alone'),
        ({'maps': 'theirs'}, 'config.maps=theirs: write NAME=FOLDER'),
        ({'maps': '=.'}, 'config.maps==.: write NAME=FOLDER'),
        ({'segmenters': 'a,b,a'}, 'config.segmenters=a,b,a: names a twice'),
        ({'tests': 'ct_scans/covid_semiseg:all'}, 'no such split'),
        ({'rules': f'{PICTURES}:test', 'protocol': 'clean'}, 'share a picture, patient'),
        ({'negatives': 'ct_scans/covid_semiseg@normal'}, 'is not a data set'),
        ({'negatives': 'ct_scans/covid_semiseg:all'}, 'no such split'),
        ({'rules': 'ct_scans/covid_ct_seg_slices:train'}, 'no region ground_glass in the masks'),
        ({'tests': 'ct_scans/covid_ct_seg_slices:test'}, 'no region ground_glass in the masks'),
    ],
    ids=str,
)
def test_wrong_words_are_refused_before_anything_is_written(data, tmp_path, fields, message):
    network = run_of(tmp_path / 'net', data)
    with pytest.raises(InputError, match=message):
        evaluated(tmp_path / 'run', [network], **{'protocol': 'official', **fields})
    assert not list((tmp_path / 'run').iterdir())


# ---- rules


def bands(n=6, size=mask_rules.SIZE, seed=0):
    """Images with a square of grey 100 in noise of 180 to 255 and below 40; its mask."""
    rng = np.random.default_rng(seed)
    images = np.where(rng.random((n, size, size)) > 0.5, 220, 20).astype(np.uint8)
    masks = np.zeros((n, size, size), bool)
    for image, mask in zip(images, masks):
        y, x = rng.integers(30, 50, 2)
        image[y : y + 40, x : x + 40], mask[y : y + 40, x : x + 40] = 100, True
    return images, masks


@pytest.mark.fast
def test_a_band_of_grey_finds_what_has_a_grey_of_its_own():
    rule = mask_rules.fit('band of grey', *bands())
    image, mask = (array[0] for array in bands(seed=1))
    np.testing.assert_array_equal(rule(image), mask)


@pytest.mark.fast
@pytest.mark.parametrize('rule', mask_rules.RULES)
@pytest.mark.parametrize('shape', [(50, 90), (128, 128), (256, 200)], ids=str)
def test_every_rule_draws_a_mask_of_the_size_of_the_image(rule, shape):
    found = mask_rules.fit(rule, *bands())(np.full(shape, 100, np.uint8))
    assert found.shape == shape and found.dtype == bool and found.any()


@pytest.mark.fast
def test_the_mean_mask_is_where_most_masks_are():
    images, masks = bands()
    found = mask_rules.fit('mean mask', images, masks)(images[0])
    assert masks.mean(0)[found].min() > masks.mean(0)[~found].max() - 1e-6


# ---- from raw files to masks


# Of slices and of volumes: the layout, data set, network and key of its input, and its rules.
WAYS = {
    'slices': (
        'covid_semiseg',
        PICTURES,
        REGIONS,
        ['--config=configs/segmentation.py', '--config.image_size=48', '--config.patch=(48,48)'],
        ['--config.protocol=official', f'--config.rules={PICTURES}:train'],
    ),
    'volumes': (
        'covid_ct_seg',
        f'{VOLUMES}_8000um',
        'lesion',
        [
            *('--config=configs/segmentation.py:vbnet', '--config.spacing=8'),
            *('--config.patch=(8,16,16)', '--config.batch_size=2'),
        ],
        [],
    ),
}


@pytest.mark.parametrize('way', WAYS)
def test_one_command_a_step_from_raw_files_to_a_table(way, launch, tmp_path):
    """On phantoms: prepare, train, resume, export, evaluate, segment."""
    layout, dataset, regions, network, judged = WAYS[way]
    raw, data_dir, runs = tmp_path / 'raw', tmp_path / 'data', tmp_path / 'runs'
    ct_scans.write_ct_scans(raw, layout, seed=3)

    def step(name, *words, workdir=''):
        result = launch(f'--workdir={runs / (workdir or name)}', *words)
        assert result.returncode == 0, result.stderr
        return result.stdout

    step(
        'prepare',
        *('--config=configs/prepare.py', f'--config.dataset={dataset}'),
        *(f'--config.source={raw}', f'--config.data_dir={data_dir}'),
    )
    small = [
        *(*network, f'--config.data_dir={data_dir}', f'--config.regions={regions}'),
        *(f'--config.train={dataset}:train', f'--config.val={dataset}:validation'),
        *('--config.widths=(4,8)', '--config.warmup_steps=1'),
        *('--config.steps=6', '--config.eval_every=3'),
    ]
    out = step('net', *small)
    assert 'val/dice' in out
    assert json.loads((runs / 'net' / 'classes.json').read_text()) == ['background', regions]
    assert 'going on after step 6' in step('net', *small)
    step('export', '--config=configs/export.py', f'--config.segmenter={runs / "net"}')
    step(
        'evaluate',
        *('--config=configs/evaluate_masks.py', f'--config.segmenters={runs / "net"}'),
        *(f'--config.tests={dataset}:test', *judged),
    )
    found = json.loads((runs / 'evaluate' / 'masks.json').read_text())['results']
    assert len(found) == (5 if judged else 1)
    (exported,) = (runs / 'export').glob('*.safetensors')
    scan = next(scan.image for scan in LAYOUTS[layout].scans(raw))
    step(
        'segment',
        *('--config=configs/segment.py', f'--config.segmenter={exported}'),
        f'--config.input={scan}',
    )
    (mask,) = (runs / 'segment' / 'masks').iterdir()
    assert mask.name.partition('.')[0] == scan.name.partition('.')[0]

"""The corona score: which slices and voxels count, where heat maps lie, what is refused."""

import csv
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from ml_collections import ConfigDict
from PIL import Image

from configs import classifier as classifier_config
from configs import corona as config_file
from configs import evaluate as evaluate_config
from covjax import InputError
from covjax.ct import framing
from covjax.data import results
from covjax.phantom import ct_scans
from covjax.runs import corona, evaluate, prepare, train
from covjax.workdir import claimed


def network(**fields):
    """A Network that calls bright slices positive and looks at their left half."""

    def attribute(images):
        maps = np.zeros((len(images), 4, 4), np.float32)
        maps[:, :, :2] = 1
        return maps

    known = {
        'score': lambda images: images.astype(np.float32).mean((1, 2, 3)) / 255,
        'attribute': attribute,
        'size': 16,
        'view': '',
        'find': lambda grey: grey < 60,
        'threshold': 0.4,
        'share': None,
        'batch_size': 4,
    }
    return corona.Network(**known | fields)


def scan(brightness):
    """uint8 [slices, 40, 40]: a body of that brightness with two lungs in each slice but None."""
    grey = np.full((len(brightness), 40, 40), 140, np.uint8)
    for plane, value in zip(grey, brightness):
        if value is not None:
            plane[:] = value
            plane[8:32, 6:18] = plane[8:32, 22:34] = 30
    return grey


@pytest.mark.fast
def test_positive_slices_are_those_of_the_threshold_and_heat_is_in_lungs_alone():
    grey = scan([None, 100, 200, 250, None])
    found = corona.of_scan(network(), grey)
    np.testing.assert_allclose(found.scores, grey.mean((1, 2)) / 255, atol=0.02)
    heated = found.heat.reshape(len(grey), -1).any(1)
    assert heated.tolist() == [False, False, True, True, False]
    line = dict(zip(corona.COLUMNS, corona.row(network(), 'a', found, 0.5)))
    assert [line[key] for key in ('slices', 'lung slices', 'positive slices')] == [5, 3, 4]
    assert line['share'] == 0.8 and line['positive'] == ''
    score, counted = found.heat.sum() * 0.5, (found.heat > 0).sum() * 0.5
    assert line['corona score (ml)'] == pytest.approx(score, abs=0.01)
    assert line['volume (ml)'] == pytest.approx(counted, abs=0.01)


@pytest.mark.fast
def test_heat_is_the_probability_times_the_map_inside_the_lungs():
    grey = scan([200, 200])
    found = corona.of_scan(network(), grey)
    assert (found.heat[grey != 30] == 0).all() and (found.heat[:, :, 25:] == 0).all()
    inside = found.heat[0, 10:30, 6:14]
    np.testing.assert_allclose(inside, found.scores[0], rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize('view', ['', *framing.VIEWS])
def test_the_map_lies_where_the_network_looked(view):
    """Of a crop in the place of the crop: the left half of it is the lung on the left."""
    grey, known = scan([230]), network(view=view, threshold=0.0)
    found = corona.of_scan(known, grey)
    columns = np.flatnonzero(found.heat[0].any(0))
    assert columns[0] == 6 and 16 <= columns[-1] <= 22
    mask = grey[0] == 30
    expected = framing.VIEWS[view](grey[0], mask) if view else grey[0]
    expected = Image.fromarray(expected).resize((16, 16), Image.Resampling.BILINEAR)
    shown = corona._shown(known, grey[0], mask, corona._box(known, grey[0], mask))
    np.testing.assert_array_equal(shown[..., 0], np.asarray(expected))


@pytest.mark.fast
def test_a_scan_without_lungs_has_no_score():
    found = corona.of_scan(network(view='crop'), scan([None, None]))
    assert not found.heat.any()
    assert corona.row(network(share=0.1), 'a', found, 1.0) == ['a', 2, 0, 2, 1.0, 'yes', '', '', 0]


@pytest.mark.fast
@pytest.mark.parametrize('share, verdict', [(0.5, 'yes'), (0.6, 'yes'), (0.7, 'no'), (None, '')])
def test_a_scan_is_positive_from_a_share_of_its_slices_on(share, verdict):
    found = corona.of_scan(network(), scan([100, 200, 250]))
    line = corona.row(network(share=share), 'a', found, 1.0)
    assert line[corona.COLUMNS.index('positive')] == verdict


# ---- the run


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    """Phantom scans, a classifier of their slices that learned a little, and its evaluation."""
    folder = tmp_path_factory.mktemp('corona')
    ct_scans.write_volumes(folder / 'raw', people=(4, 4, 4), size=64, slices=6, healthy=True)
    data = str(folder / 'data')
    prepare.build('ct_scans/folder_slices', str(folder / 'raw'), data)
    config = classifier_config.get_config('plain8')
    config.update({
        **{'train': 'ct_scans/folder_slices:train', 'val': 'ct_scans/folder_slices:validation'},
        **{'data_dir': data, 'image_size': 32, 'load_size': 32, 'batch_size': 8, 'lungs': 'crop'},
        **{'steps': 10, 'eval_every': 10, 'warmup_steps': 0},
    })  # fmt: skip
    with claimed(config, folder / 'slices') as workdir:
        train.run(config, workdir)
    config = evaluate_config.get_config()
    config.update({
        **{'classifier': str(folder / 'slices'), 'tests': 'ct_scans/folder_slices:test'},
        **{'baseline': '', 'aggregate': 'share,mean', 'data_dir': data},
    })  # fmt: skip
    with claimed(config, folder / 'evaluate') as workdir:
        evaluate.run(config, workdir)
    return folder


def config_of(places, **fields):
    config = config_file.get_config()
    usual = {'classifier': str(places / 'slices'), 'input': str(places / 'raw' / 'scans')}
    config.update(usual | fields)
    return config


def test_heat_maps_lie_on_the_grids_of_their_scans(places, tmp_path, capsys):
    """With the thresholds of the evaluation, and its shares of positive slices."""
    config = config_of(places, evaluation=str(places / 'evaluate'))
    with claimed(config, tmp_path / 'corona') as workdir:
        corona.run(config, workdir)
    rows = list(csv.DictReader((workdir / 'table.csv').open(encoding='utf-8')))
    assert len(rows) == 12 and (workdir / 'corona.html').is_file()
    share = results.read(places / 'evaluate').by_patient[0]
    shares = {each.id: each.score for each in share.patients}
    assert {row['file']: float(row['share']) for row in rows if row['file'] in shares} == (
        pytest.approx(shares, abs=1e-4)
    )
    for row in rows:
        scan_of = sitk.ReadImage(str(places / 'raw' / 'scans' / f'{row["file"]}.nii.gz'))
        heat = sitk.ReadImage(str(workdir / 'heat_maps' / f'{row["file"]}.nii.gz'))
        for name in ('GetSize', 'GetSpacing', 'GetOrigin', 'GetDirection'):
            np.testing.assert_allclose(getattr(heat, name)(), getattr(scan_of, name)(), rtol=1e-5)
        array = sitk.GetArrayFromImage(heat)
        assert array.max() <= 100 and row['positive'] in ('yes', 'no')
        litres = np.prod(scan_of.GetSpacing()) / 1e6
        assert float(row['volume (ml)']) >= 1000 * litres * (array > 0).sum() * 0.9
    assert '12 of 12, 0 s left' in capsys.readouterr().out


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'classifier': ''}, 'config.classifier is empty'),
        ({'input': 'nowhere'}, 'config.input=nowhere: no such file'),
        ({'positive_class': 'cap'}, 'config.positive_class=cap'),
        ({'evaluation': 'nowhere'}, 'nowhere'),
    ],
)
def test_what_is_missing_is_named(places, tmp_path, fields, message):
    config = config_of(places, **fields)
    with pytest.raises(InputError, match=message), claimed(config, tmp_path / 'corona') as workdir:
        corona.run(config, workdir)
    assert not (tmp_path / 'corona').exists()


def test_pictures_have_no_volume(places, tmp_path):
    Image.new('L', (40, 40)).save(tmp_path / 'a.png')
    config = config_of(places, input=str(tmp_path / 'a.png'))
    with pytest.raises(InputError, match='a.png: has pictures; give CT scans'):
        corona.run(config, tmp_path / 'corona')


@pytest.mark.fast
def test_a_classifier_of_framed_slices_is_refused():
    config = ConfigDict({'classifier': 'runs/framed'})
    for dataset in ('ct_scans/folder_slices', 'covid_ct/clean'):
        corona.check_shown(config, ConfigDict({'train': f'{dataset}:train'}))
    training = ConfigDict({'train': 'covid_ct:train+ct_scans/folder_slices_framed:train'})
    with pytest.raises(InputError, match='runs/framed: .* train one on ct_scans/folder_slices, '):
        corona.check_shown(config, training)


def test_thresholds_of_documents_are_none_of_patients(places, tmp_path):
    shutil.copytree(places / 'evaluate', tmp_path / 'evaluate')
    path = tmp_path / 'evaluate' / 'results.json'
    found = json.loads(path.read_text())
    for result in found['by_patient']:
        result['unit'] = 'document'
    path.write_text(json.dumps(found))
    fields = {'evaluation': str(tmp_path / 'evaluate'), 'classifier': str(places / 'slices')}
    with pytest.raises(InputError, match='has no share of positive slices of patients'):
        corona.thresholds(ConfigDict(fields), 'covid', 10)


def test_thresholds_of_another_classifier_or_checkpoint_are_refused(places):
    fields = {'evaluation': str(places / 'evaluate'), 'classifier': 'other', 'checkpoint': 'best'}
    config = ConfigDict(fields)
    with pytest.raises(InputError, match='has no share of positive slices of patients of other'):
        corona.thresholds(config, 'covid', 10)
    config.classifier = str(places / 'slices')
    slice_threshold, share = corona.thresholds(config, 'covid', 10)
    assert 0 < slice_threshold < 1 and 0 < share <= 1.01
    with pytest.raises(InputError, match='run evaluate.py with --config.aggregate=share'):
        corona.thresholds(config, 'cap', 10)
    with pytest.raises(InputError, match='is of step 10 of .*config.checkpoint=best is of step 9'):
        corona.thresholds(config, 'covid', 9)

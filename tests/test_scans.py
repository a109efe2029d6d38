"""Classification of whole scans: steps, what a training begins with, and what is refused."""

import functools
import types

import jax
import launching
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conftest import flags_of_devices
from flax import linen as nn
from flax.traverse_util import flatten_dict
from steps import follow

from configs import audit as audit_config
from configs import classifier as slices_config
from configs import evaluate as evaluate_config
from configs import scans as config_file
from covjax import InputError, models, scan_classifier, trained
from covjax.audit import overlap, regions, scan_metadata, scan_regions, slice_attribution
from covjax.audit.verdict import Images
from covjax.data import augment, bags, results
from covjax.data.bags import Bags
from covjax.data.rows import Row
from covjax.models.backbone import Backbone
from covjax.models.scans import NORMS, POOLING
from covjax.phantom import ct_scans
from covjax.runs import audit, evaluate, prepare, train
from covjax.training import scans
from covjax.training.classification import check_labels
from covjax.workdir import claimed, read_json

CLASSES = ('normal', 'covid')
THREE = ('normal', 'cap', 'covid')
SMALL = {
    'train': 'a:train',
    'val': 'a:validation',
    'model': 'toy',
    'image_size': 24,
    'slices': 4,
    'batch_size': 4,
    'steps': 4,
    'eval_every': 4,
    'log_every': 1,
    'warmup_steps': 0,
    'bn': 'batch',
}


def toy_body(x, conv, norm):
    return {'map': nn.relu(norm(name='norm')(conv(4, (3, 3), 2, name='conv')(x)))}


TOY = functools.partial(Backbone, 'toy', toy_body, 8, 'none')


@pytest.fixture(scope='module', autouse=True)
def toy():
    """A backbone of one convolution among the models."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(models.MODELS, 'toy', TOY)
        monkeypatch.setitem(scan_classifier.BACKBONES, 'toy', TOY)
        yield


def config_of(variant='', **fields):
    config = config_file.get_config(variant)
    config.update(SMALL | fields)
    return config


def bags_of(count, classes=CLASSES, seed=0):
    """Random bags of 1 to 4 slices, of each class in turn."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (1 + i % 4, 24, 24, 1), np.uint8) for i in range(count)]
    rows = [Row(f'{i}', f'group{i}', f'{i}') for i in range(count)]
    labels = (np.arange(count) % len(classes)).astype(np.int32)
    places = [np.arange(len(each)) for each in images]
    parts = np.zeros(count, np.int32)
    middles = [each[0, ..., 0] for each in images]
    return Bags(images, labels, rows, rows, places, [9] * count, middles, classes, parts)


def task_of(classes=CLASSES, **fields):
    return scans.task_on(config_of(**fields), bags_of(12, classes), bags_of(8, classes, 1))


def moved(before, after):
    """The paths of the arrays of two trees that differ."""
    one, other = (flatten_dict(tree, sep='/') for tree in (before, after))
    return {path for path in one if not np.array_equal(one[path], other[path])}


# ---- steps


@pytest.mark.fast
@pytest.mark.parametrize('pooling', POOLING)
@pytest.mark.parametrize('classes', [CLASSES, THREE])
def test_everything_learns(pooling, classes):
    (before, after), _ = follow(task_of(classes, pooling=pooling, dropout=0.2), 1)
    assert moved(before.net.params, after.net.params) == {*flatten_dict(before.net.params, sep='/')}


@pytest.mark.fast
@pytest.mark.parametrize('norm', NORMS)
def test_statistics_move_where_they_are_those_of_batches_alone(norm):
    task = task_of()
    parts = task.train_step.args[0]
    parts = parts._replace(model=parts.model.clone(norm=norm))
    state = task.init(jax.random.key(0), {k: v[:1] for k, v in task.train_batch(0).items()})
    step = jax.vmap(
        functools.partial(scans.train_step, parts), (None, 0, None), axis_name='devices'
    )
    batch = {name: array[None] for name, array in task.train_batch(0).items()}
    after, _ = step(state, batch, jax.random.key(1))
    changed = moved(state.batch_stats, jax.tree.map(lambda leaf: leaf[0], after.batch_stats))
    assert bool(changed) == (norm == 'batch')


@pytest.mark.fast
def test_slices_of_a_scan_are_moved_alike():
    """And scans apart, by their number in the global batch."""
    same = np.random.default_rng(0).integers(0, 256, (1, 1, 24, 24, 1), np.uint8)
    images = np.tile(same, (3, 4, 1, 1, 1))
    settings = {'scale': 0.2, 'flip': True, 'rotate': 20.0, 'crop': 0.1}
    colour = {'brightness': 0.3, 'contrast': 0.3}
    changed = scans.augment(jax.random.key(0), images, settings, colour, 0)
    np.testing.assert_allclose(changed, np.tile(changed[:, :1], (1, 4, 1, 1, 1)), atol=1e-5)
    assert np.abs(changed[0, 0] - changed[1, 0]).max() > 0.1
    alone = scans.augment(jax.random.key(0), images[1:2], settings, colour, 1)
    np.testing.assert_allclose(alone[0], changed[1], atol=1e-5)
    off = scans.augment(jax.random.key(0), images, augment.OFF, dict.fromkeys(colour, 0.0), 0)
    np.testing.assert_allclose(off, augment.to_float(images), atol=1e-6)


@pytest.mark.fast
def test_every_scan_is_evaluated_once_with_its_own_slices():
    task = task_of()
    (batches,) = task.eval_batches().values()
    found = list(batches)
    labels = np.concatenate([batch['label'][batch['mask']] for batch in found])
    counts = np.concatenate([batch['valid'][batch['mask']].sum(1) for batch in found])
    assert labels.tolist() == [0, 1] * 4 and counts.tolist() == [1, 2, 3, 4] * 2


@pytest.mark.fast
@pytest.mark.parametrize('pooling', POOLING)
def test_scores_of_evaluation_are_those_of_the_trained_network(pooling):
    task = task_of(THREE, pooling=pooling)
    val, config = bags_of(8, THREE, 1), config_of(pooling=pooling)
    state = task.init(jax.random.key(0), {k: v[:1] for k, v in task.train_batch(0).items()})
    (batches,) = task.eval_batches().values()
    outputs = [task.eval_step(state, batch | {}) for batch in map(without_mask, batches)]
    scores = np.concatenate([output['scores'] for output in outputs])
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)
    variables = {'net': {'params': state.net.params}, 'batch_stats': state.batch_stats}
    run = types.SimpleNamespace(config=config, classes=THREE, variables=variables)
    loaded = scan_classifier.of_run(run)
    for size in (1, 3):
        found = scan_classifier.predict(loaded, val, batch_size=size)
        np.testing.assert_allclose(found.scores, scores, atol=1e-5)
        assert [len(each) for each in found.weights] == [len(each) for each in val.images]
        for weights in found.weights:
            assert weights.sum() == pytest.approx(1, abs=1e-5)


def without_mask(batch):
    return {name: array for name, array in batch.items() if name != 'mask'}


def losses_on(count):
    """The losses of three steps on so many devices."""
    models.MODELS['toy'] = scan_classifier.BACKBONES['toy'] = TOY
    assert jax.device_count() == count
    return [values['loss'] for values in follow(task_of(pooling='attention', dropout=0.2), 3)[1]]


@pytest.mark.slow
def test_two_devices_equal_one():
    """With bags of other numbers of slices on each, whose statistics count slices alike."""
    alone, together = (
        launching.call(losses_on, (count,), {'XLA_FLAGS': flags_of_devices(count)})
        for count in (1, 2)
    )
    assert len(set(alone)) == 3
    np.testing.assert_allclose(together, alone, rtol=1e-4)


# ---- what a training begins with


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Phantom scans, ill and healthy, as volumes and as slices."""
    folder = tmp_path_factory.mktemp('scans')
    drawn = {'people': (6, 4, 4), 'size': 32, 'slices': 24, 'most': 1, 'healthy': True}
    ct_scans.write_volumes(folder / 'raw', **drawn)
    for config in ('folder', 'folder_slices'):
        prepare.build(f'ct_scans/{config}', str(folder / 'raw'), str(folder / 'data'))
    return str(folder / 'data')


def sets(name):
    return {'train': f'ct_scans/{name}:train', 'val': f'ct_scans/{name}:validation'}


def trained_in(folder, config, data):
    """The trained.Trained of two steps in a new folder."""
    folder.mkdir()
    config.update({'data_dir': data, 'steps': 2, 'eval_every': 2, 'batch_size': 2})
    (folder / 'config.json').write_text(config.to_json())
    train.run(config, folder)
    return trained.open_run(folder, config.task, 'start')


@pytest.fixture
def finished(data, tmp_path):
    """finished(name, config) -> the trained.Trained of a training in a folder of that name."""
    return lambda name, config, data=data: trained_in(tmp_path / name, config, data)


@pytest.fixture(scope='module')
def slices(data, tmp_path_factory):
    """A classifier of slices, which tests open and do not change."""
    return trained_in(tmp_path_factory.mktemp('runs') / 'slices', of_slices(), data)


@pytest.fixture(scope='module')
def on_scans(data, tmp_path_factory):
    """A classifier of scans, which tests open and do not change."""
    folder = tmp_path_factory.mktemp('runs') / 'scans'
    return trained_in(folder, config_of(**sets('folder')), data)


def of_slices(**fields):
    """The config of a classifier of slices with the same backbone."""
    config = slices_config.get_config('plain8')
    config.update({'model': 'toy', 'image_size': 24, 'load_size': 24, 'warmup_steps': 0})
    config.update(sets('folder_slices') | fields)
    return config


def test_a_classifier_of_slices_becomes_the_backbone_with_its_head(slices, finished):
    """Frozen statistics stay those of the slices; what trained them is in the lineage."""
    fields = {'bn': 'frozen', 'learning_rate': 0.0, 'weight_decay': 0.0}
    run = finished('scans', config_of(start=str(slices.folder), **sets('folder'), **fields))
    params = dict(slices.variables['net']['params'])
    head = params.pop('head')
    assert not moved(head, run.variables['net']['params']['head'])
    assert not moved(params, run.variables['net']['params']['backbone'])
    assert not moved(slices.variables['batch_stats'], run.variables['batch_stats']['backbone'])
    through = {(record['role'], record['dataset'], record['through']) for record in run.lineage}
    assert ('train', 'ct_scans/folder_slices:train', 'pretraining') in through
    again = finished('again', config_of(start=str(run.folder), **sets('folder'), **fields))
    assert not moved(run.variables['net']['params'], again.variables['net']['params'])


def test_attention_and_other_classes_are_new(slices):
    config = config_of(start=str(slices.folder), pooling='attention', bn='frozen')
    parts = scans.parts_of(config, np.arange(3), THREE)
    batch = {name: array[:1] for name, array in task_of().train_batch(0).items()}
    state = scans.init(parts, config, THREE, jax.random.key(0), batch)
    assert {*state.net.params} == {'backbone', 'attention', 'head'}
    assert state.net.params['head']['kernel'].shape[-1] == 3
    kernel = slices.variables['net']['params']['conv']['kernel']
    np.testing.assert_array_equal(state.net.params['backbone']['conv']['kernel'], kernel)


def test_a_training_with_attention_begins_with_a_classifier_of_slices(slices, finished):
    fields = {'bn': 'frozen', 'pooling': 'attention'}
    run = finished('scans', config_of(start=str(slices.folder), **sets('folder'), **fields))
    assert {*run.variables['net']['params']} == {'backbone', 'attention', 'head'}


def test_a_run_on_scans_is_resumed_and_opened(on_scans, data):
    assert on_scans.classes == CLASSES and on_scans.step == 2
    found = scan_classifier.read('ct_scans/folder:test', data, on_scans.config)
    scores = scan_classifier.predict(scan_classifier.load(on_scans.folder), found).scores
    assert scores.shape == (4, 2)
    train.run(on_scans.config, on_scans.folder)  # finds that it is finished
    records = {record['dataset'] for record in on_scans.lineage}
    assert records == {*sets('folder').values()}


def test_scans_are_evaluated_beside_what_the_scanner_gives_away(on_scans, data, tmp_path):
    config = evaluate_config.get_config()
    tests = {'tests': 'ct_scans/folder:test', 'baseline': 'ct_scans/folder:train'}
    config.update(tests | {'classifier': str(on_scans.folder), 'aggregate': 'mean,share'})
    with claimed(config, tmp_path / 'evaluate') as workdir:
        evaluate.run(config, workdir)
    found = results.read(workdir)
    kinds = [result.kind for result in found.results]
    assert kinds == ['network', *['metadata', 'pixels'] * 2]
    assert {len(result.images) for result in found.results} == {4}
    assert [each.aggregate for each in found.by_patient] == ['mean', 'share']
    told = evaluate._intervals_at(found.results[0], 0.5)
    assert told == found.results[0].intervals
    assert {len(each.patients) for each in found.by_patient} == {4}
    scores = {image.id: image.score for image in found.results[0].images}
    by_patient = {each.id: each.score for each in found.by_patient[0].patients}
    assert sorted(scores.values()) == pytest.approx(sorted(by_patient.values()))
    assert (workdir / 'patients.html').is_file()


def test_scans_that_trained_the_slices_are_refused(slices, finished, data, tmp_path):
    """What a classifier of slices was trained on is known of the scans that they were cut from."""
    fields = sets('folder') | {'bn': 'frozen', 'start': str(slices.folder)}
    run = finished('scans', config_of(**fields))
    config = evaluate_config.get_config()
    config.update({'classifier': str(run.folder), 'baseline': ''})
    config.tests = 'ct_scans/folder_slices:train'
    with pytest.raises(
        InputError, match='ct_scans/folder_slices:train: .* share a picture, patient'
    ):
        evaluate.run(config, tmp_path)


# ---- what is refused


@pytest.mark.fast
@pytest.mark.parametrize(
    'fields, message',
    [
        ({'bn': 'frozen'}, 'config.bn=frozen: keeps the statistics .* config.start, or set bn=b'),
        ({'model': 'dre_net'}, 'config.model=dre_net: '),
        ({'pooling': 'median'}, 'config.pooling=median: '),
        ({'bn': 'group'}, 'config.bn=group: '),
        ({'pooling': 'max', 'negative_class': 'normal'}, 'config.negative_class=normal: .* empty'),
        ({'pooling': 'noisy_or', 'negative_class': 'well'}, 'config.negative_class=well: noisy_or'),
        ({'schedule': 'never'}, 'config.schedule=never'),
    ],
)
def test_keys_without_a_valid_value(fields, message):
    with pytest.raises(InputError, match=message):
        task_of(**fields)


@pytest.mark.fast
def test_noisy_or_needs_the_class_of_healthy_scans():
    with pytest.raises(InputError, match='config.negative_class=: noisy_or needs the class'):
        task_of(('cap', 'covid'), pooling='noisy_or')
    parts = task_of(('cap', 'covid'), pooling='noisy_or', negative_class='covid').train_step.args[0]
    assert parts.model.negative == 1


@pytest.mark.fast
def test_a_backbone_without_statistics_needs_none():
    task_of(model='plain8', bn='frozen')


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'train': ''}, 'config.train is empty; name a data set of scans with labels'),
        ({'train': 'ct_scans/folder:train@covid'}, 'needs scans of both classes, normal and covid'),
        ({'train': 'ct_scans/nothing:train'}, 'ct_scans/nothing: no such data set'),
        ({'mip': 5.0, 'window': 'covid'}, 'config.window=covid: .* ends in _hu'),
        ({'start': 'nowhere'}, 'config.start=nowhere'),
        ({'lungs': 'mask', 'lesion_segmenter': 'runs/a'}, 'config.lungs=mask: patches around'),
    ],
)
def test_data_sets_that_do_not_suit(data, fields, message):
    config = config_of(data_dir=data, **sets('folder') | fields)
    with pytest.raises(InputError, match=message):
        task = scans.make(config)
        task.init(jax.random.key(0), {k: v[:1] for k, v in task.train_batch(0).items()})


@pytest.mark.fast
def test_scans_without_labels_are_refused():
    found = bags_of(4)
    found.labels[1] = -1
    with pytest.raises(InputError, match='has scans without a label, .* label of every scan'):
        check_labels('config.train=a', found, 'scans')


@pytest.mark.fast
def test_bags_never_have_more_slices_than_they_may():
    shown = bags.batch_of(bags_of(8).images, range(8), 4)
    assert shown['image'].shape == (8, 4, 24, 24, 1)
    assert shown['valid'].sum(1).tolist() == [1, 2, 3, 4] * 2


# ---- the audit


def audited(run, data, folder, **fields):
    """{name of the check: its verdict} of an audit of a run."""
    config = audit_config.get_config()
    config.update({
        **{'classifier': str(run.folder), 'tests': 'ct_scans/folder:test', 'names': 'test'},
        **{'baseline': '', 'pairs': '', 'positive_class': 'covid', 'data_dir': data},
        **fields,
    })  # fmt: skip
    with claimed(config, folder) as workdir:
        audit.run(config, workdir)
    assert (workdir / 'audit.html').is_file()
    return {each['name']: each for each in read_json(workdir / 'audit.json')['verdicts']}


def test_scans_are_audited(on_scans, data, tmp_path):
    verdicts = audited(on_scans, data, tmp_path / 'audit')
    assert {*verdicts} == {check.NAME for check in audit.CHECKS_OF_SCANS}
    marked = verdicts[slice_attribution.NAME]
    assert marked['flag'] is not None and marked['rows'][0][1].endswith('of 4')
    assert len(verdicts[scan_regions.NAME]['rows'][0]) == 7
    assert verdicts[overlap.NAME]['flag'] is False


def cut(image, path, ill):
    """Scans of the ill have a slice more."""
    sitk.WriteImage(image[:, :, : 5 + ill], str(path))
    return path.name


def reconstructed(image, path, ill):
    """Scans of the ill were made with another convolution kernel, which all slices but one say."""
    if path.parent.name != 'scans':
        return path.name
    path.unlink()
    hu, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    folder = path.parent / path.name.split('.')[0]
    ct_scans.write_dicom(folder, hu, spacing, '2.25.1', ('B30f', 'B60f')[ill])
    foot = pydicom.dcmread(folder / 'IM_3.dcm')
    del foot.ConvolutionKernel
    foot.save_as(folder / 'IM_3.dcm')
    return folder.name


@pytest.mark.parametrize('plant', [cut, reconstructed])
def test_a_planted_difference_of_scans_is_caught(plant, finished, tmp_path):
    """Nothing else tells the classes apart."""
    folder = tmp_path / 'planted'
    ct_scans.write_volumes(folder / 'raw', people=(12, 6, 12), size=32, slices=6, most=1)
    rows = (folder / 'raw' / 'scans.csv').read_text().splitlines()
    rows[0] += ',label'
    for i in range(1, len(rows)):
        ill = i % 2
        files = [folder / 'raw' / part for part in rows[i].split(',')[:2]]
        names = [plant(sitk.ReadImage(str(file)), file, ill) for file in files]
        places = [f'{file.parent.name}/{name}' for file, name in zip(files, names)]
        rows[i] = ','.join([*places, *rows[i].split(',')[2:], ('normal', 'covid')[ill]])
    (folder / 'raw' / 'scans.csv').write_text('\n'.join(rows))
    data = str(folder / 'data')
    prepare.build('ct_scans/folder', str(folder / 'raw'), data, unchecked_masks=True)
    run = finished('scans', config_of(**sets('folder')), data)
    verdicts = audited(run, data, tmp_path / 'audit')
    found = verdicts[scan_metadata.NAME]
    assert found['flag'] is True and 'AUC 1.000' in found['finding']
    assert (scan_metadata.NO_KERNELS in found['finding']) == (plant is cut)
    assert verdicts[overlap.NAME]['flag'] is False


@pytest.mark.parametrize(
    'fields, message',
    [
        (
            {'synthetic': 'x'},
            'config.synthetic=x: its experiments tell slices .* audit of whole scans',
        )
    ],
)
def test_what_an_audit_of_scans_cannot_do(on_scans, data, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        audited(on_scans, data, tmp_path / 'audit', **fields)


@pytest.mark.fast
def test_weights_on_lesions_are_those_of_numpy():
    """Of scans of the class with slices of both kinds, and in no other."""
    rows = [Row(f'{i}', f'g{i}', f'{i}', others={'slices': 9}) for i in range(4)]
    marks = [np.array(m, bool) for m in ([1, 0, 0, 1], [1, 1], [0, 1, 1])] + [None]
    bags_ = np.empty(4, object)
    images = Images('a', bags_, np.array([1, 1, 0, 1]), rows, lesions=marks)
    weights = [np.array(w) for w in ([0.4, 0.3, 0.2, 0.1], [0.5, 0.5], [0.2, 0.3, 0.5], [1.0])]
    weight, share, hit, groups = slice_attribution.on_lesions(images, weights)
    np.testing.assert_allclose(weight, [0.5])
    np.testing.assert_allclose(share, [0.5])
    assert hit.tolist() == [1.0] and groups == ['g0']


@pytest.mark.fast
@pytest.mark.parametrize('slices', [16, 31, 47, 48])
def test_equal_weights_are_no_red_flag(slices, tmp_path):
    """Their sums are rounded, to either side."""
    marked = [np.arange(slices) < count for count in (5, 9, 12, slices - 1)]
    rows = [Row(f'{i}', f'g{i}', f'{i}', others={'slices': slices}) for i in range(4)]
    places = [np.arange(slices)] * 4
    images = Images('a', np.empty(4, object), np.ones(4, int), rows, lesions=marked, places=places)
    equal = [np.full(slices, 1 / slices, np.float32)] * 4
    low = [np.where(marks, 0.5, 1.0).astype(np.float32) for marks in marked]
    for weights, flag in ((equal, False), ([each / each.sum() for each in low], True)):
        subject = types.SimpleNamespace(
            **{'tests': {'a': images}, 'weigh': lambda _, found=weights: found, 'folder': tmp_path},
            titles=('covid', 'normal'),
        )
        assert slice_attribution.check(subject).flag is flag


@pytest.mark.fast
def test_changed_slices_stay_in_their_scans():
    found = [np.full((k, 8, 8, 1), 100 + k, np.uint8) for k in (1, 3)]
    masks = [np.zeros(each.shape[:3], bool) for each in found]
    masks[1][1, 2:4] = True
    one, other = scan_regions.changed(regions.without_lungs, found, masks)
    np.testing.assert_array_equal(one, found[0])
    assert (other[1, 2:4] == 0).all() and (other[[0, 2]] == 103).all()

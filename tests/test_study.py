"""The published protocol on phantoms: what it trains on, what is kept, made again or refused.

One small study, and one audit of its first classifier, are shared by all tests.
"""

import contextlib
import io
import json
import pathlib
import re
import shutil
import subprocess
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict
from PIL import Image

from configs import audit as audit_config
from configs import clean as clean_config
from configs import paper as paper_config
from configs import quality as quality_config
from configs import report as report_config
from covjax import InputError, Stopped, generator, models, pipeline, runs, stand_ins, trained
from covjax.audit import experiments
from covjax.audit.verdict import Images
from covjax.ct import picture
from covjax.data import datasets, synthetic
from covjax.data.results import read as read_results
from covjax.models.backbone import Backbone
from covjax.pipeline import Stage
from covjax.runs import quality, study
from covjax.runs.audit import CHECKS
from covjax.workdir import claimed, read_json, read_stored_config

GAN = {
    'image_size': 32,
    'load_size': 36,
    'gen_filters': 4,
    'gen_blocks': 1,
    'disc_filters': 4,
    'steps': 3,
    'eval_every': 1,
    'best': '-val/cancer/kid',
}
CLASSIFIER = {
    'image_size': 32,
    'load_size': 32,
    'batch_size': 4,
    'warmup_steps': 1,
    'steps': 2,
    'eval_every': 2,
}
BATCH = 4  # the last batch of a test set is filled up, and these are small
CLASSIFIERS = ('toy_0', 'toy_1')


def toy_body(x, conv, norm):
    """Two layers: no claim here is about a network."""
    for i, width in enumerate((8, 16), 1):
        x = nn.relu(norm(name=f'norm{i}')(conv(width, (3, 3), 2, name=f'conv{i}')(x)))
    return {'last': x}


class Study:
    """One workdir, and the configs of its stages."""

    def __init__(self, workdir, data_dir):
        self.workdir, self.data_dir = workdir, data_dir
        self.first = self.run()
        self.synthetic_dir = workdir / 'synthesize' / 'data'
        self.data_dirs = f'{data_dir},{self.synthetic_dir}'
        self.classifier = workdir / 'classifier' / CLASSIFIERS[0]

    def run(self, **keys):
        """Runs the study, with dots in keys written as __ -> names of the stages that were made."""
        config = paper_config.get_config('small')
        config.update({'data_dir': self.data_dir, 'runs': ('toy:0', 'toy:1')})
        config.update({'cyclegan': GAN, 'classifier': CLASSIFIER})
        config.evaluate.batch_size = BATCH
        config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in keys.items()})
        return made(run_command(config, self.workdir))

    def results(self, test):
        """The Result of the first classifier on a test."""
        evaluation = read_results(self.workdir / 'evaluate' / CLASSIFIERS[0])
        (result,) = (
            each for each in evaluation.results if each.model == 'toy' and each.test_name == test
        )
        return result


def run_command(config, workdir):
    """Runs what launch.py would run -> what it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), claimed(config, workdir) as folder:
        runs.find(config.run)(config, folder)
    return output.getvalue()


def made(output):
    """Names of the stages that a pipeline has made, from what it prints."""
    return re.findall(r'^== (\S+) \(', output, re.MULTILINE)


@pytest.fixture(scope='module')
def small(data_dir, tmp_path_factory):
    """The Study, finished."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, 'toy', partial(Backbone, 'toy', toy_body, 8, 'none'))
        yield Study(tmp_path_factory.mktemp('study') / 'paper', data_dir)


def test_every_stage_is_made_in_order(small):
    classifiers = [f'classifier/{name}' for name in CLASSIFIERS]
    evaluations = [f'evaluate/{name}' for name in CLASSIFIERS]
    assert small.first == ['cyclegan', 'synthesize', *classifiers, *evaluations, 'report']


def test_what_is_finished_is_left_alone(small):
    assert small.run() == []


def test_a_stage_whose_config_has_changed_is_made_again(small):
    assert small.run(report__title='Another') == ['report']


def test_a_stopped_stage_and_what_is_made_from_it_are_made_again(small):
    (small.workdir / 'evaluate' / CLASSIFIERS[1] / 'finished.json').unlink()
    assert small.run() == [f'evaluate/{CLASSIFIERS[1]}', 'report']


@pytest.mark.fast
def test_what_is_made_again_reaches_everything_downstream(tmp_path, capsys):
    """Changed is b; c is made from it, d from c, and e from neither."""
    ran = []
    find = lambda name: lambda config, folder: ran.append(folder.name)
    needs = {'a': (), 'b': ('a',), 'c': ('b',), 'd': ('c',), 'e': ('a',)}
    for value in (1, 2):
        configs = {name: ConfigDict({'run': 'x', 'value': 1}) for name in needs}
        configs['b'].value = value
        planned = [Stage(name, configs[name], needs[name]) for name in needs]
        pipeline.follow(planned, tmp_path, find)
    assert ran == ['a', 'b', 'c', 'd', 'e', 'b', 'c', 'd']
    assert made(capsys.readouterr().out) == ran


@pytest.mark.fast
def test_another_training_in_the_place_of_the_one_before_is_noticed(tmp_path):
    ran, generator = [], tmp_path / 'generator'
    sums = generator / 'checkpoints' / '5' / 'sums' / 'metadata'
    sums.parent.mkdir(parents=True)
    config = ConfigDict({'run': 'x', 'generator': str(generator)})
    planned = [Stage('a', config), Stage('b', ConfigDict({'run': 'x'}), ('a',))]
    for content in ('first', 'first', 'second'):
        sums.write_text(content)
        pipeline.follow(planned, tmp_path / 'study', lambda name: lambda _, f: ran.append(f.name))
    assert ran == ['a', 'b', 'a', 'b']


@pytest.mark.fast
@pytest.mark.parametrize(
    'lost, again', [('a', ['a', 'b']), ('b', ['b']), ('tensorboard/curve', []), ('lock', [])]
)
def test_a_stage_that_lost_what_it_made_is_made_again(tmp_path, capsys, lost, again):
    """Lost is one file of a stage; the curves are of no use to any other."""
    ran = []

    def make(config, folder):
        ran.append(folder.name)
        for name in (folder.name, 'tensorboard/curve', 'lock'):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()

    config = ConfigDict({'run': 'x'})
    planned = [Stage('a', config), Stage('b', config, ('a',))]
    for _ in range(2):
        pipeline.follow(planned, tmp_path, lambda name: make)
        for folder in ('a', 'b'):
            (tmp_path / folder / lost).unlink(missing_ok=True)
    assert ran == ['a', 'b', *again]
    told = [tmp_path / name / lost for name in again[:1]]
    assert all(
        f'{file} is gone; its stage is made again' in capsys.readouterr().out for file in told
    )


@pytest.mark.fast
def test_a_pipeline_that_was_moved_is_still_finished(tmp_path):
    ran = []

    def plan(workdir):
        places = f'{workdir}/data,elsewhere'
        config = ConfigDict({'run': 'x', 'data_dir': places, 'in': {'tests': f'{workdir}/a'}})
        return [Stage('a', config), Stage('b', config, ('a',))]

    for name in ('before', 'after', 'copy'):
        workdir = tmp_path / name
        pipeline.follow(plan(workdir), workdir, lambda _: lambda config, folder: ran.append(folder))
        workdir.rename(tmp_path / 'after') if name == 'before' else None
    assert ran == [tmp_path / name for name in ('before/a', 'before/b', 'copy/a', 'copy/b')]


@pytest.mark.fast
def test_a_kill_after_a_stage_leaves_nothing_stale_that_counts_as_finished(tmp_path):
    ran, killed_in = [], []

    def make(config, folder):
        if folder.name in killed_in:
            raise Stopped(15)
        ran.append(folder.name)

    plan = lambda value: [
        Stage('a', ConfigDict({'run': 'x', 'value': value})),
        Stage('b', ConfigDict({'run': 'x', 'value': 1})),
        Stage('c', ConfigDict({'run': 'x', 'value': 1}), ('a',)),
        Stage('d', ConfigDict({'run': 'x', 'value': 1}), ('c',)),
    ]
    for value, killed in ((1, []), (2, ['c']), (2, [])):
        killed_in[:] = killed
        with contextlib.suppress(Stopped):
            pipeline.follow(plan(value), tmp_path, lambda name: make)
    assert ran == ['a', 'b', 'c', 'd', 'a', 'c', 'd']


def test_the_generator_learns_from_every_covid_picture_and_the_test_is_these(small):
    """The overlap stands beside the numbers, of the checkpoint that the publication used."""
    everything = 'covid_ct:train@covid+validation@covid+test@covid'
    every = {row.sha256 for row in datasets.read_rows(everything, small.data_dir)}
    (record,) = (
        record
        for record in read_json(small.classifier / 'lineage.json')
        if (record['role'], record['through']) == ('covid', 'generator')
    )
    assert {sha256 for sha256, _, _ in record['images']} == every
    result = small.results('real test')
    assert result.metrics['n_positive'] == result.overlap['images'] == len(every)
    assert result.checkpoint == 'latest'
    text = (small.workdir / 'report' / 'table2.md').read_text()
    assert 'paper protocol, real test' in text and f'{len(every)} images' in text


def test_no_synthetic_image_is_in_training_and_test(small):
    (record,) = (
        record
        for record in read_json(small.classifier / 'lineage.json')
        if (record['role'], record['through']) == ('train', '')
    )
    learned = {name for _, _, name in record['images']}
    assert learned.isdisjoint(image.id for image in small.results('synthetic test').images)


def test_the_clean_protocol_refuses_it_with_the_list(small, launch, tmp_path):
    result = launch(
        '--config=configs/evaluate.py',
        f'--workdir={tmp_path / "out"}',
        f'--config.classifier={small.classifier}',
        '--config.tests=covid_ct:test',
        f'--config.data_dir={small.data_dirs}',
    )
    lines = result.stderr.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith('covjax: '))
    assert result.returncode == 2 and 'protocol' in lines[first]
    assert not (tmp_path / 'out').exists()
    refused = {line.strip().split(':')[0] for line in lines[first + 1 :]}
    assert refused == {row.id for row in datasets.read_rows('covid_ct:test@covid', small.data_dir)}


def config_of_audit(small, **keys):
    """The config of an audit of the study."""
    config = audit_config.get_config()
    config.update(
        {
            'classifier': str(small.classifier),
            'synthetic': str(small.workdir / 'synthesize'),
            'protocol': 'paper',
            'pairs': '',
            **keys,
        }
    )
    return config


@pytest.fixture(scope='module')
def audited(small, tmp_path_factory):
    """(workdir, output) of an audit that trains a classifier of the generator's images."""
    workdir = tmp_path_factory.mktemp('audit') / 'audit'
    pairs = 'luna16_patches/nodules:train,covid_ct:train@noncovid'
    config = config_of_audit(small, stand_ins=(), shares=(), pairs=pairs)
    config.batch_size = config.evaluate.batch_size = BATCH
    return workdir, run_command(config, workdir)


def test_an_audit_answers_every_question_that_few_images_can(audited):
    workdir, output = audited
    verdicts = {
        verdict['name']: verdict for verdict in read_json(workdir / 'audit.json')['verdicts']
    }
    unanswered = {name for name, verdict in verdicts.items() if verdict['flag'] is None}
    assert set(verdicts) == {check.NAME for check in CHECKS}
    assert unanswered <= {
        'source of the images',
        'lesions and shams',
        'attribution (Grad-CAM)',
        'synthetic in place of real images',
        'stand-ins in place of the generator',
    }, output


def test_an_audit_reports_what_the_classifier_overlaps_with(audited):
    verdicts = read_json(audited[0] / 'audit.json')['verdicts']
    (verdict,) = (each for each in verdicts if each['name'] == 'overlap and near-duplicates')
    assert verdict['flag'] and 'documents' in verdict['finding']


def test_the_page_of_an_audit_has_its_pictures_and_loads_nothing(audited):
    page = (audited[0] / 'audit.html').read_text()
    assert page.count('data:image/png;base64,') >= 1
    assert 'Not for diagnosis' in page and 'no proof' in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_an_audit_trains_what_its_experiments_need(audited):
    expected = ['controls/translated/classifier', 'controls/translated/evaluate']
    assert made(audited[1]) == expected


@pytest.fixture
def stages(small, tmp_path):
    """{name: Stage} of the experiments of an audit of the real test, which nothing has made yet."""
    rows = datasets.read_rows('covid_ct:train', small.data_dir)
    labels = np.array([row.label for row in rows])
    subject = SimpleNamespace(
        tests={'real test': Images('covid_ct:test', None, None, [])},
        real=Images('covid_ct:train', None, labels, rows),
    )
    audited = read_stored_config(small.classifier / 'config.json')
    config = config_of_audit(small)
    planned = experiments.stages(config, subject, audited, small.data_dirs, tmp_path)
    return {stage.folder: stage for stage in planned}


def test_experiments_come_after_what_they_are_made_from(stages):
    names = list(stages)
    for i, stage in enumerate(stages.values()):
        assert set(stage.needs) <= set(names[:i])
    shares = audit_config.get_config().shares
    assert len(stages) == 2 + 3 * len(stand_ins.STAND_INS) + 2 * len(shares)


def test_mixtures_have_equally_many_covid_images_of_the_share_they_are_called_by(stages, small):
    """All real at 0 %, all synthetic at 100 %."""
    covid = {row.id for row in datasets.read_rows('covid_ct:train@covid', small.data_dir)}
    for share in audit_config.get_config().shares:
        config = stages[f'mixing/{share}/classifier'].config
        rows = datasets.read_rows(config.train, config.data_dir)
        trained_on = [row.id for row in rows if row.label == 1]
        synthetic = sum(name not in covid for name in trained_on) / len(trained_on)
        assert len(trained_on) == len(covid) and abs(synthetic - share / 100) < 0.2


def test_experiments_are_trained_as_the_audited_classifier_was(stages, small):
    audited = read_stored_config(small.classifier / 'config.json')
    for name, stage in stages.items():
        if name.endswith('/classifier'):
            differ = {key for key in audited if stage.config[key] != audited[key]}
            assert differ <= experiments.NOT_INHERITED and stage.config.steps == 2


def test_a_stand_in_has_slices_of_its_own(stages, small, tmp_path):
    folder = tmp_path / 'controls' / 'jpeg' / 'synthesize'
    expected = f'{small.data_dir},{folder / "data"}'
    assert stages['controls/jpeg/classifier'].config.data_dir == expected
    assert stages['controls/translated/classifier'].config.data_dir == small.data_dirs
    assert str(folder) not in stages['controls/window/classifier'].config.data_dir


def test_slices_of_a_stand_in_are_changed_as_its_name_says(stages, tmp_path):
    folder = tmp_path / 'jpeg'
    run_command(stages['controls/jpeg/synthesize'].config, folder)
    rows = datasets.read_rows('synthetic_covid_ct:train', str(folder / 'data'))
    assert {row.generator for row in rows} == {'jpeg'}
    what = read_json(folder / 'synthetic' / 'meta.json')['what']
    assert what.startswith('Lung-cancer CT slices, as a stand-in changed by jpeg')
    for row in synthetic.read_manifest(folder / 'synthetic')[:5]:
        source, image = (
            picture.read(folder / 'synthetic' / file).astype(int) for file in (row.input, row.file)
        )
        assert 0 < np.abs(source - image).mean() < 15


def in_0_5_0(config):
    """What version 0.5.0 wrote into finished.json of the same experiment."""
    values = json.loads(config.to_json())
    for key in ('aggregate', 'unit'):  # which it did not have
        values.pop(key, None)
    return {'how' if key == 'stand_in' else key: value for key, value in values.items()}


def test_experiments_of_0_5_0_are_taken_over(stages, tmp_path, capsys):
    """Their folders and the key `how` have kept their names there; nothing is trained again."""
    for stage in stages.values():
        folder = tmp_path / stage.folder
        folder.mkdir(parents=True)
        (folder / 'finished.json').write_text(json.dumps(in_0_5_0(stage.config)))
    unwanted = lambda name: pytest.fail(f'{name} is run again')
    pipeline.follow(stages.values(), tmp_path, unwanted)
    assert capsys.readouterr().out.count('is finished') == len(stages)


def test_slices_of_a_stand_in_have_the_config_that_0_5_0_gave_them(stages, small):
    assert in_0_5_0(stages['controls/jpeg/synthesize'].config) == {
        'run': 'synthesize',
        'data_dir': small.data_dir,
        'generator': str(small.workdir / 'cyclegan'),
        'cancer': 'luna16_patches/nodules',
        'how': 'jpeg',
        'batch_size': 16,
    }


def test_the_evaluation_of_an_experiment_has_the_config_that_0_5_0_gave_it(stages, small, tmp_path):
    assert in_0_5_0(stages['mixing/50/evaluate'].config) == {
        'run': 'evaluate',
        'data_dir': small.data_dirs,
        'classifier': str(tmp_path / 'mixing' / '50' / 'classifier'),
        'checkpoint': 'best',
        'tests': 'covid_ct:test',
        'names': 'real test',
        'protocol': 'paper',
        'baseline': '',
        'batch_size': 32,
    }


@pytest.mark.parametrize(
    'keys, named',
    [
        ({'classifier': 'nowhere'}, 'config.classifier'),
        ({'stand_ins': ('sepia',)}, 'config.stand_ins=sepia'),
        ({'pairs': 'covid_ct:train'}, 'config.pairs'),
        ({'tests': 'covid_ct:test@covid', 'names': ''}, 'config.tests'),
        ({'baseline': 'covid_ct:train@covid'}, 'config.baseline'),
        ({'synthetic': 'nowhere'}, 'config.synthetic'),
        ({'baseline': 'covid_ct:train[:50%]'}, 'config.baseline'),
        ({'checkpoint': 'worst'}, 'config.checkpoint'),
        ({'names': 'one'}, 'config.names'),
        ({'names': 'a,a'}, 'config.names'),
        ({'names': 'validation,a'}, 'config.names'),
        ({'pairs': 'covid_ct:train,covid_ct:test'}, 'config.pairs'),
        ({'protocol': 'clean'}, "config.protocol='official'"),
        ({'protocol': 'none'}, 'config.protocol'),
        ({'shares': (99,)}, 'config.shares'),
    ],
)
def test_wrong_audits_are_refused_before_anything_is_trained(small, tmp_path, keys, named):
    """Nothing is left behind."""
    with pytest.raises(InputError, match=named):
        run_command(config_of_audit(small, **keys), tmp_path / 'audit')
    assert not (tmp_path / 'audit').exists()


def test_experiments_of_other_images_or_seeds_are_refused(small, tmp_path):
    """What is finished there would be taken for these; the same again is welcome."""
    folder, source = tmp_path / 'experiments', tmp_path / 'source'
    audited = ConfigDict({'model': 'vgg16', 'seed': 0, 'steps': 2, 'image_size': 32})
    shutil.copytree(small.workdir / 'synthesize' / 'synthetic', source / 'synthetic')
    for _ in range(2):
        experiments.claim(folder, source, audited)
    with pytest.raises(InputError, match='config.experiments.*another seed'):
        experiments.claim(folder, source, ConfigDict({**audited, 'seed': 1}))
    changed = next((source / 'synthetic' / 'images').iterdir())
    picture.save(changed, 255 - picture.read(changed))
    with pytest.raises(InputError, match='config.experiments.*another synthetic'):
        experiments.claim(folder, source, audited)


def test_the_report_lists_verdicts(audited, small, tmp_path):
    config = report_config.get_config()
    config.evaluations = str(small.workdir / 'evaluate' / CLASSIFIERS[0])
    config.audits = str(audited[0])
    run_command(config, tmp_path / 'report')
    page = (tmp_path / 'report' / 'report.html').read_text()
    for text in ('overlap and near-duplicates', 'stand-ins in place of the generator', 'red flag'):
        assert text in page


def test_quality_of_the_study(small, tmp_path):
    """Every distance, in pixels and in the features of a classifier, of two splits.

    A set is measured against what the generator was trained on as well.
    """
    config = quality_config.get_config()
    config.synthetic, config.split = str(small.workdir / 'synthesize'), ''
    config.features, config.batch_size = f'pixels,{small.classifier}', BATCH
    run_command(config, tmp_path / 'quality')
    found = read_json(tmp_path / 'quality' / 'quality.json')
    assert len(found['distances']['rows']) == 2 * 2 * 3
    assert found['generator_trained_on'].startswith('covid_ct:train')
    # In this protocol no real image is new to the generator.
    assert [row[0] for row in found['copies']['rows']] == ['synthetic']
    page = (tmp_path / 'quality' / 'quality.html').read_text()
    assert page.count('data:image/png;base64,') >= 2


@pytest.fixture
def gan(small):
    return trained.open_run(small.workdir / 'cyclegan', 'cyclegan', 'generator')


def of_noise(stand_in, gan):
    """What a stand-in makes of images of noise, int [3, 32, 32, 1]."""
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    return stand_ins.METHODS[stand_in](gan, None, 2)(images).astype(int)


def test_an_untrained_generator_has_the_weights_that_training_starts_from(gan):
    network = generator.network(gan.config)
    image = np.zeros((1, 32, 32, 1), np.float32)
    params = jax.jit(network.init)(jax.random.key(gan.config.seed), image)['params']
    apply = jax.jit(generator.apply_uint8(generator.translator(network, params)))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    found = of_noise('untrained', gan)
    np.testing.assert_allclose(found, np.asarray(apply(images)).astype(int), atol=1)
    assert (found != of_noise('translated', gan)).any()


def test_the_way_there_and_back_is_both_generators(gan):
    back = jax.jit(generator.apply_uint8(generator.of_run(gan, 'to_cancer')))
    expected = back(of_noise('translated', gan).astype(np.uint8))
    found = of_noise('reconstructed', gan)
    np.testing.assert_allclose(found, np.asarray(expected).astype(int), atol=1)


def test_kid_picks_the_checkpoint(gan):
    """config.best with a minus keeps the step where the scalar is lowest."""
    lines = (gan.folder / 'metrics.jsonl').read_text().splitlines()
    evaluated = [line for line in map(json.loads, lines) if 'val/cancer/kid' in line]
    values = {line['step']: line['val/cancer/kid'] for line in evaluated}
    assert sorted(values) == [1, 2, 3] and gan.step == min(values, key=values.get)
    assert all('val/covid/checkerboard' in line for line in evaluated)


def test_a_missing_data_set_is_named_before_anything_is_trained(launch, tmp_path):
    result = launch(
        '--config=configs/clean.py:small',
        f'--workdir={tmp_path / "out"}',
        f'--config.data_dir={tmp_path}',
    )
    assert result.returncode == 2 and 'configs/prepare.py' in result.stderr
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'name',
    ['resnet:0', 'vgg16', 'vgg16:', 'vgg16:-1', 'vgg16:\u00b2', 'vgg16:99999999999999999999'],
)
def test_a_wrong_classifier_is_named_before_anything_is_trained(data_dir, name):
    config = paper_config.get_config('small')
    config.update({'data_dir': data_dir, 'runs': (name,)})
    with pytest.raises(InputError, match=f"'{name}' is not a backbone and a seed"):
        study.check(config)


@pytest.mark.fast
def test_stages_come_after_what_they_are_made_from():
    planned = list(study.stages(clean_config.get_config('small'), pathlib.Path('w'), 'd'))
    names = [stage.folder for stage in planned]
    for i, stage in enumerate(planned):
        assert set(stage.needs) <= set(names[:i])
        assert stage.config.run in runs.names()
    assert len(planned) == 2 + 2 * 7 + 1


BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')


@pytest.fixture(params=[420, 1300])
def browse(small, tmp_path, request):
    """(width of the window, browse(*arguments) -> stdout) of the report in a browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.skip('there is no browser')
    page = small.workdir / 'report' / 'report.html'
    start = [browser, '--headless', '--no-sandbox', '--disable-gpu']
    start += [f'--user-data-dir={tmp_path / "profile"}', f'--window-size={request.param},3000']

    def run(*arguments):
        command = [*start, *arguments, page.as_uri()]
        options = {'capture_output': True, 'timeout': 120, 'check': True, 'text': True}
        return subprocess.run(command, **options).stdout

    return request.param, run


def test_the_page_in_a_browser(browse, tmp_path):
    width, run = browse
    run(f'--screenshot={tmp_path / "page.png"}')
    shot = np.asarray(Image.open(tmp_path / 'page.png').convert('L'))
    assert shot.shape == (3000, width) and shot.std() > 10 and (shot[:, -2:] > 100).any()
    dom = run('--dump-dom')
    assert dom.count('<table') == dom.count('</table>') >= 6
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', dom)) == dom.count('<img') >= 3
    assert 'Not for diagnosis' in dom and 'scope="col"' in dom
    assert not re.search(r'(src|href)="(?!data:|#)', dom)


@pytest.mark.parametrize('changed', [False, True])
def test_the_generator_of_a_moved_study_is_the_one_beside_its_images(small, tmp_path, changed):
    """Found by its config, and not taken for another that lies there."""
    for name in ('cyclegan', 'synthesize'):
        shutil.copytree(small.workdir / name, tmp_path / name)
    for name, keys in (
        ('synthesize', {'generator': str(tmp_path / 'gone' / 'cyclegan')}),
        ('cyclegan', {'seed': 99} if changed else {}),
    ):
        file = tmp_path / name / 'config.json'
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    config = ConfigDict({'synthetic': str(tmp_path / 'synthesize')})
    if changed:
        with pytest.raises(InputError, match='generator .*gone.cyclegan is not there any more'):
            quality._generator_config(config)
    else:
        assert quality._generator_config(config).task == 'cyclegan'

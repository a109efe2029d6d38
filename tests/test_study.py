"""The published protocol on phantoms: what it trains on, what is kept and made again, what the clean protocol refuses; and its page in a browser."""

import json
import pathlib
import re
import shutil
import subprocess
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from covjax import InputError, generator, stand_ins
from covjax.audit.verdict import Images
from covjax.ct import picture
from covjax.data import datasets
from covjax.runs import audit as audit_run
from covjax.runs import study, synthesize
from covjax.runs.audit import experiments
from covjax.weights import checkpoint
from covjax.workdir import claimed, read_json

SMALL = [
    'cyclegan.image_size=32',
    'cyclegan.load_size=36',
    'cyclegan.gen_filters=4',
    'cyclegan.gen_blocks=1',
    'cyclegan.disc_filters=4',
    'cyclegan.steps=2',
    'cyclegan.eval_every=2',
    'classifier.image_size=32',
    'classifier.load_size=32',
    'classifier.batch_size=4',
    'classifier.steps=2',
    'classifier.eval_every=2',
    'classifier.warmup_steps=1',
    "runs=('vgg16:0','vgg16:1')",
]


@pytest.fixture(scope='module')
def run(launch, data_dir, tmp_path_factory):
    """run(*keys) -> stdout of the study, always in one workdir."""
    workdir = tmp_path_factory.mktemp('study') / 'paper'

    def again(*keys):
        result = launch(
            '--config=configs/paper.py:small',
            f'--workdir={workdir}',
            f'--config.data_dir={data_dir}',
            *(f'--config.{key}' for key in (*SMALL, *keys)),
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    again.workdir = workdir
    again.first = again()
    return again


def made(stdout):
    return re.findall(r'^== (\S+) \(', stdout, re.MULTILINE)


def test_what_is_finished_is_left_alone(run):
    parts = [
        'cyclegan',
        'synthesize',
        'classifier/vgg16_0',
        'classifier/vgg16_1',
        'evaluate/vgg16_0',
        'evaluate/vgg16_1',
        'report',
    ]
    assert made(run.first) == parts
    assert made(run()) == [] and made(run('report.title=Another')) == ['report']
    (run.workdir / 'classifier' / 'vgg16_1' / 'finished.json').unlink()  # as if it had been stopped
    assert made(run('evaluate.batch_size=7')) == [
        'classifier/vgg16_1',
        'evaluate/vgg16_0',
        'evaluate/vgg16_1',
        'report',
    ]


def test_it_is_the_published_protocol(run, data_dir):
    """The generator learns from every COVID-19 picture, and the real test is these pictures; the overlap stands beside the numbers."""
    records = {
        (record['role'], record['through']): record
        for record in read_json(run.workdir / 'classifier' / 'vgg16_0' / 'lineage.json')
    }
    every = {
        row['sha256']
        for row in datasets.read_rows('covid_ct:train@covid+validation@covid+test@covid', data_dir)
    }
    assert {image[0] for image in records['covid', 'generator']['images']} == every
    (real,) = (
        result
        for result in read_json(run.workdir / 'evaluate' / 'vgg16_0' / 'results.json')['results']
        if result['model'] == 'vgg16' and result['test_name'] == 'real test'
    )
    assert (
        real['metrics']['n_positive'] == real['overlap']['images'] == len(every)
        and real['checkpoint'] == 'latest'
    )
    text = (run.workdir / 'report' / 'table2.md').read_text()
    assert 'paper protocol, real test' in text and f'{len(every)} images' in text
    trained = {image[2] for image in records['train', '']['images']}
    tested = {
        image['id']
        for result in read_json(run.workdir / 'evaluate' / 'vgg16_0' / 'results.json')['results']
        if result['test_name'] == 'synthetic test'
        for image in result['images']
    }
    assert not trained & tested


def test_the_clean_protocol_refuses_it_with_the_list(run, launch, tmp_path):
    data_dirs = f'{run.workdir / "synthesize" / "data"},{read_json(run.workdir / "config.json")["data_dir"]}'
    result = launch(
        '--config=configs/evaluate.py',
        f'--workdir={tmp_path / "out"}',
        f'--config.classifier={run.workdir / "classifier" / "vgg16_0"}',
        '--config.tests=covid_ct:test',
        f'--config.data_dir={data_dirs}',
    )
    told = result.stderr.splitlines()
    first = next(i for i, line in enumerate(told) if line.startswith('covjax: '))
    assert result.returncode == 2 and 'protocol' in told[first] and not (tmp_path / 'out').exists()
    assert {line.strip().split(':')[0] for line in told[first + 1 :]} == {
        row['id'] for row in datasets.read_rows('covid_ct:test@covid', data_dirs)
    }


@pytest.fixture(scope='module')
def audited(run, launch, data_dir, tmp_path_factory):
    """(workdir, stdout) of an audit of a classifier of the study, for which a classifier of the generator's images is trained."""
    workdir, parts = tmp_path_factory.mktemp('audit') / 'audit', run.workdir
    result = launch(
        '--config=configs/audit.py',
        f'--workdir={workdir}',
        f'--config.classifier={parts / "classifier" / "vgg16_0"}',
        f'--config.synthetic={parts / "synthesize"}',
        '--config.protocol=paper',
        '--config.controls=()',
        '--config.shares=()',
        '--config.sources=luna16_patches/nodules:train,covid_ct:train@noncovid',
    )
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def test_an_audit_answers_every_question(audited):
    """The checks that these few small images can answer do, the page has their pictures, and what the classifier overlaps with is told."""
    workdir, told = audited
    verdicts = {one['name']: one for one in read_json(workdir / 'audit.json')['verdicts']}
    unasked = {name for name, one in verdicts.items() if one['flag'] is None}
    assert len(verdicts) == 10 and unasked <= {
        'source of the images',
        'attribution (Grad-CAM)',
        'synthetic in place of real images',
        'controls in place of the generator',
    }, told
    assert (
        verdicts['overlap and near-duplicates']['flag']
        and 'documents' in verdicts['overlap and near-duplicates']['finding']
    )
    page = (workdir / 'audit.html').read_text()
    assert (
        page.count('data:image/png;base64,') >= 1
        and 'Not for diagnosis' in page
        and 'no proof' in page
        and not re.search(r'(src|href)="(?!data:|#)', page)
    )
    assert made(told) == ['controls/translated/classifier', 'controls/translated/evaluate']


def test_what_experiments_train_on(run, data_dir, tmp_path):
    """Mixtures of every share have the same number of COVID-19 images, all real at 0 %, all synthetic at 100 %; a control has slices of its own, changed as its name says."""
    from configs import audit

    config = audit.get_config()
    config.update({'synthetic': str(run.workdir / 'synthesize'), 'classifier': 'w'})
    both = f'{data_dir},{run.workdir / "synthesize" / "data"}'
    trained = ConfigDict(read_json(run.workdir / 'classifier' / 'vgg16_0' / 'config.json'))
    rows = datasets.read_rows('covid_ct:train', data_dir)
    subject = SimpleNamespace(
        tests={'real test': Images('covid_ct:test', None, None, [])},
        real=Images('covid_ct:train', None, np.array([row['label'] for row in rows]), rows),
    )
    config.protocol = 'paper'
    stages = {
        name: stage for name, stage, _ in experiments(config, subject, trained, both, tmp_path)
    }
    covid = {row['id'] for row in datasets.read_rows('covid_ct:train@covid', data_dir)}
    for share in config.shares:
        stage = stages[f'mixing/{share}/classifier']
        rows = [row for row in datasets.read_rows(stage.train, stage.data_dir) if row['label'] == 1]
        synthetic = sum(row['id'] not in covid for row in rows)
        assert (
            len(rows) == len(covid)
            and abs(synthetic / len(rows) - share / 100) < 0.2
            and stage.steps == trained.steps
            and stage.model == 'vgg16'
        )
    control, folder = (
        stages['controls/jpeg/synthesize'],
        tmp_path / 'controls' / 'jpeg' / 'synthesize',
    )
    synthesize.run(control, folder)
    assert (
        stages['controls/jpeg/classifier'].data_dir == f'{data_dir},{folder / "data"}'
        and str(folder) not in stages['controls/window/classifier'].data_dir
    )
    made_of = {
        row['id']: row
        for row in datasets.read_rows('synthetic_covid_ct:train', str(folder / 'data'))
    }
    assert {row['generator'] for row in made_of.values()} == {'jpeg'} and json.loads(
        (folder / 'synthetic' / 'meta.json').read_text()
    )['what'].startswith('Lung-cancer CT slices, as a control changed by jpeg')
    for row in list(made_of.values())[:5]:
        source, image = (
            picture.read(folder / 'synthetic' / part / f'{row["id"]}.png').astype(int)
            for part in ('inputs', 'images')
        )
        assert 0 < np.abs(source - image).mean() < 15


@pytest.mark.parametrize(
    'keys, told',
    [
        (dict(classifier='nowhere'), 'config.classifier'),
        (dict(controls=('sepia',)), 'config.controls'),
        (dict(sources='covid_ct:train'), 'config.sources'),
        (dict(tests='covid_ct:test@covid', names=''), 'config.tests'),
        (dict(baseline='covid_ct:train@covid'), 'config.baseline'),
        (dict(synthetic='nowhere'), 'config.synthetic'),
        (dict(baseline='covid_ct:train[:50%]'), 'config.baseline'),
        (dict(checkpoint='worst'), 'config.checkpoint'),
        (dict(names='one'), 'config.names'),
        (dict(names='a,a'), 'config.names'),
        (dict(sources='covid_ct:train,covid_ct:test'), 'config.sources'),
        (dict(protocol='clean'), "config.protocol='official'"),
        (dict(protocol='none'), 'config.protocol'),
        (dict(shares=(99,)), 'config.shares'),
    ],
)
def test_wrong_audits(run, data_dir, tmp_path, keys, told):
    """Told before anything is trained, and nothing is left."""
    from configs import audit

    config = audit.get_config()
    config.update(
        {
            'classifier': str(run.workdir / 'classifier' / 'vgg16_0'),
            'synthetic': str(run.workdir / 'synthesize'),
            'sources': '',
            'protocol': 'paper',
            **keys,
        }
    )
    with pytest.raises(InputError, match=told), claimed(config, tmp_path / 'audit'):
        audit_run.run(config, tmp_path / 'audit')
    assert not (tmp_path / 'audit').exists()


def test_experiments_of_other_images_or_seeds_are_refused(run, tmp_path):
    """What is finished there would be taken for these; the same again is welcome."""
    made, trained = (
        tmp_path / 'made',
        ConfigDict({'model': 'vgg16', 'seed': 0, 'steps': 2, 'image_size': 32}),
    )
    shutil.copytree(run.workdir / 'synthesize' / 'synthetic', made / 'synthetic')
    for _ in range(2):
        audit_run._claim(tmp_path / 'experiments', made, trained)
    with pytest.raises(InputError, match='config.experiments.*another seed'):
        audit_run._claim(tmp_path / 'experiments', made, ConfigDict({**trained, 'seed': 1}))
    picture = next((made / 'synthetic' / 'images').iterdir())
    picture.save(picture, 255 - picture.read(picture))
    with pytest.raises(InputError, match='config.experiments.*another synthetic'):
        audit_run._claim(tmp_path / 'experiments', made, trained)


def test_the_report_lists_verdicts(audited, run, launch, tmp_path):
    result = launch(
        '--config=configs/report.py',
        f'--workdir={tmp_path / "report"}',
        f'--config.evaluations={run.workdir / "evaluate" / "vgg16_0"}',
        f'--config.audits={audited[0]}',
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / 'report' / 'report.html').read_text()
    assert all(
        name in page
        for name in (
            'overlap and near-duplicates',
            'controls in place of the generator',
            'red flag',
        )
    )


def test_quality_of_the_study(run, launch, tmp_path):
    """Every distance, in pixels and in the features of a classifier; a set is measured against what the generator was trained on as well."""
    result = launch(
        '--config=configs/quality.py',
        f'--workdir={tmp_path / "quality"}',
        f'--config.synthetic={run.workdir / "synthesize"}',
        '--config.split=',
        f'--config.features=pixels,{run.workdir / "classifier" / "vgg16_0"}',
    )
    assert result.returncode == 0, result.stderr
    found = read_json(tmp_path / 'quality' / 'quality.json')
    assert len(found['distances']['rows']) == 2 * 2 * 3 and found[
        'generator_trained_on'
    ].startswith('covid_ct:train')
    assert [row[0] for row in found['copies']['rows']] == [
        'synthetic'
    ]  # in this protocol no real image is new to the generator
    assert (tmp_path / 'quality' / 'quality.html').read_text().count('data:image/png;base64,') >= 2


def test_controls_that_are_networks(run):
    """An untrained generator and the way there and back are what the parameters say, one of them without a step of training."""
    gan, model, _ = checkpoint.load_model(run.workdir / 'cyclegan', 'cyclegan', 'generator')
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    apply = {
        name: stand_ins.METHODS[name](gan, model, None, 2)
        for name in ('translated', 'untrained', 'reconstructed')
    }
    back = generator.apply_uint8(generator.of_run(gan, model, 'to_cancer'))
    np.testing.assert_allclose(
        apply['reconstructed'](images).astype(int),
        np.asarray(back(apply['translated'](images))).astype(int),
        atol=1,
    )
    drawn = jax.jit(generator.network(gan).init)(
        jax.random.key(gan.seed), np.zeros((1, 32, 32, 1), np.float32)
    )['params']
    expected = generator.apply_uint8(generator.translator(generator.network(gan), drawn))(images)
    np.testing.assert_allclose(
        apply['untrained'](images).astype(int), np.asarray(expected).astype(int), atol=1
    )
    assert (apply['untrained'](images) != apply['translated'](images)).any()


def test_kid_picks_the_checkpoint(launch, data_dir, tmp_path):
    """config.best with a minus keeps the step where the scalar is lowest."""
    keys = [
        key.removeprefix('cyclegan.')
        for key in SMALL
        if key.startswith('cyclegan.') and 'eval_every' not in key and 'steps' not in key
    ]
    result = launch(
        '--config=configs/cyclegan.py:small',
        f'--workdir={tmp_path / "gan"}',
        f'--config.data_dir={data_dir}',
        '--config.steps=6',
        '--config.eval_every=2',
        '--config.best=-val/cancer/kid',
        *(f'--config.{key}' for key in keys),
    )
    assert result.returncode == 0, result.stderr
    lines = [
        json.loads(line) for line in (tmp_path / 'gan' / 'metrics.jsonl').read_text().splitlines()
    ]
    values = {line['step']: line['val/cancer/kid'] for line in lines if 'val/cancer/kid' in line}
    assert sorted(values) == [2, 4, 6] and all(
        'val/covid/checkerboard' in line for line in lines if 'val/cancer/kid' in line
    )
    assert checkpoint.load_model(tmp_path / 'gan', 'cyclegan', 'generator')[2] == min(
        values, key=values.get
    )


def test_a_missing_data_set_is_told_before_anything_is_trained(launch, tmp_path):
    result = launch(
        '--config=configs/clean.py:small',
        f'--workdir={tmp_path / "out"}',
        f'--config.data_dir={tmp_path}',
    )
    assert (
        result.returncode == 2
        and 'configs/prepare.py' in result.stderr
        and not (tmp_path / 'out').exists()
    )


def test_wrong_runs(launch, data_dir, tmp_path):
    result = launch(
        '--config=configs/paper.py:small',
        f'--workdir={tmp_path / "out"}',
        f'--config.data_dir={data_dir}',
        "--config.runs=('resnet:0',)",
    )
    assert result.returncode == 2 and "'resnet:0' is not a backbone and a seed" in result.stderr


def test_parts_are_ordered_by_what_they_need():
    from configs import clean

    planned = list(study.stages(clean.get_config('small'), pathlib.Path('w'), 'd'))
    for i, (_, _, needs) in enumerate(planned):
        assert set(needs) <= {name for name, _, _ in planned[:i]}
    assert len(planned) == 2 + 2 * 7 + 1 and all(
        json.loads(stage.to_json())['run'] in study.RUN for _, stage, _ in planned
    )


@pytest.mark.parametrize('width', [420, 1300])
def test_the_page_in_a_browser(run, tmp_path, width):
    browser = (
        shutil.which('chromium')
        or shutil.which('chromium-browser')
        or shutil.which('google-chrome')
    )
    if not browser:
        pytest.skip('there is no browser')
    page = run.workdir / 'report' / 'report.html'
    start = [
        browser,
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        f'--user-data-dir={tmp_path / "profile"}',
        f'--window-size={width},3000',
    ]
    subprocess.run(
        [*start, f'--screenshot={tmp_path / "page.png"}', page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    shot = np.asarray(Image.open(tmp_path / 'page.png').convert('L'))
    assert shot.shape == (3000, width) and shot.std() > 10 and (shot[:, -2:] > 100).any()
    dom = subprocess.run(
        [*start, '--dump-dom', page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
        text=True,
    ).stdout
    assert (
        dom.count('<table') == dom.count('</table>') >= 6
        and len(re.findall(r'<img [^>]*alt="[^"]+"', dom)) == dom.count('<img') >= 3
    )
    assert (
        'Not for diagnosis' in dom
        and 'scope="col"' in dom
        and not re.search(r'(src|href)="(?!data:|#)', dom)
    )

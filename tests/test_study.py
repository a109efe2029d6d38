"""The published protocol on phantoms: what it trains on, what is kept and made again, what the clean protocol refuses; and its page in a browser."""
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from covjax import data, study
from covjax.workdir import read_json

SMALL = ['cyclegan.image_size=32', 'cyclegan.load_size=36', 'cyclegan.gen_filters=4', 'cyclegan.gen_blocks=1', 'cyclegan.disc_filters=4', 'cyclegan.steps=2', 'cyclegan.eval_every=2',
         'classifier.image_size=32', 'classifier.load_size=32', 'classifier.batch_size=4', 'classifier.steps=2', 'classifier.eval_every=2', 'classifier.warmup_steps=1',
         "runs=('vgg16:0','vgg16:1')"]


@pytest.fixture(scope='module')
def run(launch, data_dir, tmp_path_factory):
    """run(*keys) -> stdout of the study, always in one workdir."""
    workdir = tmp_path_factory.mktemp('study') / 'paper'

    def again(*keys):
        result = launch('--config=configs/paper.py:small', f'--workdir={workdir}', f'--config.data_dir={data_dir}', *(f'--config.{key}' for key in (*SMALL, *keys)))
        assert result.returncode == 0, result.stderr
        return result.stdout
    again.workdir = workdir
    again.first = again()
    return again


def made(stdout):
    return re.findall(r'^== (\S+) \(', stdout, re.MULTILINE)


def test_what_is_finished_is_left_alone(run):
    parts = ['cyclegan', 'synthesize', 'classifier/vgg16_0', 'classifier/vgg16_1', 'evaluate/vgg16_0', 'evaluate/vgg16_1', 'report']
    assert made(run.first) == parts
    assert made(run()) == [] and made(run('report.title=Another')) == ['report']
    assert made(run('evaluate.batch_size=7')) == parts[4:]
    (run.workdir / 'classifier' / 'vgg16_1' / 'finished.json').unlink()        # as if it had been stopped
    assert made(run('evaluate.batch_size=7')) == ['classifier/vgg16_1', 'evaluate/vgg16_1', 'report']


def test_it_is_the_published_protocol(run, data_dir):
    """The generator learns from every COVID-19 picture, and the real test is these pictures; the overlap stands beside the numbers."""
    records = {(record['role'], record['through']): record for record in read_json(run.workdir / 'classifier' / 'vgg16_0' / 'lineage.json')}
    every = {row['sha256'] for row in data.read_rows('covid_ct:train@covid+validation@covid+test@covid', data_dir)}
    assert {image[0] for image in records['covid', 'generator']['images']} == every
    real, = (result for result in read_json(run.workdir / 'evaluate' / 'vgg16_0' / 'results.json')['results'] if result['model'] == 'vgg16' and result['test_name'] == 'real test')
    assert real['metrics']['n_positive'] == real['overlap']['images'] == len(every) and real['checkpoint'] == 'latest'
    text = (run.workdir / 'report' / 'table2.md').read_text()
    assert 'paper protocol, real test' in text and f'{len(every)} images' in text
    trained = {image[2] for image in records['train', '']['images']}
    tested = {image['id'] for result in read_json(run.workdir / 'evaluate' / 'vgg16_0' / 'results.json')['results'] if result['test_name'] == 'synthetic test' for image in result['images']}
    assert not trained & tested


def test_the_clean_protocol_refuses_it_with_the_list(run, launch, tmp_path):
    data_dirs = f'{run.workdir / "synthesize" / "data"},{read_json(run.workdir / "config.json")["data_dir"]}'
    result = launch('--config=configs/evaluate.py', f'--workdir={tmp_path / "out"}', f'--config.classifier={run.workdir / "classifier" / "vgg16_0"}', '--config.tests=covid_ct:test',
                    f'--config.data_dir={data_dirs}')
    told = result.stderr.splitlines()
    first = next(i for i, line in enumerate(told) if line.startswith('covjax: '))
    assert result.returncode == 2 and 'protocol' in told[first] and not (tmp_path / 'out').exists()
    assert {line.strip().split(':')[0] for line in told[first + 1:]} == {row['id'] for row in data.read_rows('covid_ct:test@covid', data_dirs)}


def test_a_missing_data_set_is_told_before_anything_is_trained(launch, tmp_path):
    result = launch('--config=configs/clean.py:small', f'--workdir={tmp_path / "out"}', f'--config.data_dir={tmp_path}')
    assert result.returncode == 2 and 'configs/prepare.py' in result.stderr and not (tmp_path / 'out').exists()


def test_wrong_runs(launch, data_dir, tmp_path):
    result = launch('--config=configs/paper.py:small', f'--workdir={tmp_path / "out"}', f'--config.data_dir={data_dir}', "--config.runs=('resnet:0',)")
    assert result.returncode == 2 and "'resnet:0' is not a backbone and a seed" in result.stderr


def test_parts_are_ordered_by_what_they_need():
    from configs import clean
    planned = list(study.parts(clean.get_config('small'), pathlib.Path('w'), 'd'))
    for i, (_, _, needs) in enumerate(planned):
        assert set(needs) <= {name for name, _, _ in planned[:i]}
    assert len(planned) == 2 + 2 * 7 + 1 and all(json.loads(stage.to_json())['run'] in study.RUN for _, stage, _ in planned)


@pytest.mark.parametrize('width', [420, 1300])
def test_the_page_in_a_browser(run, tmp_path, width):
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not browser:
        pytest.skip('there is no browser')
    page = run.workdir / 'report' / 'report.html'
    start = [browser, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path / "profile"}', f'--window-size={width},3000']
    subprocess.run([*start, f'--screenshot={tmp_path / "page.png"}', page.as_uri()], capture_output=True, timeout=120, check=True)
    shot = np.asarray(Image.open(tmp_path / 'page.png').convert('L'))
    assert shot.shape == (3000, width) and shot.std() > 10 and (shot[:, -2:] > 100).any()
    dom = subprocess.run([*start, '--dump-dom', page.as_uri()], capture_output=True, timeout=120, check=True, text=True).stdout
    assert dom.count('<table') == dom.count('</table>') >= 6 and len(re.findall(r'<img [^>]*alt="[^"]+"', dom)) == dom.count('<img') >= 3
    assert 'Not for diagnosis' in dom and 'scope="col"' in dom and not re.search(r'(src|href)="(?!data:|#)', dom)

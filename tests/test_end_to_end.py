"""The whole path on phantoms, stopped in the middle and taken up again, on two (virtual) devices."""

import csv
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from covjax import generator
from covjax.data import datasets, lineage
from covjax.models import create
from covjax.runs.report import COLUMNS
from covjax.training import classification
from covjax.weights import checkpoint

KEYS = [
    'phantom.luna16.series=10',
    'phantom.luna16.slices=3',
    'phantom.luna16.size=128',
    'phantom.covid_ct.train=6',
    'phantom.covid_ct.validation=3',
    'phantom.covid_ct.test=5',
    'cyclegan.image_size=32',
    'cyclegan.load_size=36',
    'cyclegan.gen_filters=4',
    'cyclegan.gen_blocks=1',
    'cyclegan.disc_filters=4',
    'cyclegan.steps=300',
    'cyclegan.eval_every=150',
    'cyclegan.log_every=5',
    'classifier.image_size=32',
    'classifier.load_size=32',
    'classifier.batch_size=4',
    'classifier.steps=4',
    'classifier.eval_every=2',
    'classifier.log_every=1',
    'classifier.warmup_steps=1',
]


def command(workdir):
    environment = os.environ | {
        'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
        'PYTHONUNBUFFERED': '1',
    }
    arguments = [
        sys.executable,
        str(ROOT / 'launch.py'),
        '--config=configs/quickstart.py',
        f'--workdir={workdir}',
        *(f'--config.{key}' for key in KEYS),
    ]
    return dict(
        args=arguments,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope='module')
def quickstart(tmp_path_factory):
    """(workdir, stdout of the first, stopped run, stdout of the second)."""
    workdir = tmp_path_factory.mktemp('quickstart') / 'run'
    with subprocess.Popen(**command(workdir)) as process:
        first = ''
        for line in process.stdout:
            first += line
            if line.startswith('step 20/300'):
                process.send_signal(signal.SIGTERM)
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM, first
    second = subprocess.run(**command(workdir))
    assert second.returncode == 0, second.stderr
    return workdir, first, second.stdout


def test_goes_on_where_it_was_stopped(quickstart):
    _, first, second = quickstart
    stopped = re.search(r'stopped after step (\d+)', first).group(1)
    assert (
        f'going on after step {stopped}\n' in second
        and 'step 5/300' not in second
        and 'already prepared' in second
    )
    assert 20 <= int(stopped) < 300


def test_every_workdir_is_complete(quickstart):
    workdir, _, second = quickstart
    for run, task in (('cyclegan', 'cyclegan'), ('classifier/resnet50_0', 'classification')):
        folder = workdir / run
        assert {'config.json', 'checkpoints', 'metrics.jsonl', 'lineage.json', 'images'} <= {
            path.name for path in folder.iterdir()
        }
        config, _, step = checkpoint.load_model(folder, task, 'generator')
        steps = [
            json.loads(line)['step'] for line in (folder / 'metrics.jsonl').read_text().splitlines()
        ]
        assert steps == sorted(steps) and steps[-1] == config.steps >= step
    assert list((workdir / 'cyclegan' / 'images').glob('*input_translated_reconstructed*.png'))
    for path in re.findall(r'^  [a-z ]+  (/.*)$', second, re.MULTILINE):
        assert os.path.exists(path), path


def test_synthetic_data_set_carries_its_sources(quickstart):
    workdir, _, _ = quickstart
    gan, model, step = checkpoint.load_model(workdir / 'cyclegan', 'cyclegan', 'generator')
    apply = generator.apply_uint8(generator.of_run(gan, model, 'to_covid'))
    for split in ('train', 'validation', 'test'):
        sources = datasets.read(f'luna16_patches/nodules:{split}', str(workdir / 'data'), 32)
        by_id = {row['id']: (row, image) for row, image in zip(sources.rows, sources.images)}
        fakes = datasets.read(
            f'synthetic_covid_ct:{split}', str(workdir / 'synthesize' / 'data'), 32
        )
        assert len(fakes.rows) == len(sources.rows) and set(fakes.labels) == {1}
        for row, fake in zip(fakes.rows, fakes.images):
            source, image = by_id[row['source_id']]
            assert (
                row['nodules'] == source['nodules']
                and row['window'] == source['window']
                and row['source_sha256'] == source['sha256']
            )
            assert (row['group'], row['series'], row['z'], row['generator_step']) == (
                source['group'],
                source['series'],
                source['z'],
                step,
            )
            assert np.abs(np.asarray(apply(image[None]))[0].astype(int) - fake).max() <= 1


def test_synthetic_folder_serves_without_covjax(quickstart):
    """COCO boxes, CSV and data card agree with the manifest, and every picture they name is there."""
    folder = quickstart[0] / 'synthesize' / 'synthetic'
    rows = [json.loads(line) for line in (folder / 'manifest.jsonl').read_text().splitlines()]
    boxes = json.loads((folder / 'annotations.json').read_text())
    card = json.loads((folder / 'meta.json').read_text())
    assert [image['file_name'] for image in boxes['images']] == [
        row['file'] for row in rows
    ] and all((folder / row['file']).is_file() for row in rows)
    count = sum(len(row['nodules']) for row in rows)
    assert (
        len(boxes['annotations'])
        == len(list(csv.DictReader((folder / 'annotations.csv').open())))
        == card['boxes']
        == count
        > 0
    )
    assert (
        card['images'] == len(rows) == sum(card['splits'].values())
        and card['windows'] == ['lung']
        and card['image_size'] == boxes['images'][0]['width']
    )


def test_generator_lineage_reaches_the_classifier(quickstart):
    workdir, _, _ = quickstart
    records = json.loads((workdir / 'classifier' / 'resnet50_0' / 'lineage.json').read_text())
    assert {(record['role'], record['through']) for record in records} == {
        ('train', ''),
        ('val', ''),
        ('cancer', 'generator'),
        ('covid', 'generator'),
        ('val', 'generator'),
    }
    train_rows = datasets.read_rows('covid_ct:train@covid', str(workdir / 'data'))
    assert lineage.overlap(records, train_rows)[0]['images'] == len(
        train_rows
    )  # only the generator has seen these


def test_results_and_report(quickstart):
    workdir, _, _ = quickstart
    results = json.loads((workdir / 'evaluate' / 'resnet50_0' / 'results.json').read_text())[
        'results'
    ]
    config, model, _ = checkpoint.load_model(
        workdir / 'classifier' / 'resnet50_0', 'classification', 'classifier'
    )
    data_dir = f'{workdir / "data"},{workdir / "synthesize" / "data"}'
    for result in results:
        test = datasets.read(result['test_set'], data_dir, config.image_size)
        assert [(image['id'], image['label']) for image in result['images']] == [
            (row['id'], label) for row, label in zip(test.rows, test.labels)
        ]
        if result['model'] == 'resnet50':
            scores = np.asarray(classification.score(config, model)(test.images))
            np.testing.assert_allclose(
                [image['score'] for image in result['images']], scores, atol=1e-4
            )
    rows = list(csv.DictReader((workdir / 'report' / 'table.csv').open()))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == len(results) == 10
    for row, result in zip(rows, results):
        assert row['positive_class'] == 'covid' and int(row['n_positive']) + int(
            row['n_negative']
        ) == len(result['images'])
    page = (workdir / 'report' / 'report.html').read_text()
    assert (
        page.count('data:image/png;base64,') == 6
        and not re.search(r'(src|href)="(?!data:|#)', page)
        and 'Phantom' in page
    )
    for picture in ('roc.png', 'panels.png'):
        assert picture.read(workdir / 'report' / picture).std() > 10


def test_checkpoint_of_two_devices_runs_on_one(quickstart):
    workdir, _, _ = quickstart
    config, model, _ = checkpoint.load_model(
        workdir / 'classifier' / 'resnet50_0', 'classification', 'classifier'
    )
    logits = create('resnet50').apply(
        {'params': model['net']['params'], 'batch_stats': model['batch_stats']},
        np.zeros((1, 32, 32, 1), np.float32),
    )
    assert logits.shape == (1, 2) and np.isfinite(logits).all()


def test_another_config_does_not_overwrite_a_run(quickstart, launch):
    workdir, _, _ = quickstart
    before = (workdir / 'cyclegan' / 'config.json').read_text()
    result = launch('--config=configs/cyclegan.py:small', f'--workdir={workdir / "cyclegan"}')
    assert result.returncode == 2 and 'choose another --workdir' in result.stderr
    assert (workdir / 'cyclegan' / 'config.json').read_text() == before

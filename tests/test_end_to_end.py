"""The whole path on phantoms, stopped and taken up again, on two (virtual) devices."""

import csv
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, flags_of_devices
from launching import TINY_QUICKSTART
from ml_collections import ConfigDict

from configs import audit_external as audit_external_config
from covjax import classifier, generator, provenance, trained
from covjax.ct import picture
from covjax.data import batches, datasets, lineage
from covjax.data.synthetic import read_manifest
from covjax.runs import audit_external
from covjax.runs.report import COLUMNS
from covjax.workdir import read_json

CLASSIFIER = 'classifier/synthetic'


def first_run(words):
    """The quick start on two devices, stopped in its training -> what it prints."""
    command = [sys.executable, str(ROOT / 'launch.py'), *words]
    environment = os.environ | {'XLA_FLAGS': flags_of_devices(2), 'PYTHONUNBUFFERED': '1'}
    options = {'cwd': ROOT, 'env': environment, 'text': True, 'stdout': subprocess.PIPE}
    printed = ''
    with subprocess.Popen(command, **options) as process:
        for line in process.stdout:
            printed += line
            if line.startswith('step 20/120'):
                process.send_signal(signal.SIGTERM)
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM, printed
    return printed


@pytest.fixture(scope='module')
def quickstart(tmp_path_factory, launch):
    """(workdir, stdout of the first, stopped run, stdout of the second)."""
    workdir = tmp_path_factory.mktemp('quickstart') / 'run'
    words = [*TINY_QUICKSTART, f'--workdir={workdir}']
    first = first_run(words)
    second = launch(*words, devices=2)
    assert second.returncode == 0, second.stderr
    return workdir, first, second.stdout


@pytest.fixture(scope='module')
def workdir(quickstart):
    return quickstart[0]


def test_goes_on_where_it_was_stopped(quickstart):
    _, first, second = quickstart
    stopped = re.search(r'stopped after step (\d+)', first).group(1)
    assert 20 <= int(stopped) < 120
    assert f'going on after step {stopped}\n' in second
    assert 'step 5/120' not in second and 'already prepared' in second


def test_every_file_is_described(workdir):
    described = (ROOT / 'docs' / 'results.md').read_text(encoding='utf-8')
    stages = [folder.parent for folder in workdir.glob('**/config.json')]
    left = {path.name for folder in stages for path in folder.iterdir()} - {
        stage.name for stage in stages
    }
    assert len(left) > 15 and not {name for name in left if f'`{name}' not in described}


def test_every_workdir_is_complete(quickstart):
    workdir, _, second = quickstart
    files = {'config.json', 'checkpoints', 'metrics.jsonl', 'lineage.json', 'images'}
    for name, task in (('cyclegan', 'cyclegan'), (CLASSIFIER, 'classification')):
        folder = workdir / name
        assert files <= {path.name for path in folder.iterdir()}
        run = trained.open_run(folder, task, 'generator')
        lines = (folder / 'metrics.jsonl').read_text().splitlines()
        steps = [json.loads(line)['step'] for line in lines]
        assert steps == sorted(steps) and steps[-1] == run.config.steps >= run.step
    assert list((workdir / 'cyclegan' / 'images').glob('*input_translated_reconstructed*.png'))
    for path in re.findall(r'^  [a-z ]+  (/.*)$', second, re.MULTILINE):
        assert os.path.exists(path), path


def test_every_result_knows_its_config_and_no_hash_holds_a_path(workdir):
    known = 0
    for file in workdir.rglob('config.json'):
        config = read_json(file, dict)
        without = ConfigDict(provenance.asked_for(config))
        assert str(workdir) not in without.to_json(), file
        for path in [*file.parent.glob('*.json'), *file.parent.glob('synthetic/meta.json')]:
            document = json.loads(path.read_text())
            if isinstance(document, dict) and 'config_hash' in document:
                known += 1
                assert document['config_hash'] == provenance.config_hash(config), path
    assert known >= 4  # results.json of each classifier, meta.json, quality.json, audit.json


def test_synthetic_data_set_carries_its_sources(workdir):
    gan = trained.open_run(workdir / 'cyclegan', 'cyclegan', 'generator')
    apply = generator.apply_uint8(generator.of_run(gan, 'to_covid'))
    for split in ('train', 'validation', 'test'):
        sources = datasets.read(f'luna16_patches/nodules:{split}', str(workdir / 'data'), 32)
        made = str(workdir / 'synthesize' / 'data')
        fakes = datasets.read(f'synthetic_covid_ct:{split}', made, 32)
        assert len(fakes.rows) == len(sources.rows) and set(fakes.labels) == {1}
        place = {row.id: i for i, row in enumerate(sources.rows)}
        order = [place[row.source_id] for row in fakes.rows]
        for row, source in zip(fakes.rows, (sources.rows[i] for i in order)):
            assert row.source_sha256 == source.sha256 and row.generator_step == gan.step
            for key in ('nodules', 'window', 'group', 'series', 'z'):
                assert getattr(row, key) == getattr(source, key)
        again = batches.predict(apply, sources.images[order], 4).astype(int)
        assert np.abs(again - fakes.images).max() <= 1


def test_synthetic_folder_serves_without_covjax(workdir):
    """COCO boxes, CSV and data card agree with the manifest; every picture is there."""
    folder = workdir / 'synthesize' / 'synthetic'
    rows = read_manifest(folder)
    coco = json.loads((folder / 'annotations.json').read_text())
    card = json.loads((folder / 'meta.json').read_text())
    assert [image['file_name'] for image in coco['images']] == [row.file for row in rows]
    assert all((folder / row.file).is_file() for row in rows)
    lines = list(csv.DictReader((folder / 'annotations.csv').open()))
    count = sum(len(row.nodules) for row in rows)
    assert len(coco['annotations']) == len(lines) == card['boxes'] == count > 0
    counts = (sum(card[key].values()) for key in ('splits', 'kinds'))
    assert {card['images'], *counts} == {len(rows)}
    assert card['windows'] == ['lung'] and card['image_size'] == coco['images'][0]['width']


def test_the_data_card_says_how_the_folder_is_read_and_what_must_not_test_it(workdir, monkeypatch):
    stage = workdir / 'synthesize'
    card = (stage / 'synthetic' / 'README.md').read_text(encoding='utf-8')
    assert 'Not for diagnosis' in card and str(workdir) not in card
    assert str(workdir) not in (stage / 'synthetic' / 'meta.json').read_text()
    for record in json.loads((stage / 'lineage.json').read_text()):
        assert f'- {record["dataset"]}: {len(record["images"])} images' in card
    _, code, _ = re.split(r'```(?:python)?\n', card)
    monkeypatch.chdir(stage)
    found = {}
    exec(code, found)
    rows = [row for row in read_manifest(stage / 'synthetic') if row.split == 'train']
    assert len(found['images']) == len(rows) and found['images'][0]['image'].dtype == np.uint8


def test_generator_lineage_reaches_the_classifier(workdir):
    records = trained.open_run(workdir / CLASSIFIER, 'classification', 'classifier').lineage
    direct = {(record['role']) for record in records if not record['through']}
    through = {(record['role']) for record in records if record['through'] == 'generator'}
    assert direct == {'train', 'val'} and through == {'cancer', 'covid', 'val'}
    # Only the generator has seen these.
    rows = datasets.read_rows('covid_ct:train@covid', str(workdir / 'data'))
    assert lineage.overlap(records, rows)[0]['images'] == len(rows)


def results_of(workdir, name='synthetic'):
    return json.loads((workdir / 'evaluate' / name / 'results.json').read_text())['results']


def test_results_are_the_scores_of_the_checkpoint(workdir):
    """Of two devices on one."""
    run = trained.open_run(workdir / CLASSIFIER, 'classification', 'classifier')
    score = classifier.score(classifier.of_run(run))
    data_dir = f'{workdir / "data"},{workdir / "synthesize" / "data"}'
    for result in results_of(workdir):
        test = datasets.read(result['test_set'], data_dir, run.config.image_size)
        expected = [(row.id, label) for row, label in zip(test.rows, test.labels)]
        assert [(image['id'], image['label']) for image in result['images']] == expected
        assert (result['kind'] == 'network') == (result['model'] == 'plain8')
        if result['kind'] == 'network':
            scores = [image['score'] for image in result['images']]
            np.testing.assert_allclose(scores, np.asarray(score(test.images)), atol=1e-4)


def test_report_has_every_result(workdir):
    folder, results = workdir / 'report', []
    for result in results_of(workdir, 'real') + results_of(workdir):
        if result not in results:  # both evaluations bring the same baselines
            results.append(result)
    rows = list(csv.DictReader((folder / 'table.csv').open()))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == len(results) > 8
    for row, result in zip(rows, results):
        assert row['positive_class'] == 'covid'
        assert int(row['n_positive']) + int(row['n_negative']) == len(result['images'])
    page = (folder / 'report.html').read_text(encoding='utf-8')
    assert page.count('data:image/png;base64,') == 7 and 'Phantom' in page
    assert page.count('What the scores rest on') == 1 and 'synthetic images compare' in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for name in ('areas.png', 'roc.png', 'panels.png'):
        assert picture.read(folder / name).std() > 10


def test_another_config_does_not_overwrite_a_run(workdir, launch):
    before = (workdir / 'cyclegan' / 'config.json').read_text()
    result = launch('--config=configs/cyclegan.py:small', f'--workdir={workdir / "cyclegan"}')
    assert result.returncode == 2 and 'choose another --workdir' in result.stderr
    assert (workdir / 'cyclegan' / 'config.json').read_text() == before


def test_every_page_of_phantoms_says_so(workdir):
    pages = sorted(workdir.glob('**/*.html'))
    names = {path.name for path in pages}
    assert names == {'report.html', 'audit.html', 'quality.html'} and len(pages) == 4
    for path in pages:
        assert '<title>Phantoms: ' in path.read_text(encoding='utf-8')


def test_lines_and_rows_that_differ_in_what_was_fitted_say_so(quickstart):
    """Of one evaluation: no two lines of the screen, and no two rows of a table, are alike."""
    _, _, second = quickstart
    begin = second.index('== evaluate/synthetic')
    printed = second[begin : second.index('== audit/real')].splitlines()
    heads = [line.partition(': ')[0] for line in printed if ' on ' in line and ': ' in line]
    assert len(heads) == len(set(heads)) > 5


def test_nothing_alarming_is_printed(quickstart):
    _, first, second = quickstart
    for word in ('WARNING', 'slow compile', 'file a bug', 'Traceback'):
        assert word not in first + second


def test_the_scores_of_a_classifier_have_its_audit(workdir, tmp_path):
    """A table of its scores alone gives what needs no network, numbers included."""
    network = workdir / CLASSIFIER.replace('synthetic', 'real')
    stored = read_json(network / 'config.json', dict)
    sets = {'test': 'covid_ct:test', 'train': stored['train'], 'validation': stored['val']}
    scores, lines = classifier.scores(classifier.load(network)), [['id', 'score']]
    for spec in sets.values():
        found = datasets.read(spec, stored['data_dir'], stored['image_size'])
        said = batches.predict(scores, found.images, 8)[:, 1]
        lines += [[row.id, repr(float(score))] for row, score in zip(found.rows, said)]
    with (tmp_path / 'scores.csv').open('w', newline='') as file:
        csv.writer(file).writerows(lines)
    config = audit_external_config.get_config()
    config.update(
        {
            'scores': str(tmp_path / 'scores.csv'),
            'data_dir': stored['data_dir'],
            'tests': sets['test'],
            'names': 'real test',
            'trained_on': sets['train'],
            'chosen_by': sets['validation'],
        }
    )
    audit_external.run(config, tmp_path)
    own = read_json(workdir / 'audit/real/audit.json', dict)['verdicts']
    own = {verdict['name']: verdict for verdict in own}
    found = {v['name']: v for v in read_json(tmp_path / 'audit.json', dict)['verdicts']}
    asked = ('file metadata', '32x32 pixels', 'grey levels', 'overlap', 'calibration')
    shared = [name for name in own if name.startswith(asked)]
    assert len(shared) == len(asked)
    for name in shared:
        assert own[name]['finding'] == found[name]['finding']
        for one, other in zip(own[name]['rows'], found[name]['rows'], strict=True):
            assert one[:1] == other[:1]
            assert one[1:] == [pytest.approx(x) if isinstance(x, float) else x for x in other[1:]]

"""Workdirs that version 0.5.0 wrote on phantoms open as before."""

import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest
from conftest import ROOT
from ml_collections import ConfigDict

from configs import report as report_config
from covjax import generator, runs, trained
from covjax.data import datasets
from covjax.data.synthetic import read_manifest
from covjax.workdir import claimed, read_config, read_stored_config


@pytest.fixture
def old(tmp_path):
    """The folder of cyclegan, synthesize, evaluate and audit, unpacked anew."""
    with zipfile.ZipFile(ROOT / 'tests' / 'workdirs_0_5_0.zip') as file:
        file.extractall(tmp_path)
    return tmp_path


@pytest.mark.fast
def test_a_generator_translates(old):
    run = trained.open_run(old / 'cyclegan', 'cyclegan', 'generator')
    assert run.step == 4 and {record['role'] for record in run.lineage} == {'cancer', 'covid'}
    images = np.linspace(-1, 1, 2 * 16 * 16).reshape(2, 16, 16, 1).astype(np.float32)
    for direction in generator.DIRECTIONS:
        translated = generator.apply(generator.load(old / 'cyclegan', direction))(images)
        assert translated.shape == images.shape and np.isfinite(translated).all()


def with_pixels_of_here(file, data_dir):
    """Renews the hashes of JPEG phantoms, whose pixels depend on the version of the codec."""
    records = json.loads(file.read_text())
    for record in records:
        rows = {row.id: row.sha256 for row in datasets.read_rows(record['dataset'], data_dir)}
        for image in record['images']:
            if image[2].endswith('.jpg'):
                image[0] = rows[image[2]]
    file.write_text(json.dumps(records))


def test_a_stopped_training_goes_on_to_the_same_end(old, data_dir, capsys):
    """Of the two checkpoints the last is taken away; 0.5.0 itself ended there."""
    expected = trained.open_run(old / 'cyclegan', 'cyclegan', 'generator').variables
    (old / 'cyclegan' / 'checkpoints' / '4').rename(old / 'taken away')
    config = read_stored_config(old / 'cyclegan' / 'config.json')
    config.data_dir = data_dir
    with_pixels_of_here(old / 'cyclegan' / 'lineage.json', data_dir)
    with claimed(config, old / 'cyclegan') as workdir:
        runs.find('train')(config, workdir)
    assert 'going on after step 2\n' in capsys.readouterr().out
    ended = trained.open_run(old / 'cyclegan', 'cyclegan', 'generator')
    assert ended.step == 4
    # The gradient of a bias before a norm is rounding alone, and Adam makes whole steps of it.
    adam = 2 * 2 * config.learning_rate

    def close(path, a, b):
        is_bias = path[-1].key == 'bias'
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=adam if is_bias else 1e-4)

    jax.tree_util.tree_map_with_path(close, ended.variables, expected)


@pytest.mark.fast
def test_renamed_keys_are_read_under_their_new_names(old):
    synthesize = read_config(old / 'synthesize', 'synthesize', 'synthetic')
    assert synthesize.stand_in == 'histogram' and 'how' not in synthesize
    audit = read_config(old / 'audit', 'audit', 'audits')
    assert audit.stand_ins == ['jpeg'] and audit.pairs and 'controls' not in audit
    assert audit.synthesize.stand_in == 'translated' and 'how' not in audit.synthesize


@pytest.mark.fast
def test_where_the_data_lie_is_found_upstream(old, monkeypatch):
    monkeypatch.chdir(old)
    (old / 'somewhere').mkdir()
    file = old / 'cyclegan' / 'config.json'
    config = json.loads(file.read_text()) | {'data_dir': 'somewhere'}
    file.write_text(json.dumps(config))
    synthesize = read_config(old / 'synthesize', 'synthesize', 'synthetic')
    assert trained.data_dir_of(synthesize) == 'somewhere'
    assert (
        trained.data_dir_of(ConfigDict({'data_dir': '', 'synthetic': 'synthesize'})) == 'somewhere'
    )


@pytest.mark.fast
def test_a_manifest_is_read(old):
    folder = old / 'synthesize' / 'synthetic'
    rows = read_manifest(folder)
    assert rows and all((folder / row.file).is_file() for row in rows)
    lines = (folder / 'manifest.jsonl').read_text().splitlines()
    assert [row.as_json() for row in rows] == [json.loads(line) for line in lines]


def test_evaluations_and_audits_are_reported(old, tmp_path):
    config = report_config.get_config()
    config.update({'evaluations': str(old / 'evaluate'), 'audits': str(old / 'audit')})
    with claimed(config, tmp_path / 'report') as workdir:
        runs.find('report')(config, workdir)
    page = pathlib.Path(workdir / 'report.html').read_text(encoding='utf-8')
    audit = json.loads((old / 'audit' / 'audit.json').read_text())
    assert all(verdict['name'] in page for verdict in audit['verdicts'])
    results = json.loads((old / 'evaluate' / 'results.json').read_text())['results']
    table = (workdir / 'table.csv').read_text().splitlines()
    assert len(table) == 1 + len(results)

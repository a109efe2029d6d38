"""The command that says whether a machine is fit."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

from configs import doctor as config_file
from covjax.runs import doctor


@pytest.fixture(scope='module')
def examined(tmp_path_factory):
    """The workdir of a doctor who looked at one training for a few steps."""
    config, folder = config_file.get_config(), tmp_path_factory.mktemp('doctor')
    config.steps = 4
    config.classification.update({'model': 'plain8', 'image_size': 32, 'load_size': 32})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, 'TASKS', ('classification',))
        patch.setattr(doctor, 'PREPARED', {'covid_ct': 'covid_ct'})
        patch.setattr(doctor, 'SIDE', 256)
        doctor.run(config, folder)
    return folder


def test_a_machine_that_runs_the_tests_can_train(examined):
    """Its speed is another matter: other tests run beside this one."""
    found = json.loads((examined / 'doctor.json').read_text())
    row = found['trainings']['classification']
    assert row['repeats'] and row['seconds'] > 0 and row['operations'] > 1e6
    problems = {line['what'] for line in found['lines'] if line['problem']}
    assert problems <= {'4 steps of classification'} and found['fit'] is (not problems)
    whats = {line['what'] for line in found['lines']}
    assert {'jax', 'devices', 'CPU cores', 'products in float32', 'products in bfloat16'} <= whats
    table = (examined / 'doctor.md').read_text()
    assert table.count('\n') == len(found['lines']) + 2


def test_every_task_of_the_config_is_looked_at():
    from covjax.runs.train import MAKE

    config = config_file.get_config()
    assert set(doctor.TASKS) == set(MAKE) and {config[task].task for task in MAKE} == set(MAKE)
    assert all(set(of) == set(MAKE) for of in doctor.EXPECTED.values())


@pytest.mark.fast
def test_products_are_as_exact_as_their_format(monkeypatch):
    monkeypatch.setattr(doctor, 'SIDE', 256)
    rate, lines = doctor.exactness()
    assert rate > 1e8 and not any(line.problem for line in lines)
    monkeypatch.setattr(doctor, 'TOLERANCES', dict.fromkeys(doctor.TOLERANCES, 1e-12))
    assert all('an error of' in line.problem for line in doctor.exactness()[1])


@pytest.mark.fast
def test_the_operations_of_a_product_are_counted():
    """By XLA's count, on which the expected seconds rest."""
    product = jax.jit(lambda a, b: a @ b)
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((30, 40), (40, 50))]
    counted = product.lower(*shapes).cost_analysis()['flops']
    assert counted == pytest.approx(2 * 30 * 40 * 50)


@pytest.mark.fast
@pytest.mark.parametrize(
    'installed, said',
    [({'jax': '0.4.1'}, 'jax 0.4.1, needed'), ({'h5py': None}, 'h5py missing'), ({}, '')],
)
def test_what_is_too_old_or_missing_is_a_problem(installed, said, monkeypatch):
    real = doctor.importlib.metadata.version

    def version(name):
        if name in installed and installed[name] is None:
            raise doctor.importlib.metadata.PackageNotFoundError
        return installed.get(name) or real(name)

    monkeypatch.setattr(doctor.importlib.metadata, 'version', version)
    problems = [line.problem for line in doctor.versions(None) if line.problem]
    assert len(problems) == len(installed)
    assert not said or (said in problems[0] and 'pip install' in problems[0])


@pytest.mark.fast
@pytest.mark.parametrize(
    'change, said',
    [
        ({}, ''),
        ({'seconds': 5.0}, '5.0 times as slow as expected'),
        ({'repeats': False}, 'gave other bytes'),
        ({'expected_seconds': None, 'seconds': 50.0}, ''),
    ],
)
def test_what_is_wrong_with_a_training(change, said):
    row = {'expected_seconds': 1.0, 'seconds': 1.1, 'repeats': True} | change
    problem = doctor._problem(row)
    assert said in problem and bool(problem) == bool(said)


@pytest.mark.fast
def test_a_full_disk_is_a_problem(tmp_path, monkeypatch):
    usage = doctor.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda place: usage)
    assert all(
        'free some' in line.problem for line in doctor.disk(tmp_path) if line.found[0] != 'n'
    )


@pytest.mark.fast
def test_a_folder_of_compiled_programs_that_cannot_be_is_a_problem(tmp_path):
    (tmp_path / 'file').touch()
    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'file' / 'cache'))
    try:
        *_, last = doctor.disk(tmp_path)
    finally:
        jax.config.update('jax_compilation_cache_dir', before)
    assert 'set JAX_COMPILATION_CACHE_DIR' in last.problem and last.found == 'not kept'


@pytest.mark.parametrize('asked', [{'JAX_PLATFORMS': 'nothing'}, {'JAX_PLATFORM_NAME': 'gpu'}])
def test_devices_that_are_not_there_are_one_line_before_anything_is_written(asked, tmp_path):
    (name,) = asked
    if asked[name] == jax.default_backend():
        pytest.skip('this machine has one')
    words = ['launch.py', '--config=configs/doctor.py', f'--workdir={tmp_path / "run"}']
    environment = {key: value for key, value in os.environ.items() if key != 'JAX_PLATFORMS'}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment | asked,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 2 and not (tmp_path / 'run').exists()
    assert f'{name}={asked[name]}: JAX finds no such devices' in done.stderr
    assert 'Traceback' not in done.stderr and 'JAX_PLATFORMS=cpu' in done.stderr

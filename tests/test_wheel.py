"""The wheel: what is in it, and that it runs elsewhere without the checkout."""

import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

from covjax import __version__


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The path of a wheel built from a copy of the tracked files."""
    folder = tmp_path_factory.mktemp('wheel')
    listed = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split('\0'):
        if name and (ROOT / name).is_file():
            target = folder / 'source' / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation']
    subprocess.run([*build, '-w', folder, folder / 'source'], check=True, capture_output=True)
    return next(folder.glob('covjax-*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """A folder with the unpacked wheel and nothing else, which Python finds first."""
    site = tmp_path_factory.mktemp('site')
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    return site


def covjax(installed, folder, *words):
    """CompletedProcess of `python -m covjax WORDS` in a folder."""
    environment = os.environ | {'PYTHONPATH': str(installed)}
    command = [sys.executable, '-m', 'covjax', *words]
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


def test_no_package_has_a_common_name(installed):
    assert {path.name for path in installed.iterdir() if path.suffix != '.dist-info'} == {
        'covjax',
        'tfds_builders',
    }
    assert (installed / 'covjax' / 'shipped' / 'configs' / 'quickstart.py').is_file()
    pages = ROOT / 'covjax' / 'pages'
    for path in [*pages.glob('*.html'), *pages.glob('*.css'), *pages.glob('prose/*.toml')]:
        assert (installed / path.relative_to(ROOT)).is_file()


def test_help_of_a_config_without_the_checkout(installed, tmp_path):
    result = covjax(installed, tmp_path, '--config=quickstart', '--help')
    assert result.returncode == 0, result.stderr
    assert 'phantoms' in result.stdout and '--config.cyclegan.steps=600' in result.stdout
    assert not list(tmp_path.iterdir())


def test_remedies_name_commands_that_work_without_the_checkout(installed, tmp_path):
    words = ['--config=look', '--config.dataset=covid_ct', f'--config.data_dir={tmp_path}']
    missing = covjax(installed, tmp_path, *words)
    assert missing.returncode == 2 and 'run python -m covjax --config=prepare ' in missing.stderr
    code = "from covjax import installation; print(installation.extra('onnx'))"
    environment = os.environ | {'PYTHONPATH': str(installed)}
    command = [sys.executable, '-c', code]
    said = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert said.stdout == "pip install 'covjax[onnx]'\n"


def test_one_real_stage_without_the_checkout(installed, raw, tmp_path):
    keys = [f'--config.source={raw / "covid_ct"}', f'--config.data_dir={tmp_path / "data"}']
    result = covjax(installed, tmp_path, '--config=prepare', '--config.dataset=covid_ct', *keys)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'runs' / 'prepare' / 'config.json').is_file()
    looked = covjax(
        installed, tmp_path, '--config=look', '--config.dataset=covid_ct', keys[1], '--workdir=seen'
    )
    assert looked.returncode == 0, looked.stderr
    assert json.loads((tmp_path / 'seen' / 'config.json').read_text())['run'] == 'look'
    used = covjax(installed, tmp_path, '--config=nonsense')
    assert used.returncode == 2 and 'configs/quickstart.py' in used.stderr


def test_the_checkout_is_not_what_ran(installed, tmp_path):
    code = 'import covjax, sys; print(covjax.__file__); assert "configs" not in sys.modules'
    environment = os.environ | {'PYTHONPATH': str(installed)}
    command = [sys.executable, '-c', code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert pathlib.Path(result.stdout.strip()).is_relative_to(installed), result.stderr


def test_the_wheel_says_that_it_is_typed_and_for_whom(installed):
    assert (installed / 'covjax' / 'py.typed').is_file()
    (info,) = installed.glob('covjax-*.dist-info')
    metadata = (info / 'METADATA').read_text(encoding='utf-8')
    for minor in (11, 12, 13):
        assert f'Programming Language :: Python :: 3.{minor}' in metadata
    for extra in ('cuda13', 'docs', 'onnx', 'test', 'torch'):
        assert f'Provides-Extra: {extra}' in metadata


@pytest.mark.fast
def test_every_place_names_one_version():
    """As a release needs it; the first heading of the changelog is of this version, or of none."""
    read = lambda name: (ROOT / name).read_text(encoding='utf-8')
    (of_setup,) = re.findall(r"version='([\d.]+)'", read('setup.py'))
    (of_citation,) = re.findall(r'^version: (.+)$', read('CITATION.cff'), re.MULTILINE)
    first = re.findall(r'^## (\S+)', read('CHANGELOG.md'), re.MULTILINE)[0]
    assert of_setup == of_citation == __version__ and first in (__version__, 'Unreleased')


@pytest.mark.slow
def test_the_documentation_builds_as_a_site_without_a_warning(tmp_path):
    pytest.importorskip('sphinx')
    pytest.importorskip('myst_nb')
    command = [sys.executable, '-m', 'sphinx', '-q', '-W', ROOT / 'docs', tmp_path / 'site']
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / 'site' / 'api.html').read_text(encoding='utf-8')
    assert 'covjax.audit.audit' in page and 'Returns' in page
    for name in ('index', 'audit', 'notebooks/first_steps'):
        assert (tmp_path / 'site' / f'{name}.html').is_file()

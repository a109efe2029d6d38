"""Who may write to a folder, and that wrong input leaves it as it was."""

import json

import pytest
from ml_collections import ConfigDict

from covjax import InputError
from covjax.workdir import claimed, read_config, read_json, refuse_old_names

pytestmark = pytest.mark.fast


def claim(folder, **fields):
    with claimed(ConfigDict(fields), folder):
        pass


def config_of(folder):
    return json.loads((folder / 'config.json').read_text())


def test_a_run_that_resumes_refuses_another_config(tmp_path):
    claim(tmp_path / 'a', run='train', seed=0, log_every=5)
    claim(tmp_path / 'a', run='train', seed=1, log_every=5)  # there is nothing yet to go on from
    (tmp_path / 'a' / 'checkpoints' / '10').mkdir(parents=True)
    claim(tmp_path / 'a', run='train', seed=1, log_every=9)  # does not change what is trained
    with pytest.raises(InputError, match='config.seed.*--workdir'):
        claim(tmp_path / 'a', run='train', seed=0, log_every=9)
    assert config_of(tmp_path / 'a') == {'run': 'train', 'seed': 1, 'log_every': 9}


def test_other_runs_start_anew_but_never_in_the_folder_of_another_stage(tmp_path):
    claim(tmp_path / 'a', run='evaluate', tests='x')
    claim(tmp_path / 'a', run='evaluate', tests='y')
    with pytest.raises(InputError, match='run of evaluate'):
        claim(tmp_path / 'a', run='train')
    assert config_of(tmp_path / 'a') == {'run': 'evaluate', 'tests': 'y'}


@pytest.mark.parametrize('before', ['nothing', 'a folder', 'a run'])
def test_wrong_input_leaves_everything_as_it_was(tmp_path, before):
    folder = tmp_path / 'a'
    if before != 'nothing':
        folder.mkdir()
    if before == 'a run':
        claim(folder, run='evaluate', tests='x')
    files = sorted(tmp_path.rglob('*'))
    with (
        pytest.raises(InputError, match='wrong'),
        claimed(ConfigDict({'run': 'evaluate', 'tests': 'y'}), folder),
    ):
        raise InputError('wrong')
    assert sorted(tmp_path.rglob('*')) == files
    assert before != 'a run' or config_of(folder)['tests'] == 'x'


def test_upstream_runs_are_checked(tmp_path):
    claim(tmp_path / 'a', run='train', task='cyclegan')
    assert read_config(tmp_path / 'a', 'cyclegan', 'generator').task == 'cyclegan'
    with pytest.raises(InputError, match='config.classifier.*run of cyclegan'):
        read_config(tmp_path / 'a', 'classification', 'classifier')
    (tmp_path / 'a' / 'config.json').write_text('{"run": ')
    with pytest.raises(InputError, match='config.json: is damaged'):
        read_config(tmp_path / 'a', 'cyclegan', 'generator')
    with pytest.raises(InputError, match='results.json: no such file'):
        read_json(tmp_path / 'results.json')


def test_old_names_in_a_config_of_ones_own_are_refused_with_the_new_ones():
    old = {'run': 'synthesize', 'how': 'jpeg'}
    with pytest.raises(InputError, match='config.how .* config.stand_in'):
        refuse_old_names(ConfigDict(old))
    with pytest.raises(InputError, match='config.how .* config.stand_in'):
        refuse_old_names(ConfigDict({'run': 'audit', 'synthesize': old}))
    refuse_old_names(ConfigDict({'run': 'audit', 'synthesize': {'run': 'synthesize'}, 'how': 1}))


@pytest.mark.parametrize('content', ['[1]', '{}', '"x"', '{"seed": 1}'])
def test_a_stored_config_that_is_none(tmp_path, content):
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(InputError, match='config.json: is damaged'):
        read_config(tmp_path, 'train', 'generator')


def test_a_folder_that_cannot_be_made():
    for folder in ('/proc/nope', '/dev/full/x'):
        with pytest.raises(InputError, match=folder), claimed(ConfigDict({'run': 'look'}), folder):
            pass


def test_folders_that_were_made_for_a_run_go_with_it(tmp_path):
    (tmp_path / 'kept').mkdir()
    with (
        pytest.raises(InputError),
        claimed(ConfigDict({'run': 'train'}), tmp_path / 'kept' / 'new' / 'newer'),
    ):
        raise InputError('wrong')
    assert [*tmp_path.rglob('*')] == [tmp_path / 'kept']

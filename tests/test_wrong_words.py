"""A value that means nothing, under every key of every config: one line, and nothing is left."""

import pathlib
import shutil

import pytest
from conftest import ROOT
from launching import TRAININGS, stages_of, training_of

from covjax import command_line

pytestmark = pytest.mark.slow
NAMES = [pathlib.Path(path).stem for path in command_line.configs(ROOT)]
# Those that run the configs inside them, and set some of their keys themselves.
PIPELINES = {'audit', 'benchmark', 'clean', 'paper', 'quickstart'}
WRONG = {
    bool: ['maybe'],
    int: ['many', ''],
    float: ['many', ''],
    tuple: ['(1', 'nonsense'],
    str: ['nonsense', 'n' * 5000, str(ROOT / 'setup.py')],
}
ANY_TEXT = {'title', 'names'}
NEW_FOLDER = [('prepare', 'data_dir', 'nonsense')]  # where a data set is to lie
UNREAD = [(name, 'data_dir') for name in ('export', 'printed_rates', 'report', 'translate')]


def wrong_words(name):
    """[(key, value)] of a config."""
    _, config = command_line.load(name, '', ROOT)
    words = []
    for key, default in command_line.leaves(config):
        kind = next((kind for kind in WRONG if isinstance(default, kind)), str)
        free = key in ANY_TEXT or (name, key) in UNREAD
        if not (kind is str and (free or name in PIPELINES)):
            words += [(key, value) for value in WRONG[kind]]
    return [(key, value) for key, value in words if (name, key, value) not in NEW_FOLDER]


@pytest.mark.parametrize('name', NAMES)
def test_a_value_that_means_nothing_is_one_line(finished, launch, name, tmp_path):
    known, wrong = stages_of(finished), wrong_words(name)
    right = known.get(name, [f'--config={name}'])
    if name in TRAININGS:
        right = training_of(finished, name)
    workdir, other = tmp_path / 'run', tmp_path / 'data'
    for key, value in wrong:
        # Nothing goes into the folder of the person who runs the tests, and nothing is there yet.
        inside = [f'--config.data_dir={other}'] if name == 'prepare' and key != 'data_dir' else []
        words = [*right, *inside, f'--config.{key}={value}', f'--workdir={workdir}']
        done = launch(*words, timeout=60)
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2 and lines, (words, done.stdout)
        assert 'Traceback' not in done.stderr, (words, done.stderr)
        assert len(lines) == 1 or lines[1].startswith('valid keys'), (words, lines)
        assert not workdir.exists() and not other.exists(), words
        shutil.rmtree(workdir, ignore_errors=True)
    print(f'{name}: {len(wrong)} of {len(wrong)} wrong values are one line')

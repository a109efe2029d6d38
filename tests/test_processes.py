"""A watcher hands on what its child says, and says in one line that another process is gone."""

import sys

import pytest
from conftest import ROOT

from covjax import processes

pytestmark = pytest.mark.fast

CRASH = [  # as of JAX, when a peer is gone
    'Traceback (most recent call last):',
    '  File "loop.py", line 60, in fit',
    'ValueError: UNKNOWN: Gloo all-reduce failed: Connection reset by peer',
    'E1127 13:09:50.869843 23311 coordination_service.cc:1520] Task 1 heartbeat timeout.',
    '*** Check failure stack trace: ***',
]
BUG = ['Traceback (most recent call last):', 'KeyError: 3']


@pytest.fixture
def watched(monkeypatch, capfd, tmp_path):
    """watched(lines, code) -> (exit code, what is printed as errors) of a child that does that."""

    def watch(lines, code):
        child = f'import sys; sys.stderr.write({"".join(f"{line}{chr(10)}" for line in lines)!r}); '
        monkeypatch.setattr(processes, 'RUN', f'{child} sys.exit({code})')
        found = processes.watch([sys.executable], ROOT, tmp_path, tmp_path, {})
        return found, capfd.readouterr().err

    return watch


def test_a_peer_that_is_gone_is_one_line_with_the_step_to_go_on_from(watched, tmp_path):
    line = 'covjax: process 1 is gone; '
    assert watched(['a warning', *CRASH], 1) == (2, f'a warning\n{line}start all of them again\n')
    (tmp_path / 'checkpoints' / '120').mkdir(parents=True)
    (tmp_path / 'checkpoints' / '80').mkdir()
    assert watched(CRASH, 1) == (2, f'{line}the same commands go on from step 120\n')
    assert watched(CRASH[:3], 1)[1].startswith('covjax: another process is gone; ')


def test_bugs_and_input_errors_are_handed_on(watched):
    assert watched(BUG, 1) == (1, '\n'.join(BUG) + '\n')
    assert watched(['covjax: config.x'], 2) == (2, 'covjax: config.x\n')
    assert watched([], 0) == (0, '')


def test_a_run_that_was_asked_to_stop_is_no_loss(watched):
    assert watched(CRASH, 143) == (143, '')

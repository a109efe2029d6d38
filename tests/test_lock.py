"""One process writes to a folder: who comes second is refused, who is gone is no hindrance."""

import io
import json
import os
import socket
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from covjax import InputError, lock

pytestmark = pytest.mark.fast
HOLD = """
import pathlib, sys
from covjax import lock
with lock.held(pathlib.Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which holds the lock of tmp_path until its input ends."""
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    process = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path)], cwd=ROOT, **pipes)
    assert process.stdout.readline() == b'held\n'
    yield process
    process.kill()
    process.communicate()


def held_by(folder, **fields):
    """Writes the lock of a process that is not this one."""
    holder = {'host': 'elsewhere', 'pid': 7, 'started': 1, 'since': 'then'} | fields
    (folder / lock.NAME).write_text(json.dumps(holder))


def refused(folder, words):
    with pytest.raises(InputError, match=words), lock.held(folder):
        pass


def test_a_folder_is_held_once_and_free_afterwards(tmp_path, other):
    refused(tmp_path, f'--workdir=.*: process {other.pid} on .* writes there since .* choose')
    other.communicate()  # it ends
    assert not list(tmp_path.iterdir())
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())['pid'] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / lock.NAME).is_file()
    with lock.held(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != 'linux', reason='when a process was started is read in /proc')
def test_a_process_id_that_is_used_again_is_another_process(tmp_path):
    """The machine has been started anew since, and this process has the id of the old one."""
    own = json.loads(lock._identity())
    held_by(tmp_path, **own | {'started': own['started'] - 1})
    with lock.held(tmp_path):
        pass
    held_by(tmp_path, **own)
    refused(tmp_path, f'process {os.getpid()}')


def test_of_another_machine_the_heartbeat_counts(tmp_path):
    held_by(tmp_path)
    refused(tmp_path, 'process 7 on elsewhere writes there since then.*free after 120 seconds')
    file = tmp_path / lock.NAME
    now = file.stat().st_mtime
    os.utime(file, (now, now - lock.SILENT - 5))
    with lock.held(tmp_path):
        pass


@pytest.mark.parametrize('text', ['', '{', '[]', '"x"', '{"host": 1}'])
def test_a_lock_that_says_nothing_counts_while_it_is_new(tmp_path, text):
    (tmp_path / lock.NAME).write_text(text)
    refused(tmp_path, 'another machine|on 1')
    os.utime(tmp_path / lock.NAME, (0, 0))
    with lock.held(tmp_path):
        pass


def test_a_lock_beats_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, 'BEAT', 0.02)
    beaten, real = threading.Event(), os.utime
    monkeypatch.setattr(os, 'utime', lambda *args: (real(*args), beaten.set()))
    with lock.held(tmp_path):
        assert beaten.wait(20)


def test_of_many_that_find_a_lock_of_nobody_one_gets_it(tmp_path):
    """Whoever is late must not take the new lock for the old one."""
    for _ in range(20):
        held_by(tmp_path)
        os.utime(tmp_path / lock.NAME, (0, 0))
        old = lock._read(tmp_path / lock.NAME)
        with lock.held(tmp_path):
            lock._remove(tmp_path / lock.NAME, old)  # of another, which has read it before
            assert json.loads(lock._read(tmp_path / lock.NAME))['pid'] == os.getpid()
        assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    refused(tmp_path / 'nowhere', '--workdir=.*nowhere: cannot be written .*; choose another')


@pytest.mark.parametrize('pid', [0, -1, 10**30])
def test_a_process_id_that_no_process_has_is_gone(tmp_path, pid):
    held_by(tmp_path, host=socket.gethostname(), pid=pid)
    with lock.held(tmp_path):
        pass


def test_a_lock_that_is_no_text_counts_while_it_is_new(tmp_path):
    (tmp_path / lock.NAME).write_bytes(b'\xff\xfe')
    with pytest.raises(InputError), lock.held(tmp_path):
        pass
    os.utime(tmp_path / lock.NAME, (1, 1))
    with lock.held(tmp_path):
        pass


def test_a_lock_that_cannot_be_written_is_taken_away(tmp_path, monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, 'No space left on device')

    def opened(file, mode, encoding):
        file.touch()
        return Full()

    monkeypatch.setattr(lock, 'open', opened, raising=False)
    with pytest.raises(InputError, match='No space left'), lock.held(tmp_path):
        pass
    assert not [*tmp_path.iterdir()]

"""What a disk refuses is one line that names the place and what helps, with exit code 2."""

import errno
import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import pytest
from conftest import ROOT
from ml_collections import ConfigDict

from covjax import drafts, launcher, runs

pytestmark = pytest.mark.fast


@pytest.fixture
def launched(tmp_path, monkeypatch, capsys):
    """launched(error) -> (exit code, what was printed as an error) of a run that raises it."""
    flag = types.SimpleNamespace(value=None)
    for name in ('COORDINATOR', 'PROCESSES', 'PROCESS'):
        monkeypatch.setattr(launcher, name, flag)
    monkeypatch.setattr(os, '_exit', sys.exit)
    for name in ('quieten', 'keep_programs'):
        monkeypatch.setattr(launcher, name, lambda: None)

    def launch(error):
        def run(config, workdir):
            raise error

        monkeypatch.setattr(runs, 'find', lambda name: run)
        with pytest.raises(SystemExit) as ended:
            launcher.launch(ConfigDict({'run': 'look'}), tmp_path / 'run')
        return ended.value.code, capsys.readouterr().err

    return launch


@pytest.mark.parametrize('number', sorted(set(drafts.REMEDIES) - {errno.ENOENT}))
@pytest.mark.parametrize('name', ['/a/file', None])
def test_an_error_of_a_disk_is_one_line(launched, tmp_path, number, name):
    code, printed = launched(OSError(number, os.strerror(number), name))
    place = name or tmp_path / 'run'
    expected = f'covjax: {place}: {os.strerror(number)}; {drafts.REMEDIES[number]}\n'
    assert (code, printed) == (2, expected)


def test_only_a_folder_that_vanished_excuses_a_missing_file(launched, tmp_path, monkeypatch):
    missing = FileNotFoundError(errno.ENOENT, 'No such file or directory', '/a/file')
    with pytest.raises(FileNotFoundError):
        launched(missing)
    exists = pathlib.Path.exists
    gone = lambda path: path != tmp_path / 'run' and exists(path)
    monkeypatch.setattr(pathlib.Path, 'exists', gone)
    assert launched(missing)[0] == 2


def test_a_reader_that_is_gone_ends_a_run_silently(launched):
    assert launched(BrokenPipeError(errno.EPIPE, 'Broken pipe')) == (128 + signal.SIGPIPE, '')


@pytest.mark.parametrize('kind', [MemoryError, jax.errors.JaxRuntimeError])
def test_too_little_memory_is_one_line_and_leaves_nothing(launched, tmp_path, kind):
    code, printed = launched(kind('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes\nmore'))
    assert code == 2 and len(printed.splitlines()) == 1
    assert 'Out of memory allocating 9 bytes); lower config.batch_size' in printed
    assert not (tmp_path / 'run').exists()


def test_other_errors_of_xla_are_bugs(launched):
    with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
        launched(jax.errors.JaxRuntimeError('INTERNAL: x'))


def test_other_errors_are_bugs(launched):
    with pytest.raises(OSError, match='No child'):
        launched(OSError(errno.ECHILD, 'No child'))


PROGRAM = """
import sys
import jax
from covjax import launcher
jax.config.update('jax_compilation_cache_dir', sys.argv[1])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
launcher.keep_programs()
print('sum', jax.jit(lambda x: (x * 2).sum())(jax.numpy.arange(3)))
"""


def test_damaged_programs_are_made_anew_once(tmp_path):
    run = lambda: subprocess.run(
        [sys.executable, '-c', PROGRAM, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert run().stdout == 'sum 6\n'
    programs = [*tmp_path.glob('*-cache')]
    assert programs
    for program in programs:  # cut short, as by a kill
        program.write_bytes(program.read_bytes()[:50])
    second, third = run(), run()
    assert second.stdout.startswith(f'{tmp_path}: a compiled program is damaged; all are made anew')
    assert second.stdout.endswith('sum 6\n') and third.stdout == 'sum 6\n'
    assert 'Error reading' not in second.stderr + third.stderr


def test_programs_that_cannot_be_kept_are_no_matter(tmp_path):
    limited = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))' + PROGRAM
    command = [sys.executable, '-c', limited, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr, done.returncode) == ('sum 6\n', '', 0)


# Becomes another program, to which Ctrl-C counts; in the background shells have it ignored.
ANSWERING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize('words', [['launch.py'], ['-m', 'covjax']])
def test_ctrl_c_while_modules_are_imported_ends_silently(tmp_path, words):
    package = tmp_path / 'covjax'
    package.mkdir()
    shutil.copy(ROOT / 'launch.py', tmp_path)
    shutil.copy(ROOT / 'covjax' / '__main__.py', package)
    (package / '__init__.py').touch()
    (package / 'launcher.py').write_text('import os, signal; os.kill(os.getpid(), signal.SIGINT)')
    command = [sys.executable, '-c', ANSWERING, sys.executable, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, '')


def test_ctrl_c_in_a_callback_of_the_garbage_collector_comes_again(monkeypatch):
    """There Python prints and drops it; JAX has such a callback."""
    monkeypatch.setattr(sys, 'unraisablehook', launcher.resending_ctrl_c(pytest.fail))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupted = lambda phase, _: phase == 'start' and signal.raise_signal(signal.SIGINT)
    gc.callbacks.append(interrupted)
    try:
        gc.collect()
        gc.callbacks.remove(interrupted)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, before)

"""Every stage on a disk that takes no more, and killed at any moment: nothing half is left.

They take minutes; the parts that need no process of their own are tested in test_disk, test_drafts,
test_lock, test_provenance and test_train.
"""

import csv
import filecmp
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import ROOT
from launching import KEYS, TRAININGS, stages_of, training_of
from PIL import Image
from safetensors import safe_open

pytestmark = pytest.mark.slow


def started(words, before=(), **options):
    """The Popen of a launch.py of its own.

    Args:
        words: of the command line.
        before: words before those of Python, such as prlimit.
        options: of Popen.
    """
    command = [*before, sys.executable, 'launch.py', *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)


STAGES = [*stages_of(ROOT)]


def words_of(finished, stage, workdir):
    """The words of a stage that writes into a workdir alone."""
    inside = [f'--config.data_dir={workdir / "data"}'] if stage == 'prepare' else []
    return [*stages_of(finished)[stage], f'--workdir={workdir}', *inside]


READERS = {
    '.json': lambda path: json.loads(path.read_text()),
    # It grows by lines, and the last may be half of one.
    '.jsonl': lambda path: [json.loads(line) for line in path.read_text().split('\n')[:-1]],
    '.png': lambda path: Image.open(path).load(),
    '.csv': lambda path: [*csv.reader(path.open())],
    '.html': lambda path: path.read_text().rstrip().index('</html>'),
    '.safetensors': lambda path: [safe_open(path, 'numpy').keys()],
}


def check_whole(workdir):
    """Reads every file with a final name below a workdir."""
    parts = lambda path: path.relative_to(workdir).parts
    drafts = lambda path: any('.part' in name or 'incomplete' in name for name in parts(path))
    for path in workdir.rglob('*'):
        if path.suffix in READERS and not drafts(path):
            READERS[path.suffix](path)


@pytest.fixture
def full(tmp_path):
    """full(bytes) -> a folder on a disk of so many bytes."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    if os.geteuid() or not shutil.which('mount'):
        pytest.skip('only root can mount a small disk')

    def mount(size):
        options = ['-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(folder)]
        if subprocess.run(['mount', *options], capture_output=True).returncode:
            pytest.skip('this system lets nobody mount a small disk')
        return folder

    yield mount
    subprocess.run(['umount', str(folder)], capture_output=True)


def check_refused(process, workdir, reason):
    """One line and exit code 2, or everything was small enough."""
    _, errors = process.communicate(timeout=300)
    check_whole(workdir)
    if process.returncode:
        assert process.returncode == 2, errors
        assert len(errors.strip().splitlines()) == 1, errors
        assert reason in errors
    return process.returncode


PIPES = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.PIPE}


@pytest.mark.parametrize('stage', STAGES)
def test_a_full_disk_is_one_line(finished, stage, full):
    folder = full(16384)
    process = started(words_of(finished, stage, folder / 'run'), **PIPES)
    assert check_refused(process, folder, 'No space left on device') == 2


@pytest.mark.parametrize('stage', STAGES)
def test_a_place_that_cannot_be_written_is_one_line(finished, stage, full):
    folder = full(16384)
    subprocess.run(['mount', '-o', 'remount,ro', str(folder)], check=True)
    process = started(words_of(finished, stage, folder / 'run'), **PIPES)
    assert check_refused(process, folder, 'Read-only file system') == 2
    process = started(words_of(finished, stage, folder / ('n' * 300)), **PIPES)
    assert check_refused(process, folder, 'name too long') == 2


@pytest.mark.parametrize('stage', [*STAGES, *TRAININGS])
def test_a_folder_that_vanishes_is_one_line(finished, stage, tmp_path):
    """Or it is made anew, where a stage makes the folders of its files."""
    workdir = tmp_path / 'run'
    words = [*training_of(finished, stage), f'--workdir={workdir}'] if stage in TRAININGS else []
    words = words or words_of(finished, stage, workdir)
    process = started(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(process, f'{"train" if stage in TRAININGS else stage}: writing to')
    workdir.rename(tmp_path / 'elsewhere')
    check_refused(process, tmp_path, '; ')


@pytest.mark.parametrize('stage', sorted({*STAGES} - {'translate'}))  # whose pictures are small
def test_a_limit_on_the_size_of_files_is_one_line(finished, stage, tmp_path):
    limit = ['prlimit', '--fsize=9000']
    process = started(words_of(finished, stage, tmp_path / 'run'), limit, **PIPES)
    assert check_refused(process, tmp_path, 'File too large') == 2


def contents(workdir):
    """{path below a workdir: path} of what does not tell when and how fast it was made."""
    files = [path for path in workdir.rglob('*') if path.is_file()]
    drafts = lambda path: '.part' in str(path) or 'incomplete' in str(path)
    return {
        str(path.relative_to(workdir)): path
        for path in files
        if path.name not in ('environment.json', 'lock') and not drafts(path)
    }


@pytest.mark.parametrize('stage', ['prepare', 'synthesize', 'evaluate', 'report', 'quality'])
def test_a_stage_that_is_killed_and_begun_again_ends_as_one_that_was_not(finished, stage, tmp_path):
    rng = random.Random(stage)
    began = time.monotonic()
    assert started(words_of(finished, stage, tmp_path / 'a' / 'run'), **PIPES).wait() == 0
    seconds = time.monotonic() - began
    words, kills = words_of(finished, stage, tmp_path / 'b' / 'run'), 0
    for _ in range(4):
        process = started(words, **PIPES)
        time.sleep(rng.uniform(0.2, 0.8) * seconds)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        check_whole(tmp_path / 'b')
    assert started(words, **PIPES).wait() == 0
    alone, killed = (contents(tmp_path / name / 'run') for name in 'ab')
    assert alone.keys() == killed.keys()
    print(f'{stage}: killed {kills} times')
    differ = {name for name in alone if not same(alone[name], killed[name])}
    assert {pathlib.Path(name).name for name in differ} <= {'config.json', 'source.json'}  # places


STEPS = 300


def check_equal_trainings(workdir, other):
    """Compares what two trainings of STEPS left, byte for byte."""
    for file in ('metrics.jsonl', 'lineage.json', f'checkpoints/{STEPS}/sums/metadata'):
        assert filecmp.cmp(workdir / file, other / file, shallow=False), file
    pictures = filecmp.dircmp(workdir / 'images', other / 'images')
    assert not [*pictures.left_only, *pictures.right_only, *pictures.diff_files]


@pytest.mark.parametrize('name', TRAININGS)
def test_a_training_that_is_killed_again_and_again_ends_as_one_that_was_not(
    finished, name, tmp_path
):
    words = training_of(finished, name, steps=STEPS, eval_every=10)
    began = time.monotonic()
    assert started([*words, f'--workdir={tmp_path / "a"}'], **PIPES).wait() == 0
    seconds, rng, kills = time.monotonic() - began, random.Random(name), 0
    for _ in range(10):
        process = started([*words, f'--workdir={tmp_path / "b"}'], **PIPES)
        time.sleep(rng.uniform(0.1, 0.4) * seconds)  # while it starts, trains or saves
        kills += process.poll() is None
        process.kill()
        process.wait()
    print(f'{name}: killed {kills} times')
    assert kills >= 5
    assert started([*words, f'--workdir={tmp_path / "b"}'], **PIPES).wait() == 0
    check_equal_trainings(tmp_path / 'a', tmp_path / 'b')


@pytest.mark.parametrize('name', TRAININGS)
def test_a_training_on_a_full_disk_goes_on_when_there_is_room(finished, name, full, tmp_path):
    """It ends with a line wherever the disk is full, and its last sound checkpoint stays."""
    words = training_of(finished, name, steps=STEPS, eval_every=100)
    assert started([*words, f'--workdir={tmp_path / "a"}'], **PIPES).wait() == 0
    size = sum(path.stat().st_size for path in (tmp_path / 'a').rglob('*') if path.is_file())
    folder = full(size // 8)
    for share in (0.125, 0.25, 0.5, 0.75):
        options = f'remount,size={int(share * size)}'
        subprocess.run(['mount', '-o', options, str(folder)], check=True)
        process = started([*words, f'--workdir={folder / "run"}'], **PIPES)
        assert check_refused(process, folder, 'No space left on device') == 2
    subprocess.run(['mount', '-o', f'remount,size={4 * size}', str(folder)], check=True)
    assert started([*words, f'--workdir={folder / "run"}'], **PIPES).wait() == 0
    check_equal_trainings(tmp_path / 'a', folder / 'run')


@pytest.mark.parametrize('limit', [1000, 10_000, 40_000])
@pytest.mark.parametrize('name', TRAININGS)
def test_a_training_under_a_limit_on_the_size_of_files_is_one_line(finished, name, limit, tmp_path):
    words = training_of(finished, name, steps=STEPS, eval_every=2)
    process = started(
        [*words, f'--workdir={tmp_path / "run"}'], ['prlimit', f'--fsize={limit}'], **PIPES
    )
    assert check_refused(process, tmp_path, 'File too large') == 2


def used_by(pid):
    """(MiB of memory, threads, open files) of a process of this machine."""
    process = pathlib.Path(f'/proc/{pid}')
    status = dict(line.split(':', 1) for line in (process / 'status').read_text().splitlines())
    memory = int(status['VmRSS'].split()[0]) / 1024
    return memory, int(status['Threads']), len([*(process / 'fd').iterdir()])


@pytest.mark.skipif(sys.platform != 'linux', reason='what a process uses is read from /proc')
@pytest.mark.parametrize('name', TRAININGS)
def test_two_thousand_steps_use_no_more_than_a_thousand(finished, name, tmp_path):
    words = training_of(finished, name, steps=2000, eval_every=50, log_every=50)
    quiet = {'stdout': subprocess.PIPE, 'stderr': subprocess.DEVNULL}
    process = started([*words, f'--workdir={tmp_path / "run"}'], **quiet)
    logged = (line for line in process.stdout if re.match(r'step \d+/2000  train', line))
    used = np.array([used_by(process.pid) for _ in logged])
    assert process.wait() == 0 and len(used) == 40
    before, after = used[10:20].max(axis=0), used[30:].max(axis=0)
    print(f'{name}: MiB, threads and open files {before} after 1000 steps, {after} after 2000')
    # Threads that save come and go; one that stays would come with each of twenty evaluations.
    assert (after <= before * (1.03, 1, 1) + (0, 5, 2)).all()


def same(path, other):
    """Whether two files hold the same; of examples, whose order of keys is free, each is read."""
    if '.array_record' not in path.name:
        return filecmp.cmp(path, other, shallow=False)
    return examples_of(path) == examples_of(other)


def examples_of(path):
    """[nested dict of lists and plain values] of a split of a data set on disk."""
    split = path.name.partition('.')[0].rpartition('-')[2]
    source = tfds.builder_from_directory(path.parent).as_data_source(split)
    return [jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), each) for each in source]


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def together(finished, workdir, steps, late=0):
    """[Popen] of two processes that train one CycleGAN; the second starts some seconds later."""
    tiny = {name: value for name, value in KEYS.items() if name.startswith('cyclegan.')}
    keys = [f'--config.{name.removeprefix("cyclegan.")}={value}' for name, value in tiny.items()]
    keys += ['--config.cancer=luna16_patches/nodules:train', '--config.val=']
    keys += [f'--config.data_dir={finished / "data"}', f'--config.steps={steps}']
    keys += ['--config.eval_every=20', '--config.batch_size=2']
    flags = [f'--coordinator=127.0.0.1:{free_port()}', '--processes=2']
    processes = []
    for i in range(2):
        words = ['--config=cyclegan', f'--workdir={workdir}', *flags, f'--process={i}', *keys]
        processes.append(started(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        time.sleep(late)
    return processes


def wait_for(process, beginning):
    """Reads what a process prints up to the first line that begins so."""
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f'ended without {beginning!r}: {process.stderr.read()}')


@pytest.mark.parametrize('gone', [0, 1])
def test_a_process_whose_peer_is_gone_says_so_and_both_go_on(finished, tmp_path, gone):
    workdir = tmp_path / 'run'
    processes = together(finished, workdir, steps=200)
    wait_for(processes[0], 'step 40/200')
    processes[gone].kill()
    began = time.monotonic()
    _, errors = processes[1 - gone].communicate(timeout=60)
    assert time.monotonic() - began < 20  # 15 where nothing else runs
    assert processes[1 - gone].returncode == 2
    assert re.fullmatch(
        r'covjax: (process \d|another process) is gone; the same commands go on from step \d+\n',
        errors,
    )
    processes = together(finished, workdir, steps=200)
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert 'going on after step' in printed[0][0]
    steps = [json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').open()]
    assert steps == [*range(5, 201, 5)]


def test_a_process_may_start_a_minute_later(finished, tmp_path):
    processes = together(finished, tmp_path / 'run', steps=10, late=60)
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed

"""Preparing: other sources, failures, kills, full disks and downloads leave whole data sets or none."""

import functools
import http.server
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import threading
import zipfile

import pytest
import tensorflow_datasets as tfds

from covjax import InputError
from covjax.ct import luna16
from covjax.data import datasets, specs
from covjax.phantom import raw_files
from covjax.runs import prepare
from tfds_builders import BUILDERS

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_another_source_is_refused_until_overwrite(raw, tmp_path):
    prepare.build('covid_ct', raw / 'covid_ct', str(tmp_path / 'data'))
    folder = specs.locate('covid_ct', str(tmp_path / 'data'))
    before = sorted(path.stat().st_mtime_ns for path in folder.iterdir())
    prepare.build('covid_ct', raw / 'covid_ct', str(tmp_path / 'data'))
    assert sorted(path.stat().st_mtime_ns for path in folder.iterdir()) == before
    other = tmp_path / 'other'
    raw_files.write_covid_ct(other, seed=2, train=2, validation=2, test=2)
    with pytest.raises(InputError, match='overwrite'):
        prepare.build('covid_ct', other, str(tmp_path / 'data'))
    prepare.build('covid_ct', other, str(tmp_path / 'data'), overwrite=True)
    assert len(datasets.read_rows('covid_ct:train', str(tmp_path / 'data'))) == 4
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failed_overwrite_keeps_the_old_data(raw, tmp_path):
    source, data_dir = tmp_path / 'source', str(tmp_path / 'data')
    raw_files.write_covid_ct(source, seed=2, train=2, validation=2, test=2)
    prepare.build('covid_ct', source, data_dir)
    picture = next((source / 'CT_COVID').iterdir())
    picture.write_bytes(b'not a picture')
    with pytest.raises(InputError, match=picture.name.replace('%', '.')):
        prepare.build('covid_ct', source, data_dir, overwrite=True)
    assert len(datasets.read_rows('covid_ct:train', data_dir)) == 4


def test_missing_volumes(raw, tmp_path):
    source = tmp_path / 'flat'
    source.mkdir()
    nodules = luna16.read_nodules(raw / 'luna16' / 'annotations.csv')
    series = nodules[0].series
    for path in (raw / 'luna16').rglob(f'{series}.*'):
        (source / path.name).write_bytes(path.read_bytes())
    kwargs = dict(annotations=str(raw / 'luna16' / 'annotations.csv'))
    with pytest.raises(InputError, match='allow_missing'):
        prepare.build('luna16_patches/nodules', source, str(tmp_path / 'data'), **kwargs)
    assert not (tmp_path / 'data').exists()
    builder = prepare.build(
        'luna16_patches/nodules', source, str(tmp_path / 'data'), allow_missing=True, **kwargs
    )
    assert builder.info.splits.total_num_examples == sum(
        nodule.series == series for nodule in nodules
    )
    assert set(builder.skipped) == {nodule.series for nodule in nodules} - {series}


def test_a_prepared_data_set_that_is_damaged(data_dir, tmp_path):
    folder = specs.locate('covid_ct', str(shutil.copytree(data_dir, tmp_path / 'data')))
    shard = next(folder.glob('*train.array_record*'))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match='covid_ct.*is damaged.*prepare'):
        datasets.read_rows('covid_ct:train', str(tmp_path / 'data'))
    (folder / 'dataset_info.json').write_text('{')
    for read in (
        lambda: datasets.read_rows('covid_ct:train', str(tmp_path / 'data')),
        lambda: prepare.build('covid_ct', tmp_path, str(tmp_path / 'data')),
    ):
        with pytest.raises(InputError, match='is damaged'):
            read()


def killed_half_way(dataset, source, data_dir, overwrite=False):
    """Builds in a process that is killed while it writes the fifth example."""
    script = f"""
import os, signal
from covjax import prepare
from tfds_builders import _base
stored, count = _base.stored, 0
def stop(*arguments):
    global count
    count += 1
    if count == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return stored(*arguments)
_base.stored = stop
prepare.build({dataset!r}, {str(source)!r}, {str(data_dir)!r}, {overwrite})
"""
    assert (
        subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True).returncode
        == -signal.SIGKILL
    )


def test_a_build_that_is_killed_goes_on(raw, data_dir, tmp_path):
    killed_half_way('covid_ct', raw / 'covid_ct', tmp_path)
    with pytest.raises(InputError, match='no such data set'):
        specs.locate('covid_ct', str(tmp_path))
    prepare.build('covid_ct', raw / 'covid_ct', str(tmp_path))
    assert datasets.read_rows('covid_ct:train', str(tmp_path)) == datasets.read_rows(
        'covid_ct:train', data_dir
    )
    folder = specs.locate('covid_ct', str(tmp_path))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    other = tmp_path / 'other'
    raw_files.write_covid_ct(other, seed=2, train=4, validation=2, test=2)
    killed_half_way('covid_ct', other, tmp_path, overwrite=True)
    prepare.build('covid_ct', other, str(tmp_path))
    assert len(datasets.read_rows('covid_ct:train', str(tmp_path))) == 8 and [
        path.name for path in folder.parent.iterdir()
    ] == [folder.name]


def test_a_failure_leaves_what_others_have_built(raw, tmp_path, monkeypatch):
    source = pathlib.Path(shutil.copytree(raw / 'covid_ct', tmp_path / 'source'))
    next((source / 'CT_COVID').iterdir()).write_bytes(b'')
    generate = BUILDERS['covid_ct']._split_generators

    def meanwhile(*arguments):
        monkeypatch.setattr(BUILDERS['covid_ct'], '_split_generators', generate)
        prepare.build('luna16_patches/nodules', raw / 'luna16', str(tmp_path / 'data'))
        return generate(*arguments)

    monkeypatch.setattr(BUILDERS['covid_ct'], '_split_generators', meanwhile)
    with pytest.raises(InputError):
        prepare.build('covid_ct', source, str(tmp_path / 'data'))
    assert (
        datasets.read_rows('luna16_patches/nodules:train', str(tmp_path / 'data'))
        and not (tmp_path / 'data' / 'covid_ct').exists()
    )


def test_what_tfds_alone_has_built_is_known_too(raw, tmp_path):
    """The stamp and the lineage are written with the data, not after them."""
    builder = tfds.builder('covid_ct', data_dir=str(tmp_path))
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(raw / 'covid_ct'))
    )
    before = (specs.locate('covid_ct', str(tmp_path)) / 'source.json').stat().st_mtime_ns
    prepare.build('covid_ct', raw / 'covid_ct', str(tmp_path))
    assert (specs.locate('covid_ct', str(tmp_path)) / 'source.json').stat().st_mtime_ns == before
    (
        specs.locate('covid_ct', str(tmp_path)) / 'source.json'
    ).unlink()  # of an origin that nobody knows
    with pytest.raises(InputError, match='overwrite'):
        prepare.build('covid_ct', raw / 'covid_ct', str(tmp_path))


def test_a_full_disk(raw, tmp_path):
    """Files that may not grow stand for a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(InputError, match='can not be written.*config.data_dir'):
            prepare.build('covid_ct', raw / 'covid_ct', str(tmp_path / 'data'))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / 'data').exists()


def test_a_target_that_can_not_be_written(raw, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='can not be written'):
        prepare.build('covid_ct', raw / 'covid_ct', str(tmp_path / 'file' / 'data'))
    folder = tmp_path / 'read only'
    folder.mkdir(mode=0o555)
    if not os.access(folder, os.W_OK):  # root may write everywhere
        with pytest.raises(InputError, match='can not be written'):
            prepare.build('covid_ct', raw / 'covid_ct', str(folder))


@pytest.fixture
def server(tmp_path):
    """A folder served at an address of this machine."""
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{running.server_port}/'
        running.shutdown()


def test_downloads_what_is_free(raw, data_dir, server, tmp_path, monkeypatch):
    folder, address = server
    with zipfile.ZipFile(folder / 'master.zip', 'w') as file:
        for path in (raw / 'covid_ct').rglob('*.*'):
            file.write(path, f'COVID-CT-master/{path.relative_to(raw / "covid_ct")}')
    monkeypatch.setattr(BUILDERS['covid_ct'], 'DOWNLOAD', f'{address}master.zip')
    prepare.build('covid_ct', '', str(tmp_path / 'data'))
    assert datasets.read_rows('covid_ct:test', str(tmp_path / 'data')) == datasets.read_rows(
        'covid_ct:test', data_dir
    )
    shutil.rmtree(folder)
    prepare.build('covid_ct/clean', '', str(tmp_path / 'data'))  # what was downloaded serves again
    monkeypatch.setattr(BUILDERS['covid_ct'], 'DOWNLOAD', f'{address}none.zip')
    with pytest.raises(InputError, match='can not be downloaded.*config.source'):
        prepare.build('covid_ct', '', str(tmp_path / 'other'))
    assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize(
    'spoil',
    [
        lambda path: path.write_text('<html>log in</html>'),
        lambda path: zipfile.ZipFile(path, 'w').close(),
    ],
    ids=['a page', 'empty'],
)
def test_a_wrong_download_is_not_kept(raw, server, tmp_path, monkeypatch, spoil):
    folder, address = server
    monkeypatch.setattr(BUILDERS['covid_ct'], 'DOWNLOAD', f'{address}master.zip')
    (tmp_path / 'data' / 'downloads').mkdir(parents=True)
    spoil(folder / 'master.zip')
    with pytest.raises(InputError, match='can not be downloaded'):
        prepare.build('covid_ct', '', str(tmp_path / 'data'))
    shutil.make_archive(folder / 'master', 'zip', raw / 'covid_ct')
    prepare.build('covid_ct', '', str(tmp_path / 'data'))

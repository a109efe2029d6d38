"""Preparing: other sources, failures, kills, full disks and downloads leave whole data or none."""

import contextlib
import functools
import http.server
import os
import pathlib
import resource
import shutil
import signal
import threading
import zipfile

import launching
import pytest
import tensorflow_datasets as tfds

from covjax import InputError
from covjax.ct import luna16
from covjax.data import datasets, specs
from covjax.phantom import raw_files
from covjax.runs import prepare
from tfds_builders import BUILDERS, _base


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """A raw COVID-CT folder with four pictures a split."""
    folder = tmp_path_factory.mktemp('other')
    return raw_files.write_covid_ct(folder, seed=2, train=2, validation=2, test=2)


@pytest.fixture
def prepared(data_dir, tmp_path):
    """A folder of prepared data of one's own."""
    return str(shutil.copytree(data_dir, tmp_path / 'data'))


def train_rows(data_dir):
    return datasets.read_rows('covid_ct:train', str(data_dir))


def versions(data_dir):
    """The names of all that lies beside the prepared version of COVID-CT."""
    folder = specs.locate('covid_ct', str(data_dir))
    return [path.name for path in folder.parent.iterdir()], folder.name


def assert_nothing_beside(data_dir):
    names, version = versions(data_dir)
    assert names == [version]


def times(data_dir):
    folder = specs.locate('covid_ct', data_dir)
    return sorted(path.stat().st_mtime_ns for path in folder.iterdir())


def test_the_same_source_is_not_built_again(raw, prepared):
    before = times(prepared)
    prepare.build('covid_ct', raw / 'covid_ct', prepared)
    assert times(prepared) == before


def test_another_source_is_refused_until_overwrite(other, prepared):
    with pytest.raises(InputError, match='overwrite'):
        prepare.build('covid_ct', other, prepared)
    prepare.build('covid_ct', other, prepared, overwrite=True)
    assert len(train_rows(prepared)) == 4
    assert_nothing_beside(prepared)


def test_a_failed_overwrite_keeps_the_old_data(other, prepared, tmp_path):
    source = pathlib.Path(shutil.copytree(other, tmp_path / 'source'))
    picture = next((source / 'CT_COVID').iterdir())
    picture.write_bytes(b'not a picture')
    with pytest.raises(InputError, match=picture.name.replace('%', '.')):
        prepare.build('covid_ct', source, prepared, overwrite=True)
    assert len(train_rows(prepared)) == 16
    assert_nothing_beside(prepared)


@pytest.fixture
def one_volume(raw, tmp_path):
    """(a folder with one of the volumes, the path of annotations.csv, all annotations)."""
    source = tmp_path / 'flat'
    source.mkdir()
    table = raw / 'luna16' / 'annotations.csv'
    annotations = luna16.read_nodules(table)
    for path in (raw / 'luna16').rglob(f'{annotations[0].series}.*'):
        shutil.copy(path, source)
    return source, str(table), annotations


def test_missing_volumes_are_an_error(one_volume, tmp_path):
    source, table, _ = one_volume
    data_dir = str(tmp_path / 'data')
    with pytest.raises(InputError, match='allow_missing'):
        prepare.build('luna16_patches/nodules', source, data_dir, annotations=table)
    assert not (tmp_path / 'data').exists()


def test_missing_volumes_can_be_skipped(one_volume, tmp_path):
    source, table, annotations = one_volume
    options = {'annotations': table, 'allow_missing': True}
    builder = prepare.build('luna16_patches/nodules', source, str(tmp_path / 'data'), **options)
    series = annotations[0].series
    there = [annotation for annotation in annotations if annotation.series == series]
    assert builder.info.splits.total_num_examples == len(there)
    assert set(builder.skipped) == {annotation.series for annotation in annotations} - {series}


def test_a_shard_that_is_damaged(prepared):
    folder = specs.locate('covid_ct', prepared)
    shard = next(folder.glob('*train.array_record*'))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match='covid_ct.*is damaged.*prepare'):
        train_rows(prepared)


def test_prepared_data_whose_description_is_damaged(prepared, tmp_path):
    (specs.locate('covid_ct', prepared) / 'dataset_info.json').write_text('{')
    with pytest.raises(InputError, match='is damaged'):
        train_rows(prepared)
    with pytest.raises(InputError, match='is damaged'):
        prepare.build('covid_ct', tmp_path, prepared)


def build_until_killed(source, data_dir, overwrite):
    """Builds COVID-CT, and kills its process while that writes the fifth example."""
    stored, calls = _base.stored, []

    def stored_or_killed(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return stored(*arguments)

    _base.stored = stored_or_killed
    prepare.build('covid_ct', source, data_dir, overwrite)


def killed_half_way(source, data_dir, overwrite=False):
    arguments = (str(source), str(data_dir), overwrite)
    process = launching.SERVER.Process(target=build_until_killed, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_build_that_is_killed_is_built_by_the_next_call(raw, data_dir, tmp_path):
    killed_half_way(raw / 'covid_ct', tmp_path)
    with pytest.raises(InputError, match='no such data set'):
        specs.locate('covid_ct', str(tmp_path))
    prepare.build('covid_ct', raw / 'covid_ct', str(tmp_path))
    assert train_rows(tmp_path) == train_rows(data_dir)
    assert_nothing_beside(tmp_path)


def test_an_overwrite_that_is_killed_is_built_by_the_next_call(other, prepared):
    killed_half_way(other, prepared, overwrite=True)
    prepare.build('covid_ct', other, prepared)
    assert len(train_rows(prepared)) == 4
    assert_nothing_beside(prepared)


def test_a_failure_leaves_what_others_have_built(raw, other, tmp_path, monkeypatch):
    source = pathlib.Path(shutil.copytree(other, tmp_path / 'source'))
    next((source / 'CT_COVID').iterdir()).write_bytes(b'')
    data_dir, generate = tmp_path / 'data', BUILDERS['covid_ct']._split_generators

    def meanwhile(*arguments):
        monkeypatch.setattr(BUILDERS['covid_ct'], '_split_generators', generate)
        prepare.build('luna16_patches/nodules', raw / 'luna16', str(data_dir))
        return generate(*arguments)

    monkeypatch.setattr(BUILDERS['covid_ct'], '_split_generators', meanwhile)
    with pytest.raises(InputError):
        prepare.build('covid_ct', source, str(data_dir))
    assert datasets.read_rows('luna16_patches/nodules:train', str(data_dir))
    assert not (data_dir / 'covid_ct').exists()


def test_what_tfds_alone_has_built_is_known_too(other, tmp_path):
    """The stamp and the lineage are written with the data, not after them."""
    builder = tfds.builder('covid_ct', data_dir=str(tmp_path))
    config = tfds.download.DownloadConfig(manual_dir=str(other))
    builder.download_and_prepare(download_config=config)
    stamp = specs.locate('covid_ct', str(tmp_path)) / 'source.json'
    before = stamp.stat().st_mtime_ns
    prepare.build('covid_ct', other, str(tmp_path))
    assert stamp.stat().st_mtime_ns == before
    stamp.unlink()  # nobody knows now what it was built from
    with pytest.raises(InputError, match='overwrite'):
        prepare.build('covid_ct', other, str(tmp_path))


@contextlib.contextmanager
def files_of_at_most(size):
    """Files that may not grow stand for a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(raw, tmp_path):
    data_dir = tmp_path / 'data'
    with files_of_at_most(60_000):
        with pytest.raises(InputError, match='cannot be written .File too large.; raise the limit'):
            prepare.build('covid_ct', raw / 'covid_ct', str(data_dir))
    assert not data_dir.exists()


def test_a_target_that_cannot_be_written(other, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be written'):
        prepare.build('covid_ct', other, str(tmp_path / 'file' / 'data'))
    folder = tmp_path / 'read only'
    folder.mkdir(mode=0o555)
    if not os.access(folder, os.W_OK):  # root may write everywhere
        with pytest.raises(InputError, match='cannot be written'):
            prepare.build('covid_ct', other, str(folder))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder whose master.zip is the download of COVID-CT, and its address on this machine."""
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{running.server_port}'
        monkeypatch.setattr(BUILDERS['covid_ct'], 'DOWNLOAD', f'{address}/master.zip')
        yield folder, address
        running.shutdown()


def zip_as_published(source, archive):
    with zipfile.ZipFile(archive, 'w') as file:
        for path in source.rglob('*.*'):
            file.write(path, f'COVID-CT-master/{path.relative_to(source)}')


def test_downloads_what_is_free_once(raw, data_dir, server, tmp_path):
    folder, _ = server
    zip_as_published(raw / 'covid_ct', folder / 'master.zip')
    prepare.build('covid_ct', '', str(tmp_path / 'data'))
    assert train_rows(tmp_path / 'data') == train_rows(data_dir)
    shutil.rmtree(folder)
    prepare.build('covid_ct/clean', '', str(tmp_path / 'data'))


def test_a_download_that_is_not_there_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(BUILDERS['covid_ct'], 'DOWNLOAD', f'{server[1]}/none.zip')
    with pytest.raises(InputError, match='cannot be downloaded.*config.source'):
        prepare.build('covid_ct', '', str(tmp_path / 'data'))
    assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize(
    'spoil',
    [
        lambda path: path.write_text('<html>log in</html>'),
        lambda path: zipfile.ZipFile(path, 'w').close(),
    ],
    ids=['a page', 'empty'],
)
def test_a_wrong_download_is_not_kept(other, server, tmp_path, spoil):
    folder, _ = server
    (tmp_path / 'data' / 'downloads').mkdir(parents=True)
    spoil(folder / 'master.zip')
    with pytest.raises(InputError, match='cannot be downloaded'):
        prepare.build('covid_ct', '', str(tmp_path / 'data'))
    zip_as_published(other, folder / 'master.zip')
    prepare.build('covid_ct', '', str(tmp_path / 'data'))

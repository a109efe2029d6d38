"""Raw files where they lie, in folders or still in .zip archives: a path may go through one, as LUNA16/subset3.zip/subset3/SERIES.mhd."""
import contextlib
import functools
import os
import pathlib
import tempfile
import zipfile
import zlib

from covjax import InputError


def find(folder, pattern):
    """The files in a folder, in its sub-folders and in the archives there whose names match a glob pattern; sorted, those of folders first."""
    folder = pathlib.Path(folder)
    inside = [archive / name for archive in sorted(folder.rglob('*.zip')) for name in sorted(_members(archive)) if pathlib.PurePath(name).match(pattern)]
    return sorted(folder.rglob(pattern)) + inside


def archive_of(path):
    """The .zip that a path goes through, or None."""
    return next((parent for parent in pathlib.Path(path).parents if parent.suffix.lower() == '.zip' and parent.is_file()), None)


def is_file(path):
    return _member(path) in _members(archive_of(path)) if archive_of(path) else pathlib.Path(path).is_file()


def size(path):
    """Bytes of a file, unpacked."""
    return _members(archive_of(path))[_member(path)] if archive_of(path) else os.path.getsize(path)


def read(path):
    """The bytes of a file; FileNotFoundError where there is none."""
    archive = archive_of(path)
    if not archive:
        return pathlib.Path(path).read_bytes()
    if _member(path) not in _members(archive):
        raise FileNotFoundError(path)
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(_member(path))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):      # damaged, a rare compression, encrypted
        raise InputError(f'{path}: can not be unpacked; copy {archive.name} again') from None


def read_text(path):
    """A table or list in UTF-8, with or without byte order mark."""
    try:
        return read(path).decode('utf-8-sig')
    except UnicodeDecodeError:
        raise InputError(f'{path}: is not UTF-8 text; save it as UTF-8') from None


@contextlib.contextmanager
def on_disk(path, *others):
    """A path at which ITK can open a file, with its neighbours of other names beside it.

    ITK knows no archives, and its MetaImage code takes '%' in a path for a printf pattern and reads or writes the wrong bytes.
    """
    path = pathlib.Path(path)
    if not archive_of(path) and '%' not in str(path.parent):
        yield path
        return
    with tempfile.TemporaryDirectory() as shelter:
        folder = pathlib.Path(shelter) / 'folder'
        if archive_of(path):
            folder.mkdir()
            for name in (path.name, *others):
                (folder / name).write_bytes(read(path.parent / name))
        else:
            folder.symlink_to(path.parent.resolve(), target_is_directory=True)
        yield folder / path.name


def _member(path):
    return pathlib.Path(path).relative_to(archive_of(path)).as_posix()


def _members(archive):
    return _listing(archive, os.stat(archive).st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _listing(archive, _):
    try:
        with zipfile.ZipFile(archive) as opened:
            return {member.filename: member.file_size for member in opened.infolist() if not member.is_dir() and not member.filename.startswith('__MACOSX/')}
    except zipfile.BadZipFile:
        raise InputError(f'{archive}: is not a whole .zip archive; copy it again') from None

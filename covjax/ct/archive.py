"""Raw files where they lie, in folders or still in .zip archives: a path may go through one, as LUNA16/subset3.zip/subset3/SERIES.mhd."""

import contextlib
import functools
import lzma
import os
import pathlib
import posixpath
import tempfile
import zipfile
import zlib

from covjax import InputError


def find(folder, pattern):
    """The files in a folder, in its sub-folders (linked ones too) and in the archives there whose names match a glob pattern; sorted, those of folders first."""
    files = sorted(_walk(folder))
    inside = [
        archive / name
        for archive in files
        if archive.suffix.lower() == '.zip'
        for name in sorted(_members(archive))
        if pathlib.PurePath(name).match(pattern)
    ]
    return [path for path in files if path.match(pattern)] + inside


def _walk(folder):
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(here) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        yield from (
            path for path in (pathlib.Path(here) / name for name in names) if path.is_file()
        )


def archive_of(path):
    """The .zip that a path goes through, or None."""
    return next(
        (
            parent
            for parent in pathlib.Path(path).parents
            if parent.suffix.lower() == '.zip' and parent.is_file()
        ),
        None,
    )


def is_file(path):
    return (
        _member(path) in _members(archive_of(path))
        if archive_of(path)
        else pathlib.Path(path).is_file()
    )


def size(path):
    """Bytes of a file, unpacked."""
    return (
        _members(archive_of(path))[_member(path)].file_size
        if archive_of(path)
        else os.path.getsize(path)
    )


def read(path):
    """The bytes of a file; FileNotFoundError where there is none."""
    archive = archive_of(path)
    try:
        if not archive:
            return pathlib.Path(path).read_bytes()
        if _member(path) not in _members(archive):
            raise FileNotFoundError(path)
        with zipfile.ZipFile(archive) as opened:
            return opened.read(_members(archive)[_member(path)])
    except FileNotFoundError:
        raise
    except RuntimeError:  # how zipfile tells of encryption
        raise InputError(f'{path}: is encrypted; unpack {archive.name} yourself') from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        OSError,
    ) as error:
        raise InputError(
            f'{path}: can not be read ({getattr(error, "strerror", None) or error}); copy {archive.name if archive else "it"} again'
        ) from None


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
                content = read(path.parent / name)
                try:
                    (folder / name).write_bytes(content)
                except OSError as error:
                    raise InputError(
                        f'{shelter}: can not be written ({error.strerror}); free some space, or name another folder in TMPDIR'
                    ) from None
        else:
            folder.symlink_to(path.parent.resolve(), target_is_directory=True)
        yield folder / path.name


def _member(path):
    return pathlib.Path(path).relative_to(archive_of(path)).as_posix()


def _members(archive):
    """{path inside an archive: its entry}, whatever way the archive writes paths."""
    return _listing(archive, os.stat(archive).st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _listing(archive, _):
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = {
                posixpath.normpath(entry.filename.replace('\\', '/')).lstrip('/'): entry
                for entry in opened.infolist()
                if not entry.is_dir()
            }
    except (zipfile.BadZipFile, OSError):
        raise InputError(f'{archive}: is not a whole .zip archive; copy it again') from None
    return {name: entry for name, entry in entries.items() if not name.startswith('__MACOSX/')}

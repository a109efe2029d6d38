"""Raw files where they lie: in folders, or still in .zip archives.

A path may go through an archive, as LUNA16/subset3.zip/subset3/SERIES.mhd does; every function that
takes the path of a file takes such a path too.
"""

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

# What reading a damaged file raises.
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


def find(folder, pattern):
    """Lists the files below a folder, and those in its archives, whose names match a glob pattern.

    Linked folders are followed.

    Returns:
        [pathlib.Path], sorted: first the files that lie in folders, then those in archives.
    """
    files = sorted(_walk(folder))
    packed = []
    for archive in files:
        if archive.suffix.lower() == '.zip':
            names = sorted(_members(archive))
            packed += [archive / name for name in names if pathlib.PurePath(name).match(pattern)]
    return [path for path in files if path.match(pattern)] + packed


def _walk(folder):
    """Yields every file below a folder, once, however folders are linked."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            path = pathlib.Path(here) / name
            if path.is_file():
                yield path


def archive_of(path):
    """Returns the .zip that a path goes through, or None."""
    for parent in pathlib.Path(path).parents:
        if parent.suffix.lower() == '.zip' and parent.is_file():
            return parent
    return None


def is_file(path):
    """Whether there is a file at a path, which may go through an archive."""
    archive = archive_of(path)
    return _member(path) in _members(archive) if archive else pathlib.Path(path).is_file()


def size(path):
    """Returns the size of a file in bytes, unpacked."""
    archive = archive_of(path)
    return _members(archive)[_member(path)].file_size if archive else os.path.getsize(path)


def read(path):
    """Returns the bytes of a file.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is encrypted, or damaged.
    """
    archive = archive_of(path)
    try:
        return _unzipped(path) if archive else pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except NotImplementedError:  # zipfile raises it for a kind of compression that it lacks
        raise InputError(
            f'{path}: is packed in a way that Python cannot read; unpack {archive.name} yourself'
        ) from None
    except DAMAGED as error:
        reason = getattr(error, 'strerror', None) or error
        culprit = archive.name if archive else 'it'
        raise InputError(f'{path}: cannot be read ({reason}); copy {culprit} again') from None
    except RuntimeError:  # zipfile raises it for encryption
        raise InputError(f'{path}: is encrypted; unpack {archive.name} yourself') from None


def _unzipped(path):
    """The bytes of a file in an archive."""
    archive = archive_of(path)
    entry = _members(archive).get(_member(path))
    if entry is None:
        raise FileNotFoundError(path)
    with zipfile.ZipFile(archive) as opened:
        return opened.read(entry)


def read_text(path):
    """Returns the text of a table or list in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not UTF-8, or cannot be read.
    """
    try:
        return read(path).decode('utf-8-sig')
    except UnicodeDecodeError:
        raise InputError(f'{path}: is not UTF-8 text; save it as UTF-8') from None


@contextlib.contextmanager
def on_disk(path, *others):
    """Gives a path at which ITK can open or write a file.

    ITK knows no archives, and its MetaImage code takes '%' in a path for a printf pattern and then
    reads or writes the wrong bytes. In both cases the path is one in a temporary folder.

    Args:
        path: of the file.
        others: names of files beside it that ITK needs as well, such as the .raw of an .mhd.

    Yields:
        pathlib.Path with the name of the file.

    Raises:
        InputError: the temporary folder is full.
    """
    path = pathlib.Path(path)
    packed = archive_of(path) is not None
    if not packed and '%' not in str(path.parent):
        yield path
        return
    with tempfile.TemporaryDirectory() as shelter:
        folder = pathlib.Path(shelter) / 'folder'
        if packed:
            _unpack([path.parent / name for name in (path.name, *others)], folder)
        else:
            folder.symlink_to(path.parent.resolve(), target_is_directory=True)
        yield folder / path.name


def _unpack(paths, folder):
    """Writes files that lie in archives into a new folder."""
    folder.mkdir()
    for path in paths:
        content = read(path)
        try:
            (folder / path.name).write_bytes(content)
        except OSError as error:
            raise InputError(
                f'{folder.parent}: cannot be written ({error.strerror}); '
                'free some space, or name another folder in TMPDIR'
            ) from None


def _member(path):
    """The part of a path that lies inside its archive."""
    return pathlib.Path(path).relative_to(archive_of(path)).as_posix()


def _members(archive):
    """{path inside an archive: its zipfile.ZipInfo}, whatever way the archive writes paths."""
    return _listing(archive, os.stat(archive).st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _listing(archive, _):
    """Lists an archive once for each time of change, the second argument."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError):
        raise InputError(f'{archive}: is not a whole .zip archive; copy it again') from None
    members = {}
    for entry in entries:
        name = posixpath.normpath(entry.filename.replace('\\', '/')).lstrip('/')
        if not name.startswith('__MACOSX/'):  # resource forks, which macOS adds
            members[name] = entry
    return members

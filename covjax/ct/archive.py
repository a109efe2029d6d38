"""Raw files where they are stored: in folders, or still in .zip archives.

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

COMPANIONS = ('.DS_Store', 'Thumbs.db', 'desktop.ini')
MOST_BYTES = 1 << 28  # of a file that is read at once
CHUNK = 1 << 22  # bytes that are copied at a time


def find(folder, pattern):
    """Lists the files below a folder, and those in its archives, whose names match a glob pattern.

    Linked folders are followed. Files that macOS and Windows put beside real ones are passed over.

    Returns:
        [pathlib.Path], sorted: first the files that lie in folders, then those in archives.
    """
    files = sorted(path for path in walk(folder) if not is_companion(path))
    packed = []
    for archive in files:
        if archive.suffix.lower() == '.zip':
            names = sorted(_members(archive))
            packed += [archive / name for name in names if pathlib.PurePath(name).match(pattern)]
    return [path for path in files if path.match(pattern)] + packed


def walk(folder):
    """Yields every file below a folder, once, however folders are linked.

    Raises:
        InputError: a name is not text in UTF-8, which tables and other libraries need, or a file is
            a link to nothing, as where the files of a data set have not been fetched.
    """
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            path = pathlib.Path(here) / name
            if path.is_symlink() and not path.exists() and not name.startswith('.'):
                raise InputError(
                    f'{path}: is a link to a file that is not there; bring that back, or remove '
                    'the link'
                )
            if path.is_file():
                _check_name(path)
                yield path


def _check_name(path):
    """Refuses a path with bytes that are no text, as old archives unpack to."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode('utf-8', 'replace')
        raise InputError(f'{shown}: has a name that is not text in UTF-8; rename it') from None


def is_companion(path):
    """Whether macOS or Windows has put a file there beside the real ones."""
    return path.name.startswith('._') or path.name in COMPANIONS


def archive_of(path):
    """Returns the .zip that a path goes through, or None."""
    for parent in pathlib.Path(path).parents:
        if parent.suffix.lower() == '.zip' and parent.is_file():
            return parent
    return None


def is_file(path):
    """Whether there is a file at a path, which may go through an archive."""
    archive = archive_of(path)
    try:
        return _member(path) in _members(archive) if archive else pathlib.Path(path).is_file()
    except (OSError, ValueError):  # of names that no file can have
        return False


def size(path):
    """Returns the size of a file in bytes, unpacked."""
    archive = archive_of(path)
    return _members(archive)[_member(path)].file_size if archive else os.path.getsize(path)


@contextlib.contextmanager
def opened(path):
    """Opens a file for reading bytes.

    Yields:
        a binary file object.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is encrypted, or damaged; also from the block that reads it.
    """
    archive = archive_of(path)
    try:
        with _unzipped(path) if archive else open(path, 'rb') as file:
            yield file
    except (FileNotFoundError, InputError):
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


@contextlib.contextmanager
def _unzipped(path):
    """Opens a file in an archive."""
    archive = archive_of(path)
    entry = _members(archive).get(_member(path))
    if entry is None:
        raise FileNotFoundError(path)
    with zipfile.ZipFile(archive) as whole, whole.open(entry) as file:
        yield file


def read(path):
    """Returns the bytes of a table, list or picture.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is encrypted, damaged, or larger than any such file.
    """
    with opened(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(
            f'{path}: has more than {MOST_BYTES >> 20} MiB; give a smaller file, or remove it'
        )
    return content


def head(path, count):
    """Returns the first `count` bytes of a file, or all where it has fewer; raises as `opened`."""
    with opened(path) as file:
        return file.read(count)


def copy(path, target, offset, count):
    """Writes `count` bytes of a file from `offset` on to a new file on the disk.

    Raises:
        InputError: the file cannot be read, or there is no space for the new one.
    """
    with opened(path) as source:
        source.seek(offset)
        left = count
        with _space_for(target), open(target, 'wb') as copied:
            while left and (chunk := source.read(min(left, CHUNK))):
                copied.write(chunk)
                left -= len(chunk)


@contextlib.contextmanager
def _space_for(target):
    """Turns an error of writing a temporary file into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f'{target.parent}: cannot be written ({error.strerror}); '
            'free some space, or name another folder in TMPDIR'
        ) from None


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
def on_disk(path):
    """Gives a path at which libraries that know no archives can open or write a file.

    ITK's MetaImage code takes '%' in a path for a printf pattern and then reads or writes the wrong
    bytes. For such a path and for a file in an archive it is one in a temporary folder.

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
            folder.mkdir()
            copy(path, folder / path.name, 0, size(path))
        else:
            folder.symlink_to(path.parent.resolve(), target_is_directory=True)
        yield folder / path.name


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
        # Resource forks, which macOS adds.
        if not name.startswith('__MACOSX/') and not is_companion(pathlib.PurePath(name)):
            members[name] = entry
    return members

"""Files and folders that are whole under their names, or not there at all.

They are put together under another name and renamed at the end, so that neither a kill nor a full
disk leaves half of one where a later stage would read it.
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil

PREFIX = '.part_'  # of files; an ending would hide the one that says what a file is
ENDING = '.part'  # of folders

# By what the system refuses.
REMEDIES = {
    errno.ENOSPC: 'make room on that disk, then run the same command again',
    errno.EDQUOT: 'make room in your quota, then run the same command again',
    errno.EFBIG: 'raise the limit on the size of files, then run the same command again',
    errno.ENAMETOOLONG: 'choose a shorter path',
    errno.ENOENT: 'that folder has gone away; begin in another one',
    errno.EMFILE: 'raise the limit on open files, then run the same command again',
    errno.EROFS: 'choose another folder',
    errno.EACCES: 'choose another folder',
    errno.EPERM: 'choose another folder',
    errno.EISDIR: 'a folder lies where a file should; choose another --workdir',
    errno.ENOTDIR: 'a file lies where a folder should; choose another --workdir',
    errno.EEXIST: 'something else lies there; choose another --workdir',
    errno.ESTALE: 'that disk has gone away; begin in another folder',
    errno.EIO: 'look at that disk',
}

# How other libraries say in their own exceptions what the system refused: safetensors, Orbax, and
# array_record, which has the words of the system alone.
NUMBERED = re.compile(r"os error (\d+)|os_error_code='(\d+)'")
IN_WORDS = re.compile(r'Failed to finalize writing(?:.*write\(\) failed: ([^;]*))?', re.DOTALL)


def refused(error, path):
    """The OSError that an exception of another library stands for, or None.

    Args:
        error: of safetensors, Orbax or array_record.
        path: of what was to be written.
    """
    numbered, in_words = NUMBERED.search(str(error)), IN_WORDS.search(str(error))
    if numbered:
        code = int(numbered[1] or numbered[2])
    elif in_words:
        words = (in_words[1] or '').strip()
        code = next((code for code in REMEDIES if os.strerror(code) == words), errno.EIO)
    else:
        return None
    return OSError(code, os.strerror(code), str(path))


@contextlib.contextmanager
def file(path):
    """Yields the name under which a file is to be written, which then becomes its own.

    Args:
        path: pathlib.Path of the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(PREFIX + path.name)
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_text(path, text):
    """Writes a text file (path) in UTF-8; makes the folder."""
    with file(pathlib.Path(path)) as draft:
        draft.write_text(text, encoding='utf-8')


@contextlib.contextmanager
def folder(path):
    """Yields a folder that replaces the one of a name once it is complete.

    Args:
        path: pathlib.Path of the folder.
    """
    draft = path.with_name(path.name + ENDING)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft)
        raise
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)

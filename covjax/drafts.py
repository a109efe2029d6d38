"""Files and folders that are whole under their names, or not there at all.

They are put together under another name and renamed at the end, so that neither a kill nor a full
disk leaves half of one where a later stage would read it.
"""

import contextlib
import os
import pathlib
import re
import shutil

PREFIX = '.part_'  # an ending would hide the one that says what a file is

# How other libraries say in their own exceptions what the system refused.
OS_ERROR = re.compile(r"os error (\d+)|os_error_code='(\d+)'")


def refused(error, path):
    """The OSError that an exception of another library stands for, or None.

    Args:
        error: of safetensors or Orbax.
        path: of what was to be written.
    """
    number = OS_ERROR.search(str(error))
    if number is None:
        return None
    code = int(number[1] or number[2])
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
    draft = path.with_name(path.name + '.part')
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft)
        raise
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)

"""A folder that one process at a time writes to, on one machine or on several that share it.

The lock is a small file: which process on which machine holds it, and since when. While it is held
its time of change is renewed, the *heartbeat*. A lock whose process is gone is taken over: at once
on its own machine, and on another one after SILENT seconds without a heartbeat.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time

from covjax import InputError

NAME = 'lock'
MOST_PID = 2**31  # no process has such a number
BEAT, SILENT = 10, 120  # seconds between two heartbeats; without one until a process counts as gone


@contextlib.contextmanager
def held(folder):
    """Holds the lock of a folder while the block runs.

    Args:
        folder: pathlib.Path of a folder that exists.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    file, own = folder / NAME, _identity()
    try:
        _take(file, own)
    except OSError as error:
        raise unwritable(folder, error) from None
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(file, own, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _read(file) == own:
            file.unlink(missing_ok=True)


def unwritable(folder, error):
    """The InputError of a folder that an OSError says cannot be written."""
    return InputError(f'--workdir={folder}: cannot be written ({error.strerror}); choose another')


def _identity():
    """What a lock says of this process, as a text."""
    pid = os.getpid()
    since = time.strftime('%Y-%m-%d %H:%M:%S')
    return json.dumps(
        {'host': socket.gethostname(), 'pid': pid, 'started': _started(pid), 'since': since}
    )


def _started(pid):
    """When a process of this machine was started, in ticks since the machine was, or None.

    A process id is used again after a while; with the start it is not mistaken.
    """
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text(encoding='utf-8')
    except OSError:
        return None  # no such process, or no Linux
    return int(stat.rpartition(')')[2].split()[19])


def _take(file, own):
    """Writes a lock, over one whose process is gone."""
    while True:
        try:
            with open(file, 'x', encoding='utf-8') as opened:
                _write(opened, own, file)
            return
        except FileExistsError:
            holder = _read(file)
            if holder is not None and not _is_gone(file, holder):
                raise InputError(_refusal(file, holder)) from None
            _remove(file, holder)


def _write(opened, own, file):
    """Writes what a lock says; one that cannot be written, as on a full disk, is taken away."""
    try:
        opened.write(own)
        opened.flush()
    except OSError:
        file.unlink(missing_ok=True)
        raise


def _read(file):
    """The text of a lock, None where there is none."""
    try:
        return file.read_text(encoding='utf-8', errors='replace')
    except FileNotFoundError:
        return None


def _holder(text):
    """What a lock says, a dict; {} of one that was not written to its end."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_gone(file, text):
    """Whether the process that a lock names runs no more."""
    holder = _holder(text)
    if holder.get('host') == socket.gethostname() and isinstance(holder.get('pid'), int):
        return not _runs(holder['pid'], holder.get('started'))
    return _silence(file) > SILENT


def _runs(pid, started):
    """Whether a process of this machine runs that was started at a time."""
    if not 0 < pid < MOST_PID:
        return False  # of a lock that is damaged
    try:
        with contextlib.suppress(PermissionError):  # of another user's process, which is there
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return started is None or _started(pid) in (None, started)


def _silence(file):
    """Seconds since the last heartbeat, by the clock of the file system, not of this machine."""
    probe = file.with_name(f'{NAME}.{os.getpid()}')
    try:
        probe.touch()
        return probe.stat().st_mtime - file.stat().st_mtime
    except FileNotFoundError:
        return float('inf')
    finally:
        probe.unlink(missing_ok=True)


def _remove(file, text):
    """Removes the lock with a text, but none that another process has put in its place."""
    taken = file.with_name(f'{NAME}.{os.getpid()}.gone')
    with contextlib.suppress(FileNotFoundError):
        file.rename(taken)
        if _read(taken) != text:
            with contextlib.suppress(FileExistsError):
                os.link(taken, file)
        taken.unlink()


def _refusal(file, text):
    """The message to who comes second."""
    holder = _holder(text)
    who = f'process {holder.get("pid", "?")} on {holder.get("host", "another machine")}'
    since = f' since {holder["since"]}' if 'since' in holder else ''
    return (
        f'--workdir={file.parent}: {who} writes there{since}; wait until it has ended, or choose '
        f'another --workdir. If it is gone, the folder is free after {SILENT} seconds'
    )


def _beat(file, own, stop):
    """Renews the heartbeat until it is asked to stop, or another process holds the lock."""
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            if _read(file) != own:
                return
            os.utime(file)

"""Several processes that train one model: they meet, and none is left waiting for one that is gone.

Each process that the user starts is a watcher, and has the work done by a child with the same
words. JAX ends a process whose peer is gone within seconds, with a hundred lines of C++ and without
asking Python; the watcher keeps these back and says in one line what happened.
"""

import ctypes
import pathlib
import re
import signal
import subprocess
import sys

import jax

CHILD = 'COVJAX_CHILD'  # in the environment of the process that works
START = 1800  # seconds that processes wait for one another, such as for a node that still boots
SILENCE = 10  # seconds without a sign of life, after which a process is gone
# How what is kept back begins, and what tells in it that another process is gone.
BEGINS = re.compile(r'Traceback \(most recent|Fatal Python error|[WEF]\d{4} [\d:.]+|\*\*\* Check')
GONE = re.compile(r'Gloo [\w-]+ failed|heartbeat|CoordinationService|coordination_service')
WHICH = re.compile(r'[Tt]ask:? ?(\d+) heartbeat|job:jax_worker/replica:0/task:(\d+)')
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of a run that was asked to
RUN = (
    'import sys, pathlib; home, below, *words = sys.argv[1:]; sys.path.insert(0, home); '
    'from covjax.launcher import main; main(words, pathlib.Path(home), pathlib.Path(below))'
)


def join(address, processes, process):
    """Makes this one of several processes, once all of them are there.

    Args:
        address: 'HOST:PORT' of process 0, or None under Slurm and Open MPI.
        processes, process: their number, and the index of this one; None likewise.

    Raises:
        RuntimeError, ValueError or IndexError: the arguments are wrong, or the others do not come.
    """
    jax.distributed.initialize(
        address,
        processes,
        process,
        initialization_timeout=START,
        heartbeat_timeout_seconds=SILENCE,
    )
    from orbax.checkpoint import multihost

    # Their first collective operation waits 30 seconds for the last process and fails then; all
    # later ones wait as long as it takes. So it comes here, where all are equally far.
    multihost.get_barrier_sync_fn()(key='covjax', timeout_ms=START * 1000)
    ones = jax.numpy.ones(jax.local_device_count())
    jax.pmap(lambda one: jax.lax.psum(one, 'all'), axis_name='all')(ones).block_until_ready()


def watch(words, home, below, workdir, environment):
    """Runs a command line in a child and waits for it.

    Args:
        words: of the command line; words[0] is the program.
        home, below: as covjax.launcher.main takes them.
        workdir: of the run.
        environment: {name: value} of this process.

    Returns:
        Exit code of the child; 2 where it ended because another process is gone.
    """
    command = [sys.executable, '-c', RUN, str(home), str(below), *words]
    child = subprocess.Popen(
        command,
        env={**environment, CHILD: '1'},
        stderr=subprocess.PIPE,
        text=True,
        errors='replace',
        preexec_fn=_die_with_parent,
    )
    hand_on = lambda number, _: child.send_signal(number)
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    held = _relay(child.stderr)
    code = child.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    text = ''.join(held)
    if not GONE.search(text):
        sys.stderr.write(text)
    elif code and code not in STOPPED:
        print(f'covjax: {_who(text)} is gone; {_remedy(workdir)}', file=sys.stderr)
        return 2
    return 128 - code if code < 0 else code


def _die_with_parent():
    """Has the system kill this process when its watcher is killed; on Linux alone."""
    if sys.platform == 'linux':
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _relay(errors):
    """Prints the lines of a child as they come, and keeps back all from the first of a crash on.

    Args:
        errors: its standard error.

    Returns:
        [line] that were kept back.
    """
    held = []
    for line in errors:
        if held or BEGINS.match(line):
            held.append(line)
        else:
            sys.stderr.write(line)
            sys.stderr.flush()
    return held


def _who(text):
    """Which process is gone, by what JAX says."""
    found = WHICH.search(text)
    return f'process {found[1] or found[2]}' if found else 'another process'


def _remedy(workdir):
    steps = (path.name for path in pathlib.Path(workdir).glob('checkpoints/[0-9]*'))
    last = max((int(name) for name in steps if name.isdigit()), default=0)
    return f'the same commands go on from step {last}' if last else 'start all of them again'

"""From a command line to a run.

The words are parsed, the workdir is claimed, and the run is called. `launch.py` of a checkout and
`python -m covjax` of an installed package start here.
"""

import _thread
import contextlib
import errno
import faulthandler
import os
import pathlib
import signal
import sys
import threading
import warnings
from logging import getLogger

import jax
from absl import logging

from covjax import InputError, Stopped, drafts, processes, runs
from covjax.command_line import COORDINATOR, PROCESS, PROCESSES, fail, parse
from covjax.memory import keep_memory
from covjax.workdir import claimed

# Runs that compute steps, over and over.
TRAINING = (
    *('train', 'annotate', 'audit', 'study', 'pair_study', 'segmentation_study', 'mixing'),
    'doctor',
)
# In warnings of JAX.
UNREADABLE = 'Error reading persistent compilation cache'
UNWRITABLE = 'Error writing persistent compilation cache'
EXHAUSTED = 'RESOURCE_EXHAUSTED'  # in an exception of XLA
PLATFORMS = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')  # by which devices are asked for
LATER = 0.05  # seconds until Ctrl-C comes again, by when the callback that lost it has returned
CACHE = '~/.cache/covjax'  # compiled programs; JAX_COMPILATION_CACHE_DIR names another folder


def main(argv, home, below):
    """Parses a command line and runs what it names.

    Args:
        argv: the words, argv[0] is the program.
        home: pathlib.Path of the folder that holds the package `configs`, which must be on
            sys.path.
        below: pathlib.Path below which a run without --workdir gets its folder.
    """
    faulthandler.enable()
    logging.use_absl_handler()  # so that its verbosity counts for what other libraries log
    try:
        config, workdir = parse(argv, home, below)
    except BrokenPipeError:  # of --help, as in `--help | head`
        os._exit(128 + signal.SIGPIPE)
    if COORDINATOR.value and processes.CHILD not in os.environ:
        sys.exit(processes.watch(argv, home, below, workdir, os.environ))
    launch(config, workdir)


def launch(config, workdir):
    """Runs a config in a workdir.

    Wrong input and a training that diverged (FloatingPointError) end the process with code 2 and a
    message without a traceback, and so does a disk that is full or gone; a training that was
    stopped ends with 128 + signal. Every other exception is a bug and passes through, so that
    Python exits with code 1.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as launch.py leaves it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.run in TRAINING:
        keep_memory()
    quieten()
    keep_programs()
    if COORDINATOR.value or PROCESSES.value or PROCESS.value is not None:
        join(config)
    check_platform()
    # Of several processes the first makes the folder, and takes it away again.
    first = not COORDINATOR.value or jax.process_index() == 0
    try:
        run = runs.find(config.run)
        with claimed(config, workdir) if first else contextlib.nullcontext():
            print(f'{config.run}: writing to {workdir}', flush=True)
            with enough_memory():
                run(config, workdir)
    except (Exception, KeyboardInterrupt) as error:
        end(error, workdir)


def check_platform():
    """Ends the process with a line where the environment asks for devices that JAX has not.

    Otherwise the first stage to compute something would fail, of a run that has begun. Where
    nothing is asked for nothing is done: preparing data sets should take no memory of a GPU.
    """
    asked = [f'{name}={os.environ[name]}' for name in PLATFORMS if os.environ.get(name)]
    if not asked:
        return
    try:
        jax.devices()
    except Exception as error:  # AssertionError, RuntimeError, or what a plugin raises
        reason = f' ({str(error).splitlines()[0]})' if str(error) else ''
        fail(
            f'{", ".join(asked)}: JAX finds no such devices{reason}; leave it out, or set '
            'JAX_PLATFORMS=cpu'
        )


@contextlib.contextmanager
def enough_memory():
    """Turns what NumPy and XLA say of too little memory into an InputError."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else 'MemoryError'
        if not isinstance(error, MemoryError) and EXHAUSTED not in reason:
            raise
        raise InputError(
            f'not enough memory ({reason}); lower config.batch_size, the size of images or, of '
            'scans, config.slices'
        ) from None


def end(error, workdir):
    """Ends the process as what ended a run asks for; raises a bug again.

    Args:
        error: the exception.
        workdir: of the run.
    """
    if isinstance(error, (InputError, FloatingPointError)):  # the second: a training that diverged
        fail('\n  '.join([str(error), *getattr(error, 'details', ())]))
    if isinstance(error, BrokenPipeError):  # nobody reads on, as of `| head`
        os._exit(128 + signal.SIGPIPE)
    if isinstance(error, OSError) and is_of_disk(error, workdir):
        reason = f'{error.filename or workdir}: {error.strerror}'
        # Threads of Orbax may wait for a checkpoint that cannot be written.
        fail(f'{reason}; {drafts.REMEDIES[error.errno]}', waits=False)
    if isinstance(error, Stopped):
        sys.exit(128 + error.signal)
    if isinstance(error, KeyboardInterrupt):
        print('covjax: stopped; the same command begins this stage again', file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    raise error


def is_of_disk(error, workdir):
    """Whether an OSError is the fault of a disk, and not of this program.

    Args:
        error: OSError.
        workdir: of the run; a file that is missing is no fault of the disk while this is there.
    """
    vanished = error.errno != errno.ENOENT or not pathlib.Path(workdir).exists()
    return error.errno in drafts.REMEDIES and vanished


def quieten():
    """Keeps from the terminal what other libraries say of what a line of ours says already."""
    logging.set_verbosity(logging.FATAL)  # Orbax reports every step of a save, and raises errors
    getLogger('pydicom').setLevel('ERROR')  # a file that is damaged is refused with one line
    getLogger('asyncio').setLevel('CRITICAL')  # and so is a checkpoint
    sys.unraisablehook = resending_ctrl_c(without_closed_loops(sys.unraisablehook))


def without_closed_loops(hook):
    """A sys.unraisablehook that is silent on one exception, and hands on every other.

    Where Orbax cannot read one array of a damaged checkpoint it leaves the others half read, and
    each of them fails in a thread of its own when its event loop is closed. The checkpoint has been
    set aside or refused by then, in one line.

    Args:
        hook: the hook for all others.
    """

    def quiet(unraisable):
        if str(unraisable.exc_value) != 'Event loop is closed':
            hook(unraisable)

    return quiet


def resending_ctrl_c(hook):
    """A sys.unraisablehook that has Ctrl-C come again where nobody could hear it.

    Python lets no exception out of a callback of its garbage collector, and JAX has one.

    Args:
        hook: the hook for all other exceptions.
    """

    def heard(unraisable):
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            return hook(unraisable)
        again = threading.Timer(LATER, _thread.interrupt_main)
        again.daemon = True
        again.start()

    return heard


def keep_programs():
    """Has JAX keep compiled programs in CACHE, unless the environment names another folder.

    JAX compiles anew what it cannot read there, but never replaces it, so that every later start
    would be slow. Therefore damaged programs are removed. A program that cannot be kept is no
    matter for the run, which ends with a line of its own where it needs that disk.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser(CACHE))
    warnings.showwarning = removing_programs(warnings.showwarning)


def removing_programs(show):
    """A warnings.showwarning that removes compiled programs when one of them cannot be read.

    Which one is not said, so that all are removed, and it is reported once. It is silent on one
    that cannot be written.

    Args:
        show: the function for all other warnings.
    """

    def shown(message, *arguments, **keywords):
        if UNWRITABLE in str(message):
            return None
        if UNREADABLE not in str(message):
            return show(message, *arguments, **keywords)
        folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
        programs = [*folder.glob('*-cache')]
        for program in programs:
            program.unlink(missing_ok=True)
        if programs:
            print(f'{folder}: a compiled program is damaged; all are made anew', flush=True)

    return shown


def join(config):
    """Makes this one of several processes that train one model."""
    if not COORDINATOR.value:
        fail('--processes and --process need --coordinator=HOST:PORT, the same in every process')
    flag = f'--coordinator={COORDINATOR.value}'
    if config.run != 'train':
        fail(f'{flag}: a run of {config.run} is one process; leave it out')
    address = None if COORDINATOR.value == 'auto' else COORDINATOR.value
    try:
        processes.join(address, PROCESSES.value, PROCESS.value)
    except (RuntimeError, ValueError, IndexError) as error:  # the last of an address without port
        reason = str(error).splitlines()[0]
        remedy = 'outside Slurm and Open MPI give HOST:PORT, --processes and --process'
        fail(f'{flag}: {reason}; {remedy}')

"""How a process that trains holds its memory."""

import ctypes
import functools
import os
import pathlib
import re
import resource
import sys

import jax

# Options of glibc's mallopt, from malloc.h: large blocks come from the heap as small ones do, and
# the main heap does not shrink by itself. Threads have heaps of their own: in one for all they
# would wait for each other.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MALLOPT = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}
# JAX's events before and after a program is compiled. Memory goes back after one of them that took
# at least LONG seconds.
COMPILING = '/jax/core/compile/jaxpr_to_mlir_module_duration'
COMPILED = '/jax/core/compile/backend_compile_duration'
LONG = 0.2


@functools.cache
def keep_memory():
    """Has this process keep the memory that it frees, for the next step of a training.

    A step on the CPU takes hundreds of megabytes from the C library and gives them back when it
    ends; by default they go back to the system, which clears every page again for the next step.
    What is free before and after a large program is compiled does go back, since compiling needs
    memory of its own, more than a step. All of this is left out where the C library is not glibc or
    the user has set it up otherwise, by MALLOC_... in the environment.

    JAX on the CPU takes the memory of a step when it is asked for it, not when the step before has
    given its own back. Therefore a step is asked for only when the one before is done.

    Call it before JAX starts its threads.
    """
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    if sys.platform != 'linux' or any(name.startswith('MALLOC_') for name in os.environ):
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, 'gnu_get_libc_version'):
        return
    for option, value in MALLOPT.items():
        library.mallopt(option, value)

    def give_back(event, seconds, **_):
        if event in (COMPILING, COMPILED) and seconds >= LONG:
            library.malloc_trim(0)

    jax.monitoring.register_event_duration_secs_listener(give_back)


def peak_of_process():
    """The most memory that this program has had, in bytes.

    On Linux ru_maxrss begins with what the process had that started this one; VmHWM does not.
    """
    status = pathlib.Path('/proc/self/status')
    found = re.search(r'VmHWM:\s*(\d+) kB', status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

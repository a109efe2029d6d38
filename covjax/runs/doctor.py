"""Whether this machine is fit: versions, devices, exactness, and twenty steps of every training.

What is printed is kept as doctor.json and, as a table for people, doctor.md.
"""

import contextlib
import importlib.metadata
import io
import os
import platform
import shutil
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from packaging.requirements import Requirement

from covjax import __version__, drafts
from covjax.models import layers
from covjax.phantom import ct_scans, raw_files
from covjax.runs import prepare, train
from covjax.runs.benchmark import Clock, peak_bytes
from covjax.training import devices
from covjax.workdir import write_json

TASKS = ('cyclegan', 'classification', 'segmentation', 'pairs', 'scans')
# Which phantoms become which data sets.
PREPARED = {
    'luna16_patches/nodules': 'luna16',
    'luna16_patches/nodules_framed': 'luna16',
    'covid_ct': 'covid_ct',
    'ct_scans/covid_semiseg': 'covid_semiseg',
    'ct_scans/covid_semiseg_framed': 'covid_semiseg',
    'ct_scans/covid_ct_md': 'covid_ct_md',
}
EXTRAS = ('torch', 'keras', 'onnxruntime', 'monai')  # peers and further formats
SIDE = 1024  # of the matrices whose product is timed
ROUNDS = 4  # in which steps are timed
GIB = 2**30
KEEP = 'set JAX_COMPILATION_CACHE_DIR to a folder that can be written'
FREE = 5 * GIB  # of disk, below which checkpoints may not fit
# The largest error of a product, relative to the largest result: of sums of SIDE terms in float32,
# in TF32 (10 bits of a fraction) and in bfloat16 (7 bits).
TOLERANCES = {'float32': 1e-5, 'default': 5e-3, 'bfloat16': 3e-2}
# What share of the speed of a matrix product the steps of each training reached, all of it counted
# from the convolutions as they are written: on two CPU cores (docs/speed.md). Other devices have
# not been measured.
EXPECTED = {
    'cpu': {
        'cyclegan': 0.20,
        'classification': 0.46,
        'segmentation': 0.29,
        'pairs': 0.15,
        'scans': 0.39,
    }
}
SLOW = 2.5  # times the expected seconds, from which on a training counts as slow


class Line(NamedTuple):
    """What was looked at, what was found, and what is wrong with it."""

    what: str
    found: str
    problem: str = ''  # with the remedy; '' where there is none


def run(config, workdir):
    """Looks at the machine, and trains every kind of network for a few steps.

    Writes doctor.json and doctor.md.

    Args:
        config: of configs/doctor.py.
        workdir: pathlib.Path; phantoms and their data sets stay there.
    """
    lines = []
    for look in (versions, hardware, disk):
        lines += told(look(workdir))
    rate, of_numbers = exactness()
    lines += told(of_numbers)
    data_dir = phantoms(workdir)
    measured = {}
    for task in TASKS:
        row, of_task = training(task, config, data_dir, rate)
        measured[task] = row
        lines += told(of_task)
    problems = [line for line in lines if line.problem]
    write_json(
        workdir / 'doctor.json',
        {'lines': [line._asdict() for line in lines], 'trainings': measured, 'fit': not problems},
    )
    drafts.write_text(workdir / 'doctor.md', markdown(lines))
    print()
    for line in problems:
        print(f'not fit: {line.what}: {line.problem}')
    verdict = f'{len(problems)} problems' if problems else 'this machine is fit'
    print(f'{verdict}: {workdir / "doctor.md"}')


def told(lines):
    """Prints Lines as they are found -> a list of them."""
    found = []
    for line in lines:
        print(f'{line.what:34}{line.found}', flush=True)
        found.append(line)
    return found


# ---- the machine


def versions(_):
    """Yields Lines of what is installed, and whether it is what covjax asks for."""
    yield Line('covjax, Python', f'{__version__}, {platform.python_version()}')
    for requirement in map(Requirement, importlib.metadata.requires('covjax') or ()):
        if requirement.marker and not requirement.marker.evaluate({'extra': ''}):
            continue
        name, problem = requirement.name, ''
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = 'missing'
        if found == 'missing' or not requirement.specifier.contains(found, prereleases=True):
            problem = (
                f"{name} {found}, needed {requirement.specifier}; pip install -U '{requirement}'"
            )
        if problem or name in ('jax', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets'):
            yield Line(name, found, problem)
    yield Line('further libraries', ', '.join(_extras()) or 'none')


def _extras():
    for name in EXTRAS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f'{name} {importlib.metadata.version(name)}'


def hardware(_):
    """Yields Lines of devices, cores and memory."""
    first, count = jax.devices()[0], jax.device_count()
    yield Line('devices', f'{count} x {first.device_kind} ({first.platform})')
    yield Line('memory of a device', f'{devices.memory() / GIB:.1f} GiB')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    yield Line('CPU cores', f'{cores} of {os.cpu_count()}')


def disk(workdir):
    """Yields Lines of the disks that runs write to."""
    places = {'workdir': workdir, 'compiled programs': jax.config.jax_compilation_cache_dir}
    for name, place in places.items():
        if not place:
            yield Line(name, 'not kept')
            continue
        try:
            os.makedirs(place, exist_ok=True)
        except OSError as error:
            yield Line(name, 'not kept', f'{place}: {error.strerror}; {KEEP}')
            continue
        free = shutil.disk_usage(place).free
        problem = f'{place} has little room; free some' if free < FREE else ''
        yield Line(f'free disk, {name}', f'{free / GIB:.1f} GiB at {place}', problem)


# ---- exactness and speed of products


def exactness():
    """How exact and how fast products are.

    Returns:
        (products and sums a second of float32 matrices, [Line]).
    """
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, SIDE, SIDE)).astype(np.float32)
    truth = first.astype(np.float64) @ second.astype(np.float64)
    error = lambda found: float(np.abs(np.asarray(found, np.float64) - truth).max() / truth.max())
    half = [jnp.asarray(each, jnp.bfloat16) for each in (first, second)]
    ways = {
        'float32': (first, second, 'highest'),
        'default': (first, second, None),
        'bfloat16': (*half, None),
    }
    lines, rates = [], {}
    for name, (one, other, precision) in ways.items():
        product = partial(jax.jit(partial(jnp.matmul, precision=precision)), one, other)
        reached = error(product())
        rates[name] = 2 * SIDE**3 / _seconds(product)
        problem = ''
        if reached > TOLERANCES[name]:
            problem = f'an error of {reached:.1e}, more than {TOLERANCES[name]:.0e}; update jaxlib'
        kind = f' ({_called(reached)})' if name == 'default' else ''
        found = f'error {reached:.1e}{kind}, {rates[name] / 1e12:.3g} TFLOP/s'
        lines.append(Line(f'products in {name}', found, problem))
    return rates['default'], lines


def _called(error):
    """What the default precision of products is, by its error."""
    return 'float32' if error <= TOLERANCES['float32'] else 'TF32 or less'


def _seconds(function, rounds=5):
    """The median of the seconds that a function of JAX takes, once it is warm."""
    jax.block_until_ready(function())
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(function())
        found.append(time.perf_counter() - began)
    return float(np.median(found))


# ---- trainings


def phantoms(workdir):
    """Draws phantoms and prepares their data sets, where they are not there yet -> their folder."""
    raw, data_dir = workdir / 'phantoms', str(workdir / 'data')
    if not (raw / 'covid_ct' / 'PHANTOM.txt').is_file():
        print('drawing phantoms', flush=True)
        raw_files.write_luna16(raw / 'luna16', seed=1, series=10, slices=4, size=128)
        ct_scans.write_ct_scans(raw / 'covid_semiseg', 'covid_semiseg', seed=2)
        ct_scans.write_ct_scans(raw / 'covid_ct_md', 'covid_ct_md', seed=2)
        raw_files.write_covid_ct(raw / 'covid_ct', seed=1, train=8, validation=4, test=6)
    for dataset, source in PREPARED.items():
        with contextlib.redirect_stdout(io.StringIO()):
            prepare.build(dataset, str(raw / source), data_dir, overwrite=True)
    return data_dir


def training(task, config, data_dir, rate):
    """Trains one kind of network for config.steps steps.

    Args:
        task: of TASKS.
        config: of configs/doctor.py.
        data_dir: of the phantoms.
        rate: products and sums a second of a matrix product here.

    Returns:
        ({key: number} for doctor.json, [Line]).
    """
    own = config[task].copy_and_resolve_references()
    own.data_dir = data_dir
    own.batch_size = max(own.batch_size, jax.device_count())
    with contextlib.redirect_stdout(io.StringIO()):
        made = train.MAKE[task](own)
    clock = Clock(made)
    operations = operations_of(made)
    first = clock.steps(1)
    again = repeats(clock)
    rounds = [clock.steps(max(config.steps // ROUNDS, 1)) for _ in range(ROUNDS)]
    seconds = float(np.median(rounds))
    share = EXPECTED.get(jax.devices()[0].platform, {}).get(task)
    expected = operations / rate / share if share else None
    row = {
        'first_seconds': first,
        'seconds': seconds,
        'operations': operations,
        'of_products': operations / seconds / rate,
        'expected_seconds': expected,
        'peak_gib': peak_bytes() / GIB,
        'repeats': again,
    }
    beside = 'no device of this kind was measured yet'
    if expected:
        beside = f'expected {expected * 1e3:.3g} ms'
    found = (
        f'{seconds * 1e3:.3g} ms a step ({beside}), {row["of_products"]:.0%} of the speed of '
        f'products; first step after {first:.1f} s; {row["peak_gib"]:.1f} GiB'
    )
    return row, [Line(f'{config.steps} steps of {task}', found, _problem(row))]


def operations_of(task):
    """Products and sums of one step of a Task, by what XLA counts before it changes anything."""
    with layers.plainly():
        step, _ = devices.parallel(task)
        state = jax.eval_shape(task.init, jax.random.key(0), _example(task))
        count = jax.local_device_count()
        on_each = lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)
        batch = devices.my_share(task.train_batch(0))
        lowered = step.lower(jax.tree.map(on_each, state), batch, jax.random.key(1))
        return float(lowered.cost_analysis()['flops'])


def _example(task):
    return {name: array[:1] for name, array in task.train_batch(0).items()}


def repeats(clock):
    """Whether the first step of a Clock gives the same bytes twice."""
    task, found = clock.task, []
    batch = devices.my_share(task.train_batch(0))
    for _ in range(2):
        state = devices.replicated(task.init(jax.random.key(0), _example(task)))
        state, _ = clock.train_step(state, batch, jax.random.key(1))
        found.append([leaf.tobytes() for leaf in jax.tree.leaves(devices.on_host(state))])
    return found[0] == found[1]


def _problem(row):
    """What is wrong with a training, or ''."""
    if row['expected_seconds'] and row['seconds'] > SLOW * row['expected_seconds']:
        return (
            f'{row["seconds"] / row["expected_seconds"]:.1f} times as slow as expected; close '
            'other programs, and run it again'
        )
    if not row['repeats']:
        return 'the same step gave other bytes, so that a resumed training can differ'
    return ''


# ---- the table


def markdown(lines):
    """The text of doctor.md."""
    table = [f'| {line.what} | {line.found} | {line.problem or "fine"} |' for line in lines]
    return '\n'.join(['| | found | |', '|---|---|---|', *table, ''])

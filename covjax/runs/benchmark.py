"""How long a CycleGAN step takes on this machine, beside PyTorch where that is installed: the two take turns, medians are compared.

Ours has the whole of training in it: batches, augmentation, pool, looking at the losses. The peer has networks, losses and both Adams, on one batch.
"""

import contextlib
import csv
import importlib.metadata
import importlib.util
import json
import multiprocessing
import pathlib
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import jax
import numpy as np

from covjax import InputError
from covjax.data import datasets, domains
from covjax.training import cyclegan, devices, loop
from covjax.workdir import write_json

IMAGES = 500  # random ones of each domain
COLUMNS = {  # name: how people read it
    'image_size': 'image',
    'batch_size': 'batch',
    'dtype': 'dtype',
    'seconds': 's/step',
    'pairs_per_second': 'pairs/s',
    'tflops': 'TFLOP/s',
    'of_peak': 'of peak',
    'waiting': 'waiting for input',
    'peak_gib': 'peak GiB',
    'peer_seconds': 'PyTorch s/step',
    'peer_peak_gib': 'PyTorch peak GiB',
    'ratio': 'PyTorch / covjax',
}


def run(config, workdir):
    """Measures every pair of config.image_size and config.batch_size -> <workdir>/benchmark.{json,csv,md}."""
    if len(config.image_size) != len(config.batch_size):
        raise InputError(
            f'config.image_size={config.image_size} and config.batch_size={config.batch_size}: give as many of one as of the other'
        )
    if config.peer and not pathlib.Path(config.peer).is_file():
        raise InputError(
            f"config.peer={config.peer}: no such program; run from the repository's folder, or leave it empty"
        )
    rows = []
    for image_size, batch_size in zip(config.image_size, config.batch_size):
        with ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context('spawn')
        ) as process:  # for a peak of memory of its own
            rows.append(process.submit(measure, config, image_size, batch_size).result())
        print(
            f'{image_size}x{image_size}, batch {batch_size}: '
            + ', '.join(
                f'{COLUMNS[key]} {shown(key, rows[-1][key])}'
                for key in COLUMNS
                if rows[-1][key] is not None
            ),
            flush=True,
        )
    write_json(workdir / 'benchmark.json', rows)
    with (workdir / 'benchmark.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction='ignore')
        writer.writeheader()
        writer.writerows(rows)
    lines = [
        ' | '.join(COLUMNS.values()),
        ' | '.join('---' for _ in COLUMNS),
        *(' | '.join(shown(key, row[key]) for key in COLUMNS) for row in rows),
    ]
    table = '\n'.join(f'| {line} |' for line in lines)
    (workdir / 'benchmark.md').write_text(f'{json.dumps(rows[0]["machine"])}\n\n{table}\n')
    print(f'\n{table}\n\n{workdir / "benchmark.md"}')


def measure(config, image_size, batch_size):
    """One row of the table."""
    devices.check_devices(batch_size)
    gan = config.cyclegan.copy_and_resolve_references()
    gan.update(
        {
            'image_size': image_size,
            'load_size': image_size * gan.load_size // gan.image_size,
            'batch_size': batch_size,
        }
    )
    rng = np.random.default_rng(0)
    examples = {
        domain: datasets.Examples(
            rng.integers(0, 256, (IMAGES, gan.load_size, gan.load_size, 1), np.uint8),
            np.zeros(IMAGES, np.int32),
            [{}] * IMAGES,
        )
        for domain in domains.DOMAINS
    }
    clock, ours, theirs, peer_peak = Clock(cyclegan.task_on(gan, examples, {})), [], [], None
    with peer(config, gan) as ask:
        clock.steps(config.warmup)
        ask(config.warmup)
        clock.waited = 0.0
        for _ in range(config.rounds):
            ours.append(clock.steps(config.steps))
            if answer := ask(config.steps):
                theirs.append(answer['seconds'])
                peer_peak = answer['peak_bytes'] / 2**30
    seconds, tflops = float(np.median(ours)), step_flops(gan) / 1e12
    peer_seconds = float(np.median(theirs)) if theirs else None
    machine = {
        'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
        'cpu': platform.processor() or platform.machine(),
        'jax': jax.__version__,
        'torch': importlib.metadata.version('torch') if has_torch() else None,
    }
    return {
        'image_size': image_size,
        'batch_size': batch_size,
        'dtype': gan.dtype,
        'seconds': seconds,
        'pairs_per_second': batch_size / seconds,
        'tflops': tflops / seconds,
        'of_peak': tflops / seconds / config.peak_tflops / jax.device_count()
        if config.peak_tflops
        else None,
        'waiting': clock.waited / (sum(ours) * config.steps),
        'peak_gib': peak_bytes() / 2**30,
        'peer_seconds': peer_seconds,
        'peer_peak_gib': peer_peak,
        'ratio': peer_seconds / seconds if peer_seconds and jax.device_count() == 1 else None,
        'all_seconds': ours,
        'all_peer_seconds': theirs,
        'machine': machine,
    }


class Clock:
    """Runs training steps and times them: batches are made while the devices compute, and scalars are looked at now and then, as train.fit does."""

    def __init__(self, task):
        self.task, self.at, self.waited = task, 0, 0.0
        self.step_fn, _ = devices.parallel(task)
        self.state = devices.replicated(task.init(jax.random.key(0), task.train_batch(0)))

    def steps(self, n):
        """Seconds a step, over n of them. `waited` grows by the time of those batches at whose end the devices had nothing left to do; the first batch of
        a round, before which they rest in any case, counts whole.
        """
        began, unseen = time.perf_counter(), []
        for _ in range(n):
            asked = time.perf_counter()
            batch = devices.my_share(self.task.train_batch(self.at))
            if not unseen or all(value.is_ready() for value in unseen[-1][1].values()):
                self.waited += time.perf_counter() - asked
            self.state, scalars = self.step_fn(self.state, batch, jax.random.key(1))
            unseen.append((self.at, scalars))
            self.at += 1
            if self.at % loop.BLOCK_EVERY == 0:
                loop.check_finite(unseen)
                unseen.clear()
        jax.block_until_ready(self.state)
        return (time.perf_counter() - began) / n


def step_flops(config):
    """Floating-point operations of one step, counted from the convolutions (a multiply and an add are two).

    The generators run four times for translation and reconstruction, twice more for identity, forward and twice backward; each discriminator judges one batch for
    the generators, forward and once backward, and two for itself, forward and twice backward.
    """
    square = lambda fraction: (config.image_size * fraction) ** 2
    patch = config.image_size // 8
    f, d = config.gen_filters, config.disc_filters
    gen = (
        square(1) * 49 * f
        + square(1 / 2) * 9 * f * 2 * f
        + square(1 / 4) * 9 * 2 * f * 4 * f
        + square(1 / 4) * config.gen_blocks * 2 * 9 * (4 * f) ** 2
        + square(1 / 4) * 9 * 4 * f * 2 * f
        + square(1 / 2) * 9 * 2 * f * f
        + square(1) * 49 * f
    )
    disc = 16 * (
        square(1 / 2) * d
        + square(1 / 4) * d * 2 * d
        + square(1 / 8) * 2 * d * 4 * d
        + (patch - 1) ** 2 * 4 * d * 8 * d
        + (patch - 2) ** 2 * 8 * d
    )
    return (
        2
        * config.batch_size
        * (gen * 3 * (6 if config.lambda_identity else 4) + disc * 2 * (2 + 2 * 3))
    )


def peak_bytes():
    """The most memory in use so far: of the first device, or of this process where the device does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return (
        stats.get('peak_bytes_in_use') or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


@contextlib.contextmanager
def peer(config, gan):
    """ask(n) -> {'seconds' a step, 'peak_bytes'} of n steps of the program config.peer; None without one or without PyTorch."""
    if not (config.peer and has_torch()):
        yield lambda n: None
        return
    command = [
        sys.executable,
        config.peer,
        f'--size={gan.image_size}',
        f'--batch={gan.batch_size}',
        f'--filters={gan.gen_filters}',
        f'--blocks={gan.gen_blocks}',
        f'--identity={gan.lambda_identity}',
        *['--bfloat16'] * (gan.dtype == 'bfloat16'),
        *['--compile'] * config.peer_compile,
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def answer():
            line = process.stdout.readline()
            if not line:
                raise InputError(
                    f'config.peer={config.peer}: ended early, see above (out of memory?); leave it empty to measure without'
                )
            return json.loads(line)

        def ask(n):
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f'{n}\n')
                process.stdin.flush()
            return answer()

        print(f'beside {answer()}', flush=True)
        try:
            yield ask
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def has_torch():
    return importlib.util.find_spec('torch') is not None


def shown(key, value):
    """A number as people read it."""
    if value is None:
        return ''
    return (
        f'{value:.0%}'
        if key == 'of_peak'
        else f'{value:.2%}'
        if key == 'waiting'
        else f'{value:.3g}'
        if isinstance(value, float)
        else str(value)
    )

"""How long a CycleGAN step takes on this machine, beside PyTorch where that is installed.

The two take turns, and medians are compared. Ours has the whole of training in it: batches,
augmentation, pools, looking at the losses. The peer (benchmarks/torch_cyclegan.py) has networks,
losses and both Adams, on one batch.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import pathlib
import platform
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import jax
import numpy as np

from covjax import InputError, drafts
from covjax.data import datasets, domains
from covjax.memory import keep_memory, peak_of_process
from covjax.training import cyclegan, devices, loop
from covjax.workdir import write_csv, write_json

IMAGES = 500  # random ones of each domain
COLUMNS = {  # key: heading
    'image_size': 'image',
    'batch_size': 'batch',
    'dtype': 'dtype',
    'first_seconds': 'first step, s',
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
# Of numbers that are not shown with three digits.
FORMATS = {
    'of_peak': '{:.0%}',
    'waiting': '{:.2%}',
    'image_size': '{}',
    'batch_size': '{}',
    'dtype': '{}',
}


def run(config, workdir):
    """Measures every pair of config.image_size and config.batch_size.

    Writes benchmark.json with every number, benchmark.csv and benchmark.md with those of COLUMNS.

    Args:
        config: ConfigDict of configs/benchmark.py.
        workdir: pathlib.Path of the folder for them.

    Raises:
        InputError: the two keys have different lengths, or the peer does not exist or fails.
    """
    check(config)
    rows = []
    for image_size, batch_size in zip(config.image_size, config.batch_size):
        # Each in a process of its own, for a peak of memory of its own.
        context = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(1, mp_context=context) as process:
            row = process.submit(measure, config, image_size, batch_size).result()
        numbers = [
            f'{COLUMNS[key]} {shown(key, row[key])}' for key in COLUMNS if shown(key, row[key])
        ]
        print(f'{image_size}x{image_size}, batch {batch_size}: {", ".join(numbers)}', flush=True)
        rows.append(row)
    write_json(workdir / 'benchmark.json', rows)
    lines = [[row[key] for key in COLUMNS] for row in rows]
    write_csv(workdir / 'benchmark.csv', [COLUMNS, *lines])
    table = markdown(rows)
    machine = json.dumps(rows[0]['machine'])
    drafts.write_text(workdir / 'benchmark.md', f'{machine}\n\n{table}\n')
    print(f'\n{table}\n\n{workdir / "benchmark.md"}')


def check(config):
    """Checks the config before anything is measured.

    Raises:
        InputError: config.image_size and config.batch_size differ in length, or config.peer names
            no file.
    """
    if len(config.image_size) != len(config.batch_size):
        raise InputError(
            f'config.image_size={config.image_size} and config.batch_size={config.batch_size}: '
            'give as many of one as of the other'
        )
    if config.peer and not pathlib.Path(config.peer).is_file():
        raise InputError(
            f"config.peer={config.peer}: no such program; run from the repository's folder, "
            'or leave it empty'
        )


# The table.


def markdown(rows):
    """The COLUMNS of the rows that `measure` returns, as a table in Markdown."""
    table = [list(COLUMNS.values()), ['---'] * len(COLUMNS)]
    table += [[shown(key, row[key]) for key in COLUMNS] for row in rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in table)


def shown(key, value):
    """The text of a number in a column; '' for None."""
    return '' if value is None else FORMATS.get(key, '{:.3g}').format(value)


# Measuring.


def measure(config, image_size, batch_size):
    """Times covjax and its peer at one size.

    Args:
        config: ConfigDict of configs/benchmark.py.
        image_size: pixels a side.
        batch_size: pairs of images in a step.

    Returns:
        A row of the table: {key: number or None} of COLUMNS; 'peer_first_seconds'; 'all_seconds'
        and 'all_peer_seconds', one number a round; 'machine'.
    """
    keep_memory()  # as a training does
    devices.check_devices(batch_size)
    gan = resized(config.cyclegan, image_size, batch_size)
    clock = Clock(cyclegan.task_on(gan, random_examples(gan.load_size), {}))
    ours, answers = [], []
    with peer(config, gan) as ask:
        first, peer_first = clock.steps(1), ask(1)  # these compile
        for _ in range(config.warmup - 1):
            clock.steps(1)
            ask(1)
        clock.waited = 0.0
        for _ in range(config.rounds):
            ours.append(clock.steps(config.steps))
            answers.append(ask(config.steps))
    theirs = [answer['seconds'] for answer in answers if answer]
    return {
        'image_size': image_size,
        'batch_size': batch_size,
        'dtype': gan.dtype,
        'first_seconds': first,
        **speed(gan, float(np.median(ours)), config.peak_tflops),
        'waiting': clock.waited / (sum(ours) * config.steps),
        'peak_gib': peak_bytes() / 2**30,
        **compared(float(np.median(ours)), theirs, answers[-1]),
        'peer_first_seconds': peer_first and peer_first['seconds'],
        'all_seconds': ours,
        'all_peer_seconds': theirs,
        'machine': machine(),
    }


def resized(gan, image_size, batch_size):
    """A copy of a CycleGAN's config for another size, loading images larger by the same share."""
    gan = gan.copy_and_resolve_references()
    load_size = image_size * gan.load_size // gan.image_size
    gan.update({'image_size': image_size, 'load_size': load_size, 'batch_size': batch_size})
    return gan


def random_examples(size):
    """{domain: Examples} of IMAGES random images uint8 [size, size, 1] each."""
    rng = np.random.default_rng(0)
    examples = {}
    for domain in domains.DOMAINS:
        images = rng.integers(0, 256, (IMAGES, size, size, 1), np.uint8)
        examples[domain] = datasets.Examples(images, np.zeros(IMAGES, np.int32), [{}] * IMAGES)
    return examples


def speed(gan, seconds, peak_tflops):
    """The columns that follow from the seconds of a step."""
    tflops = step_flops(gan) / 1e12 / seconds
    of_peak = None
    if peak_tflops:
        of_peak = tflops / peak_tflops / jax.device_count()
    return {
        'seconds': seconds,
        'pairs_per_second': gan.batch_size / seconds,
        'tflops': tflops,
        'of_peak': of_peak,
    }


def compared(seconds, theirs, answer):
    """The columns of the peer, from our seconds a step, its own in each round and its last answer.

    The peer uses one device, so the ratio is left out where covjax uses several.
    """
    if not theirs:
        return {'peer_seconds': None, 'peer_peak_gib': None, 'ratio': None}
    peer_seconds = float(np.median(theirs))
    return {
        'peer_seconds': peer_seconds,
        'peer_peak_gib': answer['peak_bytes'] / 2**30,
        'ratio': peer_seconds / seconds if jax.device_count() == 1 else None,
    }


def machine():
    """{'device', 'devices', 'cpu', 'jax', 'torch'} of this process."""
    return {
        'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
        'cpu': platform.processor() or platform.machine(),
        'jax': jax.__version__,
        'torch': importlib.metadata.version('torch') if has_torch() else None,
    }


class Clock:
    """Runs the training steps of a Task as the loop does, and times them.

    Batches are made while the devices compute, and scalars are looked at every loop.BLOCK_EVERY
    steps. `waited` is the number of seconds that the devices spent waiting for batches.
    """

    def __init__(self, task):
        self.task = task
        self.step = 0
        self.waited = 0.0
        self.train_step, _ = devices.parallel(task)
        self.state = devices.replicated(task.init(jax.random.key(0), task.train_batch(0)))

    def steps(self, n):
        """Seconds a step, over n of them.

        `waited` grows by the time of those batches at whose end the devices had nothing left to do;
        the first batch of a round, before which they rest in any case, counts whole.
        """
        began = time.perf_counter()
        unseen = []
        for _ in range(n):
            batch_began = time.perf_counter()
            batch = devices.my_share(self.task.train_batch(self.step))
            if not unseen or all(value.is_ready() for value in unseen[-1][1].values()):
                self.waited += time.perf_counter() - batch_began
            self.state, scalars = self.train_step(self.state, batch, jax.random.key(1))
            unseen.append((self.step, scalars))
            self.step += 1
            if self.step % loop.BLOCK_EVERY == 0:
                loop.check_finite(unseen)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - began) / n


def peak_bytes():
    """The most memory in use so far: of the first device, or else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get('peak_bytes_in_use') or peak_of_process()


# Counting.


def conv(side, kernel, channels, features):
    """Multiplications of a convolution: its output and kernel side, input and output channels."""
    return side**2 * kernel**2 * channels * features


def generator_multiplications(side, f, blocks):
    """Multiplications of a generator on one image: its side, filters and residual blocks."""
    layers = [
        conv(side, 7, 1, f),
        conv(side / 2, 3, f, 2 * f),
        conv(side / 4, 3, 2 * f, 4 * f),
        *[conv(side / 4, 3, 4 * f, 4 * f)] * (2 * blocks),
        # Transposed: each input meets the whole kernel once, so these are the sides of inputs.
        conv(side / 4, 3, 4 * f, 2 * f),
        conv(side / 2, 3, 2 * f, f),
        conv(side, 7, f, 1),
    ]
    return sum(layers)


def discriminator_multiplications(side, f):
    """Multiplications of a discriminator on one image: its side and filters."""
    layers = [
        conv(side / 2, 4, 1, f),
        conv(side / 4, 4, f, 2 * f),
        conv(side / 8, 4, 2 * f, 4 * f),
        conv(side // 8 - 1, 4, 4 * f, 8 * f),
        conv(side // 8 - 2, 4, 8 * f, 1),
    ]
    return sum(layers)


def step_flops(config):
    """Floating-point operations of one training step, counted from the convolutions.

    The generators run four times for translation and reconstruction and twice more for identity,
    forward and twice backward. Each discriminator judges one batch for the generators, forward and
    once backward, and two for itself, forward and twice backward. A multiply and an add are two
    operations.
    """
    generator = generator_multiplications(config.image_size, config.gen_filters, config.gen_blocks)
    discriminator = discriminator_multiplications(config.image_size, config.disc_filters)
    translations = 6 if config.lambda_identity else 4
    one_pair = generator * translations * 3 + discriminator * 2 * (1 * 2 + 2 * 3)
    return 2 * config.batch_size * one_pair


# The peer.


@contextlib.contextmanager
def peer(config, gan):
    """Starts the program config.peer at the sizes of a CycleGAN's config, if PyTorch is installed.

    Yields:
        ask(n) -> {'seconds' a step, 'peak_bytes'} of n steps of it, or None where there is no peer.

    Raises:
        InputError: the program ended early.
    """
    if not (config.peer and has_torch()):
        yield lambda n: None
        return
    command = peer_command(config, gan)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:

        def answer():
            line = process.stdout.readline()
            if not line:
                raise InputError(
                    f'config.peer={config.peer}: ended early, see above (out of memory?); '
                    'leave it empty to measure without'
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


def peer_command(config, gan):
    """The command line of the peer."""
    command = [
        sys.executable,
        config.peer,
        f'--size={gan.image_size}',
        f'--batch={gan.batch_size}',
        f'--filters={gan.gen_filters}',
        f'--blocks={gan.gen_blocks}',
        f'--identity={gan.lambda_identity}',
    ]
    if gan.dtype == 'bfloat16':
        command.append('--bfloat16')
    if config.peer_compile:
        command.append('--compile')
    return command


def has_torch():
    """Whether PyTorch is installed."""
    return importlib.util.find_spec('torch') is not None

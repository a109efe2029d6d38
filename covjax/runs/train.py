"""Trains a network, or resumes from its latest checkpoint: the command of every training run."""

import jax

from covjax import InputError, choice, kept_segmenter, pair_pictures, pretraining
from covjax.data import lineage
from covjax.trained import read_classes, write_classes
from covjax.training import classification, cyclegan, devices, loop, pairs, scans, segmentation
from covjax.weights import checkpoint
from covjax.workdir import write_json

MAKE = {
    'cyclegan': cyclegan.make,
    'classification': classification.make,
    'segmentation': segmentation.make,
    'pairs': pairs.make,
    'scans': scans.make,
}


def run(config, workdir):
    """Trains what config.task names, or resumes from the checkpoint in the workdir.

    Args:
        config: ConfigDict of configs/cyclegan.py, configs/classifier.py, configs/scans.py,
            configs/segmentation.py or configs/pairs.py.
        workdir: pathlib.Path of the folder for checkpoints/, metrics.jsonl, lineage.json, images/,
            tensorboard/ and, where the outputs of the network are classes, classes.json, their
            names; where it makes use of segmenters, copies of those.

    Raises:
        InputError: a key of the config has no valid value, or the data are not those that the run
            in the workdir was trained on.
        Stopped: a signal asked to stop; the state is saved.
        FloatingPointError: the training diverged.
    """
    devices.check_devices(config.batch_size)  # before anything is read
    devices.check_batch(config)
    now = pretraining.needed(kept_segmenter.by_copies(config, workdir), workdir)
    task = MAKE[choice(config, 'task', MAKE)](now)
    loop.check(task, config)  # before anything is written
    record = lineage.record(config, config.data_dir, task.sources)
    for line in lineage.seen_twice(record):
        print(line, flush=True)
    record += kept_segmenter.lineage_of(config, workdir)
    record += pair_pictures.lineage_of(config, workdir)
    record += pretraining.lineage_of(config, workdir)
    if checkpoint.exists(workdir) and lineage.read(workdir) != record:
        raise InputError(
            f'{workdir} was trained on other images than config.data_dir={config.data_dir} now '
            f'holds; to train it anew remove {workdir}, or choose another --workdir'
        )
    if checkpoint.exists(workdir) and task.classes and read_classes(workdir) != task.classes:
        raise InputError(
            f'{workdir} was trained on the classes {", ".join(read_classes(workdir))}, not on '
            f'{", ".join(task.classes)}; choose another --workdir'
        )
    if jax.process_index() == 0:
        write_json(workdir / 'lineage.json', record)
        kept_segmenter.keep(config, workdir)
        write_classes(workdir, task.classes)
    loop.fit(task, config, workdir)

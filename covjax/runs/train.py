"""Trains a network, or goes on with its latest checkpoint: the one command for every kind of training."""

import jax

from covjax import InputError
from covjax.data import lineage
from covjax.training import classification, cyclegan, devices, loop
from covjax.weights import checkpoint
from covjax.workdir import read_json, write_json

MAKE = {'cyclegan': cyclegan.make, 'classification': classification.make}


def run(config, workdir):
    """Trains what config.task names, or goes on with the checkpoint in the workdir."""
    devices.check_devices(config.batch_size)  # before anything is written
    task = MAKE[config.task](config)
    record, file = lineage.record(config, config.data_dir, task.sources), workdir / 'lineage.json'
    if checkpoint.exists(workdir) and read_json(file) != record:
        raise InputError(
            f'{workdir} was trained on other images than config.data_dir={config.data_dir} now holds; choose another --workdir'
        )
    if jax.process_index() == 0:
        write_json(file, record)
    loop.fit(task, config, workdir)

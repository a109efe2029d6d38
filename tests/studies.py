"""What tests of whole studies share: phantom slices, generators, and configs to be refused."""

import json

import jax
import pytest
from PIL import Image
from test_lungs import drawn

from covjax import InputError, provenance
from covjax.data import lineage
from covjax.runs import prepare
from covjax.training import loop, pairs
from covjax.weights import checkpoint
from covjax.workdir import read_json, read_stored_config, write_json

# (key, value, what must be said) of every study with budgets.
WRONG_KEYS = [
    ('read', 'train', 'config.read=train'),
    ('modes', ('after',), 'config.modes=after'),
    ('seeds', (), 'config.seeds is empty'),
    ('seeds', (0, 0), 'config.seeds=.*: names one twice'),
    ('budgets', (5, 5), 'config.budgets=.*: names one twice'),
    ('budgets', (0,), 'config.budgets=.*: write whole numbers above 0'),
    ('budgets', ('5',), 'config.budgets=.*: write whole numbers above 0'),
    ('budgets', (500,), 'config.budgets=.*: .*:train.* has .* images; choose fewer'),
]


def write_slices(folder, data_dir, count):
    """Prepares luna16_patches/slices_framed of phantoms without opacities.

    Args:
        folder: pathlib.Path of a new folder for the pictures.
        data_dir: where the data set is to lie.
        count: of slices.
    """
    folder.mkdir()
    for i in range(count):
        grey, _ = drawn(2 * i, 96)  # even seeds have no opacity
        Image.fromarray(grey).save(folder / f'1.2.{i}.mhd_{i}.png')
    prepare.build('luna16_patches/slices_framed', folder, data_dir)


def write_generator(workdir, config):
    """Writes the workdir of a pair training whose generator nothing has trained; makes the folder.

    Args:
        workdir: pathlib.Path.
        config: of configs/pairs.py.
    """
    workdir.mkdir()
    (workdir / 'config.json').write_text(config.to_json())
    task = pairs.make(config)
    records = lineage.record(config, config.data_dir, task.sources)
    write_json(workdir / 'lineage.json', records)
    state = loop.initial_state(task, config, jax.random.key(0))
    with checkpoint.manager(workdir, config.best) as checkpoints:
        checkpoint.save(checkpoints, 1, jax.device_get(state), 1.0)


def vouch(workdir):
    """Has the checkpoints of a training vouch for the files beside them that a test has changed.

    Args:
        workdir: pathlib.Path.
    """
    config = read_stored_config(workdir / 'config.json')
    for file in workdir.glob('checkpoints/*/sums/metadata'):
        sums = read_json(file) | {'beside': provenance.beside(config, workdir)}
        file.write_text(json.dumps(sums | {'sum': checkpoint._sum_of(sums)}))


def check_refused(run, config, key, value, words, workdir):
    """Checks that a study refuses a config with another value of a key, and writes nothing.

    Args:
        run: of the study.
        config: that it accepts.
        key, value: what is wrong; dots part the names of nested configs.
        words: that the message must have, a regular expression.
        workdir: pathlib.Path of an empty folder.
    """
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=words):
        run(config, workdir)
    assert not list(workdir.iterdir())

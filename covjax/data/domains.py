"""The two domains of a CycleGAN, as data: lung-cancer CT and COVID-19 CT."""

import numpy as np

from covjax import InputError
from covjax.data import datasets

DOMAINS = ('cancer', 'covid')


def domain(spec, name, size, data_dir):
    """The examples of one domain; of a data set with labels, the covid domain takes the covid images only."""
    if not spec:
        raise InputError(
            f'config.{name} is empty; name a data set, for example luna16_patches/nodules:train or covid_ct:train'
        )
    examples = datasets.read(spec, data_dir, size)
    keep = (
        np.flatnonzero(examples.labels != 0) if name == 'covid' else np.arange(len(examples.rows))
    )
    if not len(keep):
        raise InputError(f'{spec}: no covid image for config.{name}; choose another data set')
    return datasets.Examples(
        examples.images[keep], examples.labels[keep], [examples.rows[i] for i in keep]
    )

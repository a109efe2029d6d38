"""The two domains of a CycleGAN, as data: lung-cancer CT and COVID-19 CT."""

import numpy as np

from covjax import InputError
from covjax.classes import POSITIVE
from covjax.data import datasets

DOMAINS = ('cancer', 'covid')


def domain(spec, name, size, data_dir):
    """The examples of one domain; the covid domain takes only the covid images of labelled data.

    Args:
        spec: data sets as covjax.data.specs takes them.
        name: the domain, one of DOMAINS, which is also the config key that the messages name.
        size: pixels of each side.
        data_dir: where the data sets lie, as covjax.data.specs takes it.

    Returns:
        datasets.Examples with images uint8 [N, size, size, 1].

    Raises:
        InputError: there is no such data set, or no image of the domain in it.
    """
    if not spec:
        raise InputError(
            f'config.{name} is empty; name a data set, '
            'for example luna16_patches/nodules:train or covid_ct:train'
        )
    examples = datasets.read(spec, data_dir, size)
    if name != 'covid':
        return examples
    kept = [-1]  # the label of a data set without one
    if POSITIVE in examples.classes:
        kept.append(examples.classes.index(POSITIVE))
    covid = np.flatnonzero(np.isin(examples.labels, kept))
    if not len(covid):
        raise InputError(f'{spec}: no covid image for config.{name}; choose another data set')
    rows = [examples.rows[i] for i in covid]
    return examples._replace(
        images=examples.images[covid], labels=examples.labels[covid], rows=rows
    )

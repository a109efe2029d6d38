"""The two domains of a CycleGAN, as data: lung-cancer CT and COVID-19 CT."""

import numpy as np

from covjax import InputError, joined
from covjax.classes import POSITIVE
from covjax.data import datasets

DOMAINS = ('cancer', 'covid')


def domain(spec, name, size, data_dir):
    """The examples of one domain.

    The covid domain takes only the covid images of data sets that have such a class. Of others a
    spec names one class (with @), to whose images those of the cancer domain are translated.

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
    covid = np.flatnonzero(np.isin(examples.labels, _kept(spec, examples)))
    if not len(covid):
        raise InputError(f'{spec}: no covid image for config.{name}; choose another data set')
    rows = [examples.rows[i] for i in covid]
    return examples._replace(
        images=examples.images[covid], labels=examples.labels[covid], rows=rows
    )


def _kept(spec, examples):
    """The labels of the covid domain: -1, of data sets without labels, and the one class."""
    if POSITIVE in examples.classes:
        return [-1, examples.classes.index(POSITIVE)]
    found = sorted({row.label_name for row in examples.rows})
    if len(found) > 1:
        raise InputError(
            f'config.covid={spec}: has images of {joined(found)} and none called {POSITIVE}; '
            f'name the class to translate to, such as @{found[0]}'
        )
    return sorted(set(examples.labels))

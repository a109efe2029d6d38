"""The TFDS data sets of covjax.

Importing this package registers them, so `tfds.data_source('covid_ct')` finds them. They build and
read without TensorFlow (array_record files); with TensorFlow installed `tfds.load` reads the same
files.
"""

from tfds_builders.covid_ct.covid_ct_dataset_builder import Builder as CovidCt
from tfds_builders.ct_scans.ct_scans_dataset_builder import Builder as CtScans
from tfds_builders.luna16_patches.luna16_patches_dataset_builder import Builder as Luna16Patches
from tfds_builders.synthetic_covid_ct.synthetic_covid_ct_dataset_builder import (
    Builder as SyntheticCovidCt,
)
from tfds_builders.synthetic_ct.synthetic_ct_dataset_builder import Builder as SyntheticCt
from tfds_builders.synthetic_pairs.synthetic_pairs_dataset_builder import Builder as SyntheticPairs

BUILDERS = {
    builder.name: builder
    for builder in (CovidCt, CtScans, Luna16Patches, SyntheticCovidCt, SyntheticCt, SyntheticPairs)
}


def names():
    """Returns the names of all data sets, 'name' or 'name/config', sorted."""
    return sorted(
        f'{name}/{config}' if config else name
        for name, builder in BUILDERS.items()
        for config in builder.builder_configs or ['']
    )


def known(dataset):
    """Whether there is a builder for 'name' (its first config) or for 'name/config'.

    Raises:
        InputError: the config is described by its name, in numbers that are impossible.
    """
    name, slash, config = dataset.partition('/')
    if name not in BUILDERS:
        return False
    builder = BUILDERS[name]
    return not slash or config in builder.builder_configs or builder.described(config) is not None

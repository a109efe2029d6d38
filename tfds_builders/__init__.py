"""The TFDS data sets of covjax. Importing this package registers them, so `tfds.data_source('covid_ct')` finds them.

They build and read without TensorFlow (array_record files); with TensorFlow installed `tfds.load` reads the same files.
"""
from tfds_builders.covid_ct.covid_ct_dataset_builder import Builder as CovidCt
from tfds_builders.luna16_patches.luna16_patches_dataset_builder import Builder as Luna16Patches
from tfds_builders.synthetic_covid_ct.synthetic_covid_ct_dataset_builder import Builder as SyntheticCovidCt

BUILDERS = {builder.name: builder for builder in (CovidCt, Luna16Patches, SyntheticCovidCt)}

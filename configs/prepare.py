"""Builds one data set from raw files, without TensorFlow.

python launch.py --config=configs/prepare.py --config.dataset=covid_ct --config.source=COVID-CT
python launch.py --config=configs/prepare.py --config.dataset=luna16_patches/nodules --config.source=LUNA16
Cost: 1,000 pictures take seconds.
"""
from configs import base


def get_config():
    return base.stage(
        'prepare',
        dataset='',                       # covid_ct, luna16_patches/nodules, luna16_patches/slices, synthetic_covid_ct
        source='',                        # the raw folder
        annotations='',                   # luna16_patches/nodules: annotations.csv when it is not in the source folder
        allow_missing=False,              # luna16_patches/nodules: skip annotated series without a volume
        overwrite=False)                  # build anew what was built from another source

"""Builds one data set from raw files, without TensorFlow.

python launch.py --config=configs/prepare.py --config.dataset=covid_ct --config.source=COVID-CT
python launch.py --config=configs/prepare.py --config.dataset=luna16_patches/nodules \\
    --config.source=LUNA16

Without a source covid_ct is downloaded. ct_scans/folder reads your own files (docs/data.md). A
patch may have any size: luna16_patches/patches_3d_32mm_500um_hu is 32 mm at 0.5 mm per pixel, in
HU.
Cost: 1,000 pictures take seconds.
"""

from configs import base


def get_config():
    return base.stage(
        'prepare',
        # covid_ct, covid_ct/clean, luna16_patches/nodules, ct_scans/folder ...; a wrong name lists
        # all.
        dataset='',
        source='',  # the raw folder; archives in it may stay packed
        # For ct_scans/folder: a table in place of the scans.csv of that folder (docs/data.md).
        table='',
        # For luna16_patches: annotations.csv and, for candidates, candidates.csv where they are not
        # in the source folder.
        annotations='',
        candidates='',
        # For luna16_patches and ct_scans from volumes that are not in HU: SLOPE,INTERCEPT with
        # HU = SLOPE x value + INTERCEPT. '' refuses such volumes.
        hu='',
        allow_missing=False,  # for luna16_patches: skip series without a volume
        # For ct_scans: take masks that do not lie on the lungs of their images, once looked at.
        unchecked_masks=False,
        workers=0,  # processes that read and encode beside this one
        # Build with Apache Beam: options of its pipeline, such as --runner=DirectRunner.
        beam='',
        overwrite=False,  # rebuild what was built from another source
    )

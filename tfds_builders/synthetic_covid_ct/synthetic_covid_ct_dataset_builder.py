"""Synthetic COVID-19 CT: what `synthesize` wrote.

LUNA16 slices translated by a CycleGAN, with the nodule boxes of their sources.
"""

import tensorflow_datasets as tfds

from tfds_builders import _synthetic


class Builder(_synthetic.SyntheticBuilder):
    """One example per translated slice; split, series and boxes are those of the source slice."""

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {
        '1.0.0': 'Translated slices with boxes and the checkpoint that made them.',
        '1.1.0': 'Malignancy of the nodules, window of the source.',
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Run the stage synthesize of covjax; '
        'the source folder is the `synthetic` folder of its workdir.'
    )
    RUN = 'configs/synthesize.py'
    make = staticmethod(_synthetic.example)

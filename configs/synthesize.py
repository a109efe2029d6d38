"""Translates every slice of a data set into synthetic COVID-19 CT and builds synthetic_covid_ct in <workdir>/data.

python launch.py --config=configs/synthesize.py --workdir=runs/synthesize --config.generator=runs/cyclegan
"""

from configs import base


def get_config():
    return base.stage(
        'synthesize',
        generator='',  # workdir of a cyclegan run
        cancer='luna16_patches/nodules',  # every split of it, unless one is named
        stand_in='translated',  # or a control in place of the generator: nothing, window, histogram, jpeg, untrained, reconstructed (covjax/controls.py)
        batch_size=16,
    )

"""Translates every slice of a data set into synthetic COVID-19 CT, and builds synthetic_covid_ct.

python launch.py --config=configs/synthesize.py --workdir=runs/synthesize \\
    --config.generator=runs/cyclegan

Cost: one pass through the generator a slice. The data set is in <workdir>/data, the pictures and
the boxes of their nodules are in <workdir>/synthetic.
"""

from configs import base


def get_config():
    return base.stage(
        'synthesize',
        # Workdir of a cyclegan run.
        generator='',
        # The slices: every split of the data set, unless one is named.
        cancer='luna16_patches/nodules',
        # translated is the generator itself; its stand-ins are nothing, window, histogram, jpeg,
        # untrained and reconstructed (covjax/stand_ins.py).
        stand_in='translated',
        batch_size=16,  # no image depends on it
    )

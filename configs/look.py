"""One page to look at a prepared data set.

Contact sheets, counts, sizes, grey levels, what is in two splits, and near-duplicates.

python launch.py --config=configs/look.py --config.dataset=covid_ct

Cost: the 746 pictures of COVID-CT take 5 seconds on two CPU cores.
"""

from configs import base


def get_config():
    return base.stage(
        'look',
        dataset='',  # a name for all its splits, or name:split
        shown=40,  # images on a contact sheet, one sheet per split and label
        limit=5000,  # examples read of each split
    )

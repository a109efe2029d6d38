"""One page to look at a data set: of a folder as it is, or prepared.

What gives the classes away without a lung, contact sheets, counts, sizes, grey levels, what is in
two splits, and near-duplicates.

python launch.py --config=configs/look.py --config.source=MY_SCANS
python launch.py --config=configs/look.py --config.dataset=covid_ct

Cost: the 746 pictures of COVID-CT take 13 seconds on two CPU cores.
"""

from configs import base


def get_config():
    return base.stage(
        'look',
        dataset='',  # a prepared one: a name for all its splits, or name:split
        # A folder of pictures or volumes instead, with a table scans.csv or a folder for each
        # class; it is prepared inside the workdir.
        source='',
        table='',  # a table in place of that scans.csv
        hu='',  # SLOPE,INTERCEPT of volumes that are not in HU
        shown=40,  # images on a contact sheet, one sheet per split and label
        limit=5000,  # examples read of each split
    )

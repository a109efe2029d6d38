"""Which test set sizes can the rates of a printed table come from?

python launch.py --config=configs/printed_rates.py
Cost: seconds. Expect 228 / 236 and 228 / 237 for the synthetic test of Jiang et al. 2020, 228 / 348 and 228 / 349 for their real one, and 300 / 300 for no row.
"""

from configs import base


def get_config():
    return base.stage(
        'printed_rates',
        table='docs/jiang2020_table2.csv',
        claimed='300/300',  # sizes to look for: positive/negative; '' for none
        tolerance=0.0101,  # per cent; 0.005 is rounding alone, 0.0101 also takes rates that were cut off
        bound=400,
    )  # of each class

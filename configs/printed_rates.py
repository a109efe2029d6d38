"""Which test set sizes can the rates of a printed table come from?

python launch.py --config=configs/printed_rates.py

Cost: seconds. Expect 228 / 236 and 228 / 237 for the synthetic test of Jiang et al. 2020, 228 / 348
and 228 / 349 for their real one, and 300 / 300 for no row.
"""

from configs import base


def get_config():
    return base.stage(
        'printed_rates',
        # CSV with the columns model, test, accuracy, recall, precision and f1, in per cent.
        table='docs/jiang2020_table2.csv',
        # Sizes to look for, positive/negative; '' for none.
        claimed='300/300',
        # Percentage points; 0.005 is rounding alone, 0.0101 also accepts rates that were cut off.
        tolerance=0.0101,
        # The greatest number of images of each class that is tried.
        bound=400,
    )

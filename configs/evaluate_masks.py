"""Segmenters and published maps against the masks of test sets, with simple rules beside them.

python launch.py --config=configs/evaluate_masks.py --workdir=runs/masks \\
    --config.segmenters=runs/lesions --config.tests=ct_scans/covid_semiseg:test \\
    --config.rules=ct_scans/covid_semiseg:train+validation --config.protocol=official

Cost: two CPU cores took three minutes for 48 pictures, three networks, four sets of maps and rules.
"""

from configs import base


def get_config():
    return base.stage(
        'evaluate_masks',
        # Workdirs of segmentation runs, separated by commas, such as seeds of one training; '' to
        # score maps or rules alone.
        segmenters='',
        checkpoint='best',  # of each: by validation, or latest
        # Maps of others for the pictures of the test set, NAME=FOLDER separated by commas; a
        # picture has the name of the slice, and its grey levels are the probability times 255.
        maps='',
        maps_sideways=False,  # whether maps lie on their side, as those for COVID-SemiSeg do
        maps_trained_on='',  # data set that trained what drew the maps, to find near-copies of it
        # Without segmenters: which regions of the masks, as in configs/segmentation.py.
        regions='',
        # Test sets with masks, and what tables call them; '' uses the names of the data sets.
        tests='ct_scans/covid_semiseg:test',
        names='',
        # Data set with masks that rules without a network are fitted on; '' leaves them out.
        rules='',
        otsu=False,  # for lungs: what Otsu's threshold finds beside them
        # Images without any lesion, to see what is painted there; separated by commas.
        negatives='',
        protocol='clean',  # refuses overlap with training; official and paper print it
        batch_size=8,
    )

"""Asks what the scores of a classifier from elsewhere rest on besides disease: a page of verdicts.

From a table of scores of pictures in a folder (docs/audit.md says which columns it may have):

python launch.py --config=configs/audit_external.py --workdir=runs/mine_audit \\
    --config.source=MY_SCANS --config.scores=scores.csv

With the classifier itself, a function from uint8 [N, H, W, 1] to P(positive class) [N] or an ONNX
file, the audit also shows it changed images:

python launch.py --config=configs/audit_external.py --workdir=runs/mine_audit \\
    --config.source=MY_SCANS --config.scores=scores.csv --config.model=mine.py:score

Cost: scores of the 744 pictures of covid_ct/clean as a folder take 14 seconds on two CPU cores, and
with a small classifier of scikit-learn 19; it is asked about each test image several times, and
about 48 of them 65 times.
"""

from configs import base


def get_config():
    return base.stage(
        'audit_external',
        # A CSV with the columns file (or id, of a prepared data set) and, as far as known, score,
        # label, patient, document, source and split.
        scores='',
        # module:function, file.py:function or an .onnx file; '' where only scores are known.
        model='',
        # The folder of the pictures or volumes; '' where data sets are prepared already.
        source='',
        hu='',  # SLOPE,INTERCEPT of volumes there that are not in HU
        # Prepared data sets: what is tested, and what pages call it; what the classifier was
        # trained on and chosen by, as far as known. All '' where config.source is given.
        tests='',
        names='',
        trained_on='',
        chosen_by='',
        # The class that is set against the rest; '' is covid, or 1 of the classes 0 and 1.
        positive_class='',
        # Of the images that config.model is shown, pixels a side; an ONNX file of one size, or
        # that says which it was trained with, takes its own.
        image_size=224,
        # What a float input of an ONNX file is fed: 0..1, -1..1 or 0..255.
        input_range='0..1',
        batch_size=32,  # images at a time
        title='Shortcut audit',  # of the page
    )

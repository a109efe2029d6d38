"""Scores a classifier on test sets -> results.json.

python launch.py --config=configs/evaluate.py --workdir=runs/evaluate --config.classifier=runs/resnet50
"""

from configs import base


def get_config():
    return base.stage(
        'evaluate',
        classifier='',  # workdir of a classification run
        checkpoint='best',  # by validation; or latest
        tests='synthetic_covid_ct:test+covid_ct:test@noncovid,covid_ct:test',
        names='',  # what tables call them, separated by commas; '' uses the names of the data sets
        protocol='clean',  # clean refuses overlap with training; official and paper print it
        baseline='covid_ct:train',  # real pictures that the file-metadata and pixel baselines are fitted on; '' leaves baselines out
        batch_size=32,
    )

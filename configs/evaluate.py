"""Scores a classifier on test sets -> results.json.

python launch.py --config=configs/evaluate.py --workdir=runs/evaluate --config.classifier=runs/resnet50
"""
from configs import base


def get_config():
    return base.stage(
        'evaluate',
        classifier='',                    # workdir of a classification run
        checkpoint='best',                # by validation; or latest
        tests='synthetic_covid_ct:test+covid_ct:test@noncovid,covid_ct:test',
        protocol='clean',                 # clean refuses overlap with training; official and paper print it
        baseline='covid_ct:train',        # what the file-metadata and pixel baselines are fitted on; '' leaves them out
        batch_size=32)

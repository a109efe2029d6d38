"""Scores a classifier on test sets -> results.json.

python launch.py --config=configs/evaluate.py --workdir=runs/evaluate \\
    --config.classifier=runs/resnet50
"""

from configs import base


def get_config():
    return base.stage(
        'evaluate',
        # Workdir of a classification run.
        classifier='',
        # Which of its checkpoints: best (by validation) or latest.
        checkpoint='best',
        # Test sets, and what tables call them; '' uses the names of the data sets.
        tests='synthetic_covid_ct:test+covid_ct:test@noncovid,covid_ct:test',
        names='',
        # clean refuses overlap with training; official and paper print it.
        protocol='clean',
        # Real pictures that the file-metadata and pixel baselines are fitted on; '' leaves
        # baselines out.
        baseline='covid_ct:train',
        # How scores of patients are made of those of their images, side by side: some of mean, max,
        # share, noisy_or and majority, with commas; '' leaves patients out.
        aggregate='',
        # What these are scores of: patient, or document, of COVID-CT the paper or web page that
        # pictures of several patients may come from.
        unit='patient',
        batch_size=32,
    )

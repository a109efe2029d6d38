"""Puts evaluations into one page: report.html, table.csv, roc.png, panels.png.

python launch.py --config=configs/report.py --workdir=runs/report --config.evaluations=runs/evaluate --config.synthetic=runs/synthesize
"""

from configs import base


def get_config():
    return base.stage(
        'report',
        evaluations='',  # workdirs of evaluate runs, separated by commas
        synthetic='',  # workdir of the synthesize run, for the panels
        audits='',  # workdirs of audits, separated by commas, whose verdicts are listed
        title='Synthetic COVID-19 CT: what classifiers learn from it',
    )

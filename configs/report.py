"""Puts evaluations into one page, report.html, with its tables and pictures as files beside it.

python launch.py --config=configs/report.py --workdir=runs/report \\
    --config.evaluations=runs/evaluate --config.synthetic=runs/synthesize

Cost: seconds on two CPU cores.
"""

from configs import base


def get_config():
    return base.stage(
        'report',
        # Workdirs of evaluate runs, separated by commas.
        evaluations='',
        # Workdir of the synthesize run, for the panels; '' leaves them out.
        synthetic='',
        # Workdirs of audits, separated by commas, whose verdicts are listed.
        audits='',
        # Workdir of a quality run, whose measurements are summed up; '' leaves them out.
        quality='',
        title='Synthetic CT: what classifiers learn from it',  # of the page
    )

"""What a regression on whole images reaches: the bar that a classifier has to clear.

Disease changes grey levels as well, so that this alone is no red flag.
"""

from covjax.audit import grey_statistics, pixel_baseline, probe

NAME = 'whole images'
RULE = 'Red flag for none: disease may be in them too.'
COLUMNS = probe.COLUMNS_ALONE
BAR = 'A classifier that is no better shows no more than they do.'


def check(subject):
    """The Verdict, without a flag, of what grey levels and small images reach."""
    probes = [grey_statistics.PROBE, pixel_baseline.PROBE]
    verdict = probe.alone(subject, NAME, RULE, probes)
    return verdict._replace(flag=None, finding=f'{verdict.finding} {BAR}')

"""Checks of what a score may rest on besides disease, a file per check: check(subject) -> Verdict.

Each has the constants NAME (the question as tables print it), RULE (when the flag is raised) and
COLUMNS (of the table behind the finding). `audit` asks them about anyone's images and scores.
"""

from covjax.audit.external import Audit, Known, audit

__all__ = ['Audit', 'Known', 'audit']

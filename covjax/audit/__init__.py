"""Checks of what a score may rest on besides disease, one file a check: check(subject) -> Verdict."""

"""Checks of what a score may rest on besides disease."""

"""Phantom people: chests drawn from a seed, written as raw files in the layouts of data sets."""

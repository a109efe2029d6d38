"""Probes: regressions that see little of an image, fitted to show how far that little goes."""

from typing import Callable, NamedTuple


class Probe(NamedTuple):
    """A regression that is fitted on examples and scores others."""

    name: str  # as tables print it
    kind: str  # of its results in results.json: 'metadata', 'pixels' or 'grey'
    scores: Callable  # (train, test), lists of (uint8 [H, W], Row) -> P(covid) float [len(test)]
    needs_file: bool = False  # whether rows must have facts of the original file

"""Metrics of binary classification and of masks, and distances of sets of images, without JAX.

Labels are int [N], 1 of the positive class and 0 of the rest, scores P(positive) float [N]; of
several classes each is the positive one in turn. Masks are bool. A value that does not exist is
NaN; an input that would give a number without meaning raises a ValueError.
"""

"""Metrics of binary classification and of masks, and distances of sets of images, without JAX.

Labels are int [N] (1 = covid, 0 = noncovid), scores P(covid) float [N], masks bool. A value that
does not exist is NaN; an input that would give a number without meaning raises a ValueError.
"""

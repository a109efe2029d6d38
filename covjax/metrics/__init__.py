"""Metrics of binary classification and distances of sets of images. NumPy and scikit-learn, no JAX.

Labels are int [N] (1 = covid, 0 = noncovid), scores P(covid) float [N]. A value that does not exist
is NaN; an input that would give a number without meaning raises a ValueError.
"""

"""Metrics of binary classification, from labels (1 = covid) and scores P(covid). NumPy and scikit-learn, no JAX."""

"""Networks of keras.applications with random weights, which NumPy draws.

Keras itself would compile a program for every shape of a kernel.
"""

import keras
import numpy as np
import pytest


def create(name, **options):
    """keras.applications.NAME(weights=None, **options); no two of its kernels are alike."""
    rng = np.random.default_rng(0)

    def glorot_uniform(_, shape, dtype=None):
        *window, inputs, outputs = shape
        limit = np.sqrt(6 / (np.prod(window) * (inputs + outputs)))
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, '__call__', glorot_uniform)
        return getattr(keras.applications, name)(weights=None, **options)

"""Hashes of arrays and networks, by which a flipped bit and another network are recognised."""

import hashlib
import json

import numpy as np
from flax import traverse_util


def of_bytes(content):
    """The hash of bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def of_array(array):
    """[dtype, shape, hash of the values] of an array, as JSON can hold it."""
    array = np.asarray(array)
    return [str(array.dtype), list(array.shape), of_bytes(array.tobytes())]


def of_network(variables):
    """The hash of a network: of the names, dtypes, shapes and values of its arrays.

    Args:
        variables: nested dict of arrays.

    Returns:
        32 hexadecimal digits.
    """
    flat = traverse_util.flatten_dict(variables, sep='/')
    arrays = {name: of_array(leaf) for name, leaf in flat.items() if hasattr(leaf, 'shape')}
    return of_bytes(json.dumps(arrays, sort_keys=True).encode())

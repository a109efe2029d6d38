"""Network weights as one .safetensors file; its header holds what is needed to use them again."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from covjax import InputError, drafts, hashes
from covjax.workdir import checked

WRITE = 'write it with configs/export.py'
WRITE_AGAIN = 'write it again with configs/export.py'


def write(path: str | pathlib.Path, variables: dict[str, Any], about: dict[str, Any]) -> None:
    """Writes the arrays of a network under the names params/<module>/.../kernel.

    Args:
        path: of the file.
        variables: nested dict of arrays.
        about: a dict that JSON can hold, for the header; the hash of the arrays is added.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    about = {**about, 'hash': hashes.of_network(variables)}
    flat = traverse_util.flatten_dict(variables, sep='/')
    arrays = {name: jax.device_get(leaf) for name, leaf in flat.items() if hasattr(leaf, 'shape')}
    with drafts.file(pathlib.Path(path)) as draft:
        try:
            save_file(arrays, draft, metadata={'covjax': json.dumps(about)})
        except SafetensorError as error:
            raise (drafts.refused(error, path) or error) from None


def read(
    path: str | pathlib.Path, kind: str, header: Any, added: dict[str, Any]
) -> tuple[ConfigDict, dict[str, Any]]:
    """Reads a file that `write` wrote.

    Args:
        path: of the file.
        kind: what it must hold, a 'classifier', a 'generator' or a 'segmenter'.
        header: TypedDict of what must be in the header.
        added: {key: value} of keys that files of early versions lack.

    Returns:
        (ConfigDict of what is in the header, nested dict of NumPy arrays).

    Raises:
        InputError: the file is missing, damaged, of another program or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='numpy') as file:
            about = json.loads((file.metadata() or {}).get('covjax', 'null'))
            flat = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; {WRITE}') from None
    except (SafetensorError, ValueError, OSError, RecursionError, TypeError) as error:
        raise InputError(f'{path}: is damaged ({type(error).__name__}); {WRITE_AGAIN}') from None
    if not isinstance(about, dict):
        raise InputError(f'{path}: was not written by covjax; {WRITE}')
    actual = about.get('kind', 'classifier')  # files of early versions have no kind
    if actual != kind:
        raise InputError(f'{path}: holds a {actual}; give the file of a {kind}')
    about = checked(path, added | about, header, WRITE_AGAIN)
    try:
        variables = traverse_util.unflatten_dict(flat, sep='/')
    except (TypeError, ValueError, AttributeError):  # a name that is also the beginning of another
        raise InputError(f'{path}: its arrays have impossible names; {WRITE_AGAIN}') from None
    if about.get('hash') not in (None, hashes.of_network(variables)):
        raise InputError(f'{path}: is damaged (its arrays are not those written); {WRITE_AGAIN}')
    return ConfigDict(about), variables


def array(path, variables, name, rank):
    """An array of a file.

    Args:
        path: of the file, for the message.
        variables: nested dict of arrays, as `read` returns it.
        name: such as 'params/stem/kernel'.
        rank: number of dimensions that it must have.

    Raises:
        InputError: there is no such array.
    """
    found = traverse_util.flatten_dict(variables, sep='/').get(name)
    if np.ndim(found) != rank:
        raise InputError(f'{path}: has no array {name} with {rank} dimensions; {WRITE_AGAIN}')
    return found


def check_fits(path, variables, expected, described='its header', remedy=WRITE_AGAIN):
    """Compares the names and shapes of the arrays of a file with those of a network.

    Args:
        path: of the file or run, for the message.
        variables: nested dict of arrays, as `read` returns it.
        expected: nested dict of arrays, or of anything else with a shape.
        described: what describes the network, for the message.
        remedy: the end of the message.

    Raises:
        InputError: an array is missing, has no place, or has another shape.
    """
    shapes = lambda tree: {
        name: tuple(leaf.shape) for name, leaf in traverse_util.flatten_dict(tree, sep='/').items()
    }
    found, wanted = shapes(variables), shapes(expected)
    # Layers that are not from the file may not have been computed yet.
    known = [leaf for leaf in jax.tree.leaves(variables) if not isinstance(leaf, jax.core.Tracer)]
    if not all(np.isfinite(leaf).all() for leaf in known):
        raise InputError(f'{path}: has weights that are not finite; {remedy}')
    differ = sorted(name for name in found.keys() | wanted if found.get(name) != wanted.get(name))
    if differ:
        name = differ[0]
        raise InputError(
            f'{path}: {len(differ)} arrays do not fit {described}, the first is {name} '
            f'({found.get(name, "missing")}, expected {wanted.get(name, "none")}); {remedy}'
        )

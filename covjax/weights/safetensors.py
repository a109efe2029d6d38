"""Network weights as one .safetensors file; its header says what is needed to use them again."""

import json

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from covjax import InputError

WRITE = 'write it with configs/export.py'
WRITE_AGAIN = 'write it again with configs/export.py'


def write(path, variables, about):
    """Writes the arrays of a network under the names params/<module>/.../kernel.

    Args:
        path: of the file.
        variables: nested dict of arrays.
        about: a dict that JSON can hold, for the header.
    """
    from safetensors.numpy import save_file

    flat = traverse_util.flatten_dict(variables, sep='/')
    arrays = {name: jax.device_get(leaf) for name, leaf in flat.items() if hasattr(leaf, 'shape')}
    save_file(arrays, path, metadata={'covjax': json.dumps(about)})


def read(path, kind):
    """Reads a file that `write` wrote.

    Args:
        path: of the file.
        kind: what it must hold, a 'classifier' or a 'generator'.

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
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f'{path}: is damaged ({type(error).__name__}); {WRITE_AGAIN}') from None
    if not about:
        raise InputError(f'{path}: was not written by covjax; {WRITE}')
    actual = about.get('kind', 'classifier')  # files of early versions have no kind
    if actual != kind:
        raise InputError(f'{path}: holds a {actual}; give the file of a {kind}')
    return ConfigDict(about), traverse_util.unflatten_dict(flat, sep='/')

"""Network weights as one .safetensors file that says in its header what covjax needs to use them again."""

import json

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from covjax import InputError


def write(path, variables, about):
    """Writes a tree of arrays, named params/<module>/.../kernel, and a dict that JSON can hold."""
    from safetensors.numpy import save_file

    flat = {
        name: jax.device_get(leaf)
        for name, leaf in traverse_util.flatten_dict(variables, sep='/').items()
        if hasattr(leaf, 'shape')
    }
    save_file(flat, path, metadata={'covjax': json.dumps(about)})


def read(path, kind):
    """(about, variables) of a file that `write` wrote of a 'classifier' or a 'generator'."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='numpy') as file:
            about = json.loads((file.metadata() or {}).get('covjax', 'null'))
            flat = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; write it with configs/export.py') from None
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(
            f'{path}: is damaged ({type(error).__name__}); write it again with configs/export.py'
        ) from None
    if not about:
        raise InputError(f'{path}: was not written by covjax; write it with configs/export.py')
    if about.get('kind', 'classifier') != kind:
        raise InputError(f'{path}: holds a {about["kind"]}; give the file of a {kind}')
    return ConfigDict(about), traverse_util.unflatten_dict(flat, sep='/')

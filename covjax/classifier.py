"""A trained classifier, from the workdir of a run or from an exported file, for use anywhere: no training code and no TFDS are imported.

    model, variables, preprocess = classifier.load('runs/resnet50')
    logits = model.apply(variables, preprocess(images))           # images [B, H, W, 1] float in [-1, 1]; logits of noncovid, covid
"""
import json
import pathlib
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from covjax import InputError, checkpoint, models

LABELS = ('noncovid', 'covid')
DTYPES = ('float32', 'bfloat16')


class Classifier(NamedTuple):
    """A module, its variables, and the function from images in [-1, 1] to what the module takes."""
    model: Any
    variables: dict
    preprocess: Callable


def load(path, which='best'):
    """The Classifier of a workdir of `train` (its best checkpoint by validation, or its latest) or of a .safetensors file of `export`."""
    if pathlib.Path(path).suffix == '.safetensors':
        config, flat = _read_file(path)
        variables = traverse_util.unflatten_dict(flat, sep='/')
    else:
        config, state, _ = checkpoint.load_model(path, 'classification', 'classifier', which)
        variables = variables_of(state)
    return Classifier(network(config), jax.tree.map(jnp.asarray, variables), preprocess(config))


def network(config, **options):
    """The backbone of a config: two logits, and the computation in config.dtype."""
    dtype = config.get('dtype', 'float32')
    if dtype not in DTYPES:
        raise InputError(f'config.dtype={dtype}: no such choice; choose one of {", ".join(DTYPES)}')
    return models.create(config.model, num_classes=len(LABELS), dtype=jnp.dtype(dtype), **options)


def preprocess(config):
    """Images [B, H, W, 1] in [-1, 1] -> the input of network(config): the same, or the scale of the weights that training started from."""
    if not config.get('pretrained'):
        return lambda images: images
    from covjax.models import pretrained
    return pretrained.preprocess(config.model, channels=1)


def variables_of(state):
    """What apply takes, of a restored training state."""
    return {'params': state['net']['params'], 'batch_stats': state.get('batch_stats', {})}


def save(path, config, variables, step):
    """Writes variables as .safetensors: float32, named params/<module>/.../kernel, with what load needs to know in the header."""
    from safetensors.numpy import save_file
    flat = {name: jax.device_get(leaf) for name, leaf in traverse_util.flatten_dict(variables, sep='/').items() if hasattr(leaf, 'shape')}
    about = {key: config.get(key, default) for key, default in (('model', ''), ('dtype', 'float32'), ('image_size', 0), ('train', ''), ('seed', 0))}
    about |= {'pretrained': pathlib.Path(config.get('pretrained', '')).name, 'step': step, 'labels': LABELS}
    save_file(flat, path, metadata={'covjax': json.dumps(about)})


def _read_file(path):
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework='numpy') as file:
            about = json.loads((file.metadata() or {}).get('covjax', 'null'))
            flat = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; write it with configs/export.py') from None
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f'{path}: is damaged ({type(error).__name__}); write it again with configs/export.py') from None
    if not about:
        raise InputError(f'{path}: was not written by covjax; write it with configs/export.py')
    return ConfigDict(about), flat

"""Workdirs of segmenters that nobody trained: networks of single pixels, whose masks are known.

They are U-Nets of slices, or V-Nets of volumes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from configs import segmentation as config_file
from covjax import segmenter
from covjax.trained import write_classes
from covjax.training.task import Net, State
from covjax.weights import checkpoint
from covjax.workdir import write_json

DARK = 100  # grey level below which the network sees its region
SHARPNESS = 200.0


def dark_pixels(model, channels=1, sharpness=SHARPNESS):
    """Variables of a U-Net of one level that calls pixels below DARK its region, and no other.

    All kernels but the middle of each are 0, so no pixel sees its neighbours. P(region) is the
    sigmoid of 2 * sharpness * (limit - what a pixel is above black, 0..2).
    """
    variables = _zeros(model, (1, 8, 8, channels), 'down1_norm1', 'down1_norm2')
    params = variables['params']
    # Features: what a pixel is above black, which no ReLU cuts.
    params['down1_norm1']['bias'][0] = 1
    params['down1_conv1']['kernel'][1, 1, 0, 0] = 1
    params['down1_conv2']['kernel'][1, 1, 0, 0] = 1
    _set_head(params['head'], sharpness)
    return variables


def dark_voxels(model, sharpness=SHARPNESS):
    """The same of a V-Net of one level, whose first features are those of the image itself."""
    variables = _zeros(model, (1, 8, 8, 8, 1), 'down0_norm', 'logits_norm')
    params = variables['params']
    params['down0_norm']['bias'][0] = 1
    params['logits']['kernel'][2, 2, 2, 0, 0] = 1
    _set_head(params['head'], sharpness)
    return variables


def _zeros(model, shape, *norms):
    """Variables that are 0, but for those of the norms named, which change nothing."""
    init = model.init(jax.random.key(0), jnp.zeros(shape))
    variables = jax.tree.map(lambda leaf: np.zeros_like(leaf), init)
    for name in norms:
        variables['params'][name]['scale'][:] = 1
        variables['batch_stats'][name]['var'][:] = 1
    return variables


def _set_head(head, sharpness):
    """Has the last layer compare the first feature with DARK, between two grey levels."""
    limit = (DARK - 0.5) / 127.5
    head['kernel'][..., 0, :2] = (sharpness, -sharpness)
    head['bias'][:2] = (-sharpness * limit, sharpness * limit)
    head['bias'][2:] = -1e3


def write_run(workdir, classes=('background', 'lung'), lineage=(), sharpness=SHARPNESS, **fields):
    """Writes the workdir of a segmenter of dark pixels; returns its config.

    Args:
        workdir: pathlib.Path of a folder that exists.
        classes: names; the first region is that of dark pixels.
        lineage: records of what it is said to be trained on.
        sharpness: of the network, see `dark_pixels`.
        **fields: of the config; model='vnet' is one of volumes, and needs a patch.
    """
    of_volumes = fields.get('model') == 'vnet'
    config = config_file.get_config('vnet' if of_volumes else 'small')
    small = {'widths': (2,), 'image_size': 32, 'patch': (32, 32), 'train': 'a:b', 'val': 'a:c'}
    config.update(small | fields)
    draw = dark_voxels if of_volumes else dark_pixels
    variables = draw(segmenter.network(config, len(classes)), sharpness=sharpness)
    state = State(jnp.int32(1), Net(variables['params'], ()), variables['batch_stats'])
    (workdir / 'config.json').write_text(config.to_json())
    write_classes(workdir, classes)
    write_json(workdir / 'lineage.json', list(lineage))
    with checkpoint.manager(workdir, config.best) as checkpoints:
        checkpoint.save(checkpoints, 1, jax.device_get(state), 1.0)
    return config

"""Workdirs of segmenters that nobody trained: networks of single pixels, whose masks are known."""

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
    image = jnp.zeros((1, 8, 8, channels))
    variables = jax.tree.map(lambda leaf: np.zeros_like(leaf), model.init(jax.random.key(0), image))
    params, stats = variables['params'], variables['batch_stats']
    for name in ('down1_norm1', 'down1_norm2'):
        params[name]['scale'][:] = 1
        stats[name]['var'][:] = 1
    # Features: what a pixel is above black, which no ReLU cuts.
    params['down1_norm1']['bias'][0] = 1
    params['down1_conv1']['kernel'][1, 1, 0, 0] = 1
    params['down1_conv2']['kernel'][1, 1, 0, 0] = 1
    limit = (DARK - 0.5) / 127.5  # between two grey levels
    params['head']['kernel'][0, 0, 0, :2] = (sharpness, -sharpness)
    params['head']['bias'][:2] = (-sharpness * limit, sharpness * limit)
    params['head']['bias'][2:] = -1e3
    return variables


def write_run(workdir, classes=('background', 'lung'), lineage=(), sharpness=SHARPNESS, **fields):
    """Writes the workdir of a segmenter of dark pixels; returns its config.

    Args:
        workdir: pathlib.Path of a folder that exists.
        classes: names; the first region is that of dark pixels.
        lineage: records of what it is said to be trained on.
        sharpness: of the network, see `dark_pixels`.
        **fields: of the config.
    """
    config = config_file.get_config('small')
    small = {'widths': (2,), 'image_size': 32, 'patch': (32, 32), 'train': 'a:b', 'val': 'a:c'}
    config.update(small | fields)
    variables = dark_pixels(segmenter.network(config, len(classes)), sharpness=sharpness)
    state = State(jnp.int32(1), Net(variables['params'], ()), variables['batch_stats'])
    (workdir / 'config.json').write_text(config.to_json())
    write_classes(workdir, classes)
    write_json(workdir / 'lineage.json', list(lineage))
    with checkpoint.manager(workdir, config.best) as checkpoints:
        checkpoint.save(checkpoints, 1, jax.device_get(state), 1.0)
    return config

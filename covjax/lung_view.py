"""The lungs in front of a classifier: its images cropped to the lungs, or the lungs alone.

It is part of the config of a classifier, so that training, evaluation and audit see the same.
Gozes et al. 2020 crop to the lungs, Li et al. 2020 (COVNet) black out what is outside.
"""

import numpy as np

from covjax import choice, segmenter
from covjax.ct import lungs, masks
from covjax.ct.framing import VIEWS


def of_config(config):
    """The function from an image to what the classifier is shown of it.

    Args:
        config: of a classification. `lungs` is '' for the whole image, 'crop' or 'mask';
            `lung_segmenter` is the workdir or exported file of a segmenter with a region named
            lung, or '' for Otsu's threshold.

    Returns:
        A function uint8 [H, W] -> uint8 [h, w], or None for the whole image. Images in which no
        lungs are found stay whole.

    Raises:
        InputError: config.lungs is no valid choice, or there is no such segmenter.
    """
    if not choice(config, 'lungs', ('', *VIEWS)):
        return None
    show, find = VIEWS[config.lungs], finder(config.lung_segmenter, 'lung_segmenter')

    def view(grey):
        mask = find(grey[None])[0]
        return show(grey, mask) if lungs.plausible(mask[None])[0] else grey

    return view


def finder(named, key):
    """The function that finds lungs.

    Args:
        named: the workdir or exported file of a segmenter, or '' for Otsu's threshold.
        key: the config key that says so, for messages.

    Returns:
        A function uint8 [slices, H, W] -> bool of the same shape.

    Raises:
        InputError: there is no such segmenter, or it has no region named lung.
    """
    if not named:
        return lambda grey: np.stack([lungs.mask(plane) for plane in grey])
    network = segmenter.load(named, key=key)
    segmenter.check_lungs(network, f'config.{key}={named}')

    def find(grey):
        found = [segmenter.decided(p) for p in segmenter.predict(network, grey, batch_size=8)]
        return masks.in_lungs(np.stack(found), network.classes)

    return find

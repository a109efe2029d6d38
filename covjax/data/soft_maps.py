"""Maps that others published for a test set: one for each picture, of its name, grey 0..255.

A grey level is the probability of a region, 0 for 0 and 255 for 1.
"""

import pathlib
from collections import defaultdict

import numpy as np

from covjax import InputError
from covjax.ct import framing, picture

WHOLE = (0.0, 0.0, 1.0, 1.0)


def read(folder, shapes, sideways=False, frames=None):
    """Reads the map of every picture.

    Args:
        folder: pathlib.Path of the maps; a map is of the picture of its name, without ending.
        shapes: {id of a picture: its (H, W)}.
        sideways: whether maps lie on their side, as the files of COVID-SemiSeg do.
        frames: {id: box (ymin, xmin, ymax, xmax) in 0..1} of those pictures that show a part of
            the one that the map is of.

    Returns:
        {id: uint8 [H, W]}.

    Raises:
        InputError: a map is missing, there twice, of another size or no grey picture, or none of
            them has a grey level above 1.
    """
    files = defaultdict(list)
    for path in folder.iterdir():
        files[path.stem].append(path)
    maps = {}
    for name, shape in shapes.items():
        found = files[pathlib.PurePath(name).stem]
        if not found:
            raise InputError(f'{folder}: no map of {name} there; give a whole folder')
        if len(found) > 1:
            names = ' and '.join(sorted(path.name for path in found))
            raise InputError(f'{folder}: {names} are both of {name}; keep one of the two')
        box = (frames or {}).get(name, WHOLE)
        maps[name] = _read(found[0], name, shape, sideways, box)
    if max((grey.max() for grey in maps.values()), default=255) <= 1:
        raise InputError(
            f'{folder}: no map has a grey level above 1; write 255 for a probability of 1'
        )
    return maps


def _read(path, name, shape, sideways, box):
    """The part of the map of a file that a box shows, upright."""
    image, facts = picture.open_file(path)
    if facts['mode'] == 'P':
        raise InputError(f'{path}: has a palette, whose entries are no probabilities; save it grey')
    grey = np.asarray(image, np.uint8)
    grey = grey.T if sideways else grey
    grey = grey[framing.of_box(box, grey.shape)]
    if grey.shape != tuple(shape):
        raise InputError(
            f'{path}: differs in size from {name}; give its map, '
            'and say in config.maps_sideways whether maps lie on their side'
        )
    return grey

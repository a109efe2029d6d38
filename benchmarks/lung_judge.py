"""A lung segmenter beside Otsu's threshold: the Dice of both, and a sheet to look at.

python benchmarks/lung_judge.py SEGMENTER INPUT SHEET.png [--count=24]

INPUT is a folder of pictures or a CT scan. Slices in which the threshold finds no plausible lungs
do not count. The sheet has slices, spread over all, each with the lungs of the threshold and with
those of the segmenter beside it.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from covjax import lung_view
from covjax.ct import contents, lungs, picture, volume, windows
from covjax.pages import pictures

SIDE, COLUMNS = 160, 6


def main():
    """Prints the Dice and writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('segmenter')
    parser.add_argument('input', type=pathlib.Path)
    parser.add_argument('sheet', type=pathlib.Path)
    parser.add_argument('--count', type=int, default=24, help='slices on the sheet')
    args = parser.parse_args()
    images = read(args.input)
    by_otsu, by_network = lung_view.finder('', ''), lung_view.finder(args.segmenter, 'segmenter')
    pairs = [(by_otsu(image[None])[0], by_network(image[None])[0]) for image in images]
    report(pairs, np.array([lungs.plausible(np.stack(pair)) for pair in pairs]))
    shown = np.unique(np.linspace(0, len(images) - 1, args.count).round().astype(int))
    tiles = [tile(images[i], mask) for i in shown for mask in (None, *pairs[i])]
    picture.save(args.sheet, pictures.contact_sheet(tiles, COLUMNS))


def read(path):
    """[uint8 [H, W]] of a folder of pictures or of the slices of a scan."""
    files, ct, _ = contents.inputs(path, '', pathlib.Path())
    if files:
        return [picture.read(file) for file in files]
    return list(windows.to_grey(volume.lps(ct)[0]))


def report(pairs, plausible):
    """Prints how often both find lungs, and how alike these are.

    Args:
        pairs: [(bool [H, W] by the threshold, the same by the network)].
        plausible: bool [N, 2], whether each is what lungs can be.
    """
    alone = [int((plausible[:, i] & ~plausible[:, 1 - i]).sum()) for i in (0, 1)]
    print(
        f'{len(pairs)} slices; plausible lungs by both in {plausible.all(1).sum()}, '
        f'by the threshold alone in {alone[0]}, by the segmenter alone in {alone[1]}'
    )
    dice = [
        lungs.dice(first[None], second[None])[0]
        for (first, second), (counts, _) in zip(pairs, plausible)
        if counts
    ]
    print(
        f'Dice where the threshold finds lungs: mean {np.mean(dice):.3f}, '
        f'median {np.median(dice):.3f}, lowest {np.min(dice):.3f}, {len(dice)} slices'
    )


def tile(image, mask):
    """uint8 [SIDE, SIDE, 3]: an image, with a mask in colour if one is given."""
    mask = np.zeros(image.shape, np.uint8) if mask is None else mask.astype(np.uint8)
    small = Image.fromarray(pictures.tint(image, mask)).resize((SIDE, SIDE))
    return np.asarray(small)


if __name__ == '__main__':
    main()

"""How near LUNA16 slices come to COVID-19 pictures by framing and window alone, without a network.

python benchmarks/framing.py DATA_DIR [--test]

DATA_DIR holds luna16_patches/slices and covid_ct/clean. Prints a Markdown table of kernel distances
(KID of 32x32 pixels, images as squares; 0 where two sets are alike) of slices from COVID-19
pictures, both cropped to the box of their lungs with a margin or both whole, the slices in one
window after the other. Slices without plausible lungs are left out where images are cropped,
pictures without stay whole. ct/framing.py was chosen by the training and validation columns; --test
adds the distance on test images for that choice and for slices as they come, with intervals.
"""

import argparse

import numpy as np
from PIL import Image

from covjax.ct import framing, lungs, windows
from covjax.data import datasets
from covjax.data.augment import to_float
from covjax.metrics.distances import kid

SPLITS = ('train', 'validation')
MARGINS = (None, 0.0, 0.05, 0.1, 0.2)  # None: whole images
SHOWN = {
    '-1000..400, as stored': windows.WINDOWS['lung'],
    '-1350..150, the clinic': windows.WINDOWS['clinic'],
    '-1400..200': windows.Window(-1400, 200),
    '-1250..250': windows.WINDOWS['covid'],
    '-1200..0': windows.Window(-1200, 0),
    '-1024..1024': windows.WINDOWS['wide'],
}
SIZE = 32


def images_of(spec, data_dir, covid_only=False):
    """[(uint8 [H, W], mask of its lungs or None where they are not plausible, group)]."""
    images = []
    for grey, row in datasets.each_native(spec, data_dir):
        if covid_only and row.label_name != 'covid':
            continue
        mask = lungs.mask(grey)
        images.append((grey, mask if lungs.plausible(mask[None])[0] else None, row.group))
    return images


def features(images, margin, window=None):
    """(float [N, SIZE * SIZE] in -1..1, groups); slices that cannot be cropped are left out."""
    rows, groups = [], []
    for grey, mask, group in images:
        if window is not None:
            grey = windows.rewindow(grey, windows.WINDOWS['lung'], window)
            if margin is not None and mask is None:
                continue
        if margin is not None and mask is not None:
            grey = grey[framing.box_of(mask, margin)]
        small = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        rows.append(np.asarray(to_float(np.asarray(small))).ravel())
        groups.append(group)
    return np.stack(rows), groups


def distance(slices, pictures, margin, window):
    """The Kid of slices in a window from pictures, both cropped with a margin."""
    first, first_groups = features(slices, margin, window)
    second, second_groups = features(pictures, margin)
    return kid(first, second, first_groups, second_groups)


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data_dir')
    parser.add_argument('--test', action='store_true')
    args = parser.parse_args()
    sets = {
        split: (
            images_of(f'luna16_patches/slices:{split}', args.data_dir),
            images_of(f'covid_ct/clean:{split}', args.data_dir, covid_only=True),
        )
        for split in SPLITS + (('test',) if args.test else ())
    }
    for split, parts in sets.items():
        found = ' and '.join(
            f'{sum(mask is not None for _, mask, _ in images)} of {len(images)}' for images in parts
        )
        print(f'{split}: plausible lungs in {found} slices and COVID-19 pictures')
    print('\n| cropped to the lungs | window, HU | train | validation |\n|---|---|---|---|')
    for margin in MARGINS:
        where = 'no' if margin is None else f'margin {margin:.0%}'
        for name, window in SHOWN.items():
            values = [distance(*sets[split], margin, window).value for split in SPLITS]
            print(f'| {where} | {name} | {values[0]:.3f} | {values[1]:.3f} |', flush=True)
    if args.test:
        for margin, name in ((framing.MARGIN, framing.WINDOW), (None, 'lung')):
            value, low, high = distance(*sets['test'], margin, windows.WINDOWS[name])
            print(f'test, margin {margin}, {name}: {value:.3f} ({low:.3f} to {high:.3f})')


if __name__ == '__main__':
    main()

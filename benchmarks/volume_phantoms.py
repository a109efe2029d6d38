"""Draws phantom scans with opacities in three dimensions and exact masks, for docs/segmentation.md.

python benchmarks/volume_phantoms.py FOLDER [--seed=N] [--people=TRAIN,VALIDATION,TEST] [--size=96]
"""

import argparse

from covjax.phantom.ct_scans import write_volumes


def main():
    """Draws as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder')
    parser.add_argument('--seed', type=int, default=0)
    numbers = lambda text: tuple(map(int, text.split(',')))
    parser.add_argument('--people', type=numbers, default=(16, 4, 12))
    parser.add_argument('--size', type=int, default=96, help='pixels a side of a slice')
    words = parser.parse_args()
    write_volumes(words.folder, words.seed, words.people, words.size)


if __name__ == '__main__':
    main()

"""Draws phantom slices with their lungs, the raw folder of an experiment of docs/segmentation.md.

python benchmarks/lung_phantoms.py FOLDER [--seed=0]
"""

import argparse

from covjax.phantom.ct_scans import write_lungs


def main():
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    write_lungs(args.folder, args.seed)


if __name__ == '__main__':
    main()

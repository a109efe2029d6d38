"""Runs one stage of a checkout.

python launch.py --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.key=value ...]
"""

import pathlib
import sys

from covjax import launcher

ROOT = pathlib.Path(__file__).resolve().parent

if __name__ == '__main__':
    launcher.main(sys.argv, home=ROOT, below=ROOT / 'runs')

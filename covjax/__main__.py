"""Runs one stage, from a checkout or installed.

python -m covjax --config=NAME[:VARIANT] [--workdir=DIR] [--config.key=value ...]
"""

import pathlib
import sys

from covjax import launcher

PACKAGE = pathlib.Path(__file__).resolve().parent
# A wheel ships the configs inside the package; a checkout has them beside it.
HOME = PACKAGE / 'shipped' if (PACKAGE / 'shipped').is_dir() else PACKAGE.parent

if __name__ == '__main__':
    sys.path.insert(0, str(HOME))
    launcher.main(sys.argv, home=HOME, below=pathlib.Path('runs'))

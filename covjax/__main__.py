"""Runs one stage, from a checkout or installed.

python -m covjax --config=NAME[:VARIANT] [--workdir=DIR] [--config.key=value ...]
"""

import os
import pathlib
import signal
import sys

PACKAGE = pathlib.Path(__file__).resolve().parent
# A wheel ships the configs inside the package; a checkout has them beside it.
HOME = PACKAGE / 'shipped' if (PACKAGE / 'shipped').is_dir() else PACKAGE.parent

if __name__ == '__main__':  # as in launch.py
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    from covjax import launcher

    sys.path.insert(0, str(HOME))
    launcher.main(sys.argv, home=HOME, below=pathlib.Path('runs'))

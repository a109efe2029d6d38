"""Runs one stage of a checkout.

python launch.py --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.key=value ...]
"""

import os
import pathlib
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parent

if __name__ == '__main__':
    # While modules are imported Ctrl-C ends this at once; `launch` answers it later.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # XLA calls a compilation that takes long a fault of its own; it must be told before JAX comes.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    from covjax import launcher

    launcher.main(sys.argv, home=ROOT, below=ROOT / 'runs')

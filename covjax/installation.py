"""How a stage is called and an extra installed, in a checkout and where a wheel was installed.

Messages name commands, which are to work where they are read.
"""

import pathlib

IN_CHECKOUT = (pathlib.Path(__file__).resolve().parents[1] / 'launch.py').is_file()


def stage(name):
    """The command of a stage without its keys: 'python launch.py --config=configs/prepare.py'."""
    if IN_CHECKOUT:
        return f'python launch.py --config=configs/{name}.py'
    return f'python -m covjax --config={name}'


def extra(name):
    """The command that installs an extra of setup.py."""
    return f"pip install -e '.[{name}]'" if IN_CHECKOUT else f"pip install 'covjax[{name}]'"

"""The commands, one file each: run(config, workdir).

The folder is the registry: config.run names the file.
"""

import importlib
import pkgutil

from covjax import choice


def names():
    """Every command by name, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name):
    """The `run` of a command, whose file is imported only now.

    Args:
        name: what config.run says, one of `names()`.

    Returns:
        run(config, workdir), where workdir is a pathlib.Path of a folder that exists.

    Raises:
        InputError: there is no such command.
    """
    choice({'run': name}, 'run', names())
    return importlib.import_module(f'{__name__}.{name}').run

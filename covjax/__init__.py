"""covjax: lung-cancer CT turned into synthetic COVID-19 CT, and what classifiers learn from it, in JAX."""

__version__ = '0.5.0'


class InputError(ValueError):
    """Something the user gave is wrong. The message is one line that names the file or key and the remedy.

    `launch.py` prints it without a traceback and exits with code 2; every other exception is a bug and exits with 1. `details` are printed below it, one a line.
    """

    def __init__(self, message, details=()):
        super().__init__(message)
        self.details = list(details)

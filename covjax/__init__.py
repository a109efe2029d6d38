"""Lung-cancer CT turned into synthetic COVID-19 CT, and what classifiers learn from it, in JAX."""

__version__ = '1.0.0'
CLASSES = ('noncovid', 'covid')  # of labels 0 and 1


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one line that names the file or key and the remedy.

    The launcher prints it without a traceback and exits with code 2, as for a training that
    diverged (FloatingPointError). A stopped training exits with 128 + signal; every other exception
    is a bug and exits with code 1. `details` are printed below the message, one a line.
    The attribute `message` is the line as it was raised: libraries that pass an exception on may
    put words of theirs before what str() gives.
    """

    def __init__(self, message, details=()):
        super().__init__(message)
        self.message = message
        self.details = list(details)


class Stopped(Exception):
    """A signal asked a training run to stop, and it has saved its state.

    The same command goes on from there. `signal` is the number of the signal.
    """

    def __init__(self, signal):
        super().__init__(f'stopped by signal {signal}')
        self.signal = signal


def choice(config, key, options):
    """The value of config[key], which must be one of a few.

    Args:
        config: anything with [key], such as a ConfigDict or a dict.
        key: the name that the message says as config.KEY.
        options: the valid values, or a dict with them as keys.

    Raises:
        InputError: the value is not among them; the message lists them.
    """
    value = config[key]
    if value not in options:
        valid = ', '.join(str(option) if option != '' else "''" for option in options)
        raise InputError(f'config.{key}={value}: no such choice; choose one of {valid}')
    return value


def require(config, remedies):
    """Refuses a config in which a key that a run needs is empty.

    Args:
        config: anything with [key].
        remedies: {key: what to give, as the end of the message}.

    Raises:
        InputError: one of them is empty.
    """
    for key, remedy in remedies.items():
        if not config[key]:
            raise InputError(f'config.{key} is empty; {remedy}')


def counted(number, noun, nouns=''):
    """A number and what it counts: '1 file', '3 files'.

    Args:
        number: int.
        noun: of one.
        nouns: of several; '' puts an s behind `noun`.
    """
    return f'{number} {noun if number == 1 else nouns or f"{noun}s"}'


def joined(names):
    """Names, any iterable of str, as English lists them: 'a', 'a and b' or 'a, b and c'."""
    *before, last = names
    return f'{", ".join(before)} and {last}' if before else last

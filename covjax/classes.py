"""The classes of a classification by name, and what it means to set one of them against the rest.

Names are in the order of the labels, as the ClassLabel of a data set has them: ('noncovid',
'covid'), or ('normal', 'cap', 'covid'). Label -1 is that of an example without one.
"""

import numpy as np

from covjax import CLASSES, InputError, choice, joined

POSITIVE = 'covid'  # the class that scores are about, where a data set has it


def positive_classes(classes):
    """The classes that have a result of their own, each against the rest.

    Of more than two classes that is every one. Of two it is covid, or the second where none is
    called so: the result of the other would say the same once more.

    Args:
        classes: names of at least two classes.

    Returns:
        tuple of str.
    """
    if len(classes) > 2:
        return tuple(classes)
    return (POSITIVE if POSITIVE in classes else classes[1],)


def positive_class(config, classes):
    """The class that config.positive_class means; '' is covid, or 1 of the classes 0 and 1.

    Args:
        config: anything with ['positive_class'].
        classes: names of the classes.

    Raises:
        InputError: there is no such class; the message lists them.
    """
    named = config['positive_class']
    if not named and POSITIVE in classes:
        return POSITIVE
    if not named and tuple(classes) == ('0', '1'):
        return '1'
    return choice({'positive_class': named}, 'positive_class', classes)


def is_usual(classes, positive):
    """Whether the question is that of covjax from its beginning, COVID against non-COVID."""
    return (tuple(classes), positive) == (CLASSES, POSITIVE)


def against_rest(labels, classes, positive):
    """Labels of one class against the rest: 1 of the positive class, 0 of any other, -1 of none.

    Args:
        labels: int array of any shape, or an int.
        classes: names of labels 0, 1, ...
        positive: one of them.

    Returns:
        int64 array of that shape.
    """
    labels = np.asarray(labels)
    return np.where(labels < 0, -1, labels == list(classes).index(positive))


def titles(classes, positive):
    """The positive class and all others as people read them, (str, str).

    They are ('COVID', 'non-COVID') of covjax.CLASSES, the two names of two other classes, and
    ('cap', 'others') of more.
    """
    if tuple(classes) == CLASSES:
        both = ('non-COVID', 'COVID')
        return (both[1], both[0]) if positive == POSITIVE else both
    if len(classes) > 2:
        return positive, 'others'
    (other,) = (name for name in classes if name != positive)
    return positive, other


def named_in_title(classes, positive):
    """Appended to the name of a test set: ', cap against the rest', or '' for two classes."""
    return f', {positive} against the rest' if len(classes) > 2 else ''


def listed(classes):
    """'both classes, noncovid and covid', or 'all classes, normal, cap and covid'."""
    return f'{"both" if len(classes) == 2 else "all"} classes, {joined(classes)}'


def check_same(named, found, expected):
    """Refuses a data set whose classes differ from those that a classifier tells apart.

    Args:
        named: how the message names the data set, such as 'config.val=covid_ct:test'.
        found: names of the classes of the data set.
        expected: names of those of the classifier.

    Raises:
        InputError: they are not the same, in the same order.
    """
    if tuple(found) != tuple(expected):
        raise InputError(
            f'{named}: has {"the classes " + ", ".join(found) if found else "no labels"}, and the '
            f'classifier tells {", ".join(expected)} apart; name a data set with these classes'
        )

"""A classifier that was trained elsewhere: a function of Python, or an ONNX file.

score = external_classifier.load('mine:score')
score(images)  # uint8 [N, H, W, 1] -> P(positive class) float64 [N]

What it returns is looked at, so that logits or the probability of two classes are not taken for a
probability of one.
"""

import importlib
import importlib.util
import json
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from covjax import InputError, choice, installation
from covjax.data import batches

RETURN = 'give P(positive class) as float [N], one number from 0 to 1 for each image'
# What an ONNX file is fed: images are (grey / 255) x factor + offset.
INPUT_RANGES = {'0..1': (1.0, 0.0), '-1..1': (2.0, -1.0), '0..255': (255.0, 0.0)}
CHANNELS = (1, 3)  # of an image as networks take it; grey values are repeated


class External(NamedTuple):
    """A loaded classifier."""

    score: Callable  # uint8 [N, H, W, 1] -> P(positive class) float64 [N]
    size: int | None  # pixels a side that it asks for or was trained with; None where none is known


def load(
    model: str, input_range: str = '0..1', batch_size: int = 32, positive: str = ''
) -> External:
    """Loads a classifier.

    Args:
        model: 'module:function' or 'file.py:function', a function that takes uint8 [N, H, W, 1] and
            returns P(positive class) [N]; or the path of an ONNX file with one input, uint8
            [N, H, W, 1] or float [N, H, W, C] or [N, C, H, W] with 1 or 3 channels, whose first
            output is P(positive class) [N] or [N, 1], or [N, 2] with that of the positive class
            last. A file that names its classes, as those of covjax do, may have any number.
        input_range: of INPUT_RANGES, what a float input is fed.
        batch_size: images at a time.
        positive: name of the positive class, for a file that names its classes.

    Returns:
        External.

    Raises:
        InputError: there is no such function or file, or it takes other images.
    """
    choice({'input_range': input_range}, 'input_range', INPUT_RANGES)
    if model.endswith('.onnx'):
        function, size = _of_onnx(pathlib.Path(model), input_range, positive)
    else:
        function, size = _of_python(model), None
    return External(checked(function, f'config.model={model}', batch_size), size)


def checked(function: Callable, name: str, batch_size: int = 32) -> Callable:
    """A classifier whose answers are looked at, shown some images at a time.

    Args:
        function: uint8 [N, H, W, 1] -> P(positive class), anything that NumPy takes.
        name: of the classifier, for messages.
        batch_size: images at a time.

    Returns:
        uint8 [N, H, W, 1] -> float64 [N]; it raises an InputError where the function fails, or
        returns no probability of each image.
    """

    def score(images):
        parts = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        found = [np.empty(0)]
        # The bar is there for those who look at a terminal.
        for part in tqdm(parts, name, unit='batch', disable=None, leave=False):
            said = _called(function, part.copy(), name)  # which may be changed in place
            if said.dtype.kind in 'iub':
                raise InputError(f'{name}: returned {said.dtype}, which are classes; {RETURN}')
            found.append(probabilities(said, len(part), name))
        return np.concatenate(found)

    return score


def _called(function, images, name):
    try:
        return np.asarray(function(images))
    except InputError:
        raise
    except Exception as error:  # whatever anyone's function raises
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f'{name}: fails with {type(error).__name__} on uint8 {list(images.shape)}; '
            'call it on such an array to see why',
            [str(error).splitlines()[0] if str(error) else '', f'{where.filename}:{where.lineno}'],
        ) from error


def probabilities(found: np.ndarray, count: int, name: str) -> np.ndarray:
    """Scores as float64 [N]; refuses what is no probability of each image.

    Args:
        found: array [N] or [N, 1].
        count: N, of the images.
        name: of what they come from, for messages.

    Raises:
        InputError: they are of another number, NaN, or outside 0..1.
    """
    if found.shape == (count, 1):
        found = found[:, 0]
    if found.shape != (count,) or found.dtype.kind not in 'fiub':
        raise InputError(f'{name}: {found.dtype} {list(found.shape)} for {count} images; {RETURN}')
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        raise InputError(f'{name}: NaN or infinity among the scores; {RETURN}')
    if found.min(initial=0) < 0 or found.max(initial=0) > 1:
        raise InputError(
            f'{name}: scores from {found.min():.4g} to {found.max():.4g} are no probabilities; '
            f'{RETURN}, of a logit 1 / (1 + exp(-logit))'
        )
    return found


# ---- a function of Python


def _of_python(model):
    """The function that 'module:function' or 'file.py:function' names."""
    place, separator, name = model.rpartition(':')
    if not separator or not place or not name:
        raise InputError(
            f'config.model={model}: write module:function, file.py:function or the path of an '
            '.onnx file'
        )
    module = _module(model, place)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f'config.model={model}: {place} has no function {name}')
    return function


def _module(model, place):
    """The module of a file or of a name, imported with the working directory on the path."""
    if place.endswith('.py') and not pathlib.Path(place).is_file():
        raise InputError(f'config.model={model}: no such file {place}')
    if '' not in sys.path:
        sys.path.insert(0, '')  # where a person runs the command
    try:
        if not place.endswith('.py'):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(pathlib.Path(place).stem, place)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        raise InputError(
            f'config.model={model}: no module {error.name}; install it, or run the command in its '
            'folder'
        ) from None
    except SystemExit:
        raise InputError(
            f'config.model={model}: ends the program when it is imported; put what it does by '
            "itself below if __name__ == '__main__'"
        ) from None
    except Exception as error:  # whatever anyone's module raises
        reason = str(error).splitlines()[0] if str(error) else ''
        raise InputError(
            f'config.model={model}: cannot be imported ({type(error).__name__}: {reason})'
        ) from error


# ---- an ONNX file


def _of_onnx(file, input_range, positive):
    """(function, size) of an ONNX file; size is None where it takes any and names none."""
    if not file.is_file():
        raise InputError(f'config.model={file}: no such file')
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            f'config.model={file}: needs onnxruntime; {installation.extra("onnx")}'
        ) from None
    try:
        session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    except Exception as error:  # ONNX Runtime raises classes of its own for each kind
        raise InputError(
            f'config.model={file}: is no ONNX file that can be run ({type(error).__name__})'
        ) from None
    takes = session.get_inputs()
    described = ', '.join(f'{each.name} {each.type} {each.shape}' for each in takes)
    feed, size = _feed(takes, input_range)
    if feed is None:
        raise InputError(
            f'config.model={file}: takes {described}; export it with one input, uint8 '
            '[N, H, W, 1], or float with 1 or 3 channels'
        )

    about = session.get_modelmeta().custom_metadata_map
    _check_whole(file, about)
    size = size or int(about.get('image_size', 0)) or None
    classes = json.loads(about.get('classes', '[]'))
    column = _column(file, classes, positive)
    output, count = session.get_outputs()[0].name, takes[0].shape[0]

    def run(images):
        (found,) = session.run([output], {takes[0].name: feed(images)})
        if found.ndim == 2 and found.shape[1] == len(classes):
            return found[:, column]
        return found[:, 1] if _are_two_probabilities(found) else found

    return (_in_batches_of(count, run) if isinstance(count, int) else run), size


def _check_whole(file, about):
    """Refuses a network of covjax that was shown the lungs of an image instead of the whole."""
    if lungs := about.get('lungs'):
        raise InputError(
            f'config.model={file}: was trained with config.lungs={lungs}, and is shown whole '
            'images here; audit the workdir of its training (configs/audit.py)'
        )


def _column(file, classes, positive):
    """Which output of a file is that of the positive class, by the classes that it names."""
    if classes and positive and positive not in classes:
        raise InputError(
            f'config.model={file}: tells {", ".join(classes)} apart, and config.positive_class is '
            f'{positive}; name one of its classes'
        )
    return classes.index(positive) if positive in classes else len(classes) - 1


def _in_batches_of(count, run):
    """A function of any number of images, of one that takes `count` of them at a time."""

    def function(images):
        padded = batches.padded_batches({'images': images}, count)
        return np.concatenate([run(batch['images'])[batch['mask']] for batch in padded])

    return function


def _feed(takes, input_range):
    """(function from images to what an ONNX file takes, size); (None, None) where it takes others.

    Args:
        takes: the inputs of the file, each with a `type` and a `shape`.
        input_range: of INPUT_RANGES.
    """
    if len(takes) != 1 or len(takes[0].shape) != 4:
        return None, None
    shape = takes[0].shape
    last = shape[3] in CHANNELS
    channels = shape[3] if last else shape[1]
    size = shape[1] if last else shape[2]
    size = size if isinstance(size, int) else None
    if channels not in CHANNELS:
        return None, None
    if takes[0].type == 'tensor(uint8)':
        prepared = lambda images: images
    elif takes[0].type == 'tensor(float)':
        factor, offset = INPUT_RANGES[input_range]
        prepared = lambda images: images.astype(np.float32) / 255 * factor + offset
    else:
        return None, None

    def feed(images):
        repeated = np.repeat(prepared(images), channels, axis=3)
        return repeated if last else np.ascontiguousarray(repeated.transpose(0, 3, 1, 2))

    return feed, size


def _are_two_probabilities(found):
    """Whether an output has the probabilities of two classes of each image."""
    return (
        found.ndim == 2
        and found.shape[1] == 2
        and bool((found >= 0).all())
        and np.allclose(found.sum(1), 1, atol=1e-3)
    )

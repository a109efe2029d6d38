"""Prepared TFDS data sets read into memory: uint8 images, labels and rows.

How data sets are named and found: covjax.data.specs. A data set stores its images as PNG, as grey
arrays, or as int16 HU, two- or three-dimensional; readers see grey images only: HU through the lung
window, of a 3-D patch the middle slice.
"""

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from covjax import InputError, counted
from covjax.ct import windows
from covjax.data import specs
from covjax.data.lesion_masks import SHAM
from covjax.data.rows import Row


class Examples(NamedTuple):
    """One or several splits in RAM. No model ever sees the rows."""

    images: np.ndarray  # uint8 [N, size, size, 1]
    labels: np.ndarray  # int32 [N], index in `classes`; -1 without label
    rows: list[Row]
    classes: tuple[str, ...] = ()  # names of labels 0, 1, ...; () where no data set has a label
    parts: np.ndarray | None = None  # int32 [N], which part of the spec each is from


def read(spec: str, data_dir: str, size: int, view: Callable | None = None) -> Examples:
    """Reads the examples of a spec, each decoded once.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.
        size: images are resized to [size, size] (bilinear, antialiased, aspect not kept).
        view: what is shown of an image before that, uint8 [H, W] -> uint8 [h, w]; None for all.

    Returns:
        Examples.

    Raises:
        InputError: there is no such data set, it is damaged, it has no such examples, or two data
            sets have other classes.
    """
    names = classes(spec, data_dir)
    stored, volumes = [], 0
    for record in records(spec, data_dir):
        volumes += is_volume(record)
        # Of volumes one slice each, or they would all be in memory at once.
        stored.append(_without_volume(record))
    if volumes:
        print(f'{spec}: of {counted(volumes, "volume")} the middle slice is shown', flush=True)
    if not stored:
        raise InputError(f'{spec} is empty; choose other splits')
    images = np.empty((len(stored), size, size, 1), np.uint8)
    for i, record in enumerate(stored):
        grey = decoded(record.image)
        shown = Image.fromarray(np.ascontiguousarray(view(grey) if view else grey))
        images[i, :, :, 0] = shown.resize((size, size), Image.Resampling.BILINEAR)
    rows = [record.row for record in stored]
    labels = np.array([row.label for row in rows], np.int32)
    return Examples(images, labels, rows, names, without_gaps(record.part for record in stored))


def without_gaps(numbers):
    """Numbers of parts, int32 [N], counted anew from 0 without those of which there is none."""
    return np.unique([*numbers], return_inverse=True)[1].astype(np.int32)


def classes(spec: str, data_dir: str) -> tuple[str, ...]:
    """The names of labels 0, 1, ... of the data sets of a spec, which must be the same in all.

    A data set without a label is fine beside others.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.

    Returns:
        tuple of str; () where no data set has a label.

    Raises:
        InputError: there is no such data set, it is damaged, or two have other names.
    """
    datasets = dict.fromkeys(dataset for dataset, _, _ in specs.parse(spec))
    opened = {name: _open(specs.locate(name, data_dir), name) for name in datasets}
    named = {name: tuple(_label_names(builder)) for name, builder in opened.items()}
    labelled = [(name, names) for name, names in named.items() if names]
    for name, names in labelled[1:]:
        first, expected = labelled[0]
        if names != expected:
            raise InputError(
                f'{spec}: {first} has the classes {", ".join(expected)}, and {name} has '
                f'{", ".join(names)}; join data sets of the same classes'
            )
    return labelled[0][1] if labelled else ()


def is_volume(record):
    """Whether a Record is a volume, not a slice or picture."""
    return not isinstance(record.image, bytes) and record.image.ndim == 4


def _without_volume(record):
    """A Record without mask whose array, if it has one, is the grey image that is read of it."""
    image = record.image
    if not isinstance(image, bytes):
        image = decoded(image)[..., None]
    return record._replace(image=image, mask=None)


def each_native(spec, data_dir, limit=None):
    """Yields (uint8 [H, W] at stored size, Row) of a spec, for baselines, audits and people.

    Of a volume that is its middle slice, and `others` of its row has its number of `slices`.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.
        limit: how many examples of each part of the spec; None for all.

    Raises:
        InputError: there is no such data set, it is damaged, or it has no such examples.
    """
    for record in records(spec, data_dir, limit):
        row = record.row
        if is_volume(record):
            others = row.others | {'slices': len(record.image)}
            row = dataclasses.replace(row, others=others)
        yield decoded(record.image), row


def read_native(spec: str, data_dir: str, limit: int | None = None) -> list[tuple[np.ndarray, Row]]:
    """Returns a list of what `each_native` yields: [(uint8 [H, W] at stored size, Row)]."""
    return list(each_native(spec, data_dir, limit))


def read_rows(spec: str, data_dir: str) -> list[Row]:
    """Returns the rows of a spec alone, [Row]; PNG images are not decoded."""
    return [record.row for record in records(spec, data_dir)]


class Record(NamedTuple):
    """One example as a data set stores it."""

    row: Row
    image: Any  # PNG bytes, or an array: uint8 or HU [..., H, W, 1]
    mask: Any = None  # the same of its classes, None where it has no mask
    # Of a member of a pair, PNG: what was made anew, and the slice as it was before.
    gate: bytes | None = None
    before: bytes | None = None
    part: int = 0  # index of the part of the spec that it is from


def records(spec: str, data_dir: str, limit: int | None = None) -> 'Iterator[Record]':
    """Yields the Record of the first `limit` examples of each part of a spec, nothing decoded.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.
        limit: None for all.

    Raises:
        InputError: there is no such data set, it is damaged, or it has no such examples.
    """
    parts = specs.parse(spec)
    for index, (dataset, split, label) in enumerate(parts):
        folder = specs.locate(dataset, data_dir)
        builder = _open(folder, dataset)
        _check_part(builder, dataset, split, label)
        whole, count, seed = specs.drawn(split) or (split, None, None)
        try:
            source = _source(builder, whole)
        except (ValueError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            if len(parts) > 1 and '[' in split and 'can not be of 0 length' in reason:
                continue  # a share of few examples is none of them; the other parts count
            raise InputError(
                f'{dataset}:{split}: TFDS finds nothing to read there ({reason})'
            ) from None
        empty, names = True, _label_names(builder)
        chosen = _labelled(_read_each(source, folder, dataset), names, label)
        if count is not None:
            chosen = _drawn([*chosen], count, seed, specs.part(dataset, split, label))
        for example in itertools.islice(chosen, limit):
            empty = False
            image, mask = example.pop('image'), example.pop('mask', None)
            mask = mask['classes'] if isinstance(mask, dict) else mask
            of_pair = example.pop('gate', None), example.pop('before', None)
            yield Record(Row.from_features(example, names), image, mask, *of_pair, part=index)
        if empty:
            part = specs.part(dataset, split, label)
            raise InputError(f'{part} is empty; choose another split')


class Pair(NamedTuple):
    """A slice with a lesion, and the same slice with generated healthy lung, uint8 [H, W] each."""

    before: np.ndarray  # the slice
    gate: np.ndarray  # where it was made anew, in 255 parts
    lesion: np.ndarray
    sham: np.ndarray
    row: Row  # of the lesion


def pairs(spec, data_dir):
    """Yields the Pairs of a spec, as soon as both members were read; none where it has no pairs.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where prepared data sets lie.

    Raises:
        InputError: there is no such data set, it is damaged, or it has no such examples.
    """
    waiting = {}
    for record in records(spec, data_dir):
        if record.gate is None:
            return
        name, is_sham = record.row.others['pair'], record.row.others['kind'] == SHAM
        if name not in waiting:
            waiting[name] = record
            continue
        other = waiting.pop(name)
        lesion, sham = (other, record) if is_sham else (record, other)
        pictures = (record.before, record.gate, lesion.image, sham.image)
        yield Pair(*map(decoded, pictures), lesion.row)


def _open(folder, dataset):
    """The TFDS builder of a prepared data set."""
    import tensorflow_datasets as tfds  # takes 0.7 s, and few programs need it

    with readable(folder, dataset):
        return tfds.builder_from_directory(str(folder))


def _label_names(builder):
    """['noncovid', 'covid'] or so; [] where a data set has no label."""
    features = builder.info.features
    return features['label'].names if 'label' in features else []


def mask_classes(dataset, data_dir):
    """The names of the classes of the masks of a data set, the background first.

    Args:
        dataset: 'name/config'.
        data_dir: where prepared data sets lie.

    Returns:
        tuple of str; () where it has no masks.

    Raises:
        InputError: there is no such data set, or it is damaged.
    """
    features = _open(specs.locate(dataset, data_dir), dataset).info.features
    if 'mask' not in features:
        return ()
    mask = features['mask']
    return tuple(mask.names if hasattr(mask, 'names') else mask['names'].names)


def _check_part(builder, dataset, split, label):
    """Raises an InputError where a data set lacks a split, as in 'train[:80%]', or a label."""
    if split.split('[')[0] not in builder.info.splits:
        valid = ', '.join(builder.info.splits)
        raise InputError(f'{dataset}:{split}: no such split; it has {valid}')
    names = _label_names(builder)
    if label and label not in names:
        valid = ', '.join(names) or 'none'
        raise InputError(f'{dataset}:{split}@{label}: no such label; it has {valid}')


def _source(builder, split):
    """The examples of a split by index; PNG images and masks stay encoded."""
    import tensorflow_datasets as tfds

    decoders = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    return builder.as_data_source(split, decoders=decoders or None)


def _read_each(source, folder, dataset):
    for i in range(len(source)):
        with readable(folder, dataset):
            example = source[i]
        yield example


def _labelled(examples, names, label):
    """The examples of one label, or all of them."""
    return (example for example in examples if not label or names[example['label']] == label)


def _drawn(examples, count, seed, part):
    """So many of a list of examples, drawn with a seed, in the order of the list.

    Raises:
        InputError: there are fewer; the message calls them `part`.
    """
    if count > len(examples):
        raise InputError(f'{part}: has {len(examples)} examples; draw no more than these')
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in sorted(order[:count])]


def decoded(stored):
    """The grey image of what a data set stores, or the middle slice where it is a volume.

    Args:
        stored: PNG bytes, or uint8 or HU [..., H, W, 1].

    Returns:
        uint8 [H, W].
    """
    whole = volume(stored)
    # A copy, because a part keeps the whole in memory.
    return whole[len(whole) // 2].copy() if whole.ndim == 3 else whole


def volume(stored):
    """The grey image of what a data set stores, whole: uint8 [H, W] or [D, H, W]."""
    if isinstance(stored, bytes):
        return np.asarray(Image.open(io.BytesIO(stored)))
    grey = stored if stored.dtype == np.uint8 else windows.to_grey(stored)
    return grey[..., 0]


@contextlib.contextmanager
def readable(folder, dataset):
    """Turns whatever TFDS raises at a damaged data set into one line.

    Args:
        folder: of the prepared data set.
        dataset: its name, for the remedy.

    Raises:
        InputError: the block raised an exception.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # TFDS raises whatever its readers raise
        raise InputError(
            f'{folder}: is damaged ({type(error).__name__}); '
            f'remove that folder and prepare {dataset} again'
        ) from None

"""Prepared TFDS data sets read into memory: uint8 images, labels, rows. How they are named: covjax.data.specs."""

import contextlib
import io
import itertools
from typing import NamedTuple

import numpy as np
from PIL import Image

from covjax import InputError
from covjax.data import specs
from covjax.data.rows import Row


class Examples(NamedTuple):
    """One or several splits in RAM. `rows` holds every other feature of each example (id, group, sha256, boxes, ...); no model ever sees it."""

    images: np.ndarray  # uint8 [N, size, size, 1]
    labels: np.ndarray  # int32 [N], 1 = covid, 0 = noncovid, -1 where the data set has no label
    rows: list[Row]


def read(spec, data_dir, size):
    """The examples of a data set, decoded once, resized to [size, size] (bilinear, antialiased, aspect not kept)."""
    records = list(_records(spec, data_dir))
    if not records:
        raise InputError(f'{spec} is empty; choose other splits')
    images = np.empty((len(records), size, size, 1), np.uint8)
    for i, (_, stored) in enumerate(records):
        images[i, :, :, 0] = _picture(stored).resize((size, size), Image.Resampling.BILINEAR)
    rows = [row for row, _ in records]
    return Examples(images, np.array([row.label for row in rows], np.int32), rows)


def each_native(spec, data_dir, limit=None):
    """Yields (uint8 [H, W] at stored size, row) of the first `limit` examples of each part, for baselines, audits and people."""
    for row, stored in _records(spec, data_dir, limit):
        yield np.asarray(_picture(stored)), row


def read_native(spec, data_dir, limit=None):
    """The same as a list."""
    return list(each_native(spec, data_dir, limit))


def read_rows(spec, data_dir):
    """The rows alone; no image is decoded."""
    return [row for row, _ in _records(spec, data_dir)]


def _records(spec, data_dir, limit=None):
    """Yields (row, PNG bytes, or uint8 grey or int16 HU [H, W, 1] or [D, H, W, 1] of a data set that keeps arrays)."""
    import tensorflow_datasets as tfds  # 0.7 s, and only this room reads TFDS

    for dataset, split, label in specs.parse(spec):
        folder = specs.locate(dataset, data_dir)
        with readable(folder, dataset):
            builder = tfds.builder_from_directory(str(folder))
        if split.split('[')[0] not in builder.info.splits:
            raise InputError(
                f'{dataset}:{split}: no such split; it has {", ".join(builder.info.splits)}'
            )
        names = builder.info.features['label'].names if 'label' in builder.info.features else []
        if label and label not in names:
            raise InputError(
                f'{dataset}:{split}@{label}: no such label; it has {", ".join(names) or "none"}'
            )
        try:
            encoded = isinstance(builder.info.features['image'], tfds.features.Image)
            source = builder.as_data_source(
                split, decoders={'image': tfds.decode.SkipDecoding()} if encoded else None
            )
        except (ValueError, AssertionError) as error:
            if (
                '[' in split
                and 'can not be of 0 length' in str(error)
                and len(specs.parse(spec)) > 1
            ):  # a share of few is none; the others count
                continue
            raise InputError(
                f'{dataset}:{split}: TFDS finds nothing to read there ({str(error).splitlines()[0]})'
            ) from None
        chosen = itertools.islice(
            (
                example
                for example in _read_each(source, folder, dataset)
                if not label or names[example['label']] == label
            ),
            limit,
        )
        first = next(chosen, None)
        if first is None:
            raise InputError(
                f'{dataset}:{split}{"@" + label if label else ""} is empty; choose another split'
            )
        for example in itertools.chain([first], chosen):
            stored = example.pop('image')
            yield Row.from_features(example, names), stored


def _read_each(source, folder, dataset):
    for i in range(len(source)):
        with readable(folder, dataset):
            example = source[i]
        yield example


def _picture(stored):
    """What _records yields as a grey picture: HU through the lung window, the middle slice of a 3-D patch."""
    if isinstance(stored, bytes):
        return Image.open(io.BytesIO(stored))
    plane = stored[len(stored) // 2, ..., 0] if stored.ndim == 4 else stored[..., 0]
    if plane.dtype == np.uint8:
        return Image.fromarray(plane)
    from covjax.ct import windows  # SimpleITK, which pictures do not need

    return Image.fromarray(windows.to_grey(plane))


@contextlib.contextmanager
def readable(folder, dataset):
    """Around what TFDS reads of a prepared data set: whatever it raises at a damaged file becomes one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # TFDS raises whatever its readers raise
        raise InputError(
            f'{folder}: is damaged ({type(error).__name__}); remove that folder and prepare {dataset} again'
        ) from None

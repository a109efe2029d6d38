"""Prepared TFDS data -> uint8 arrays in RAM -> batches that are a pure function of the step.

A data set is named 'name/config:split', for example 'luna16_patches/nodules:train', 'covid_ct:train[:80%]' or 'covid_ct:test@noncovid' (one class
only). '+' mixes several: 'synthetic_covid_ct:train+covid_ct:train@noncovid'. A comma separates data sets that stay apart. `data_dir` is TFDS's own
folder by default; several folders, separated by commas, are searched in turn.
"""

import contextlib
import io
import itertools
import pathlib
import re
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from covjax import InputError
from covjax.workdir import read_json

DEFAULT_DIR = '~/tensorflow_datasets'
PART = re.compile(
    r'(?:(?P<dataset>[a-z]\w*(?:/\w+)?):)?(?P<split>[a-z]\w*(?:\[[^\]]*\])?)(?:@(?P<label>\w+))?'
)
VERSION = re.compile(r'\d+\.\d+\.\d+')


class Examples(NamedTuple):
    """One or several splits in RAM. `rows` holds every other feature of each example (id, group, sha256, boxes, ...); no model ever sees it."""

    images: np.ndarray  # uint8 [N, size, size, 1]
    labels: np.ndarray  # int32 [N], 1 = covid, 0 = noncovid, -1 where the data set has no label
    rows: list[dict]


def read(spec, data_dir, size):
    """The examples of a data set, decoded once, resized to [size, size] (bilinear, antialiased, aspect not kept)."""
    records = list(_records(spec, data_dir))
    if not records:
        raise InputError(f'{spec} is empty; choose other splits')
    images = np.empty((len(records), size, size, 1), np.uint8)
    for i, (_, stored) in enumerate(records):
        images[i, :, :, 0] = _picture(stored).resize((size, size), Image.Resampling.BILINEAR)
    rows = [row for row, _ in records]
    return Examples(images, np.array([row.get('label', -1) for row in rows], np.int32), rows)


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


def parse(spec):
    """'a/b:train+test@covid' -> [('a/b', 'train', None), ('a/b', 'test', 'covid')]."""
    parts, dataset = [], None
    for text in spec.split('+'):
        match = PART.fullmatch(text.strip())
        dataset = (match and match['dataset']) or dataset
        if not match or not dataset:
            raise InputError(
                f"'{spec}' is not a data set; write name/config:split, for example covid_ct:train or luna16_patches/nodules:test"
            )
        parts.append((dataset, match['split'], match['label']))
    return parts


def splits(spec, data_dir):
    """[(dataset, split)] of a spec; all splits of a data set that is named without one."""
    if ':' in spec:
        return [(dataset, split) for dataset, split, _ in parse(spec)]
    order = ['train', 'validation', 'test']
    names = [
        split['name'] for split in read_json(locate(spec, data_dir) / 'dataset_info.json')['splits']
    ]
    return [
        (spec, name)
        for name in sorted(
            names, key=lambda name: order.index(name) if name in order else len(order)
        )
    ]


def locate(dataset, data_dir):
    """The folder of a prepared data set: <data_dir>/<name>[/<config>]/<version>, the newest version. Without a config it is the default one."""
    folders = [
        pathlib.Path(folder.strip()).expanduser() for folder in (data_dir or DEFAULT_DIR).split(',')
    ]
    found = [
        versions[-1]
        for folder in folders
        if (versions := _versions(_default_config(folder / dataset)) or _versions(folder / dataset))
    ]
    if len(found) > 1:
        raise InputError(
            f'{dataset} is in {found[0]} and in {found[1]}; leave one of the two out of config.data_dir'
        )
    if not found:
        configs = sorted(
            f'{dataset}/{child.name}'
            for folder in folders
            if (folder / dataset).is_dir()
            for child in (folder / dataset).iterdir()
            if _versions(child)
        )
        remedy = (
            f'name one of {", ".join(configs)}'
            if configs
            else 'add the data folder of the synthesize run to config.data_dir'
            if dataset == 'synthetic_covid_ct'
            else f'run launch.py --config=configs/prepare.py --config.dataset={dataset} --config.source=RAW_FOLDER'
        )
        raise InputError(f'{dataset}: no such data set in {", ".join(map(str, folders))}; {remedy}')
    return found[0]


def _default_config(folder):
    """<name>/<default config> of a <name> that has configs, as TFDS noted it there."""
    note = folder / '.config' / 'metadata.json'
    return folder / read_json(note)['default_config_name'] if note.is_file() else folder


def _versions(folder):
    if not folder.is_dir():
        return []
    prepared = [
        path
        for path in folder.iterdir()
        if VERSION.fullmatch(path.name) and (path / 'dataset_info.json').is_file()
    ]
    return sorted(prepared, key=lambda path: tuple(map(int, path.name.split('.'))))


def _records(spec, data_dir, limit=None):
    """Yields (row, PNG bytes, or uint8 grey or int16 HU [H, W, 1] or [D, H, W, 1] of a data set that keeps arrays)."""
    import tensorflow_datasets as tfds  # 0.7 s, and only this room reads TFDS

    for dataset, split, label in parse(spec):
        folder = locate(dataset, data_dir)
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
                '[' in split and 'can not be of 0 length' in str(error) and len(parse(spec)) > 1
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
            name = {'label_name': names[example['label']]} if names else {}
            yield _plain(example) | name, stored


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
    from covjax import ct  # SimpleITK, which pictures do not need

    return Image.fromarray(ct.to_grey(plane))


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


def _plain(value):
    """What TFDS reads back, as plain Python: text as str, numbers as numbers, arrays as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def read_lineage(spec, data_dir):
    """The lineage records stored beside the data sets of a spec: what trained the generator that made them."""
    folders = dict.fromkeys(locate(dataset, data_dir) for dataset, _, _ in parse(spec))
    return [
        record
        for folder in folders
        if (folder / 'lineage.json').is_file()
        for record in read_json(folder / 'lineage.json')
    ]


def batch_indices(step, n, batch_size, seed):
    """Which of n examples form the batch of a step: int [batch_size]. Every epoch is a new permutation; batches run on across epochs."""
    position = step * batch_size + np.arange(batch_size)
    epochs = position // n
    return np.concatenate(
        [
            np.random.default_rng([seed, epoch]).permutation(n)[position[epochs == epoch] % n]
            for epoch in np.unique(epochs)
        ]
    )


def padded_batches(arrays, batch_size):
    """{name: [N, ...]} -> batches of exactly batch_size with a bool 'mask'; the last is filled up with copies of its first example."""
    n = len(next(iter(arrays.values())))
    for start in range(0, n, batch_size):
        index = np.arange(start, start + batch_size)
        mask = index < n
        yield {name: array[np.where(mask, index, start)] for name, array in arrays.items()} | {
            'mask': mask
        }


def predict(apply, images, batch_size, progress=''):
    """The one forward pass over a data set: apply (uint8 [B, H, W, C] -> array [B, ...], jittable) on every image once -> array [N, ...].

    `progress` captions a bar with rate and time left, on a screen only.
    """
    apply, outputs = jax.jit(apply), []
    with tqdm(
        total=len(images), desc=progress, unit='image', disable=None if progress else True
    ) as bar:
        for batch in padded_batches({'images': images}, batch_size):
            outputs.append(np.asarray(apply(batch['images']))[batch['mask']])
            bar.update(len(outputs[-1]))
    return np.concatenate(outputs)

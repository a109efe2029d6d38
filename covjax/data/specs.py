"""Specs: how data sets are named, and where they are stored.

A data set is named 'name/config:split', for example 'luna16_patches/nodules:train',
'covid_ct:train[:80%]' or 'covid_ct:test@noncovid' (one class only). 'covid_ct:train[25~3]@covid'
is 25 examples of that class at random, drawn with seed 3; more of the same seed include fewer. '+'
mixes several: 'synthetic_covid_ct:train+covid_ct:train@noncovid'. A comma separates data sets that
stay apart.
`data_dir` is TFDS's own folder by default; several folders, separated by commas, are searched in
turn.
"""

import pathlib
import re
from typing import TypedDict

from covjax import InputError, installation
from covjax.workdir import read_json

DEFAULT_DIR = '~/tensorflow_datasets'
PART = re.compile(
    r'(?:(?P<dataset>[a-z]\w*(?:/\w+)?):)?'
    r'(?P<split>[a-z]\w*(?:\[[^\]]*\])?)'
    r'(?:@(?P<label>\w+))?'
)
DRAWN = re.compile(r'(?P<split>\w+)\[(?P<count>\d{1,9})~(?P<seed>\d{1,9})\]')
VERSION = re.compile(r'\d+\.\d+\.\d+')
ORDER = ('train', 'validation', 'test')  # of splits; others come last


class Named(TypedDict):
    """A split in a dataset_info.json of TFDS."""

    name: str


class DatasetInfo(TypedDict):
    """The parts of a dataset_info.json of TFDS that are read."""

    splits: list[Named]


class Metadata(TypedDict):
    """The parts of a .config/metadata.json of TFDS that are read."""

    default_config_name: str


def parse(spec: str) -> list[tuple[str, str, str | None]]:
    """Takes a spec apart.

    Returns:
        [(data set, split, label or None)]; of 'a/b:train+test@covid' that is
        [('a/b', 'train', None), ('a/b', 'test', 'covid')].

    Raises:
        InputError: it is no spec.
    """
    parts, dataset = [], None
    for text in spec.split('+'):
        match = PART.fullmatch(text.strip())
        dataset = (match and match['dataset']) or dataset
        if not match or not dataset:
            raise InputError(
                f"'{spec}' is not a data set; write name/config:split, "
                'for example covid_ct:train or luna16_patches/nodules:test'
            )
        parts.append((dataset, match['split'], match['label']))
    return parts


def drawn(split):
    """What a split with a number of examples to draw is made of.

    Args:
        split: such as 'train[25~3]'.

    Returns:
        (split as TFDS has it, number of examples, seed), or None of any other split.

    Raises:
        InputError: it looks like such a split, and is none.
    """
    match = DRAWN.fullmatch(split)
    if '~' in split and not match:
        raise InputError(f"'{split}': write [NUMBER~SEED], for example train[25~3]")
    return match and (match['split'], int(match['count']), int(match['seed']))


def part(dataset, split, label):
    """One part of what `parse` returns, written as a spec: 'a/b:test@covid', or 'a/b:train'."""
    return f'{dataset}:{split}@{label}' if label else f'{dataset}:{split}'


def splits(spec: str, data_dir: str) -> list[tuple[str, str]]:
    """Returns [(data set, split)] of a spec; all splits of a data set that is named without one.

    Raises:
        InputError: it is no spec, or there is no such data set.
    """
    return [(dataset, split) for dataset, split, _ in every_part(spec, data_dir)]


def every_part(spec, data_dir):
    """What `parse` returns of a spec, of all splits where it names none: 'a/b' or 'a/b@covid'.

    Raises:
        InputError: it is no spec, or there is no such data set.
    """
    if ':' in spec:
        return parse(spec)
    dataset, _, label = spec.partition('@')
    info = read_json(locate(dataset, data_dir) / 'dataset_info.json', DatasetInfo)
    names = [split['name'] for split in info['splits']]
    rank = lambda name: ORDER.index(name) if name in ORDER else len(ORDER)
    return [(dataset, name, label or None) for name in sorted(names, key=rank)]


def locate(dataset: str, data_dir: str) -> pathlib.Path:
    """Finds a prepared data set: <data_dir>/<name>[/<config>]/<version>, the newest version.

    Args:
        dataset: 'name/config', or 'name' for the default config.
        data_dir: one or several folders, separated by commas; '' is DEFAULT_DIR.

    Returns:
        pathlib.Path.

    Raises:
        InputError: it is in none of the folders, or in two.
    """
    folders = [
        pathlib.Path(folder.strip()).expanduser() for folder in (data_dir or DEFAULT_DIR).split(',')
    ]
    found = []
    for folder in folders:
        versions = _versions(_default_config(folder / dataset)) or _versions(folder / dataset)
        found += versions[-1:]
    if len(found) > 1:
        raise InputError(
            f'{dataset} is in {found[0]} and in {found[1]}; '
            'leave one of the two out of config.data_dir'
        )
    if not found:
        places = ', '.join(map(str, folders))
        raise InputError(f'{dataset}: no such data set in {places}; {_remedy(dataset, folders)}')
    return found[0]


def _remedy(dataset, folders):
    """What to do about a data set that is not there."""
    configs = []
    for folder in folders:
        if (folder / dataset).is_dir():
            children = (folder / dataset).iterdir()
            configs += [f'{dataset}/{child.name}' for child in children if _versions(child)]
    if configs:
        return f'name one of {", ".join(sorted(configs))}'
    if dataset.startswith('synthetic_'):
        return 'add the data folder of the synthesize run to config.data_dir'
    return (
        f'run {installation.stage("prepare")} --config.dataset={dataset} --config.source=RAW_FOLDER'
    )


def _default_config(folder):
    """<name>/<default config> of a <name> that has configs, as TFDS noted it there."""
    note = folder / '.config' / 'metadata.json'
    return folder / read_json(note, Metadata)['default_config_name'] if note.is_file() else folder


def _versions(folder):
    """The prepared versions in a folder, the newest last."""
    if not folder.is_dir():
        return []
    prepared = [
        path
        for path in folder.iterdir()
        if VERSION.fullmatch(path.name) and (path / 'dataset_info.json').is_file()
    ]
    return sorted(prepared, key=lambda path: tuple(map(int, path.name.split('.'))))


def test_names(config):
    """Returns {spec: what tables call it} of config.tests, by config.names where it is set.

    Raises:
        InputError: config.tests is empty, or config.names does not give each a name of its own.
    """
    specs = [spec.strip() for spec in config.tests.split(',') if spec.strip()]
    if not specs:
        raise InputError('config.tests is empty; name data sets, for example covid_ct:test')
    given = config.names
    names = [name.strip() for name in given.split(',')] if given else specs
    if len(names) != len(specs):
        raise InputError(
            f'config.names={given}: names {len(names)} of {len(specs)} test sets of config.tests; '
            'give a name for each, or none'
        )
    if len(set(names)) < len(names):
        raise InputError(f'config.names={given}: two test sets have one name; give each its own')
    return dict(zip(specs, names))

"""Specs: how data sets are named, and where they lie.

A data set is named 'name/config:split', for example 'luna16_patches/nodules:train', 'covid_ct:train[:80%]' or
'covid_ct:test@noncovid' (one class only). '+' mixes several: 'synthetic_covid_ct:train+covid_ct:train@noncovid'.
A comma separates data sets that stay apart. `data_dir` is TFDS's own folder by default; several folders,
separated by commas, are searched in turn.
"""

import pathlib
import re

from covjax import InputError
from covjax.workdir import read_json

DEFAULT_DIR = '~/tensorflow_datasets'
PART = re.compile(
    r'(?:(?P<dataset>[a-z]\w*(?:/\w+)?):)?(?P<split>[a-z]\w*(?:\[[^\]]*\])?)(?:@(?P<label>\w+))?'
)
VERSION = re.compile(r'\d+\.\d+\.\d+')


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


def test_names(config):
    """{spec: what tables call it} of config.tests."""
    specs = [spec.strip() for spec in config.tests.split(',') if spec.strip()]
    if not specs:
        raise InputError('config.tests is empty; name data sets, for example covid_ct:test')
    names = (
        [name.strip() for name in config.get('names', '').split(',')]
        if config.get('names', '')
        else specs
    )
    if len(names) != len(specs):
        raise InputError(
            f'config.names={config.names}: names {len(names)} of {len(specs)} test sets of config.tests; give a name for each, or none'
        )
    if len(set(names)) < len(names):
        raise InputError(
            f'config.names={config.names}: two test sets have one name; give each its own'
        )
    return dict(zip(specs, names))

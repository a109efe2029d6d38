"""What a result was made by, and from: hashes that go into its file, and that readers compare.

A result that has another config beside it than the one that made it is refused. No path goes into a
hash, so a workdir may be moved, copied or zipped.
"""

import hashlib
import json
import pathlib
from typing import NotRequired, TypedDict

from covjax import InputError, __version__, hashes
from covjax.workdir import AGAIN, MAY_CHANGE, added_keys, read_json, upgraded

# Keys that say where something lies, or '' for nothing. What lies there is known by `made_from`.
PLACES = {
    'audits',
    'classifier',
    'cyclegan',
    'data_dir',
    'drawn',
    'evaluations',
    'generator',
    'lesion_segmenter',
    'lung_segmenter',
    'maps',
    'predicted',
    'pretrained',
    'procedural',
    'quality',
    'scores',
    'segmenter',
    'segmenters',
    'source',
    'start',
    'synthetic',
    'table',
}


class Upstream(TypedDict):
    """What is noted of a run that a result was made from."""

    config_hash: str
    content: str  # hash of the arrays of a network, or of synthetic images


class Provenance(TypedDict):
    """What every file of results has, besides what it found; files of 0.5.0 have none of it."""

    covjax: NotRequired[str]  # version
    config_hash: NotRequired[str]
    # By the key of the config that names it.
    made_from: NotRequired[dict[str, Upstream | list[Upstream]]]


def of(config, **made_from):
    """The Provenance of what a run makes.

    Args:
        config: ConfigDict of the run.
        made_from: Upstream, or several in a list, by the key that named them, such as classifier.
    """
    return {
        'covjax': __version__,
        'config_hash': config_hash(config),
        'made_from': made_from,
    }


def network(run):
    """The Upstream of a training (trained.Trained)."""
    return {'config_hash': run.config_hash, 'content': hashes.of_network(run.variables)}


def beside(config, workdir):
    """What a checkpoint keeps of the files of its workdir that say how it came about.

    Args:
        config: ConfigDict of the training.
        workdir: its folder.

    Returns:
        {name: hash}: of config.json what `config_hash` is, of lineage.json and classes.json, where
        they are, of the file.
    """
    files = [pathlib.Path(workdir) / name for name in ('lineage.json', 'classes.json')]
    hashed = {file.name: hashes.of_bytes(file.read_bytes()) for file in files if file.is_file()}
    return {'config.json': config_hash(config), **hashed}


def images(workdir):
    """The Upstream of a run of `synthesize` or `synthesize_pairs`, by its workdir."""
    workdir = pathlib.Path(workdir)
    read(workdir, 'synthetic/meta.json', dict)  # of this config
    config = read_json(workdir / 'config.json', dict)
    return {'config_hash': config_hash(config), 'content': hash_of_images(workdir / 'synthetic')}


def hash_of_images(folder):
    """The SHA-256 of a folder of synthetic images (pathlib.Path): of manifest and pictures."""
    content = hashlib.sha256((folder / 'manifest.jsonl').read_bytes())
    for file in sorted((folder / 'images').iterdir()):
        content.update(file.read_bytes())
    return content.hexdigest()


def of_places(config):
    """What lies at the places that a config names, where trainings do.

    Args:
        config: ConfigDict.

    Returns:
        {key: hash of all checkpoints of the training there}.
    """
    found = {}
    for key in PLACES & set(config):
        if not isinstance(config[key], str) or not config[key]:
            continue
        sums = sorted(pathlib.Path(config[key]).glob('checkpoints/[0-9]*/sums/metadata'))
        if sums:
            found[key] = hashes.of_bytes(b''.join(file.read_bytes() for file in sums))
    return found


def config_hash(config):
    """The hash of what a config asks for, so that a later version finds the same one.

    Of places counts whether there is one. Keys that may change do not count, nor do keys that came
    later as long as they mean what was done before them.

    Args:
        config: ConfigDict, or the dict that config.json has.

    Returns:
        32 hexadecimal digits.
    """
    tree = config if isinstance(config, dict) else json.loads(config.to_json())
    return hashes.of_bytes(json.dumps(asked_for(upgraded(tree)), sort_keys=True).encode())


def asked_for(config):
    """What is hashed of a config (dict, with the keys of this version), in nested ones too."""
    if not isinstance(config, dict):
        return config
    free = {'data_dir'} | (MAY_CHANGE if config.get('run') == 'train' else set())
    usual = added_keys(config)
    counts = lambda key: key not in free and (key not in usual or config[key] != usual[key])
    inside = {key: asked_for(value) for key, value in config.items() if isinstance(value, dict)}
    kept = {key: config[key] for key in config if key not in inside and counts(key)}
    return inside | {key: bool(kept[key]) if key in PLACES else kept[key] for key in kept}


def read(workdir, name, kind):
    """A file of results, compared with the config beside it.

    Args:
        workdir: of the run that made it.
        name: of the file.
        kind: type of its content, as covjax.workdir.read_json takes it.

    Raises:
        InputError: it is missing or damaged, or was made with another config, as where a second
            run in the same folder was killed.
    """
    file = pathlib.Path(workdir) / name
    content = read_json(file, kind)
    config = pathlib.Path(workdir) / 'config.json'
    known = content.get('config_hash')
    if known and config.is_file() and known != config_hash(read_json(config, dict)):
        raise InputError(f'{file}: was made with another config than config.json there; {AGAIN}')
    return content

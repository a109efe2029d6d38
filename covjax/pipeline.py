"""A small "make" for runs: stages that build on one another, each in a folder of its own.

A stage that is finished is left alone, so the same command goes on where it was stopped. A stage is
made again when its config has changed, when a file that it left is gone, when a stage that it is
made from has been made again, or when another training lies where its config names one.

The whole folder of a pipeline may be moved: places inside it are noted from there.
"""

import json
import time
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from covjax import provenance
from covjax.workdir import claimed, duration, read_json, upgraded, write_json

NOTE = 'finished.json'  # of a finished stage: its config, and what it was made from and left
NOT_MISSED = (NOTE, 'lock', 'environment.json')
CURVES = 'tensorboard'  # a folder that nothing is made from, and that may be deleted


class Stage(NamedTuple):
    """One run of a pipeline."""

    folder: str  # below the folder of the pipeline; also its name
    config: ConfigDict
    needs: tuple[str, ...] = ()  # folders of the stages that it is made from


def follow(stages, workdir, find):
    """Makes every stage that is not finished yet, in order, and prints which and for how long.

    Args:
        stages: iterable of Stage; each comes after those it needs.
        workdir: pathlib.Path, the folder of the pipeline.
        find: function from config.run to run(config, folder); covjax.runs.find.

    Raises:
        InputError: whatever a stage refuses. What was finished before it is kept.
    """
    began, stages = time.monotonic(), list(stages)
    for i, (name, config, _) in enumerate(stages, 1):
        asked_for = _inside(json.loads(config.to_json()), workdir)
        if _is_finished(workdir / name, asked_for, provenance.of_places(config), workdir):
            print(f'== {name} is finished ({i} of {len(stages)})', flush=True)
            continue
        passed = duration(time.monotonic() - began)
        print(f'\n== {name} ({i} of {len(stages)}), {passed} after the start', flush=True)
        with claimed(config, workdir / name) as folder:
            for stale in {name} | _made_from(name, stages):
                (workdir / stale / NOTE).unlink(missing_ok=True)
            find(config.run)(config, folder)
        left = {'made_from': provenance.of_places(config), 'files': _files(folder)}
        write_json(folder / NOTE, asked_for | left)
        jax.clear_caches()  # programs of this stage are of no use to the next


def _is_finished(folder, asked_for, made_from, workdir):
    """Whether a stage has been finished as its config asks for, and all that it left is there.

    Args:
        folder: pathlib.Path of the stage.
        asked_for: its config, a dict, as `_inside` returns it.
        made_from: what provenance.of_places finds of it now.
        workdir: pathlib.Path of the pipeline.
    """
    if not (folder / NOTE).is_file():
        return False
    known = upgraded(read_json(folder / NOTE, dict))
    was_made_from, files = known.pop('made_from', made_from), known.pop('files', [])
    if was_made_from != made_from or _inside(known, workdir) != asked_for:
        return False
    gone = next((name for name in files if not (folder / name).is_file()), None)
    if gone:
        print(f'{folder / gone} is gone; its stage is made again', flush=True)
    return gone is None


def _inside(value, workdir):
    """A config as dicts and plain values, with places inside a folder as seen from there.

    Places in one text are separated by commas.
    """
    if isinstance(value, dict):
        return {key: _inside(child, workdir) for key, child in value.items()}
    if not isinstance(value, str):
        return value
    places = (place.removeprefix(f'{workdir}/') for place in value.split(','))
    return ','.join(places)


def _files(folder):
    """What a finished stage left in its folder (pathlib.Path), sorted names from there."""
    names = (
        file.relative_to(folder)
        for file in folder.rglob('*')
        if file.is_file() and file.name not in NOT_MISSED
    )
    return sorted(str(name) for name in names if CURVES not in name.parts)


def _made_from(name, stages):
    """Folders of the stages that are made from one, or from what is made from it."""
    found = {name}
    for stage in stages:  # each comes after those it needs
        if not found.isdisjoint(stage.needs):
            found.add(stage.folder)
    return found - {name}


def with_keys(config, **keys):
    """A copy of a config, references resolved, with keys set, such as folders of other stages."""
    config = config.copy_and_resolve_references()
    config.update(keys)
    return config

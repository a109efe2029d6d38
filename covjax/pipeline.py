"""A small "make" for runs: stages that build on one another, each in a folder of its own.

A stage that is finished is left alone, so the same command goes on where it was stopped. A stage is
made again when its config has changed, when a stage that it is made from has been made again, or
when another training lies where its config names one.
"""

import json
import time
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from covjax import provenance
from covjax.workdir import claimed, duration, read_json, upgraded, write_json


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
        folder, as_written = workdir / name, json.loads(config.to_json())
        note, made_from = folder / 'finished.json', provenance.of_places(config)
        known = upgraded(read_json(note, dict)) if note.is_file() else {}
        if known.pop('made_from', made_from) == made_from and known == as_written:
            print(f'== {name} is finished ({i} of {len(stages)})', flush=True)
            continue
        passed = duration(time.monotonic() - began)
        print(f'\n== {name} ({i} of {len(stages)}), {passed} after the start', flush=True)
        with claimed(config, folder):
            for stale in {name} | _made_from(name, stages):
                (workdir / stale / 'finished.json').unlink(missing_ok=True)
            find(config.run)(config, folder)
        write_json(note, as_written | {'made_from': made_from})
        jax.clear_caches()  # programs of this stage are of no use to the next


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

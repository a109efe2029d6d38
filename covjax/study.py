"""A protocol from end to end: CycleGAN, synthetic data set, classifiers of several backbones and seeds, their evaluations, one report.

Every part has a folder of its own under the workdir and is what its own command would make. A part that is finished is left alone, so the same command goes on where
it was stopped; a part whose config or upstream parts have changed is made again.
"""

import json
import time

import jax

from covjax import InputError, data, evaluate, report, synthesize, train
from covjax.log import duration
from covjax.models import MODELS
from covjax.workdir import claimed, read_json, write_json

RUN = {
    'train': train.run,
    'synthesize': synthesize.run,
    'evaluate': evaluate.run,
    'report': report.run,
}


def run(config, workdir):
    """Every part of a config (configs/clean.py, configs/paper.py)."""
    check(config)
    follow(parts(config, workdir, config.data_dir), workdir)


def check(config):
    """Names a missing data set now and not after hours of training."""
    train_sets = config.classifier.train + '+' + config.evaluate.tests.replace(',', '+')
    for spec in (
        config.cyclegan.cancer,
        config.cyclegan.covid,
        *config.cyclegan.val.split(','),
        config.classifier.val,
        train_sets,
    ):
        for dataset, _, _ in data.parse(spec):
            if dataset != 'synthetic_covid_ct':
                data.locate(dataset, config.data_dir)
    for name in config.runs:
        model, _, seed = name.partition(':')
        if model not in MODELS or not seed.isdigit():
            raise InputError(
                f"config.runs: '{name}' is not a backbone and a seed; write {next(iter(MODELS))}:0, with one of {', '.join(MODELS)}"
            )


def follow(planned, workdir):
    """Makes what is not finished yet of parts (folder under workdir, config, folders of the parts it is made from), in order."""
    began, planned, fresh = time.monotonic(), list(planned), set()
    for i, (name, stage, needs) in enumerate(planned, 1):
        folder, as_written = workdir / name, json.loads(stage.to_json())
        note = folder / 'finished.json'
        if note.is_file() and read_json(note) == as_written and not fresh & set(needs):
            print(f'== {name} is finished ({i} of {len(planned)})', flush=True)
            continue
        print(
            f'\n== {name} ({i} of {len(planned)}), {duration(time.monotonic() - began)} after the start',
            flush=True,
        )
        with claimed(stage, folder):
            note.unlink(missing_ok=True)
            RUN[stage.run](stage, folder)
        write_json(note, as_written)
        fresh.add(name)
        jax.clear_caches()  # programs of this part are of no use to the next


def parts(config, workdir, data_dir):
    """Yields (folder, config, folders of the parts it is made from)."""
    both = f'{data_dir or data.DEFAULT_DIR},{workdir / "synthesize" / "data"}'
    synthetic, runs = ['cyclegan', 'synthesize'], [name.partition(':') for name in config.runs]
    yield 'cyclegan', changed(config.cyclegan, data_dir=data_dir), []
    yield (
        'synthesize',
        changed(config.synthesize, generator=str(workdir / 'cyclegan'), data_dir=data_dir),
        ['cyclegan'],
    )
    for model, _, seed in runs:
        yield (
            f'classifier/{model}_{seed}',
            changed(config.classifier, model=model, seed=int(seed), data_dir=both),
            synthetic,
        )
    for model, _, seed in runs:
        name = f'{model}_{seed}'
        yield (
            f'evaluate/{name}',
            changed(config.evaluate, classifier=str(workdir / 'classifier' / name), data_dir=both),
            [*synthetic, f'classifier/{name}'],
        )
    evaluations = [f'evaluate/{model}_{seed}' for model, _, seed in runs]
    yield (
        'report',
        changed(
            config.report,
            evaluations=','.join(str(workdir / name) for name in evaluations),
            synthetic=str(workdir / 'synthesize'),
        ),
        [*synthetic, *evaluations],
    )


def changed(stage, **keys):
    """A copy of a stage's config with what only its place in the study can tell."""
    stage = stage.copy_and_resolve_references()
    stage.update(keys)
    return stage

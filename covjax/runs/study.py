"""A protocol from end to end.

CycleGAN, synthetic data set, classifiers of several backbones and seeds, their evaluations, and one
report.

Every stage has a folder of its own under the workdir and is what its own command would make. The
same command goes on where it was stopped (covjax.pipeline).
"""

import re

from covjax import InputError, pipeline, runs
from covjax.data import specs
from covjax.models import MODELS
from covjax.pipeline import Stage, with_keys

SEED = re.compile('[0-9]{1,9}')  # of fewer than 32 bits
TRANSLATION = ('cyclegan', 'synthesize')  # the stages that make the synthetic data set


def run(config, workdir):
    """Makes every stage of a study (configs/clean.py, configs/paper.py)."""
    check(config)
    pipeline.follow(stages(config, workdir, config.data_dir), workdir, runs.find)


def check(config):
    """Refuses a missing data set or a wrong entry of config.runs before hours of training."""
    train_sets = config.classifier.train + '+' + config.evaluate.tests.replace(',', '+')
    needed = (config.cyclegan.cancer, config.cyclegan.covid, *config.cyclegan.val.split(','))
    for spec in (*needed, config.classifier.val, train_sets):
        for dataset, _, _ in specs.parse(spec):
            if dataset != 'synthetic_covid_ct':
                specs.locate(dataset, config.data_dir)
    for name in config.runs:
        model, _, seed = name.partition(':')
        if model not in MODELS or not SEED.fullmatch(seed):
            raise InputError(
                f"config.runs: '{name}' is not a backbone and a seed; "
                f'write {next(iter(MODELS))}:0, with one of {", ".join(MODELS)}'
            )


def stages(config, workdir, data_dir):
    """Yields the Stages of a study.

    Args:
        config: of configs/clean.py or configs/paper.py: config.runs names the classifiers as
            BACKBONE:SEED, the other keys are the configs of the stages.
        workdir: pathlib.Path of the study.
        data_dir: where the real data sets lie; the synthetic one lies in the stage `synthesize`.
    """
    synthetic = synthetic_dir(workdir)
    yield from translation(config, workdir, data_dir)
    both = with_synthetic(workdir, data_dir)
    names = [run_name.replace(':', '_') for run_name in config.runs]
    for name, run_name in zip(names, config.runs):
        model, _, seed = run_name.partition(':')
        classifier = with_keys(config.classifier, model=model, seed=int(seed), data_dir=both)
        yield training(name, classifier)
    for name in names:
        yield judging(workdir, 'evaluate', name, with_keys(config.evaluate, data_dir=both))
    evaluations = tuple(f'evaluate/{name}' for name in names)
    folders = ','.join(str(workdir / name) for name in evaluations)
    report = with_keys(config.report, evaluations=folders, synthetic=str(synthetic))
    yield Stage('report', report, (*TRANSLATION, *evaluations))


def synthetic_dir(workdir):
    """The workdir of the stage `synthesize` of the study in a folder (pathlib.Path)."""
    return workdir / 'synthesize'


def with_synthetic(workdir, data_dir):
    """The folders where a study finds its data sets: the real ones, and its own synthetic one."""
    return f'{data_dir or specs.DEFAULT_DIR},{synthetic_dir(workdir) / "data"}'


def translation(config, workdir, data_dir):
    """Yields the Stages that make the synthetic data set; arguments as for `stages`."""
    yield Stage('cyclegan', with_keys(config.cyclegan, data_dir=data_dir))
    generator = str(workdir / 'cyclegan')
    synthesize = with_keys(config.synthesize, generator=generator, data_dir=data_dir)
    yield Stage('synthesize', synthesize, ('cyclegan',))


def training(name, config):
    """The Stage that trains a classifier by a config, under a name."""
    return Stage(f'classifier/{name}', config, TRANSLATION)


def judging(workdir, stage, name, config):
    """The Stage that evaluates or audits the classifier that `training` made under a name.

    Args:
        workdir: pathlib.Path of the study.
        stage: evaluate or audit.
        name: of the classifier.
        config: of that stage.
    """
    trained = f'classifier/{name}'
    config = with_keys(config, classifier=str(workdir / trained))
    return Stage(f'{stage}/{name}', config, (*TRANSLATION, trained))

"""The experiments of an audit: classifiers trained on images of stand-ins and on mixtures.

They are stages of a pipeline (covjax.pipeline) below the folder of the experiments:

    controls/NAME/{synthesize,classifier,evaluate}      NAME of a stand-in, or 'translated'
    mixing/SHARE/{classifier,evaluate}                  SHARE of synthetic images, in per cent

All are trained as the audited classifier was, and evaluated on the audit's tests of real images.
"""

import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from covjax import InputError, provenance
from covjax.audit import mixing, stand_ins
from covjax.data import datasets, lineage, results, specs
from covjax.pipeline import Stage, with_keys
from covjax.workdir import read_config, read_json, write_json

TRAIN = 'synthetic_covid_ct:train'  # what stand-ins and mixtures train on
# Keys of the audited classifier that an experiment does not inherit: what it is a run of, what it
# learns from and where that lies, the run that it began with, and how often it prints. It inherits
# all others, so that nothing but the images differs.
NOT_INHERITED = {'run', 'task', 'train', 'start', 'data_dir', 'log_every'}


class Plan(NamedTuple):
    """What the experiments of an audit have in common."""

    config: ConfigDict  # of the audit
    inherited: dict  # keys of the audited classifier
    tests: dict[str, str]  # {name: spec} of the tests of real images
    data_dir: str  # where the data sets lie
    synthetic_dir: pathlib.Path  # where the synthetic data set of config.synthetic lies
    covid_images: int  # real ones of config.baseline, and so of every mixture
    synthetic_images: int  # that there are to train on
    folder: pathlib.Path  # of the experiments


def stages(config, subject, audited, data_dir, folder):
    """The stages of every stand-in and every mixture.

    Args:
        config: of the audit; config.synthetic names a synthesize run.
        subject: verdict.Subject; its tests and its real images are used.
        audited: config of the audited classifier.
        data_dir: where the data sets lie.
        folder: pathlib.Path of the experiments.

    Returns:
        [pipeline.Stage], each after those it needs; [] where no test has real images alone.

    Raises:
        InputError: a key of the config does not suit, or the protocol refuses a test. Nothing has
            been trained then.
    """
    synthesis = read_config(config.synthetic, 'synthesize', 'synthetic')
    baseline = _whole_split(config.baseline)
    plan = _plan(config, subject, audited, data_dir, folder)
    _refuse_overlap(plan, subject.real.rows)
    if not plan.tests:
        return []
    found = _train_and_evaluate(plan, f'{stand_ins.FOLDER}/translated', TRAIN, plan.synthetic_dir)
    for stand_in in config.stand_ins:
        found += _stand_in_stages(plan, stand_in, synthesis)
    for share in config.shares:
        found += _mixture_stages(plan, share, baseline)
    return found


def inherited(audited):
    """What experiments take over from the config of the audited classifier, {key: value}."""
    return {key: value for key, value in audited.items() if key not in NOT_INHERITED}


def claim(folder, synthetic, audited):
    """Records in a folder what its experiments are made of.

    Args:
        folder: pathlib.Path of the experiments.
        synthetic: workdir of the synthesize run.
        audited: config of the audited classifier.

    Raises:
        InputError: they were made of other synthetic images or with another kind of classifier, and
            what is finished there would be taken for these experiments.
    """
    note = folder / 'made_of.json'
    about = {key: audited[key] for key in ('model', 'seed', 'steps', 'image_size')}
    images = provenance.hash_of_images(pathlib.Path(synthetic) / 'synthetic')
    about = {'synthetic': images, **about}
    known = read_json(note, dict[str, Any]) if note.is_file() else {}
    changed = [key for key, value in known.items() if about.get(key) != value]
    if changed:
        raise InputError(
            f'config.experiments={folder}: was made with another {" and ".join(changed)}; '
            'choose another folder'
        )
    write_json(note, about)


def read_results(stages, folder):
    """{'controls/jpeg': [data.results.Result]} of finished stages below a folder (pathlib.Path)."""
    evaluations = [stage.folder for stage in stages if stage.config.run == 'evaluate']
    return {
        name.removesuffix('/evaluate'): results.read(folder / name).results for name in evaluations
    }


def _whole_split(baseline):
    """'name/config:split' of config.baseline, of which mixtures take shares."""
    (dataset, split, label), *more = specs.parse(baseline)
    if more or label or '[' in split:
        raise InputError(
            f'config.baseline={baseline}: mixtures take shares of it; '
            'name one whole split with both classes, such as covid_ct:train'
        )
    return f'{dataset}:{split}'


def _plan(config, subject, audited, data_dir, folder):
    """The Plan of an audit; arguments as of `stages`."""
    is_real = lambda images: not any(row.source_sha256 for row in images.rows)
    synthetic_dir = pathlib.Path(config.synthetic).resolve() / 'data'
    return Plan(
        config=config,
        inherited={k: v for k, v in inherited(audited).items() if k in config.train},
        tests={name: test.spec for name, test in subject.tests.items() if is_real(test)},
        data_dir=data_dir or specs.DEFAULT_DIR,
        synthetic_dir=synthetic_dir,
        covid_images=int(subject.real.labels.sum()),
        synthetic_images=len(datasets.read_rows(TRAIN, str(synthetic_dir))),
        folder=folder,
    )


def _refuse_overlap(plan, real):
    """Raises an InputError where the protocol forbids a test that an experiment would learn from.

    `real` are the rows of config.baseline.
    """
    config = plan.config
    records = lineage.read(pathlib.Path(config.synthetic))
    records += lineage.record({'train': config.baseline}, plan.data_dir, {'train': real})
    for spec in plan.tests.values():
        lineage.check(records, datasets.read_rows(spec, plan.data_dir), spec, config.protocol)


def _stand_in_stages(plan, stand_in, synthesis):
    """The stages of one stand-in.

    Args:
        plan: Plan.
        stand_in: its name.
        synthesis: config of the synthesize run in which it takes the generator's place.
    """
    name = f'{stand_ins.FOLDER}/{stand_in}'
    synthesize = with_keys(
        plan.config.synthesize,
        stand_in=stand_in,
        generator=synthesis.generator,
        cancer=synthesis.cancer,
        data_dir=synthesis.data_dir,
    )
    images = Stage(f'{name}/synthesize', synthesize)
    images_dir = plan.folder / images.folder / 'data'
    return [images, *_train_and_evaluate(plan, name, TRAIN, images_dir, (images.folder,))]


def _mixture_stages(plan, share, baseline):
    """The stages of one mixture.

    Args:
        plan: Plan.
        share: of synthetic images among those of COVID-19, per cent.
        baseline: 'name/config:split' of the real images.

    Raises:
        InputError: there are too few images for that share.
    """
    real = f'{baseline}[:{100 - share}%]' if share < 100 else ''
    kept = _count_covid(real, plan.data_dir) if real else 0
    wanted, available = plan.covid_images, plan.synthetic_images
    synthetic = wanted - kept
    if (real and not kept) or synthetic > available:
        raise InputError(
            f'config.shares: {share} % synthetic of {wanted} COVID-19 images leaves {kept} real '
            f'ones and needs {synthetic} of {available} synthetic ones; choose other shares'
        )
    parts = [f'{real}@covid'] if real else []
    if synthetic:
        parts.append(f'{TRAIN}[:{synthetic}]')
    name = f'{mixing.FOLDER}/{share}'
    return _train_and_evaluate(plan, name, '+'.join(parts), plan.synthetic_dir)


def _count_covid(spec, data_dir):
    """COVID-19 images of a share of a data set, which can be too small to have any."""
    try:
        return sum(row.label == 1 for row in datasets.read_rows(spec, data_dir))
    except InputError:
        return 0


def _train_and_evaluate(plan, name, covid, images_dir, needs=()):
    """The classifier of an experiment and its evaluation, [Stage].

    Args:
        plan: Plan.
        name: of the experiment.
        covid: spec of the COVID-19 images; non-COVID ones are those of config.baseline.
        images_dir: where the synthetic data set that it learns from lies.
        needs: folders of the stages that made it.
    """
    config, data_dir = plan.config, _data_dir(plan, images_dir)
    train = with_keys(
        config.train,
        **plan.inherited,
        train=f'{covid}+{config.baseline}@noncovid',
        data_dir=data_dir,
    )
    classifier = Stage(f'{name}/classifier', train, needs)
    evaluate = with_keys(
        config.evaluate,
        classifier=str(plan.folder / classifier.folder),
        tests=','.join(plan.tests.values()),
        names=','.join(plan.tests),
        baseline='',
        checkpoint=config.checkpoint,
        protocol=config.protocol,
        data_dir=data_dir,
    )
    return [classifier, Stage(f'{name}/evaluate', evaluate, (classifier.folder,))]


def _data_dir(plan, images_dir):
    """The folders of plan.data_dir, with images_dir for that of the synthetic data set."""
    resolved = lambda folder: pathlib.Path(folder).expanduser().resolve()
    folders = [folder.strip() for folder in plan.data_dir.split(',')]
    others = [folder for folder in folders if resolved(folder) != plan.synthetic_dir]
    return ','.join([*others, str(images_dir)])

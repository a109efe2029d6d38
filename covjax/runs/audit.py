"""A trained classifier -> audit.html and audit.json: what its score may rest on besides disease.

Each check (covjax.audit) answers one question with a verdict, a line of the page. The checks of
stand-ins and mixtures need experiments, which are trained first (covjax.audit.experiments).
"""

import pathlib
import string
from functools import partial

from covjax import InputError, __version__, choice, classifier, pipeline, runs
from covjax.audit import (
    attribution,
    calibration,
    experiments,
    grey_statistics,
    metadata_baseline,
    mixing,
    origin,
    overlap,
    pixel_baseline,
    regions,
)
from covjax.audit import stand_ins as stand_ins_check
from covjax.audit.verdict import FLAGS, Images, Subject
from covjax.data import batches, datasets, specs
from covjax.pages import html
from covjax.stand_ins import STAND_INS
from covjax.trained import data_dir_of, open_run
from covjax.workdir import write_json

# In the order of the page.
CHECKS = (
    metadata_baseline,
    pixel_baseline,
    grey_statistics,
    origin,
    overlap,
    stand_ins_check,
    regions,
    attribution,
    mixing,
    calibration,
)
BODY = string.Template("""\
<p class="quiet">covjax $version</p>
<p class="warning"><strong>Not for diagnosis.</strong> \
An audit can show that a score rests on something other than disease. \
It can not show that it rests on disease: a page without red flags is no proof.</p>
<p>$model, seed $seed, step $step, from $classifier. Trained on $train. $tests.</p>
<h2>Verdict: $flags red flags of $questions questions</h2>
$table
<p>Intervals cover 95 % of a bootstrap that draws whole patients (with their source document) or \
series. The thresholds are covjax's own; no standard sets them.</p>
<h2>One by one</h2>
$details""")


def run(config, workdir):
    """Trains the experiments that are not finished yet, and asks every check.

    Args:
        config: of configs/audit.py.
        workdir: pathlib.Path.

    Raises:
        InputError: a key of the config is wrong. Nothing has been trained then.
    """
    for name in config.stand_ins:
        choice({'stand_ins': name}, 'stand_ins', STAND_INS)
    network = open_run(config.classifier, 'classification', 'classifier', config.checkpoint)
    data_dir = data_dir_of(config)
    subject = gather(config, workdir / 'images', network, data_dir)
    if config.synthetic:
        folder = pathlib.Path(config.experiments or workdir / 'experiments')
        results = run_experiments(config, subject, network.config, data_dir, folder)
        subject = subject._replace(experiments=results)
    verdicts = []
    for check in CHECKS:
        verdict = check.check(subject)
        print(f'{FLAGS[verdict.flag]:12}{verdict.name}: {verdict.finding}', flush=True)
        verdicts.append(verdict)
    about = describe(config, network, subject.tests)
    write_json(workdir / 'audit.json', as_json(about, verdicts))
    page = html.document('Shortcut audit', body(about, verdicts))
    (workdir / 'audit.html').write_text(page, encoding='utf-8')
    print(f'{red_flags(verdicts)} red flags in {workdir / "audit.html"}')


def gather(config, folder, network, data_dir):
    """The Subject of a trained classifier, without experiments.

    Args:
        config: of the audit.
        folder: pathlib.Path where pictures of the audit go.
        network: trained.Trained of the classifier.
        data_dir: where the data sets lie.

    Raises:
        InputError: a data set does not suit, or two test sets have one name.
    """
    read = partial(read_images, data_dir=data_dir, size=network.config.image_size)
    tests = _read_tests(config, read)
    pairs = _parse_pairs(config.pairs)
    train, real = read(network.config.train), read(config.baseline)
    if set(real.labels) != {0, 1}:
        raise InputError(
            f'config.baseline={config.baseline}: needs images of both classes; '
            'name a split of covid_ct'
        )
    loaded = classifier.of_run(network)
    batched = partial(_batched, batch_size=config.batch_size)
    return Subject(
        folder=folder,
        score=batched(classifier.score(loaded)),
        train=train,
        validation=read(network.config.val),
        tests=tests,
        real=real,
        origins=origins(network.config.train, data_dir),
        lineage=network.lineage,
        attribute=batched(attribution.grad_cam(*loaded)),
        pairs=tuple(_read_pair(pair, read) for pair in pairs),
    )


def read_images(spec, data_dir, size):
    """The verdict.Images of a data set, at the size (pixels a side) that the network sees."""
    examples = datasets.read(spec, data_dir, size)
    native = datasets.read_native(spec, data_dir)
    return Images(spec, examples.images, examples.labels, examples.rows, native)


def origins(spec, data_dir):
    """{label: names of the data sets, without config, that have images of it} of a spec."""
    names = {0: set(), 1: set()}
    for dataset, split, label in specs.parse(spec):
        part = f'{dataset}:{split}@{label}' if label else f'{dataset}:{split}'
        for row in datasets.read_rows(part, data_dir):
            names[row.label].add(dataset.partition('/')[0])
    return names


def _batched(function, batch_size):
    """Extends a function of one batch of images to any number of them, a batch at a time."""
    return lambda images: batches.predict(function, images, batch_size)


def _read_tests(config, read):
    """{name: Images} of config.tests."""
    names = specs.test_names(config)
    tests = {name: read(spec) for spec, name in names.items()}
    for name, test in tests.items():
        if set(test.labels) != {0, 1}:
            raise InputError(
                f'config.tests: {name} ({test.spec}) needs images of both classes, covid and '
                'noncovid; add the missing one with +'
            )
    if 'validation' in tests:
        raise InputError(
            'config.names: validation is what the classifier was chosen on; '
            'give that test set another name'
        )
    return tests


def _parse_pairs(text):
    """[(spec, spec)] of config.pairs."""
    pairs = [
        tuple(spec.strip() for spec in pair.split(',')) for pair in text.split(';') if pair.strip()
    ]
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(
            f'config.pairs={text}: write pairs of data sets of one class, FIRST,SECOND, '
            'separated by semicolons'
        )
    return pairs


def _read_pair(pair, read):
    """(Images, Images) of two specs, which must be of one class."""
    first, second = (read(spec) for spec in pair)
    classes = [set(images.labels.tolist()) for images in (first, second)]
    if any(len(labels) > 1 for labels in classes) or {0, 1} <= classes[0] | classes[1]:
        raise InputError(
            f'config.pairs={",".join(pair)}: compares data sets within one class; '
            'add @covid or @noncovid to both'
        )
    return first, second


def run_experiments(config, subject, audited, data_dir, folder):
    """Trains and evaluates what is not finished yet.

    Args:
        config: of the audit.
        subject: verdict.Subject.
        audited: config of the audited classifier.
        data_dir: where the data sets lie.
        folder: pathlib.Path of the experiments.

    Returns:
        {experiment: [data.results.Result]}, a Subject's `experiments`.
    """
    stages = experiments.stages(config, subject, audited, data_dir, folder)
    if stages:
        experiments.claim(folder, config.synthetic, audited)
    pipeline.follow(stages, folder, runs.find)
    return experiments.read_results(stages, folder)


def describe(config, network, tests):
    """What audit.json and the page say of the audited classifier, a dict.

    Args:
        config: of the audit.
        network: trained.Trained of the classifier.
        tests: {name: verdict.Images}.
    """
    return {
        'classifier': str(config.classifier),
        'model': network.config.model,
        'seed': network.config.seed,
        'step': network.step,
        'train': network.config.train,
        'tests': {name: test.spec for name, test in tests.items()},
    }


def as_json(about, verdicts):
    """The content of audit.json: version, `about` (a dict of `describe`), and the verdicts."""
    lines = [verdict._asdict() for verdict in verdicts]
    for line in lines:
        del line['figures']
    return {'covjax': __version__, **about, 'verdicts': lines}


def red_flags(verdicts):
    """How many of the verdicts are red flags."""
    return sum(verdict.flag is True for verdict in verdicts)


def body(about, verdicts):
    """The HTML of the page: a table of all verdicts, and each with its table and figures.

    Args:
        about: dict of `describe`.
        verdicts: [verdict.Verdict].
    """
    tests = '; '.join(f'{name}: {spec}' for name, spec in about['tests'].items())
    lines = [(_flag(verdict), verdict.name, verdict.finding) for verdict in verdicts]
    return BODY.substitute(
        version=__version__,
        model=html.text(about['model']),
        seed=about['seed'],
        step=about['step'],
        classifier=html.text(about['classifier']),
        train=html.text(about['train']),
        tests=html.text(tests),
        flags=red_flags(verdicts),
        questions=sum(verdict.flag is not None for verdict in verdicts),
        table=html.table(['', 'question', 'finding'], lines),
        details='\n'.join(part for verdict in verdicts for part in _details(verdict)),
    )


def _flag(verdict):
    """The flag as a cell, bold where it is red."""
    text = FLAGS[verdict.flag]
    return html.raw(f'<strong>{text}</strong>') if verdict.flag else text


def _details(verdict):
    """Yields the parts of the page about one verdict."""
    yield f'<h3>{html.text(verdict.name)}: {FLAGS[verdict.flag]}</h3>'
    yield f'<p>{html.text(verdict.finding)}</p>'
    yield f'<p class="quiet">{html.text(verdict.rule)}</p>' if verdict.rule else ''
    if verdict.rows:
        yield html.table(verdict.columns, verdict.rows)
    for path, alt in verdict.figures:
        yield html.figure(path, alt, alt)

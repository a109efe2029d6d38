"""A trained classifier -> audit.html and audit.json: what its score may rest on besides disease.

Each check (covjax.audit) answers one question with a verdict, a line of the page. The checks of
stand-ins and mixtures need experiments, which are trained first (covjax.audit.experiments). Every
question is about one class, config.positive_class, against the rest.
"""

import pathlib
from functools import partial

import numpy as np

from covjax import (
    CLASSES,
    InputError,
    choice,
    classifier,
    counted,
    installation,
    lung_view,
    pipeline,
    provenance,
    runs,
    scan_classifier,
    scorer,
)
from covjax.audit import (
    attribution,
    calibration,
    experiments,
    grey_statistics,
    lesion_pairs,
    metadata_baseline,
    mixing,
    origin,
    overlap,
    page,
    pixel_baseline,
    regions,
    scan_metadata,
    scan_regions,
    slice_attribution,
)
from covjax.audit import stand_ins as stand_ins_check
from covjax.audit.verdict import Images, Member, Subject, ask
from covjax.classes import check_same, is_usual, listed, positive_class, titles
from covjax.data import batches, datasets, lineage, specs
from covjax.stand_ins import STAND_INS
from covjax.trained import data_dir_of
from covjax.workdir import write_json

# In the order of the page.
CHECKS_OF_SCANS = (
    scan_metadata,
    pixel_baseline,
    grey_statistics,
    origin,
    overlap,
    scan_regions,
    slice_attribution,
    calibration,
)
CHECKS = (
    metadata_baseline,
    pixel_baseline,
    grey_statistics,
    origin,
    overlap,
    stand_ins_check,
    lesion_pairs,
    regions,
    attribution,
    mixing,
    calibration,
)
# What the page gives to those who have a classifier of synthetic images and no experiments yet.
COMMAND = (
    f'{installation.stage("audit")} '
    '--workdir={workdir}_with_experiments '
    '--config.classifier={classifier} --config.synthetic={synthetic}'
)


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
    network = scorer.open_run(config.classifier, 'classifier', config.checkpoint)
    data_dir = data_dir_of(config)
    positive = positive_class(config, network.classes)
    _check(config, network, positive)
    subject = gather(config, workdir / 'images', network, data_dir)
    if config.synthetic:
        folder = pathlib.Path(config.experiments or workdir / 'experiments')
        results = run_experiments(config, subject, network.config, data_dir, folder)
        subject = subject._replace(experiments=results)
    verdicts = ask(CHECKS_OF_SCANS if scorer.sees_scans(network) else CHECKS, subject)
    made_from = {'classifier': provenance.network(network)}
    if config.synthetic:
        made_from['synthetic'] = provenance.images(config.synthetic)
    about = provenance.of(config, **made_from) | describe(config, network, subject.tests)
    write_json(workdir / 'audit.json', page.as_json(about, verdicts))
    command = missing(config, network, workdir, data_dir)
    page.write(workdir / 'audit.html', config.title, about, verdicts, command)
    print(f'{counted(page.red_flags(verdicts), "red flag")} in {workdir / "audit.html"}')


def _check(config, network, positive):
    """Refuses what an audit of a classifier cannot do; `positive` is the class that it is about."""
    sees_scans = scorer.sees_scans(network)
    if config.synthetic and (sees_scans or not is_usual(network.classes, positive)):
        about = 'whole scans' if sees_scans else f'{positive} among {", ".join(network.classes)}'
        raise InputError(
            f'config.synthetic={config.synthetic}: its experiments tell slices of '
            f'{" and ".join(CLASSES)} apart; leave it empty for an audit of {about}'
        )
    if sees_scans and network.config.lesion_segmenter:
        raise InputError(
            f'config.classifier={config.classifier}: sees patches around candidates for lesions, '
            'which no check knows; audit a classifier of whole slices'
        )


def missing(config, network, workdir, data_dir):
    """The command of an audit with experiments, '' where there are some, or none are possible.

    They are possible for slices, where the folder of a synthetic data set is one of `data_dir`.
    """
    if config.synthetic or scorer.sees_scans(network):
        return ''
    for folder in map(pathlib.Path, filter(None, (data_dir or '').split(','))):
        if (folder.parent / 'synthetic').is_dir():
            synthetic = folder.parent
            return COMMAND.format(
                workdir=workdir, classifier=config.classifier, synthetic=synthetic
            )
    return ''


def gather(config, folder, network, data_dir):
    """The Subject of a trained classifier, without experiments.

    Args:
        config: of the audit.
        folder: pathlib.Path where pictures of the audit go.
        network: trained.Trained of the classifier.
        data_dir: where the data sets lie.

    Raises:
        InputError: the classifier has no class config.positive_class, a data set does not suit, or
            two test sets have one name.
    """
    classes, positive = network.classes, positive_class(config, network.classes)
    read = partial(read_images, data_dir=data_dir, network=network)
    asked = partial(_against_rest, read, data_dir, classes, positive)
    tests = _read_tests(config, asked, (positive, *(name for name in classes if name != positive)))
    pairs = _parse_pairs(config.pairs)
    train = asked('config.classifier', network.config.train)
    real = asked('config.baseline', config.baseline) if config.baseline else train
    if set(real.labels) != {0, 1}:
        raise InputError(
            f'config.baseline={config.baseline}: needs images of {listed(classes)}; '
            'name a data set that has them, such as a split of covid_ct'
        )
    validation = asked('config.classifier', network.config.val)
    for role, images in (('train', train), ('val', validation)):
        lineage.check_same(network.lineage, role, images.examples, images.spec)
    return Subject(
        folder=folder,
        train=train,
        validation=validation,
        tests=tests,
        real=real,
        origins=origins(network.config.train, data_dir, positive),
        lineage=network.lineage,
        **_functions(config, network, positive),
        pairs=tuple(_read_pair(pair, read, classes) for pair in pairs),
        titles=titles(classes, positive),
        lungs=network.config.lungs,
    )


def _functions(config, network, positive):
    """The functions of a Subject: score, and attribute or, of a classifier of scans, weigh.

    Args:
        config: of the audit.
        network: trained.Trained of the classifier.
        positive: name of the positive class.
    """
    column = network.classes.index(positive)
    if scorer.sees_scans(network):
        say = scorer.applied(network, config.batch_size)
        shown = lambda bags: scorer.Shown(list(bags), None, [], [])
        return {
            'score': lambda bags: say(shown(bags), '').scores[:, column],
            'weigh': lambda bags: say(shown(bags), '').weights,
        }
    loaded = classifier.of_run(network)
    batched = partial(_batched, batch_size=config.batch_size)
    return {
        'score': batched(classifier.score(loaded, positive)),
        'attribute': batched(attribution.grad_cam(*loaded, column)),
    }


def read_images(spec, data_dir, network):
    """The verdict.Images of a data set, as a network (trained.Trained) is shown them.

    Labels are those of the data set. What probes see is what is stored, of scans a middle slice.
    """
    if scorer.sees_scans(network):
        found = scan_classifier.read(spec, data_dir, scorer.own_config(network))
        bags = np.empty(len(found.images), object)
        bags[:] = found.images
        native = list(zip(found.middles, found.rows))
        shown = Images(spec, bags, found.labels, found.rows, native)
        return shown._replace(places=found.places, lesions=found.lesions, slices=found.members)
    view, size = lung_view.of_run(network), network.config.image_size
    examples = lung_view.read(spec, data_dir, size, view)
    native = datasets.read_native(spec, data_dir)
    members = [_member(record) for record in datasets.records(spec, data_dir)]
    return Images(spec, examples.images, examples.labels, examples.rows, native, members)


def _member(record):
    """The Member of a datasets.Record; None where it is in no pair."""
    if record.gate is None:
        return None
    facts = record.row.others
    gate, before = (datasets.decoded(png) for png in (record.gate, record.before))
    return Member(facts['pair'], facts['kind'], gate, before)


def _against_rest(read, data_dir, classes, positive, key, spec):
    """The Images that config.`key` names, labelled by one class against the rest.

    Args:
        read: function from a spec to Images.
        data_dir: where the data sets lie.
        classes: names of the classes that the classifier tells apart.
        positive: one of them.
        key: such as 'config.tests', for the message.
        spec: of the data set.
    """
    if found := datasets.classes(spec, data_dir):
        check_same(f'{key}: {spec}', found, classes)
    return read(spec).against_rest(classes, positive)


def origins(spec, data_dir, positive):
    """The names of the data sets, without config, that images of a spec come from.

    Args:
        spec: of data sets with a label.
        data_dir: where they lie.
        positive: name of a class.

    Returns:
        {1: those of the class, 0: those of any other}.
    """
    names = {0: set(), 1: set()}
    for dataset, split, label in specs.parse(spec):
        for row in datasets.read_rows(specs.part(dataset, split, label), data_dir):
            names[int(row.label_name == positive)].add(dataset.partition('/')[0])
    return names


def _batched(function, batch_size):
    """Extends a function of one batch of images to any number of them, a batch at a time."""
    return lambda images: batches.predict(function, images, batch_size)


def _read_tests(config, read, classes):
    """{name: Images} of config.tests; `classes` has the positive one first."""
    names = specs.test_names(config)
    tests = {name: read('config.tests', spec) for spec, name in names.items()}
    for name, test in tests.items():
        if set(test.labels) != {0, 1}:
            raise InputError(
                f'config.tests: {name} ({test.spec}) needs images of {listed(classes)}; '
                'add the missing one with +'
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


def _read_pair(pair, read, classes):
    """(Images, Images) of two specs, which must be of one class.

    Names that are not among the `classes` of the classifier count as no label.
    """
    first, second = (read(spec) for spec in pair)
    known = lambda row: row.label_name if row.label_name in classes else ''
    found = [{known(row) for row in images.rows} for images in (first, second)]
    if any(len(names) > 1 for names in found) or len((found[0] | found[1]) - {''}) > 1:
        some = ' or '.join(f'@{name}' for name in reversed(classes))
        raise InputError(
            f'config.pairs={",".join(pair)}: compares data sets within one class; '
            f'add {some} to both'
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
    """What audit.json and the page say about the audited classifier, a dict.

    It has the classes and the positive one where the question is not COVID against non-COVID.

    Args:
        config: of the audit.
        network: trained.Trained of the classifier.
        tests: {name: verdict.Images}.
    """
    positive = positive_class(config, network.classes)
    asked = {'classes': list(network.classes), 'positive_class': positive}
    return {
        'classifier': str(config.classifier),
        'model': network.config.model,
        'seed': network.config.seed,
        'step': network.step,
        'train': network.config.train,
        'tests': {name: test.spec for name, test in tests.items()},
        **({} if is_usual(network.classes, positive) else asked),
    }

"""A trained classifier -> audit.html and audit.json: what its score may rest on besides disease, a verdict a line."""

import hashlib
import pathlib
from functools import partial

from covjax import InputError, __version__, classifier, pipeline, runs
from covjax.audit import (
    attribution,
    grey_statistics,
    metadata_baseline,
    mixing,
    origin,
    overlap,
    pixel_baseline,
    regions,
)
from covjax.audit import calibration as calibration_check
from covjax.audit import stand_ins as stand_ins_check
from covjax.audit.verdict import FLAGS, Images, Subject
from covjax.data import batches, datasets, lineage, specs
from covjax.pages import html
from covjax.stand_ins import STAND_INS
from covjax.trained import data_dir_of, open_run
from covjax.workdir import read_config, read_json, write_json

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
    calibration_check,
)
FROM_SUBJECT = (
    'model',
    'pretrained',
    'dtype',
    'batch_size',
    'image_size',
    'load_size',
    'steps',
    'eval_every',
    'learning_rate',
    'schedule',
    'warmup_steps',
    'weight_decay',
    'label_smoothing',
    'class_weights',
    'dropout',
    'bn_momentum',
    'freeze_steps',
    'body_rate',
    'best',
    'augment',
    'seed',
    'val',
)


def run(config, workdir):
    """Trains what controls and mixtures need, where it is not finished yet, and asks every check."""
    if wrong := [name for name in config.stand_ins if name not in STAND_INS]:
        raise InputError(
            f'config.stand_ins: {wrong[0]} is no control; choose from {", ".join(STAND_INS)}'
        )
    network = open_run(config.classifier, 'classification', 'classifier', config.checkpoint)
    trained, data_dir = network.config, data_dir_of(config)
    subject = gather(config, workdir / 'images', network, data_dir)
    folder = pathlib.Path(config.experiments or workdir / 'experiments')
    made = list(experiments(config, subject, trained, data_dir, folder)) if config.synthetic else []
    if made:
        _claim(folder, config.synthetic, trained)
    pipeline.follow(made, folder, runs.find)
    subject = subject._replace(
        experiments={
            name.removesuffix('/evaluate'): read_json(folder / name / 'results.json')['results']
            for name, _, _ in made
            if name.endswith('/evaluate')
        }
    )
    verdicts = []
    for check in CHECKS:
        verdicts.append(check.check(subject))
        print(
            f'{FLAGS[verdicts[-1].flag]:12}{verdicts[-1].name}: {verdicts[-1].finding}', flush=True
        )
    about = {
        'classifier': str(config.classifier),
        'model': trained.model,
        'seed': trained.seed,
        'step': network.step,
        'train': trained.train,
        'tests': {name: test.spec for name, test in subject.tests.items()},
    }
    rows = [
        {
            'name': one.name,
            'flag': one.flag,
            'finding': one.finding,
            'rule': one.rule,
            'columns': one.columns,
            'rows': one.rows,
        }
        for one in verdicts
    ]
    write_json(workdir / 'audit.json', {'covjax': __version__, **about, 'verdicts': rows})
    (workdir / 'audit.html').write_text(_page(about, verdicts), encoding='utf-8')
    print(f'{sum(one.flag is True for one in verdicts)} red flags in {workdir / "audit.html"}')


def gather(config, folder, network, data_dir):
    """The Subject of a trained classifier, without experiments."""
    trained = network.config
    read = partial(_read, data_dir=data_dir, size=trained.image_size)
    names = specs.test_names(config)
    tests = {name: read(spec) for spec, name in names.items()}
    for name, test in tests.items():
        if set(test.labels) != {0, 1}:
            raise InputError(
                f'config.tests: {name} ({test.spec}) needs images of both classes, covid and noncovid; add the missing one with +'
            )
    if 'validation' in names.values():
        raise InputError(
            'config.names: validation is what the classifier was chosen on; give that test set another name'
        )
    pairs = [pair.split(',') for pair in config.pairs.split(';') if pair.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(
            f'config.pairs={config.pairs}: write pairs of data sets of one class, FIRST,SECOND, separated by semicolons'
        )
    train, real = read(trained.train), read(config.baseline)
    if set(real.labels) != {0, 1}:
        raise InputError(
            f'config.baseline={config.baseline}: needs images of both classes; name a split of covid_ct'
        )
    sources = [tuple(read(spec.strip()) for spec in pair) for pair in pairs]
    for pair in sources:
        if any(len(set(images.labels)) > 1 for images in pair) or {0, 1} <= {
            int(images.labels[0]) for images in pair
        }:
            raise InputError(
                f'config.pairs={",".join(images.spec for images in pair)}: compares sources within one class; add @covid or @noncovid to both'
            )
    loaded = classifier.of_run(network)
    apply = classifier.score(loaded)
    batched = lambda function: lambda images: batches.predict(function, images, config.batch_size)
    return Subject(
        folder,
        batched(apply),
        train,
        read(trained.val),
        tests,
        real,
        _origins(trained.train, data_dir),
        network.lineage,
        batched(attribution.grad_cam(*loaded)),
        sources,
    )


def _read(spec, data_dir, size):
    examples = datasets.read(spec, data_dir, size)
    return Images(
        spec, examples.images, examples.labels, examples.rows, datasets.read_native(spec, data_dir)
    )


def _origins(spec, data_dir):
    """{label: names of the data sets, without config, that have images of it}."""
    origins = {0: set(), 1: set()}
    for dataset, split, label in specs.parse(spec):
        for row in datasets.read_rows(
            f'{dataset}:{split}' + (f'@{label}' if label else ''), data_dir
        ):
            origins[row.label].add(dataset.partition('/')[0])
    return origins


def experiments(config, subject, trained, data_dir, folder):
    """[(name, config, names it is made from)] for study.follow in a folder: a data set, a classifier and an evaluation on the real tests for each control and each mixture."""
    made = read_config(config.synthetic, 'synthesize', 'synthetic')
    (real, split, label), *more = specs.parse(config.baseline)
    if more or label or '[' in split:
        raise InputError(
            f'config.baseline={config.baseline}: mixtures take shares of it; name one whole split with both classes, such as covid_ct:train'
        )
    ready = pathlib.Path(config.synthetic).resolve() / 'data'
    elsewhere = [
        part.strip()
        for part in (data_dir or specs.DEFAULT_DIR).split(',')
        if pathlib.Path(part.strip()).expanduser().resolve() != ready
    ]
    tests = {
        name: test.spec
        for name, test in subject.tests.items()
        if not any(row.source_sha256 for row in test.rows)
    }
    keys, records = (
        {key: trained[key] for key in FROM_SUBJECT if key in trained},
        read_json(pathlib.Path(config.synthetic) / 'lineage.json'),
    )
    for spec in tests.values():  # before anything is trained
        lineage.check(
            records
            + lineage.record({'train': config.baseline}, data_dir, {'train': subject.real.rows}),
            datasets.read_rows(spec, data_dir),
            spec,
            config.protocol,
        )

    def classify(name, covid, synthetic, needs):
        both = ','.join([*elsewhere, str(synthetic)])
        yield (
            f'{name}/classifier',
            pipeline.with_keys(
                config.train, **keys, train=f'{covid}+{config.baseline}@noncovid', data_dir=both
            ),
            needs,
        )
        yield (
            f'{name}/evaluate',
            pipeline.with_keys(
                config.evaluate,
                classifier=str(folder / name / 'classifier'),
                tests=','.join(tests.values()),
                names=','.join(tests),
                baseline='',
                checkpoint=config.checkpoint,
                protocol=config.protocol,
                data_dir=both,
            ),
            [f'{name}/classifier'],
        )

    for how in ['translated', *config.stand_ins] if tests else []:
        name, synthetic = f'{stand_ins_check.FOLDER}/{how}', ready
        if how != 'translated':
            yield (
                f'{name}/synthesize',
                pipeline.with_keys(
                    config.synthesize,
                    stand_in=how,
                    generator=made.generator,
                    cancer=made.cancer,
                    data_dir=made.data_dir,
                ),
                [],
            )
            synthetic = folder / name / 'synthesize' / 'data'
        yield from classify(
            name,
            'synthetic_covid_ct:train',
            synthetic,
            [f'{name}/synthesize'] if how != 'translated' else [],
        )
    wanted, there = (
        int(subject.real.labels.sum()),
        len(datasets.read_rows('synthetic_covid_ct:train', str(ready))),
    )
    for share in config.shares if tests else []:
        covid = f'{real}:{split}[:{100 - share}%]' if share < 100 else ''
        kept = _count(covid, data_dir) if covid else 0
        if covid and not kept or wanted - kept > there:
            raise InputError(
                f'config.shares: {share} % synthetic of {wanted} COVID-19 images leaves {kept} real ones and needs {wanted - kept} of {there} synthetic ones; choose other shares'
            )
        covid, rest = f'{covid}@covid' if covid else '', wanted - kept
        yield from classify(
            f'{mixing.FOLDER}/{share}',
            '+'.join(filter(None, [covid, f'synthetic_covid_ct:train[:{rest}]' if rest else ''])),
            ready,
            [],
        )


def _count(spec, data_dir):
    """COVID-19 images of a share that can be too small to have any."""
    try:
        return sum(row.label == 1 for row in datasets.read_rows(spec, data_dir))
    except InputError:
        return 0


def _claim(folder, synthetic, trained):
    """Refuses experiments that were made of other synthetic images or with another kind of classifier: what is finished there would be taken for these."""
    made = pathlib.Path(synthetic) / 'synthetic'
    digest = hashlib.sha256((made / 'manifest.jsonl').read_bytes())
    for path in sorted((made / 'images').iterdir()):
        digest.update(path.read_bytes())
    note, about = (
        folder / 'made_of.json',
        {
            'synthetic': digest.hexdigest(),
            'model': trained.model,
            'seed': trained.seed,
            'steps': trained.steps,
            'image_size': trained.image_size,
        },
    )
    if note.is_file() and (
        changed := [key for key, value in read_json(note).items() if about[key] != value]
    ):
        raise InputError(
            f'config.experiments={folder}: was made with another {" and ".join(changed)}; choose another folder'
        )
    write_json(note, about)


def _page(about, verdicts):
    cells = [
        (
            html.raw(f'<strong>{FLAGS[one.flag]}</strong>') if one.flag else FLAGS[one.flag],
            one.name,
            one.finding,
        )
        for one in verdicts
    ]
    details = []
    for one in verdicts:
        details += [
            f'<h3>{html.text(one.name)}: {FLAGS[one.flag]}</h3>',
            f'<p>{html.text(one.finding)}</p>',
            f'<p class="quiet">{html.text(one.rule)}</p>' if one.rule else '',
        ]
        details += [html.table(one.columns, one.rows)] if one.rows else []
        details += [html.figure(path, alt, alt) for path, alt in one.figures]
    flags, asked = (
        sum(one.flag is True for one in verdicts),
        sum(one.flag is not None for one in verdicts),
    )
    tests = '; '.join(f'{name}: {spec}' for name, spec in about['tests'].items())
    body = [
        f'<p class="quiet">covjax {__version__}</p>',
        '<p class="warning"><strong>Not for diagnosis.</strong> An audit can show that a score rests on something other than disease. It can not show that it rests on disease: a page without red flags is no proof.</p>',
        f'<p>{html.text(about["model"])}, seed {about["seed"]}, step {about["step"]}, from {html.text(about["classifier"])}. Trained on {html.text(about["train"])}. {html.text(tests)}.</p>',
        f'<h2>Verdict: {flags} red flags of {asked} questions</h2>',
        html.table(['', 'question', 'finding'], cells),
        "<p>Intervals cover 95 % of a bootstrap that draws whole patients (with their source document) or series. The thresholds are covjax's own; no standard sets them.</p>",
        '<h2>One by one</h2>',
        *details,
    ]
    return html.document('Shortcut audit', '\n'.join(body))

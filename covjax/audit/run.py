"""A trained classifier -> audit.html and audit.json: what its score may rest on besides disease, a verdict a line."""

import hashlib
import pathlib
from functools import partial

from covjax import (
    InputError,
    __version__,
    checkpoint,
    classification,
    classifier,
    data,
    evaluate,
    lineage,
    page,
    study,
)
from covjax.audit import (
    attribution,
    controls,
    grey_statistics,
    metadata_baseline,
    mixing,
    overlap,
    pixel_baseline,
    regions,
    reliability,
    source,
)
from covjax.audit.verdict import FLAGS, Images, Subject
from covjax.controls import CONTROLS
from covjax.workdir import read_config, read_json, write_json

CHECKS = (
    metadata_baseline,
    pixel_baseline,
    grey_statistics,
    source,
    overlap,
    controls,
    regions,
    attribution,
    mixing,
    reliability,
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
    if wrong := [name for name in config.controls if name not in CONTROLS]:
        raise InputError(
            f'config.controls: {wrong[0]} is no control; choose from {", ".join(CONTROLS)}'
        )
    trained, model, step = checkpoint.load_model(
        config.classifier, 'classification', 'classifier', config.checkpoint
    )
    records, data_dir = (
        read_json(pathlib.Path(config.classifier) / 'lineage.json'),
        config.data_dir or trained.data_dir,
    )
    subject = gather(config, workdir / 'images', trained, model, records, data_dir)
    folder = pathlib.Path(config.experiments or workdir / 'experiments')
    made = list(experiments(config, subject, trained, data_dir, folder)) if config.synthetic else []
    if made:
        _claim(folder, config.synthetic, trained)
    study.follow(made, folder)
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
        'step': step,
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


def gather(config, folder, trained, model, records, data_dir):
    """The Subject of a trained classifier, without experiments."""
    read, names = (
        partial(_read, data_dir=data_dir, size=trained.image_size),
        evaluate.test_names(config),
    )
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
    pairs = [pair.split(',') for pair in config.sources.split(';') if pair.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(
            f'config.sources={config.sources}: write pairs of data sets of one class, FIRST,SECOND, separated by semicolons'
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
                f'config.sources={",".join(images.spec for images in pair)}: compares sources within one class; add @covid or @noncovid to both'
            )
    apply = classification.score(trained, model)
    network = classifier.Classifier(
        classifier.network(trained), classifier.variables_of(model), classifier.preprocess(trained)
    )
    batched = lambda function: lambda images: data.predict(function, images, config.batch_size)
    return Subject(
        folder,
        batched(apply),
        train,
        read(trained.val),
        tests,
        real,
        _origins(trained.train, data_dir),
        records,
        batched(attribution.grad_cam(*network)),
        sources,
    )


def _read(spec, data_dir, size):
    examples = data.read(spec, data_dir, size)
    return Images(
        spec, examples.images, examples.labels, examples.rows, data.read_native(spec, data_dir)
    )


def _origins(spec, data_dir):
    """{label: names of the data sets, without config, that have images of it}."""
    origins = {0: set(), 1: set()}
    for dataset, split, label in data.parse(spec):
        for row in data.read_rows(f'{dataset}:{split}' + (f'@{label}' if label else ''), data_dir):
            origins[row['label']].add(dataset.partition('/')[0])
    return origins


def experiments(config, subject, trained, data_dir, folder):
    """[(name, config, names it is made from)] for study.follow in a folder: a data set, a classifier and an evaluation on the real tests for each control and each mixture."""
    made = read_config(config.synthetic, 'synthesize', 'synthetic')
    (real, split, label), *more = data.parse(config.baseline)
    if more or label or '[' in split:
        raise InputError(
            f'config.baseline={config.baseline}: mixtures take shares of it; name one whole split with both classes, such as covid_ct:train'
        )
    ready = pathlib.Path(config.synthetic).resolve() / 'data'
    elsewhere = [
        part.strip()
        for part in (data_dir or data.DEFAULT_DIR).split(',')
        if pathlib.Path(part.strip()).expanduser().resolve() != ready
    ]
    tests = {
        name: test.spec
        for name, test in subject.tests.items()
        if not any('source_sha256' in row for row in test.rows)
    }
    keys, records = (
        {key: trained[key] for key in FROM_SUBJECT if key in trained},
        read_json(pathlib.Path(config.synthetic) / 'lineage.json'),
    )
    for spec in tests.values():  # before anything is trained
        lineage.check(
            records
            + lineage.record({'train': config.baseline}, data_dir, {'train': subject.real.rows}),
            data.read_rows(spec, data_dir),
            spec,
            config.protocol,
        )

    def classify(name, covid, synthetic, needs):
        both = ','.join([*elsewhere, str(synthetic)])
        yield (
            f'{name}/classifier',
            study.changed(
                config.train, **keys, train=f'{covid}+{config.baseline}@noncovid', data_dir=both
            ),
            needs,
        )
        yield (
            f'{name}/evaluate',
            study.changed(
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

    for how in ['translated', *config.controls] if tests else []:
        name, synthetic = f'{controls.FOLDER}/{how}', ready
        if how != 'translated':
            yield (
                f'{name}/synthesize',
                study.changed(
                    config.synthesize,
                    how=how,
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
        len(data.read_rows('synthetic_covid_ct:train', str(ready))),
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
        return sum(row['label'] == 1 for row in data.read_rows(spec, data_dir))
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
            page.raw(f'<strong>{FLAGS[one.flag]}</strong>') if one.flag else FLAGS[one.flag],
            one.name,
            one.finding,
        )
        for one in verdicts
    ]
    details = []
    for one in verdicts:
        details += [
            f'<h3>{page.text(one.name)}: {FLAGS[one.flag]}</h3>',
            f'<p>{page.text(one.finding)}</p>',
            f'<p class="quiet">{page.text(one.rule)}</p>' if one.rule else '',
        ]
        details += [page.table(one.columns, one.rows)] if one.rows else []
        details += [page.figure(path, alt, alt) for path, alt in one.figures]
    flags, asked = (
        sum(one.flag is True for one in verdicts),
        sum(one.flag is not None for one in verdicts),
    )
    tests = '; '.join(f'{name}: {spec}' for name, spec in about['tests'].items())
    body = [
        f'<p class="quiet">covjax {__version__}</p>',
        '<p class="warning"><strong>Not for diagnosis.</strong> An audit can show that a score rests on something other than disease. It can not show that it rests on disease: a page without red flags is no proof.</p>',
        f'<p>{page.text(about["model"])}, seed {about["seed"]}, step {about["step"]}, from {page.text(about["classifier"])}. Trained on {page.text(about["train"])}. {page.text(tests)}.</p>',
        f'<h2>Verdict: {flags} red flags of {asked} questions</h2>',
        page.table(['', 'question', 'finding'], cells),
        "<p>Intervals cover 95 % of a bootstrap that draws whole patients (with their source document) or series. The thresholds are covjax's own; no standard sets them.</p>",
        '<h2>One by one</h2>',
        *details,
    ]
    return page.document('Shortcut audit', '\n'.join(body))

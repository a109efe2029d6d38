"""Pairs of every maker, classifiers that learn from them, and how they score real lesions.

pair_study.json has the numbers, pair_study.html the tables. A row counts only if its classifiers
have learned their own task: a mean area of LEARNED on unseen pairs of their own maker. Otherwise it
speaks of the budget of the training, not of the images.
"""

from typing import NamedTuple

import numpy as np

from covjax import (
    CLASSES,
    InputError,
    budgets,
    choice,
    classifier,
    pair_makers,
    pair_pictures,
    pipeline,
    provenance,
    runs,
    trained,
)
from covjax.audit import pair_tests
from covjax.classes import POSITIVE
from covjax.ct import lungs, picture
from covjax.data import batches, datasets, lineage, specs
from covjax.metrics.intervals import auc_difference, mean_interval
from covjax.pages import pair_study as page
from covjax.pages import pictures
from covjax.pipeline import Stage, with_keys
from covjax.runs.synthesize_pairs import DATA_SETS
from covjax.workdir import read_config, without_nan, write_json

LEARNED = 0.95  # area on unseen pairs from which on a row counts
BATCH = 32
SPLITS = ('train', 'validation', 'test')
READ = ('validation', 'test')
PARTS = ('slices', 'patches')  # in the order of synthesize_pairs.DATA_SETS
STAND_IN = 'painted'  # what the generator is compared with
# Of a CycleGAN, which has no pairs: its translations, and the slices themselves.
CYCLEGAN = {'cyclegan': 'translated', 'framed': 'nothing'}
BLINDED, COLUMNS, TILE = 12, 6, 144  # lesions of each kind in blinded.png, a row, their side
FAINT = 10  # grey levels below which nobody sees a lesion


class Source(NamedTuple):
    """Images that classifiers learn from: specs as covjax.data.specs takes them."""

    maker: str
    part: str
    images: Stage  # that makes them
    train: str
    val: str
    unseen: str  # images of the same kind of other people, on which it shows what was learned


class Row(NamedTuple):
    """Classifiers of several seeds that learned from the same images."""

    source: Source
    classifiers: list  # trained.Trained, one a seed
    data_dir: str  # where its own images and the real ones lie


def run(config, workdir):
    """Makes what is not finished yet, and evaluates every test.

    Args:
        config: of configs/pair_study.py.
        workdir: pathlib.Path.

    Raises:
        InputError: a key of the config is wrong, or a test overlaps with the training.
    """
    generator = trained.open_run(config.generator, 'pairs', 'generator')
    data_dir = trained.data_dir_of(config) or specs.DEFAULT_DIR
    check(config, data_dir, generator.config.image_size)
    found = sources(config, generator.config.masks, data_dir)
    pipeline.follow(stages(config, found, workdir, data_dir), workdir, runs.find)
    rows = [open_row(config, source, workdir, data_dir) for source in found]
    images, left_out = read_tests(config, rows, data_dir)
    results = {
        **provenance.of(config, generator=provenance.network(generator)),
        'read': config.read,
        'rules': {'learned': LEARNED, 'faint': FAINT, 'stand_in': STAND_IN},
        'left_out': left_out,
        'rows': [measured(row, images, rows) for row in rows],
        'effects': effects(rows, generator, data_dir),
    }
    write_json(workdir / 'pair_study.json', without_nan(results))
    write_panel(rows, images['lesions'], workdir)
    page.write(results, workdir)


def check(config, data_dir, size):
    """Refuses a wrong key before hours of training.

    Args:
        config: of the study.
        data_dir: where the real data sets lie.
        size: side of the slices that pairs are made of.

    Raises:
        InputError: a key of the config has no valid value, or a data set is missing or another one
            than is needed.
    """
    choice(config, 'read', READ)
    for key, valid in (('makers', pair_makers.METHODS), ('parts', PARTS)):
        if not config[key]:
            raise InputError(f'config.{key} is empty; name some of {", ".join(valid)}')
        for name in config[key]:
            choice({key: name}, key, valid)
    budgets.check_seeds(config)
    check_real(config.train, config.cyclegan, config, data_dir, size)


def check_real(train, cyclegan, tests, data_dir, size):
    """Refuses classifiers and real images that do not suit a study.

    Args:
        train: config of the classifiers.
        cyclegan: workdir of a CycleGAN, or ''.
        tests: config with `read`, `lesions`, `scans` and `figures`.
        data_dir: where the real data sets lie.
        size: side of the slices that pairs are made of.

    Raises:
        InputError: a key has no valid value, or a data set is missing or another one than is
            needed.
    """
    if train.lungs:
        raise InputError(
            f'config.train.lungs={train.lungs}: images of this study show lungs already; leave '
            "it ''"
        )
    if cyclegan:
        read_config(cyclegan, 'cyclegan', 'cyclegan')
    _check_data(tests, data_dir, size)


def _check_data(config, data_dir, size):
    for key in ('lesions', 'figures'):
        found = datasets.classes(f'{config[key]}:{config.read}', data_dir)
        if found != CLASSES:
            raise InputError(
                f'config.{key}={config[key]}: the classes {", ".join(CLASSES)} are needed'
            )
    if not config.lesions.endswith(f'_lesions{size}'):
        raise InputError(
            f'config.lesions={config.lesions}: lesions are needed that were cut from pictures of '
            f'{size} pixels, as pairs are; name ct_scans/covid_semiseg_lesions{size}'
        )
    if 'infected' not in next(datasets.records(f'{config.scans}:train', data_dir)).row.others:
        raise InputError(
            f'config.scans={config.scans}: which slices show infection is not known; name '
            'ct_scans/covid_ct_md_slices_framed'
        )


def sources(config, masks, data_dir):
    """The [Source] of every maker and part, and those of a CycleGAN where one is named.

    Args:
        config: of the study.
        masks: where those of the generator are from, a key of DATA_SETS.
        data_dir: where the real data sets lie.
    """
    found = []
    for maker in config.makers:
        fields = {'maker': maker, 'generator': config.generator, 'data_dir': data_dir}
        stage = Stage(f'{maker}/images', with_keys(config.synthesize, **fields))
        for part, name in zip(PARTS, DATA_SETS[masks]):
            if part in config.parts:
                splits = (f'{name}:{split}' for split in SPLITS)
                found.append(Source(maker, part, stage, *splits))
    if config.cyclegan and 'slices' in config.parts:
        of_split = lambda split: f'synthetic_covid_ct:{split}+{config.figures}:{split}@noncovid'
        unseen = of_split(config.read)
        for maker, stand_in in CYCLEGAN.items():
            fields = {'stand_in': stand_in, 'generator': config.cyclegan, 'data_dir': data_dir}
            stage = Stage(f'{maker}/images', with_keys(config.translate, **fields))
            splits = (of_split('train'), of_split('validation'), unseen)
            found.append(Source(maker, 'slices', stage, *splits))
    return found


def stages(config, found, workdir, data_dir):
    """Yields the Stages: the images of every Source, then the classifiers that learn from them.

    Args:
        config: of the study.
        found: [Source].
        workdir: pathlib.Path of the study.
        data_dir: where the real data sets lie.
    """
    yield from {source.images.folder: source.images for source in found}.values()
    for seed in config.seeds:  # all sources of a seed before the next seed
        for source in found:
            train = with_keys(
                config.train,
                train=source.train,
                val=source.val,
                steps=config.steps[source.part],
                seed=seed,
                data_dir=_data_dir(source, workdir, data_dir),
            )
            name = f'{source.maker}/{source.part}_{seed}'
            yield Stage(name, train, (source.images.folder,))


def _data_dir(source, workdir, data_dir):
    """Where the images of a Source and the real ones lie."""
    return f'{workdir / source.images.folder / "data"},{data_dir}'


def open_row(config, source, workdir, data_dir):
    """The Row of a Source."""
    folders = [workdir / source.maker / f'{source.part}_{seed}' for seed in config.seeds]
    opened = [trained.open_run(folder, 'classification', 'train') for folder in folders]
    return Row(source, opened, _data_dir(source, workdir, data_dir))


def read_tests(config, rows, data_dir):
    """The real images that every row is evaluated on.

    Images that share a picture, patient or source with what trained any row are left out, and on
    the test those with what picked a checkpoint: such as the near-copies, among the test pictures
    of COVID-SemiSeg, of those that masks were drawn in.

    Args:
        config: of the study.
        rows: [Row].
        data_dir: where the real data sets lie.

    Returns:
        ({'lesions', 'figures', and of the test 'scans': datasets.Examples},
        {the same: number of images that were left out}).

    Raises:
        InputError: a data set is missing, or too little of it is left.
    """
    wanted = {key: f'{config[key]}:{config.read}' for key in ('lesions', 'figures')}
    if config.read == 'test':
        wanted['scans'] = '+'.join(f'{config.scans}:{split}' for split in SPLITS)
    allowed = {config.read} & {'validation'}  # what picked checkpoints may be read as validation
    size, found, left_out = rows[0].classifiers[0].config.image_size, {}, {}
    for key, spec in wanted.items():
        examples, shared = datasets.read(spec, data_dir, size), set()
        for trained_run in (run for row in rows for run in row.classifiers):
            _, overlap = lineage.overlap(trained_run.lineage, examples.rows)
            shared |= {name for name, kinds in overlap.items() if not allowed.issuperset(kinds)}
        kept = [i for i, row in enumerate(examples.rows) if row.id not in shared]
        if len({*examples.labels[kept]}) < 2:
            raise InputError(
                f'config.{key}={config[key]}: {len(shared)} images share a picture, patient or '
                'source with what was trained on, and one class at most is left; name other images'
            )
        left_out[key] = len(shared)
        found[key] = examples._replace(
            images=examples.images[kept],
            labels=examples.labels[kept],
            rows=[examples.rows[i] for i in kept],
        )
    return found, left_out


def scored(row, images):
    """P(covid) of every seed of a Row, float [S, N], for images uint8 [N, size, size, 1]."""
    scores = [classifier.score(classifier.of_run(run), POSITIVE) for run in row.classifiers]
    return np.stack([batches.predict(score, images, BATCH) for score in scores])


def measured(row, images, rows):
    """What pair_study.json says about a Row.

    Args:
        row: Row.
        images: of `read_tests`.
        rows: all of them, one of which may be that of the stand-in to compare with.
    """
    size = row.classifiers[0].config.image_size
    unseen = datasets.read(row.source.unseen, row.data_dir, size)
    found = {'maker': row.source.maker, 'part': row.source.part}
    found['unseen'] = pair_tests.areas(scored(row, unseen.images), *_labels_and_groups(unseen))
    found['counts'] = found['unseen']['mean'] >= LEARNED
    lesions, papers = images['lesions'], images['figures']
    scores = scored(row, lesions.images)
    found['lesions'] = pair_tests.areas(scores, *_labels_and_groups(lesions))
    for other in rows:
        if other is not row and of_source(other, STAND_IN, row.source.part):
            against = scored(other, lesions.images)
            labels, groups = _labels_and_groups(lesions)
            found['better'] = auc_difference(labels, scores, against, groups)
    found['figures'] = pair_tests.by_source(scored(row, papers.images), papers.labels, papers.rows)
    if 'scans' in images:
        scans = images['scans']
        areas = lungs.masks(scans.images).mean((1, 2)) * framed_areas(scans.rows)
        found['scans'] = pair_tests.over_scans(scored(row, scans.images), scans.rows, areas)
    return found


def of_source(row, maker, part):
    """Whether a Row learned from that part of the images of a maker."""
    return (row.source.maker, row.source.part) == (maker, part)


def framed_areas(rows):
    """The share of its CT slice that each framed slice shows, float [N]; 1 where it is not framed.

    Args:
        rows: [data.rows.Row].
    """
    frames = np.array([row.others.get('frame', (0, 0, 1, 1)) for row in rows], float)
    return (frames[:, 2] - frames[:, 0]) * (frames[:, 3] - frames[:, 1])


def _labels_and_groups(examples):
    return examples.labels, [row.group for row in examples.rows]


def effects(rows, generator, data_dir):
    """By how many grey levels lesions are brighter than healthy lung, made and real.

    Args:
        rows: [Row].
        generator: trained.Trained of the pair training.
        data_dir: where its pictures lie.

    Returns:
        {maker, and 'real': {kind: {'mean', 'low', 'high', 'faint': share below FAINT, 'lesions'}}}.
    """
    real = pair_pictures.of_run(generator, data_dir)
    found = {'real': real.effects()}
    spec = DATA_SETS[generator.config.masks][0] + ':test'
    for row in rows:
        if row.source.maker in pair_makers.METHODS:
            pairs = datasets.pairs(spec, row.data_dir)
            found[row.source.maker] = pair_tests.effect(pairs)
    return {
        maker: {kind: _effect(values) for kind, values in sorted(kinds.items())}
        for maker, kinds in found.items()
    }


def _effect(values):
    levels, groups = np.array([level for level, _ in values]), [group for _, group in values]
    low, high = mean_interval(levels, groups)
    return {
        'mean': float(levels.mean()),
        'low': low,
        'high': high,
        'faint': float((levels < FAINT).mean()),
        'lesions': len(levels),
    }


def write_panel(rows, lesions, workdir):
    """Writes images/blinded.png, lesions that are real or made in random order, and their key.

    blinded_key.json says which is which, row by row, for who has written down a guess. Nothing is
    written where no row has lesions made by the generator as patches.

    Args:
        rows: [Row].
        lesions: datasets.Examples of real lesions and healthy lung.
        workdir: pathlib.Path.
    """
    ours = [row for row in rows if of_source(row, 'made', 'patches')]
    if not ours:
        return
    size = lesions.images.shape[1]
    made = datasets.read(ours[0].source.unseen, ours[0].data_dir, size)
    rng, tiles, key = np.random.default_rng(0), [], []
    for name, examples in (('real', lesions), ('made', made)):
        sick = np.flatnonzero(examples.labels == examples.classes.index(POSITIVE))
        for i in rng.permutation(sick)[:BLINDED]:
            tiles.append(pictures.draw_boxes(examples.images[i, ..., 0], (), TILE))
            key.append(name)
    order = rng.permutation(len(tiles))
    sheet = pictures.contact_sheet([tiles[i] for i in order], COLUMNS)
    picture.save(workdir / 'images' / 'blinded.png', sheet)
    write_json(workdir / 'blinded_key.json', [key[i] for i in order])

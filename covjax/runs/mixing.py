"""Classifiers of few real pictures and many synthetic slices, on the tests of the study of pairs.

mixing.json has the numbers, mixing.html the tables. No checkpoint is picked: every training has a
fixed length. A row counts only if its classifiers have learned what they were shown: a mean area of
LEARNED on their own training images.
"""

from typing import NamedTuple

import numpy as np

from covjax import InputError, budgets, choice, pipeline, provenance, runs, trained
from covjax.audit import pair_tests
from covjax.budgets import NONE, REAL, Row
from covjax.ct import lungs
from covjax.data import datasets, specs
from covjax.metrics import power
from covjax.metrics.intervals import auc_difference
from covjax.pages import mixing as page
from covjax.pipeline import Stage, with_keys
from covjax.runs import pair_study
from covjax.runs.pair_study import READ, framed_areas
from covjax.runs.synthesize_pairs import DATA_SETS
from covjax.workdir import without_nan, write_json

PAINTED, MADE, CYCLEGAN = 'painted', 'made', 'cyclegan'
# Area on its own training images from which on a row counts: less than a study of pairs asks for,
# since a mixture of the same length shows each of its parts in half of the batches only.
LEARNED = 0.9
SAMPLED = 1000  # training images on which it is seen whether a classifier has learned them
AREA = 0.8  # about which areas are expected, for what is printed before anything is trained


class Measured(NamedTuple):
    """Classifiers of several seeds that learned alike."""

    row: Row
    classifiers: list  # trained.Trained, one a seed
    data_dir: str  # where its own images and the real ones lie


def run(config, workdir):
    """Makes what is not finished yet, and evaluates every test.

    Args:
        config: of configs/mixing.py.
        workdir: pathlib.Path.

    Raises:
        InputError: a key of the config is wrong, or a data set is missing.
    """
    generator = trained.open_run(config.generator, 'pairs', 'generator')
    data_dir = trained.data_dir_of(config) or specs.DEFAULT_DIR
    check(config, data_dir, generator.config.image_size)
    print_resolution(config, data_dir)
    rows = rows_of(config)
    masks = generator.config.masks
    pipeline.follow(stages(config, masks, rows, workdir, data_dir), workdir, runs.find)
    opened = [open_row(config, row, workdir, data_dir) for row in rows]
    images, left_out = pair_study.read_tests(_as_pair_study(config), opened, data_dir)
    scores = {each.row: scored(each, images) for each in opened}
    results = {
        **provenance.of(config, generator=provenance.network(generator)),
        'read': config.read,
        'learned': LEARNED,
        'left_out': left_out,
        'rows': [measured(each, images, scores) for each in opened],
    }
    write_json(workdir / 'mixing.json', without_nan(results))
    page.write(results, workdir)


def _as_pair_study(config):
    """The keys of a config that name the tests, as pair_study calls them."""
    named = {key: config[key] for key in ('read', 'lesions', 'scans')}
    return type(config)(named | {'figures': config.real})


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
    budgets.check(config, f'{config.real}:train@covid', data_dir)
    for name, steps in config.steps.items():
        if steps < 1:
            raise InputError(f'config.steps.{name}={steps}: must be at least 1')
    odd = {*config.cyclegan_budgets} - {*config.budgets}
    if config.cyclegan and odd:
        raise InputError(
            f'config.cyclegan_budgets={config.cyclegan_budgets}: {min(odd)} is not among '
            f'config.budgets={config.budgets}; name some of those'
        )
    pair_study.check_real(config.train, config.cyclegan, _as_pair_study(config), data_dir, size)


def print_resolution(config, data_dir):
    """Prints what difference the tests of the split that is read can resolve."""
    for key in ('lesions', 'real'):
        spec = f'{config[key]}:{config.read}'
        rows = datasets.read_rows(spec, data_dir)
        groups = [len({row.group for row in rows if row.label == label}) for label in (1, 0)]
        resolved = power.of_auc(AREA, *groups)
        print(
            f'{spec}: {groups[0]} and {groups[1]} groups of COVID and others; a difference in area '
            f'of {resolved:.3f} about {AREA} is found with a probability of {power.POWER:.0%}',
            flush=True,
        )


def rows_of(config):
    """[budgets.Row] of a config; those of a CycleGAN at its own budgets alone."""
    found = budgets.rows({PAINTED: False, MADE: False}, config.modes, config.budgets)
    if config.cyclegan:
        kept = {NONE, *map(str, config.cyclegan_budgets)}
        of_gan = budgets.rows({CYCLEGAN: False}, config.modes, config.budgets)
        found += [row for row in of_gan if row.source and row.budget in kept]
    return found


def stages(config, masks, rows, workdir, data_dir):
    """Yields the Stages: the images of every source, then all trainings seed by seed.

    Args:
        config: of the study.
        masks: where those of the generator are from, a key of DATA_SETS.
        rows: [budgets.Row].
        workdir: pathlib.Path of the study.
        data_dir: where the real data sets lie.
    """
    for source in dict.fromkeys(row.source for row in rows if row.source):
        yield Stage(f'{source}/images', images_of(config, source, data_dir))
    for seed in config.seeds:  # all rows of a seed before the next seed
        for row in rows:
            yield training(config, masks, row, seed, workdir, data_dir)


def images_of(config, source, data_dir):
    """The config that makes the images of a source."""
    if source == CYCLEGAN:
        return with_keys(config.translate, generator=config.cyclegan, data_dir=data_dir)
    return with_keys(config.synthesize, maker=source, generator=config.generator, data_dir=data_dir)


def training(config, masks, row, seed, workdir, data_dir):
    """The Stage that trains a Row with a seed; other arguments as for `stages`."""
    others = f'{config.real}:train@noncovid'
    keys = {'seed': seed, 'data_dir': folders_of(row, workdir, data_dir)}
    keys['val'] = f'{config.real}:validation'
    needs, synthetic, real = (), '', ''
    if row.source:
        needs = (f'{row.source}/images',)
        name = DATA_SETS[masks][0]
        synthetic = f'{name}:train@covid+{name}:train@noncovid'
        if row.source == CYCLEGAN:
            synthetic = f'synthetic_covid_ct:train+{others}'
    if row.budget != NONE:
        drawn = budgets.drawn(f'{config.real}:train@covid', row.budget, seed)
        real = f'{drawn}+{others}'
    if row.pretrained:
        needs += (row.pretrained.folder(seed),)
        keys['start'] = str(workdir / needs[-1])
    keys['train'] = budgets.train_spec(row, synthetic, real)
    keys['steps'] = config.steps[row.mode]
    return Stage(row.folder(seed), with_keys(config.train, **keys), needs)


def folders_of(row, workdir, data_dir):
    """Where the images of a Row lie, synthetic and real ones."""
    return f'{workdir / row.source / "images" / "data"},{data_dir}' if row.source else data_dir


def open_row(config, row, workdir, data_dir):
    """The Measured of a Row whose classifiers are trained."""
    folders = [workdir / row.folder(seed) for seed in config.seeds]
    opened = [trained.open_run(folder, 'classification', 'train') for folder in folders]
    return Measured(row, opened, folders_of(row, workdir, data_dir))


# ---- results


def scored(each, images):
    """{test: P(covid) of every seed, float [S, N]} of a Measured."""
    return {test: pair_study.scored(each, examples.images) for test, examples in images.items()}


def measured(each, images, scores):
    """What mixing.json says about a Measured.

    Args:
        each: Measured.
        images: {test: datasets.Examples}.
        scores: {budgets.Row: of `scored`} of all rows.
    """
    row, found = each.row, each.row._asdict()
    found['learned'] = learned(each)
    found['counts'] = bool(np.mean(found['learned']) >= LEARNED)
    for test in ('lesions', 'figures'):
        labels, groups = images[test].labels, [one.group for one in images[test].rows]
        found[test] = pair_tests.areas(scores[row][test], labels, groups)
        against = {
            'real': Row('', REAL, row.budget),
            'painted': row._replace(source=PAINTED),
        }
        for name, other in against.items():
            if other in scores and other != row:
                pair = scores[row][test], scores[other][test]
                found[test][f'better_than_{name}'] = better(labels, *pair, groups)
    papers = images['figures']
    found['by_source'] = pair_tests.by_source(scores[row]['figures'], papers.labels, papers.rows)
    if 'scans' in images:
        scans = images['scans']
        areas = lungs.masks(scans.images).mean((1, 2)) * framed_areas(scans.rows)
        found['scans'] = pair_tests.over_scans(scores[row]['scans'], scans.rows, areas)
    return found


def better(labels, first, second, groups):
    """By how much the mean area of some seeds is greater than that of others, seed by seed.

    Returns:
        {'mean', 'low', 'high'}, over seeds and groups.
    """
    areas = [pair_tests.areas(scores, labels, groups)['mean'] for scores in (first, second)]
    low, high = auc_difference(labels, first, second, groups, over_runs=True)
    return {'mean': areas[0] - areas[1], 'low': low, 'high': high}


def learned(each):
    """The area of every classifier of a Measured on its own training images, [float].

    Of many images SAMPLED are looked at, evenly spaced, so that every part has its share of them.
    """
    found = []
    for run in each.classifiers:
        images = datasets.read(run.config.train, each.data_dir, run.config.image_size)
        alone = each._replace(classifiers=[run])
        count = len(images.labels)
        chosen = np.linspace(0, count - 1, min(count, SAMPLED)).round().astype(int)
        scores = pair_study.scored(alone, images.images[chosen])
        groups = [images.rows[i].group for i in chosen]
        found += pair_tests.areas(scores, images.labels[chosen], groups)['seeds']
    return found

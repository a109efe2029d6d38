"""Segmenters trained on synthetic lesions, on few real ones, and on both, compared on real slices.

segmentation_study.json has the numbers, segmentation_study.html the tables, masks_<split>/ the
evaluation of every network (covjax.runs.evaluate_masks). No checkpoint is picked and no threshold
chosen: every training has a fixed length, and masks are cut at 0.5.
"""

import numpy as np

from covjax import InputError, budgets, choice, counted, pipeline, provenance, runs, trained
from covjax.budgets import ALL, REAL, TOGETHER
from covjax.data import datasets, specs
from covjax.metrics import power
from covjax.metrics.intervals import NO_INTERVAL, mean_over_runs
from covjax.pages import segmentation_study as page
from covjax.pipeline import Stage, with_keys
from covjax.runs.synthesize_pairs import DATA_SETS
from covjax.workdir import without_nan, write_json

READ = ('validation', 'test')
DRAWN, PREDICTED, PROCEDURAL = GENERATORS = 'drawn', 'predicted', 'procedural'
PAINTED, PAINTED_DRAWN = 'painted', 'painted_drawn'
MASKS = {
    PAINTED: PROCEDURAL,
    PAINTED_DRAWN: DRAWN,
    DRAWN: DRAWN,
    PREDICTED: PREDICTED,
    PROCEDURAL: PROCEDURAL,
}


def run(config, workdir):
    """Makes what is not finished yet, evaluates every network, and compares them.

    Args:
        config: of configs/segmentation_study.py.
        workdir: pathlib.Path.

    Raises:
        InputError: a key of the config is wrong, or a data set is missing.
    """
    check(config)
    sources = {name: MASKS[name] for name in makers(config)}
    # Other masks than blobs come from every real mask of training, if through a segmenter.
    knows_all = {name: masks != PROCEDURAL for name, masks in sources.items()}
    rows = budgets.rows(knows_all, config.modes, config.budgets)
    print_resolution(config)
    pipeline.follow(stages(config, sources, rows, workdir), workdir, runs.find)
    evaluation = provenance.read(workdir / f'masks_{config.read}', 'masks.json', dict)
    results = {
        **provenance.of(config, **_upstream(config)),
        'read': config.read,
        'rows': measured(config, rows, workdir, evaluation),
        'others': others(evaluation),
    }
    write_json(workdir / 'segmentation_study.json', without_nan(results))
    page.write(results, workdir)


def _upstream(config):
    """{key: provenance.Upstream} of the generators that a config names."""
    named = [key for key in GENERATORS if config[key]]
    return {key: provenance.network(trained.open_run(config[key], 'pairs', key)) for key in named}


def check(config):
    """Refuses a wrong key before anything is trained.

    Raises:
        InputError: a key of the config has no valid value, or a data set is missing.
    """
    choice(config, 'read', READ)
    for maker in config.makers:
        choice({'makers': maker}, 'makers', (PAINTED, PAINTED_DRAWN))
    budgets.check(config, f'{config.real}:train', config.data_dir)
    for spec in (f'{config.real}:{config.read}', config.negatives):
        if spec:
            next(datasets.records(spec, config.data_dir))
    for key in GENERATORS:
        if config[key] and (masks := masks_of(config, key)) != key:
            raise InputError(f'config.{key}={config[key]}: has {masks} masks, not {key} ones')


def masks_of(config, key):
    """Where the masks of the pair training that a key of a config names are from."""
    return trained.open_run(config[key], 'pairs', key).config.masks


def makers(config):
    """The names of the makers of synthetic lesions that a config asks for."""
    return [*config.makers, *(key for key in GENERATORS if config[key])]


def print_resolution(config):
    """Prints what difference the split that is read can resolve."""
    rows = datasets.read_rows(f'{config.real}:{config.read}', config.data_dir)
    groups = len({row.group for row in rows})
    resolved = power.of_mean(config.deviation, groups)
    print(
        f'{config.real}:{config.read}: {counted(len(rows), "slice")} in '
        f'{counted(groups, "group")}; a mean difference in Dice of {resolved:.3f} is found with a '
        f'probability of {power.POWER:.0%}, where networks differ by {config.deviation} '
        '(standard deviation) on a slice',
        flush=True,
    )


def stages(config, sources, rows, workdir):
    """Yields the Stages: lesions of every maker, all trainings seed by seed, their evaluation.

    Args:
        config: of the study.
        sources: {maker: where its masks are from}.
        rows: [budgets.Row].
        workdir: pathlib.Path of the study.
    """
    for maker, masks in sources.items():
        yield Stage(f'{maker}/images', images_of(config, maker, masks))
    folders = {}
    for seed in config.seeds:  # all rows of a seed before the next seed
        for row in rows:
            stage = training(config, sources, row, seed, workdir)
            folders[stage.folder] = None
            yield stage
    real = real_spec(config)
    evaluate = with_keys(
        config.evaluate,
        segmenters=','.join(str(workdir / folder) for folder in folders),
        tests=f'{config.real}:{config.read}',
        rules=real,
        negatives=config.negatives,
        maps=config.maps if config.read == 'test' else '',
        maps_sideways=config.maps_sideways,
        protocol='official',  # overlap is counted, and scores without it are given
        data_dir=config.data_dir,
    )
    yield Stage(f'masks_{config.read}', evaluate, tuple(folders))


def images_of(config, maker, masks):
    """The config that makes the lesions of a maker."""
    fields = {'data_dir': config.data_dir, 'masks': masks, 'image_size': config.train.image_size}
    if maker in (PAINTED, PAINTED_DRAWN):
        pictures = f'{config.real}:train' if masks == DRAWN else ''
        return with_keys(config.synthesize, maker='painted', pictures=pictures, **fields)
    return with_keys(config.synthesize, maker='made', generator=config[maker], **fields)


def real_spec(config):
    """The spec of all real slices that may be learned from."""
    return f'{config.real}:train' + ('+validation' if config.read == 'test' else '')


def training(config, sources, row, seed, workdir):
    """The Stage that trains a Row with a seed.

    Small budgets are drawn from the training split alone, so that they are the same whatever is
    read; only ALL are more of them for the test.
    """
    spec = real_spec(config) if row.budget == ALL else f'{config.real}:train'
    keys = {'seed': seed, 'data_dir': config.data_dir, 'val': ''}
    keys['augment'] = dict.fromkeys(('brightness', 'contrast'), config.recoloured[row.mode])
    needs, synthetic = (), ''
    if row.source:
        images = f'{row.source}/images'
        needs = (images,)
        synthetic = f'{DATA_SETS[sources[row.source]][0]}:train@covid'
        keys['data_dir'] = _data_dir(config, workdir / images)
    if row.pretrained:
        start = row.pretrained.folder(seed)
        needs += (start,)
        keys |= {'start': str(workdir / start), **config.fine_tuned}
    real = '' if row.budget == budgets.NONE else budgets.drawn(spec, row.budget, seed)
    keys['train'] = budgets.train_spec(row, synthetic, real)
    keys['equal_parts'] = row.mode == TOGETHER
    return Stage(folder_of(config, row, seed), with_keys(config.train, **keys), needs)


def _data_dir(config, images):
    """Where the synthetic lesions of a folder and the real slices lie."""
    return f'{images / "data"},{config.data_dir or specs.DEFAULT_DIR}'


def folder_of(config, row, seed):
    """The folder of a training: that of ALL depends on what is read."""
    folder = row.folder(seed)
    return f'{folder}_for_{config.read}' if row.budget == ALL else folder


# ---- results


def measured(config, rows, workdir, evaluation):
    """What segmentation_study.json says of every Row.

    Args:
        config: of the study.
        rows: [budgets.Row].
        workdir: pathlib.Path of the study.
        evaluation: masks.json.
    """
    by_folder = {found['segmenter']: found for found in evaluation['results']}
    folders = {
        row: [str(workdir / folder_of(config, row, seed)) for seed in config.seeds] for row in rows
    }
    results = {row: [by_folder[folder] for folder in of_row] for row, of_row in folders.items()}
    # Slices that share a group with what trained any row, such as near-copies of training slices.
    copies = {name for of_row in results.values() for each in of_row for name in each['overlap']}
    table = {row: dice_table(of_row, copies) for row, of_row in results.items()}
    rule = best_rule(evaluation['results'], copies)
    negatives = {found['segmenter']: found for found in evaluation['negatives']}
    return [
        {
            **row._asdict(),
            'dice': summary(*table[row]),
            'every_slice': summary(*dice_table(results[row], ())),
            'better_than_real': better(table, row, budgets.Row('', REAL, row.budget)),
            'better_than_painted': better(table, row, row._replace(source=PAINTED)),
            'better_than_rule': difference(table[row], rule) if rule else None,
            'negatives': [negatives[folder] for folder in folders[row] if folder in negatives],
        }
        for row in rows
    ]


def dice_table(results, copies):
    """Dice of several networks on the slices that are no copies.

    Args:
        results: of masks.json, one for each seed.
        copies: ids of slices to leave out.

    Returns:
        (float [S, N], [group of each slice]).
    """
    kept = [scan for scan in results[0]['scans'] if scan['id'] not in copies]
    names = {scan['id']: i for i, scan in enumerate(kept)}
    values = np.full((len(results), len(kept)), np.nan)
    for of_seed, result in zip(values, results):
        for scan in result['scans']:
            if scan['id'] in names and scan['dice'] is not None:
                of_seed[names[scan['id']]] = scan['dice']
    return values, [scan['group'] for scan in kept]


def summary(values, groups):
    """The mean Dice with its interval over seeds and groups, a dict.

    Args:
        values: float [S, N].
        groups: of the N slices.
    """
    unknown = np.full(len(values), np.nan)
    of_seeds = np.nanmean(values, 1) if groups else unknown  # all may be copies
    low, high = mean_over_runs(values, groups) if groups else NO_INTERVAL
    return {
        'seeds': of_seeds.tolist(),
        'mean': float(of_seeds.mean()),
        'deviation': float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else float('nan'),
        'low': low,
        'high': high,
        'slices': len(groups),
    }


def better(table, row, other):
    """By how much a Row is better than another, slice by slice and seed by seed.

    Returns:
        {'mean', 'low', 'high'}, or None where there is nothing to compare.
    """
    if other not in table or other == row:
        return None
    return difference(table[row], table[other])


def difference(table, other):
    """{'mean', 'low', 'high'} of one `dice_table` less another, or None where no slice is left."""
    (values, groups), (others, _) = table, other
    if not groups:
        return None
    low, high = mean_over_runs(values - others, groups)
    return {'mean': float(np.nanmean(values - others)), 'low': low, 'high': high}


def best_rule(results, copies):
    """The `dice_table` of the rule that is best on these very slices, or None where there is none.

    Args:
        results: of masks.json.
        copies: ids of slices to leave out.
    """
    rules = [dice_table([result], copies) for result in results if result['kind'] == 'rule']
    return max(rules, key=lambda table: np.nanmean(table[0]), default=None)


def others(evaluation):
    """[{'name', 'kind', 'dice': {'mean', 'low', 'high'}}] of rules and published maps."""
    found = []
    for result in evaluation['results']:
        if result['segmenter'] is None:
            mean = result['summary']['means']['dice']
            dice = {'mean': mean['value'], 'low': mean['low'], 'high': mean['high']}
            found.append({'name': result['model'], 'kind': result['kind'], 'dice': dice})
    return found

"""Segmenters and maps of others on test sets -> masks.json, a table and a page, rules beside them.

Masks are compared at the size in which the data set stores them, one region after the other, scan
by scan: a score is the mean over scans, with an interval over patients.
"""

import functools
import math
import pathlib
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from covjax import InputError, counted, joined, provenance, scan_segmenter, segmenter, trained
from covjax.audit import mask_rules
from covjax.ct import lungs, masks, picture
from covjax.ct.grid import Grid
from covjax.data import datasets, lineage, segmented, soft_maps, specs
from covjax.metrics import segmentation as metrics
from covjax.pages import figures, html, pictures, prose
from covjax.pages.figures import Estimate
from covjax.pages.html import Figure
from covjax.workdir import write_csv, write_json

THRESHOLDS = np.linspace(0.1, 0.9, 17)  # among which validation chooses
PRINTED = ('dice', 'nsd_3mm', 'hd95_mm', 'lesion_sensitivity', 'dice_mean_of_256_thresholds')
COLUMNS = (
    *('model', 'seed', 'test set', 'region', 'scans', 'overlap', 'both empty'),
    *('distances in', 'threshold'),
)
LAST = 'dice without near-copies'
SHOWN, TILE = 6, 192  # rows of the picture of the page, and pixels a side
FOREST = 'Mean Dice over scans, one line for each model and region'
PICTURE = 'Slices, their masks, and what models draw'


class Scan(NamedTuple):
    """One scan or picture of a test set."""

    id: str
    group: str
    grey: np.ndarray  # uint8 [slices, H, W]
    target: np.ndarray  # uint8 of the same shape, classes
    spacing: tuple[float, ...]  # mm (z, y, x), ones where they are not known
    in_mm: bool  # whether they are known
    rows: tuple


class Model(NamedTuple):
    """Something that draws masks."""

    name: str
    kind: str  # 'network', 'maps' or 'rule'
    soft: Callable  # of a Scan -> float32 [slices, H, W, classes], which sum to 1
    lineage: list = []  # records of what trained it, as far as that is known
    seed: int | None = None
    step: int | None = None
    threshold: float | None = None  # that validation chose; None where nothing is to be chosen
    folder: str | None = None  # workdir of a network


def run(config, workdir):
    """Scores segmenters, published maps and rules on every test set of config.tests.

    Writes masks.json, table.csv, overlay.png, dice.png and masks.html.

    Raises:
        InputError: a key of the config is wrong, a data set is missing or has no masks, or the
            protocol refuses a test set. Nothing has been scored then.
    """
    runs = _open_runs(config)
    data_dir = config.data_dir or (runs[0].data_dir if runs else '')
    regions = runs[0].config.regions if runs else config.regions
    names = specs.test_names(config)
    classes = runs[0].classes if runs else _classes_of_maps(next(iter(names)), data_dir, regions)
    tests = {spec: read_scans(spec, data_dir, regions, classes) for spec in names}
    shown = {spec: [row for scan in scans for row in scan.rows] for spec, scans in tests.items()}
    for spec in _split(config.negatives):
        shown[spec] = datasets.read_rows(spec, data_dir)
    scans = [scan for of_test in tests.values() for scan in of_test]
    maps = _all_maps(config, data_dir, scans)
    rules = _rules(config.rules, data_dir, regions) if config.rules else []
    for trained_on in [each.lineage for each in (*runs, *maps[:1], *rules[:1])]:
        for spec, rows in shown.items():
            lineage.check(trained_on, rows, spec, config.protocol)
    otsu = [_otsu(classes)] if config.otsu else []
    models = [*(_network(config, run) for run in runs), *maps, *rules, *otsu]
    found = [
        result
        for spec, scans in tests.items()
        for model in models
        for result in results_of(model, classes, names[spec], spec, scans)
    ]
    empty = [
        row
        for spec in _split(config.negatives)
        for model in models
        if model.kind == 'network'
        for row in false_infection(model, classes, spec, data_dir)
    ]
    made_by = provenance.of(config, segmenters=[provenance.network(run) for run in runs])
    document = {
        **made_by,
        'segmenters': [str(run.folder) for run in runs],
        'protocol': config.protocol,
        'results': found,
        'negatives': empty,
    }
    write_json(workdir / 'masks.json', document)
    scores = score_names(found)
    rows = [table_row(result, scores) for result in found]
    write_csv(workdir / 'table.csv', [[*COLUMNS, *map(_named, scores), LAST], *rows])
    _write_page(workdir, found, empty, models, tests)


def _split(text):
    return [part.strip() for part in text.split(',') if part.strip()]


def _check_named(config):
    """Refuses a config that names nothing to score, or keys that what it names has no use for."""
    if _split(config.segmenters):
        if config.regions:
            raise InputError(
                f'config.regions={config.regions}: is for maps and rules alone; segmenters have '
                'the regions that they were trained for, so leave it out'
            )
        return
    if not (_split(config.maps) or config.rules or config.otsu):
        raise InputError(
            'config.segmenters and config.maps name nothing; give workdirs of segmentation runs, '
            'or NAME=FOLDER with the maps of others, separated by commas'
        )
    if config.negatives:
        raise InputError(
            f'config.negatives={config.negatives}: needs a network that draws on these images; '
            'name one in config.segmenters, or leave it out'
        )


def _open_runs(config):
    """The trained.Trained of config.segmenters, which must have the same regions; [] of none."""
    _check_named(config)
    open_run = functools.partial(
        trained.open_run, task='segmentation', key='segmenters', which=config.checkpoint
    )
    _check_once(_split(config.segmenters), f'config.segmenters={config.segmenters}')
    runs = [open_run(folder) for folder in _split(config.segmenters)]
    for run in runs:
        if run.classes != runs[0].classes:
            raise InputError(
                f'config.segmenters: {run.folder} segments {", ".join(run.classes[1:])}, '
                f'{runs[0].folder} {", ".join(runs[0].classes[1:])}; evaluate them apart'
            )
    return runs


def read_scans(spec, data_dir, regions, classes):
    """The Scans of a data set with masks; slices of one scan are put together.

    Args:
        spec: 'name/config:split', several joined by '+'.
        data_dir: where it lies.
        regions: as for data.segmented.read.
        classes: that its masks must have, the background first.

    Raises:
        InputError: it cannot be read, or its masks have other classes.
    """
    by_scan = {}
    for dataset, part in segmented.parts(spec):
        examples = segmented.read(part, data_dir, regions=regions)
        if examples.classes != classes:
            raise InputError(
                f'{part}: has the regions {", ".join(examples.classes[1:])}, the segmenter '
                f'{", ".join(classes[1:])}; name a data set with its regions'
            )
        for image, target, row in zip(examples.images, examples.targets, examples.rows):
            scan = dataset, row.others.get('scan', row.id)
            by_scan.setdefault(scan, []).append((image, target, row))
    return [_scan(name, parts) for (_, name), parts in by_scan.items()]


def _scan(name, parts):
    """The Scan of its slices in their order, or of one picture or volume."""
    if parts[0][2].z is not None:
        parts = sorted(parts, key=lambda part: part[2].z)
    images, targets, rows = zip(*parts)
    whole = lambda arrays: arrays[0] if arrays[0].ndim == 3 else np.stack(arrays)
    spacing = tuple(rows[0].others.get('spacing', (0, 0, 0)))
    return Scan(
        name,
        rows[0].group,
        whole(images),
        whole(targets),
        spacing if all(spacing) else (1,) * 3,
        all(spacing),
        rows,
    )


# ---- what draws masks


def _network(config, run):
    """The Model of a segmentation run, with the threshold of its validation set, if it has one."""
    network = segmenter.of_run(run)

    def predict(scan):
        if network.spacing and not scan.in_mm:
            raise InputError(
                f'{scan.id}: the size of its voxels is not known, which {run.folder} needs; leave '
                'that data set out'
            )
        grid = Grid.straight(scan.grey.shape, scan.spacing)
        found = scan_segmenter.predict(network, scan.grey, grid, config.batch_size)
        return np.stack(list(found))

    return Model(
        name=run.config.model,
        kind='network',
        soft=predict,
        lineage=run.lineage,
        seed=run.config.seed,
        step=run.step,
        threshold=_threshold(config, run, predict) if run.config.val else None,
        folder=str(run.folder),
    )


def _threshold(config, run, predict):
    """The threshold that the validation set of a run chooses.

    Args:
        config: of this evaluation.
        run: trained.Trained.
        predict: Scan -> float32 [slices, H, W, classes].
    """
    dice, val = [], run.config.val
    scans = read_scans(val, config.data_dir or run.data_dir, run.config.regions, run.classes)
    lineage.check_same(run.lineage, 'val', [row for scan in scans for row in scan.rows], val)
    for scan in scans:
        region = 1 - predict(scan)[..., 0]
        dice.append([metrics.dice(region >= t, scan.target > 0) for t in THRESHOLDS])
    threshold = float(THRESHOLDS[np.nanmean(dice, 0).argmax()])
    print(f'{run.folder}: threshold {threshold:.2f} by {val}', flush=True)
    return threshold


def _all_maps(config, data_dir, scans):
    """The Models of config.maps, with the lineage of config.maps_trained_on."""
    record, spec = [], config.maps_trained_on
    if spec:
        rows = {'train': datasets.read_rows(spec, data_dir)}
        record = lineage.record({'train': spec}, data_dir, rows)
    found = [_maps(entry, config.maps_sideways, scans, record) for entry in _split(config.maps)]
    _check_once([each.name for each in found], f'config.maps={config.maps}')
    return found


def _classes_of_maps(spec, data_dir, regions):
    """The classes of masks that maps and rules are held against, which draw one region."""
    classes = segmented.classes(spec, data_dir, regions)
    if len(classes) > 2:
        raise InputError(
            f'config.regions={regions}: maps and rules draw one region, and these are '
            f'{", ".join(classes[1:])}; name those that they draw, joined by +'
        )
    return classes


def _check_once(names, what):
    """Refuses names of which one is there twice: a table could not tell them apart."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f'{what}: names {twice[0]} twice; give every one a name of its own')


def _maps(entry, sideways, scans, record):
    """The Model of a folder of published maps, NAME=FOLDER, one picture for each of the Scans."""
    name, equals, folder = entry.partition('=')
    folder = pathlib.Path(folder.strip()).expanduser()
    if not equals or not name.strip() or not folder.is_dir():
        raise InputError(f'config.maps={entry}: write NAME=FOLDER, with a folder of pictures')
    if volumes := [scan.id for scan in scans if len(scan.grey) > 1]:
        raise InputError(
            f'config.maps={entry}: maps are of pictures, and {volumes[0]} has many slices; '
            'leave them out'
        )
    shapes = {scan.id: scan.grey.shape[1:] for scan in scans}
    frames = {
        scan.id: scan.rows[0].others['frame'] for scan in scans if 'frame' in scan.rows[0].others
    }
    maps = soft_maps.read(folder, shapes, sideways, frames)

    def soft(scan):
        share = maps[scan.id].astype(np.float32) / 255
        return np.stack([1 - share, share], -1)[None]

    return Model(name.strip(), 'maps', soft, record)


def _rules(spec, data_dir, regions):
    """The Models of all rules without a network, fitted on a data set."""
    fitted = segmented.read(spec, data_dir, mask_rules.SIZE, regions)
    images, truth = np.stack(fitted.images), np.stack(fitted.targets) > 0
    record = lineage.record({'train': spec}, data_dir, {'train': fitted.rows})
    return [
        Model(name, 'rule', _as_soft(mask_rules.fit(name, images, truth)), record)
        for name in mask_rules.RULES
    ]


def _otsu(classes):
    """The Model of the lungs that Otsu's threshold finds."""
    if not any(masks.is_lung(part) for name in classes for part in name.split('+')):
        raise InputError(
            f'config.otsu=True: finds lungs, and the masks have {", ".join(classes[1:])}; leave it '
            'out'
        )
    return Model("Otsu's threshold", 'rule', _as_soft(lungs.mask))


def _as_soft(rule):
    """The soft maps, 0 and 1, of a rule."""

    def soft(scan):
        mask = np.stack([rule(grey) for grey in scan.grey]).astype(np.float32)
        return np.stack([1 - mask, mask], -1)

    return soft


# ---- scores


def results_of(model, classes, name, spec, scans):
    """The entries of masks.json of one model on one test set, one for each region.

    Args:
        model: Model.
        classes: names, the background first; of a Model of two classes all regions are one.
        name: what tables call the test set.
        spec: of the test set.
        scans: [Scan].

    Returns:
        [dict].
    """
    shared, by_region = _overlapping(model, scans), {}
    pictures_only = all(len(scan.grey) == 1 for scan in scans)  # whose surfaces are lines
    for scan in scans:
        soft = model.soft(scan)  # of one scan at a time: volumes are large
        for region, truth, index in _regions(classes, soft, scan):
            scores = _scores(model, soft, index, truth, scan, pictures_only)
            by_region.setdefault(region, []).append(scores)
    about = {
        'model': model.name,
        'kind': model.kind,
        'segmenter': model.folder,
        'seed': model.seed,
        'step': model.step,
        'test_set': spec,
        'test_name': name,
    }
    results = []
    for region, scores in by_region.items():
        result = {
            **about,
            'region': region,
            'distances_in': 'mm' if all(scan.in_mm for scan in scans) else 'pixels',
            'threshold': model.threshold,
            'overlap': sorted(shared),
            **_summaries(scores, scans, shared),
            'scans': [
                {'id': scan.id, 'group': scan.group, **_plain(score)}
                for scan, score in zip(scans, scores)
            ],
        }
        print(line(result), flush=True)
        results.append(result)
    return results


def _regions(classes, soft, scan):
    """Yields (region, its true mask, index of its probability) of what a model tells apart."""
    if soft.shape[-1] < len(classes):  # a rule or maps of two classes
        yield '+'.join(classes[1:]), scan.target > 0, 1
        return
    for index, region in enumerate(classes[1:], 1):
        yield region, scan.target == index, index


def _overlapping(model, scans):
    """Ids of the scans of which an image or group trained the model."""
    rows = {row.id: scan.id for scan in scans for row in scan.rows}
    _, shared = lineage.overlap(model.lineage, [row for scan in scans for row in scan.rows])
    return {rows[row] for row in shared}


def _scores(model, soft, index, truth, scan, flat):
    """All scores of one region of one scan: at 0.5, at the threshold of validation, and soft."""
    found = segmenter.decided(soft) == index
    shape = (lambda mask: mask[0]) if flat else (lambda mask: mask)
    spacing = scan.spacing[1:] if flat else scan.spacing
    scores = metrics.scan_scores(shape(found), shape(truth), spacing)
    if not scan.in_mm:  # errors are in ml or cm2
        scores = {name: score for name, score in scores.items() if 'error' not in name}
    if model.threshold is not None:
        chosen = segmenter.decided(soft, model.threshold) == index
        scores['dice_at_validation_threshold'] = metrics.dice(chosen, truth)
    share = soft[..., index].astype(np.float64).clip(0, 1)
    # A rule is a mask already, and one that is the same everywhere cannot be stretched.
    soft_map = share if model.kind == 'rule' else metrics.stretched(share)
    maps = metrics.soft_scores(soft_map, truth)
    scores['dice_mean_of_256_thresholds'] = maps['dice_mean_of_256_thresholds']
    return scores


def _summaries(scores, scans, shared):
    """{'summary', 'without_overlap'}, the latter None where no scan overlaps."""
    every = metrics.summary(scores, [scan.group for scan in scans])
    apart = [(score, scan) for score, scan in zip(scores, scans) if scan.id not in shared]
    without = None
    if shared and apart:
        without = metrics.summary(*zip(*[(score, scan.group) for score, scan in apart]))
    return {'summary': _as_json(every), 'without_overlap': without and _as_json(without)}


def _as_json(summary):
    """A metrics.segmentation.Summary as JSON has it."""
    means = {name: _plain(mean._asdict()) for name, mean in summary.means.items()}
    return {'scans': summary.scans, 'both_empty': summary.both_empty, 'means': means}


def _plain(values):
    """Numbers without NaN and infinity, which JSON does not have: None for these."""
    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in values.items()
    }
    unknown = lambda value: isinstance(value, float) and not math.isfinite(value)
    return {name: None if unknown(value) else value for name, value in plain.items()}


def false_infection(model, classes, spec, data_dir):
    """Yields how much of images without lesions a model calls a lesion, a dict for each region.

    Args:
        model: Model, a network.
        classes: names, the background first; lungs are there in any case and left out.
        spec: of images without masks, or whose masks are not looked at; of volumes every slice.
        data_dir: where they lie.
    """
    regions = [(i, name) for i, name in enumerate(classes) if i and not masks.is_lung(name)]
    shares = []
    for record in datasets.records(spec, data_dir):
        image = datasets.volume(record.image)
        for grey in image.reshape(-1, *image.shape[-2:]):
            scan = Scan('', '', grey[None], None, (1,) * 3, False, ())
            found = segmenter.decided(model.soft(scan))
            shares.append([float((found == i).mean()) for i, _ in regions])
    for (_, name), of_region in zip(regions, np.array(shares).T):
        row = {
            'model': model.name,
            'seed': model.seed,
            'region': name,
            'data set': spec,
            'slices': len(of_region),
            'mean share': round(float(of_region.mean()), 6),
            'slices with any': int(np.count_nonzero(of_region)),
            'slices with over 1 %': int((of_region > 0.01).sum()),
        }
        print(', '.join(f'{key} {value}' for key, value in row.items()), flush=True)
        yield row | {'segmenter': model.folder}


# ---- tables and page


def line(result):
    """One line about a result, for the screen."""
    means = result['summary']['means']
    unit = {'mm': 'mm', 'pixels': 'px'}[result['distances_in']]
    parts = [f'{_named(name, unit)} {_interval(means[name])}' for name in PRINTED if name in means]
    if shared := len(result['overlap']):
        parts.append(f'{shared} of {result["summary"]["scans"]} scans overlap with its training')
    who = _who(result['model'], result['seed'])
    return f'{who} on {result["test_name"]}, {result["region"]}: {"; ".join(parts)}'


def _who(model, seed):
    """'unet seed 1', or the name of what has no seed."""
    return model if seed is None else f'{model} seed {seed}'


def _named(score, unit=''):
    """The name of a score with the unit of its distances; '' where that has a column of its own."""
    return score.replace('mm', unit).rstrip('_')


def _interval(mean):
    """'0.712 (0.650 to 0.770)', or what of it there is."""
    if mean['value'] is None:
        return '-'
    if mean['low'] is None:
        return f'{mean["value"]:.3f}'
    return f'{mean["value"]:.3f} ({mean["low"]:.3f} to {mean["high"]:.3f})'


def score_names(found):
    """The names of all scores of some results, in their order."""
    return list(dict.fromkeys(name for result in found for name in result['summary']['means']))


def table_row(result, names):
    """The cells of a result: those of COLUMNS, the scores by name, the Dice without near-copies.

    Args:
        result: an entry of masks.json.
        names: of the scores; a cell is empty where the result has no such score.
    """
    means = result['summary']['means']
    without = result['without_overlap']
    threshold = result['threshold']
    return [
        *(result[name] if result[name] is not None else '' for name in ('model', 'seed')),
        *(result['test_name'], result['region']),
        *(result['summary']['scans'], len(result['overlap']), result['summary']['both_empty']),
        result['distances_in'],
        '' if threshold is None else f'{threshold:.2f}',
        *(_interval(means[name]) if name in means else '' for name in names),
        _interval(without['means']['dice']) if without else '',
    ]


def _write_page(workdir, found, empty, models, tests):
    """Writes overlay.png, dice.png and masks.html."""
    page, scans = prose.read('masks'), next(iter(tests.values()))
    empty = [{name: row[name] for name in row if name != 'segmenter'} for row in empty]
    overlay, dice = workdir / 'overlay.png', workdir / 'dice.png'
    picture.save(overlay, panels(models, scans))
    figures.save(figures.draw_forest(forest(found), 'Dice', reference=0), dice)
    negatives = [list(row.values()) for row in empty]
    sections = [
        page.section('dice', figures=[Figure(dice, FOREST), Figure(overlay, PICTURE)]),
        page.section(
            'results',
            (*COLUMNS, *map(_named, PRINTED), LAST),
            [table_row(result, PRINTED) for result in found],
        ),
        page.section('negatives', list(empty[0]), negatives)
        if empty
        else page.section('no_negatives'),
    ]
    opening = page.opening.format(
        models=joined(dict.fromkeys(result['model'] for result in found)),
        tests=joined(dict.fromkeys(result['test_name'] for result in found)),
        # Of the model that the config names first: the best one here would be luck.
        summary=f'{line(found[0])}.',
    )
    html.write(workdir / 'masks.html', page.title, opening, sections)
    print(f'{counted(len(found), "result")} in {workdir / "masks.html"}')


def forest(found):
    """The mean Dice of results, entries of masks.json, as pages.figures.draw_forest takes them."""
    panels = {}
    number = lambda value: math.nan if value is None else value
    for result in found:
        dice = result['summary']['means']['dice']
        who = f'{_who(result["model"], result["seed"])}, {result["region"]}'
        kind = 'regression' if result['kind'] == 'rule' else 'network'
        estimate = Estimate(who, *(number(dice[end]) for end in ('value', 'low', 'high')), kind)
        panels.setdefault(result['test_name'], []).append(estimate)
    return panels


def panels(models, scans):
    """A few slices, each with its mask and with what the networks and maps draw, side by side.

    Args:
        models: [Model]; rules are not shown.
        scans: [Scan].

    Returns:
        uint8 [H, W, 3].
    """
    drawn = [model for model in models if model.kind != 'rule'][:SHOWN]
    chosen = np.unique(np.linspace(0, len(scans) - 1, SHOWN).round().astype(int))
    captions = ['slice', 'mask', *(_who(model.name, model.seed) for model in drawn)]
    tiles = []
    for i in chosen:
        scan = scans[i]
        z = int((scan.target > 0).sum((1, 2)).argmax())
        masks = [scan.target, *(segmenter.decided(model.soft(scan)) for model in drawn)]
        pair = [pictures.tint(scan.grey[z], mask[z]) for mask in masks]
        tiles += [_tile(np.repeat(scan.grey[z][..., None], 3, 2)), *map(_tile, pair)]
    sheet = pictures.contact_sheet(tiles, len(captions))
    return np.vstack([pictures.header(captions, TILE), sheet])


def _tile(image):
    return np.asarray(Image.fromarray(image).resize((TILE, TILE), Image.Resampling.BILINEAR))

"""A prepared data set, or a folder as it is -> one page to look at.

It shows pictures of every split, counts, sizes, grey levels, what lies in two splits, and what
tells the classes apart where no lung is seen.
"""

import itertools
import pathlib
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from covjax import InputError, counted, joined, provenance
from covjax.audit import data_only
from covjax.audit import page as audit_page
from covjax.audit.verdict import ask
from covjax.ct import picture
from covjax.data import datasets, score_table, specs
from covjax.data.lineage import document
from covjax.data.near_duplicates import SIZE, THRESHOLD, across_groups, near_duplicates, shrunk
from covjax.data.rows import Row
from covjax.pages import figures, html, pictures, prose
from covjax.pages.html import Figure
from covjax.runs import prepare
from covjax.workdir import write_csv, write_json

FOLDER = 'ct_scans/folder'  # the data set that a folder becomes
TILE, COLUMNS = 160, 8  # of a contact sheet: pixels a side, tiles a row
PAIRS_SHOWN = 6  # pairs of a lesion and a sham, a split
PAIRS = 24  # near-duplicates that the page shows
BARS = 40  # documents that a figure shows
FIGSIZE = (6, 4.5)  # inches
COUNTS = (
    *('split', 'images', 'groups', 'documents or series', 'nodules'),
    *('median size', 'sides', 'mean grey', 'black', 'white'),
)
GIVEN_AWAY = 'The classes can be told apart without seeing a lung, by {names}.'
NOT_GIVEN_AWAY = 'No red flag: files and borders are not shown to tell the classes apart.'
REGRESSIONS = 'Areas under the ROC curve of regressions that see no lung, and of whole images'
KEYS = ('split', 'label', 'id', 'group')  # what names an image of a pair
PAIR = ['correlation', *(f'{key}, {n}' for n in ('first', 'second') for key in KEYS)]
# What the opening of the page says (the rest is prose/look.toml).
LIMIT = ' Only the first {limit} of {splits} were read.'
GREY = 'The mean grey level is {levels}.'
PLACES = (
    '{straddling} source documents or series are in more than one split, {pairs} pairs of '
    'different groups look nearly the same, and {copies} images are exact copies.'
)


class Example(NamedTuple):
    """What the page keeps of an example."""

    split: str
    label: str  # '' where the data set has none
    row: Row
    shape: tuple[int, int]  # height, width
    histogram: np.ndarray  # pixels of each grey level, [256]
    small: np.ndarray  # uint8 [SIZE, SIZE, 1]
    kept: np.ndarray  # uint8 [h, w], for regressions; of a volume a slice as it is


def run(config, workdir):
    """Writes look.html, the pictures in it as PNG, near_duplicates.csv and, of classes, look.json.

    Raises:
        InputError: config.dataset is not one data set, there is none, or the files of
            config.source cannot be read.
    """
    config = _prepared(config, workdir)
    _check(config.dataset)
    images = workdir / 'images'
    examples, sheets, cut = _read(config, images)
    rows = [example.row for example in examples]
    pairs = near_duplicates(np.stack([example.small for example in examples]))
    pairs = across_groups(pairs, rows)
    _write_pairs(workdir / 'near_duplicates.csv', pairs, examples)
    straddling = two_splits(examples)
    drawings = [
        *_draw_groups(images, examples),
        *_draw_straddling(images, straddling),
        *_draw_pairs(images, pairs, examples),
    ]
    copies = sum(n - 1 for n in Counter(row.sha256 for row in rows).values())
    page, path = prose.read('look'), workdir / 'look.html'
    said, giveaways = _giveaways(page, config, workdir, examples)
    sections = [
        *giveaways,
        page.section('pictures', figures=sheets),
        page.section('figures', figures=drawings),
        _counts(page, examples),
        _straddling(page, straddling, copies),
        _alike(page, pairs, examples),
        page.section('about', folder=_folder(config)),
    ]
    opening = page.opening.format(
        **_opening(config, examples, cut),
        places=PLACES.format(straddling=len(straddling), pairs=len(pairs), copies=copies),
        giveaways=said,
    )
    html.write(path, page.title.format(dataset=config.dataset), opening, sections)
    print(
        f'{counted(len(examples), "example")} of {config.dataset}, '
        f'{counted(len(straddling), "document")} or series in two splits, '
        f'{counted(len(pairs), "near-duplicate")} between groups: {path}'
    )


def _prepared(config, workdir):
    """The config of the data set that is made of config.source, if any, in the workdir."""
    for key in ('table', 'hu'):
        if config[key] and not config.source:
            raise InputError(
                f'config.{key}={config[key]}: is of a folder; give it as config.source'
            )
    if not config.source:
        return config
    if config.dataset:
        raise InputError(
            f'config.dataset={config.dataset} and config.source={config.source}: '
            'give a prepared data set, or a folder'
        )
    options = {key: config[key] for key in ('table', 'hu') if config[key]}
    data_dir = str(workdir / 'data')
    prepare.build(FOLDER, config.source, data_dir, overwrite=True, **options)
    config = config.copy_and_resolve_references()
    config.dataset, config.data_dir = FOLDER, data_dir
    return config


def _check(dataset):
    if not dataset:
        raise InputError(
            'config.dataset and config.source are empty; name a prepared data set, for example '
            'covid_ct, or give a folder'
        )
    if '+' in dataset or '@' in dataset:
        raise InputError(
            f'config.dataset={dataset}: name one data set, or one split of it; '
            'its classes are shown apart anyway'
        )


def _read(config, images):
    """Reads all splits -> ([Example], sheets of them as [Figure], splits that have more)."""
    examples, sheets, cut = [], [], []
    for dataset, split in specs.splits(config.dataset, config.data_dir):
        sheets += _pair_sheet(images, f'{dataset}:{split}', split, config)
        of_split, tiles = _read_split(config, dataset, split)
        if len(of_split) > config.limit:
            of_split.pop()
            cut.append(split)
        examples += of_split
        sheets += _contact_sheets(images, split, tiles)
    return examples, sheets, cut


def _read_split(config, dataset, split):
    """([Example], {label: tiles of the first}) of a split; one example more than the limit."""
    examples, tiles, lines = [], defaultdict(list), _lines(config)
    native = datasets.each_native(f'{dataset}:{split}', config.data_dir, config.limit + 1)
    for grey, row in tqdm(native, f'looking at {split}', unit='image', disable=None):
        row = score_table.completed(row, lines.get(row.id))
        label, histogram = row.label_name, np.bincount(grey.ravel(), minlength=256)
        # Of a volume its size says how it was scanned.
        kept = grey if 'slices' in row.others else data_only.kept(grey)
        examples.append(Example(split, label, row, grey.shape, histogram, shrunk(grey), kept))
        if len(examples) <= config.limit and len(tiles[label]) < config.shown:
            tiles[label].append(pictures.draw_boxes(*_square(grey, row.boxes), TILE))
    return examples, tiles


def _lines(config):
    """{id: what config.table says of an image besides its label}; {} where there is none."""
    if not config.table:
        return {}
    source = pathlib.Path(config.source).expanduser().resolve()
    return score_table.read(pathlib.Path(config.table).expanduser(), source).lines


def _square(grey, boxes):
    """An image made square with black, so that its aspect is seen as it is; boxes move along."""
    height, width = grey.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = np.pad(grey, ((top, side - height - top), (left, side - width - left)))
    shift = np.array([top, left, top, left]) / side
    scale = np.array([height, width, height, width]) / side
    return padded, [shift + scale * box for box in boxes]


def _giveaways(page, config, workdir, examples):
    """What tells the classes apart: (a sentence for the opening, sections of the page).

    There is nothing to say of a data set with fewer than two classes.
    """
    labelled = [example for example in examples if example.label]
    if len({example.label for example in labelled}) < 2:
        return '', []
    kept, rows = [example.kept for example in labelled], [example.row for example in labelled]
    images = workdir / 'images'
    subject = data_only.subject(images, kept, rows)
    verdicts = ask(data_only.CHECKS, subject)
    write_json(workdir / 'look.json', audit_page.as_json(provenance.of(config), verdicts))
    flagged = [verdict for verdict in verdicts if verdict.flag]
    said = GIVEN_AWAY if flagged else NOT_GIVEN_AWAY
    names = joined(verdict.name for verdict in flagged) if flagged else ''
    panels = audit_page.forest(verdicts, subject.tests)
    figures_ = audit_page.drawn(panels, images / 'giveaways.png', REGRESSIONS)
    rows = audit_page.verdict_rows(verdicts)
    section = page.section('giveaways', ['', 'seen', 'finding'], rows, figures_)
    return said.format(names=names), [section]


def _contact_sheets(images, split, tiles):
    """Draws one sheet a label -> [Figure]."""
    sheets = []
    for label, of_label in sorted(tiles.items()):
        name = '_'.join(filter(None, ['sheet', split.split('[')[0], label]))
        path, columns = images / f'{name}.png', min(len(of_label), COLUMNS)
        picture.save(path, pictures.contact_sheet(of_label, columns))
        first = f'the first {len(of_label)}, boxes in yellow where there are any'
        sheets.append(Figure(path, f'{_group_name(split, label)}: {first}'))
    return sheets


def _pair_sheet(images, spec, split, config):
    """Draws the first pairs of a lesion and a sham of a spec -> [Figure], [] where it has none."""
    pairs = list(itertools.islice(datasets.pairs(spec, config.data_dir), PAIRS_SHOWN))
    if not pairs:
        return []
    path = images / f'pairs_{split.split("[")[0]}.png'
    shown = [(pair.before, pair.gate, pair.lesion, pair.sham) for pair in pairs]
    picture.save(path, pictures.pair_sheet(shown, TILE))
    what = ', '.join(pictures.OF_PAIR)
    return [Figure(path, f'{split}: the first {len(pairs)} pairs ({what})')]


def _group_name(split, label):
    return ', '.join(filter(None, [split, label]))


def _groups(examples):
    """{'split, label': [Example]}, splits in order of appearance, labels by name."""
    splits = list(dict.fromkeys(example.split for example in examples))
    groups = defaultdict(list)
    for example in sorted(examples, key=lambda e: (splits.index(e.split), e.label)):
        groups[_group_name(example.split, example.label)].append(example)
    return groups


def two_splits(examples):
    """Finds the source documents or series that are in more than one split.

    Args:
        examples: [Example].

    Returns:
        {(label, document or series): Counter of splits}, sorted.
    """
    splits = defaultdict(Counter)
    for example in examples:
        splits[example.label, document(example.row.group)][example.split] += 1
    return {key: counts for key, counts in sorted(splits.items()) if len(counts) > 1}


def _write_pairs(path, pairs, examples):
    """near_duplicates.csv: one line a pair."""
    header = ['correlation', *(f'{key}_{n}' for n in (1, 2) for key in KEYS)]
    lines = [(f'{value:.4f}', *_names(examples[i]), *_names(examples[j])) for value, i, j in pairs]
    write_csv(path, [header, *lines])


def _names(example):
    """KEYS of an Example."""
    return example.split, example.label, example.row.id, example.row.group


def _draw_groups(images, examples):
    """Yields the figures of sizes, grey levels and nodule diameters that say something."""
    groups = _groups(examples)
    if len({example.shape for example in examples}) > 1:
        yield _draw_sizes(images / 'sizes.png', groups)
    yield _draw_grey_levels(images / 'grey.png', groups)
    diameters = {
        name: [
            nodule.diameter
            for example in group
            for nodule in example.row.nodules
            if nodule.diameter
        ]
        for name, group in groups.items()
    }
    if any(diameters.values()):
        yield _draw_diameters(images / 'diameters.png', diameters)


def _draw_sizes(path, groups):
    figure, ax = figures.subplots(figsize=FIGSIZE)
    shapes = set()
    for name, group in groups.items():
        shapes |= {example.shape for example in group}
        heights, widths = zip(*(example.shape for example in group))
        ax.scatter(widths, heights, s=9, alpha=0.6, label=name)
    ax.set(xlabel='width, pixels', ylabel='height, pixels', xscale='log', yscale='log')
    ax.set(title=f'{len(shapes)} sizes')
    ax.legend(fontsize=8)
    figures.save(figure, path)
    return Figure(path, 'Width and height of every image')


def _draw_grey_levels(path, groups):
    figure, ax = figures.subplots(figsize=FIGSIZE)
    for name, group in groups.items():
        shares = [example.histogram / example.histogram.sum() for example in group]
        share = np.mean(shares, axis=0).reshape(64, 4).sum(1)
        ax.stairs(share, np.arange(0, 257, 4), label=name)
    ax.set(xlabel='grey level', ylabel='share of pixels', yscale='log')
    ax.set(title='grey levels, mean over images')
    ax.legend(fontsize=8)
    figures.save(figure, path)
    return Figure(path, 'Histogram of grey levels')


def _draw_diameters(path, diameters):
    figure, ax = figures.subplots(figsize=FIGSIZE)
    values, names = list(diameters.values()), list(diameters)
    ax.hist(values, bins=np.arange(0, 34, 2), stacked=True, label=names)
    ax.set(xlabel='diameter of the nodules, mm', ylabel='boxes')
    ax.legend(fontsize=8)
    figures.save(figure, path)
    return Figure(path, 'Histogram of nodule diameters')


def _draw_straddling(images, straddling):
    """Yields the figure of what is in more than one split, where anything is."""
    if not straddling:
        return
    shown = list(straddling.items())[:BARS]
    names = [name if len(name) < 40 else name[:39] + '…' for (_, name), _ in shown]
    figure, ax = figures.subplots(figsize=(7, 1 + 0.4 * len(shown)))
    start = np.zeros(len(shown))
    for split in dict.fromkeys(split for counts in straddling.values() for split in counts):
        counts = np.array([counts[split] for _, counts in shown])
        ax.barh(names, counts, left=start, label=split)
        start += counts
    ax.set(xlabel='images', title='source documents or series in more than one split')
    ax.invert_yaxis()
    ax.legend(fontsize=8)
    path = images / 'straddling.png'
    figures.save(figure, path)
    text = 'Images of each source document or series that is in more than one split'
    yield Figure(path, text)


def _draw_pairs(images, pairs, examples):
    """Yields the near-duplicates, one above the other, three times as large as compared."""
    if not pairs:
        return
    tile = lambda i: np.repeat(examples[i].small.repeat(3, 0).repeat(3, 1), 3, 2)
    columns = [np.vstack([tile(i), tile(j)]) for _, i, j in pairs[:PAIRS]]
    path = images / 'near_duplicates.png'
    picture.save(path, np.hstack(columns))
    where = f'one above the other, as compared at {SIZE}x{SIZE}'
    yield Figure(path, f'Near-duplicates of different groups, {where}')


def _folder(config):
    """Where the data set lies."""
    return specs.locate(config.dataset.partition(':')[0], config.data_dir)


def _opening(config, examples, cut):
    """The places of the opening, but for what lies in two places; `cut` has more to read."""
    splits = joined(sorted(set(cut))) if cut else ''
    groups = _groups(examples).items()
    levels = {name: _grey_levels(group) @ np.arange(256) for name, group in groups}
    return {
        'images': len(examples),
        'groups': len({example.row.group for example in examples}),
        'splits': joined(dict.fromkeys(example.split for example in examples)),
        'limit': LIMIT.format(limit=config.limit, splits=splits) if cut else '',
        'grey': GREY.format(
            levels=joined(f'{level:.0f} ({name})' for name, level in levels.items())
        ),
    }


def _counts(page, examples):
    """The section of the table of groups."""
    rows = [_count(name, group) for name, group in _groups(examples).items()]
    return page.section('counts', COUNTS, rows)


def _count(name, group):
    """COUNTS of a group of Examples."""
    sides = np.array([example.shape for example in group])
    height, width = np.median(sides, axis=0)
    grey = _grey_levels(group)
    return [
        name,
        len(group),
        len({example.row.group for example in group}),
        len({document(example.row.group) for example in group}),
        sum(len(example.row.nodules) for example in group),
        f'{width:.0f} x {height:.0f}',
        f'{sides.min()} to {sides.max()}',
        float(grey @ np.arange(256)),
        f'{grey[0]:.1%}',
        f'{grey[255]:.1%}',
    ]


def _grey_levels(group):
    """The share of each grey level in a group of Examples, float [256]."""
    pixels = np.sum([example.histogram for example in group], axis=0)
    return pixels / pixels.sum()


def _straddling(page, straddling, copies):
    """The section of copies and of documents in two splits."""
    rows = [
        (label, name, ', '.join(f'{split} {n}' for split, n in counts.items()))
        for (label, name), counts in straddling.items()
    ]
    columns = ['label', 'document or series', 'images in each split'] if rows else ()
    return page.section('straddling', columns, rows, copies=copies, count=len(rows))


def _alike(page, pairs, examples):
    """The section of near-duplicates."""
    rows = [(value, *_names(examples[i]), *_names(examples[j])) for value, i, j in pairs[:PAIRS]]
    about = {'count': len(pairs), 'threshold': THRESHOLD, 'size': SIZE}
    return page.section('alike', PAIR if rows else (), rows, **about)

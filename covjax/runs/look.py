"""A prepared data set -> one page to look at: pictures of every split, counts, sizes, grey levels, and what lies in two splits."""

import csv
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from covjax import InputError, __version__
from covjax.ct import picture
from covjax.data import datasets, specs
from covjax.data.lineage import document
from covjax.data.near_duplicates import SIZE, THRESHOLD, across_groups, near_duplicates, shrunk
from covjax.pages import figures, html, pictures

TILE, COLUMNS, PAIRS = 160, 8, 24


class Seen(NamedTuple):
    """What is kept of an example."""

    split: str
    label: str  # '' where the data set has none
    row: dict
    shape: tuple[int, int]
    histogram: np.ndarray  # pixels of each grey level, [256]
    small: np.ndarray  # uint8 [SIZE, SIZE, 1]


def run(config, workdir):
    """Writes look.html, the pictures in it as PNG, and near_duplicates.csv."""
    if not config.dataset:
        raise InputError('config.dataset is empty; name a prepared data set, for example covid_ct')
    if '+' in config.dataset or '@' in config.dataset:
        raise InputError(
            f'config.dataset={config.dataset}: name one data set, or one split of it; both classes are shown apart anyway'
        )
    images, seen, sheets, cut = workdir / 'images', [], [], set()
    for dataset, split in specs.splits(config.dataset, config.data_dir):
        tiles = defaultdict(list)
        examples = tqdm(
            datasets.each_native(f'{dataset}:{split}', config.data_dir, config.limit + 1),
            f'looking at {split}',
            unit='image',
            disable=None,
        )
        for i, (grey, row) in enumerate(examples):
            if i == config.limit:
                cut.add(split)
                break
            label = row.label_name
            seen.append(
                Seen(
                    split,
                    label,
                    row,
                    grey.shape,
                    np.bincount(grey.ravel(), minlength=256),
                    shrunk(grey),
                )
            )
            if len(tiles[label]) < config.shown:
                tiles[label].append(pictures.draw_boxes(*_square(grey, row.boxes), TILE))
        for label, these in sorted(tiles.items()):
            name = '_'.join(filter(None, ['sheet', split.split('[')[0], label])) + '.png'
            picture.save(images / name, pictures.contact_sheet(these, min(len(these), COLUMNS)))
            sheets.append(
                (
                    images / name,
                    f'{split}{f", {label}" if label else ""}: the first {len(these)}, boxes in yellow where there are any',
                )
            )
    pairs = across_groups(
        near_duplicates(np.stack([one.small for one in seen])), [one.row for one in seen]
    )
    _write_pairs(workdir / 'near_duplicates.csv', pairs, seen)
    straddling = two_splits(seen)
    drawn = [
        *_draw(images, seen),
        *_draw_straddling(images, straddling),
        *_pair_sheet(images, config, pairs, seen),
    ]
    (workdir / 'look.html').write_text(
        _page(config, seen, sheets, drawn, straddling, pairs, cut), encoding='utf-8'
    )
    print(
        f'{len(seen)} examples of {config.dataset}, {len(straddling)} documents or series in two splits, {len(pairs)} near-duplicates between groups: {workdir / "look.html"}'
    )


def two_splits(seen):
    """{(label, document or series): Counter of splits} of those that are in more than one."""
    splits = defaultdict(Counter)
    for one in seen:
        splits[one.label, document(one.row.group)][one.split] += 1
    return {key: counts for key, counts in sorted(splits.items()) if len(counts) > 1}


def _square(grey, boxes):
    """Made square with black, so that the aspect is seen as it is; boxes move along."""
    height, width = grey.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    shift, scale = (
        np.array([top, left, top, left]) / side,
        np.array([height, width, height, width]) / side,
    )
    return np.pad(grey, ((top, side - height - top), (left, side - width - left))), [
        shift + scale * box for box in boxes
    ]


def _groups(seen):
    """{'split, label': examples}, splits in order of appearance."""
    groups, splits = defaultdict(list), [one.split for one in seen]
    for one in sorted(seen, key=lambda one: (splits.index(one.split), one.label)):
        groups[', '.join(filter(None, [one.split, one.label]))].append(one)
    return groups


def _draw(images, seen):
    """Figures of sizes, grey levels and nodule diameters, those that say something."""
    groups = _groups(seen)
    shapes = {one.shape for one in seen}
    if len(shapes) > 1:
        figure, ax = figures.subplots(figsize=(6, 4.5))
        for name, group in groups.items():
            ax.scatter(
                *zip(*((one.shape[1], one.shape[0]) for one in group)), s=9, alpha=0.6, label=name
            )
        ax.set(
            xlabel='width, pixels',
            ylabel='height, pixels',
            xscale='log',
            yscale='log',
            title=f'{len(shapes)} sizes',
        )
        ax.legend(fontsize=8)
        yield _saved(figure, images / 'sizes.png', 'Width and height of every image')
    figure, ax = figures.subplots(figsize=(6, 4.5))
    for name, group in groups.items():
        share = (
            np.mean([one.histogram / one.histogram.sum() for one in group], axis=0)
            .reshape(64, 4)
            .sum(1)
        )
        ax.stairs(share, np.arange(0, 257, 4), label=name)
    ax.set(
        xlabel='grey level',
        ylabel='share of pixels',
        yscale='log',
        title='grey levels, mean over images',
    )
    ax.legend(fontsize=8)
    yield _saved(figure, images / 'grey.png', 'Histogram of grey levels')
    diameters = {
        name: [nodule.diameter for one in group for nodule in one.row.nodules]
        for name, group in groups.items()
    }
    if any(diameters.values()):
        figure, ax = figures.subplots(figsize=(6, 4.5))
        ax.hist(
            list(diameters.values()), bins=np.arange(0, 34, 2), stacked=True, label=list(diameters)
        )
        ax.set(xlabel='diameter of the nodules, mm', ylabel='boxes')
        ax.legend(fontsize=8)
        yield _saved(figure, images / 'diameters.png', 'Histogram of nodule diameters')


def _draw_straddling(images, straddling):
    if straddling:
        splits = list(dict.fromkeys(split for counts in straddling.values() for split in counts))
        figure, ax = figures.subplots(figsize=(7, 1 + 0.4 * min(len(straddling), 40)))
        names, start = (
            [name if len(name) < 40 else name[:39] + '…' for _, name in straddling][:40],
            np.zeros(min(len(straddling), 40)),
        )
        for split in splits:
            counts = np.array([counts[split] for counts in straddling.values()][:40])
            ax.barh(names, counts, left=start, label=split)
            start += counts
        ax.set(xlabel='images', title='source documents or series in more than one split')
        ax.invert_yaxis()
        ax.legend(fontsize=8)
        yield _saved(
            figure,
            images / 'straddling.png',
            'Images of each source document or series that is in more than one split',
        )


def _saved(figure, path, alt):
    figures.save(figure, path)
    return path, alt


def _pair_sheet(images, config, pairs, seen):
    """The near-duplicates, one above the other."""
    if pairs:
        tiles = [
            [np.repeat(seen[i].small.repeat(3, 0).repeat(3, 1), 3, 2) for i in pair[1:]]
            for pair in pairs[:PAIRS]
        ]
        picture.save(images / 'near_duplicates.png', np.hstack([np.vstack(pair) for pair in tiles]))
        yield (
            images / 'near_duplicates.png',
            f'Near-duplicates of different groups, one above the other, as compared at {SIZE}x{SIZE}',
        )


def _write_pairs(path, pairs, seen):
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                'correlation',
                *(f'{key}_{n}' for n in (1, 2) for key in ('split', 'label', 'id', 'group')),
            ]
        )
        writer.writerows(
            [f'{value:.4f}', *(cell for k in (i, j) for cell in _cells(seen[k]))]
            for value, i, j in pairs
        )


def _cells(one):
    return one.split, one.label, one.row.id, one.row.group


def _page(config, seen, sheets, drawn, straddling, pairs, cut):
    rows = []
    for name, group in _groups(seen).items():
        sides = np.array([one.shape for one in group])
        grey = np.sum([one.histogram for one in group], axis=0)
        rows.append(
            [
                name,
                len(group),
                len({one.row.group for one in group}),
                len({document(one.row.group) for one in group}),
                sum(len(one.row.nodules) for one in group),
                f'{np.median(sides[:, 1]):.0f} x {np.median(sides[:, 0]):.0f}',
                f'{sides.min()} to {sides.max()}',
                float(grey @ np.arange(256) / grey.sum()),
                f'{grey[0] / grey.sum():.1%}',
                f'{grey[255] / grey.sum():.1%}',
            ]
        )
    copies = Counter(one.row.sha256 for one in seen)
    notes = [
        f'<p>{sum(n - 1 for n in copies.values())} images equal another one pixel for pixel.</p>',
        f'<p>{len(straddling)} source documents or series are in more than one split.</p>',
        f'<p>{len(pairs)} pairs of different groups (patient, or series) show nearly the same picture: correlation above {THRESHOLD} at {SIZE}x{SIZE}. '
        'Such pairs are to be looked at: at that size two slices of different people can look alike. All are in near_duplicates.csv.</p>',
    ]
    tables = [
        html.table(
            ['label', 'document or series', 'images in each split'],
            [
                (label, name, ', '.join(f'{split} {n}' for split, n in counts.items()))
                for (label, name), counts in straddling.items()
            ],
        )
        if straddling
        else '',
        html.table(
            ['correlation', 'split', 'label', 'id', 'group', 'split', 'label', 'id', 'group'],
            [(value, *_cells(seen[i]), *_cells(seen[j])) for value, i, j in pairs[:PAIRS]],
        )
        if pairs
        else '',
    ]
    limit = f'Only the first {config.limit} of {", ".join(sorted(cut))} were read. ' if cut else ''
    body = [
        f'<p class="quiet">covjax {__version__}; {html.text(specs.locate(config.dataset.partition(":")[0], config.data_dir))}. {limit}Not for diagnosis.</p>',
        '<h2>Counts</h2>',
        html.table(
            [
                'split',
                'images',
                'groups',
                'documents or series',
                'nodules',
                'median size',
                'sides',
                'mean grey',
                'black',
                'white',
            ],
            rows,
        ),
        '<h2>What lies in two places</h2>',
        *notes,
        *tables,
        '<h2>Figures</h2>',
        *(html.figure(path, alt, alt) for path, alt in drawn),
        '<h2>Pictures</h2>',
        *(html.figure(path, f'Contact sheet: {caption}', caption) for path, caption in sheets),
    ]
    return html.document(config.dataset, '\n'.join(body))

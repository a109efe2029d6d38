"""Synthetic images -> quality.html and quality.json: how far they are from real ones, whether any is a copy of one, what upsampling left, and whether anatomy stayed."""

import pathlib

import numpy as np

from covjax import InputError, __version__, features
from covjax.audit.regions import lungs_only
from covjax.ct import lungs, picture
from covjax.data import batches, datasets, domains
from covjax.data.near_duplicates import SAME_DETAIL, SIZE, THRESHOLD, detail, nearest, shrunk
from covjax.data.synthetic import read_manifest
from covjax.metrics.distances import fid, fid_floor, kid
from covjax.metrics.intervals import mean_interval
from covjax.metrics.spectrum import checkerboard
from covjax.pages import html, pictures
from covjax.pages.tables import interval
from covjax.trained import data_dir_of
from covjax.workdir import read_config, write_json

SHOWN = 8


def run(config, workdir):
    """Measures one split of config.synthetic against config.real."""
    made = read_config(config.synthetic, 'synthesize', 'synthetic')
    gan = read_config(made.generator, 'cyclegan', 'generator')
    folder = pathlib.Path(config.synthetic) / 'synthetic'
    data_dir = data_dir_of(config)
    rows = [row for row in read_manifest(folder) if config.split in ('', row.split)]
    if len(rows) < 2:
        raise InputError(
            f'config.split={config.split}: {folder} has {len(rows)} images of that split; choose another'
        )
    load = lambda files: np.stack([picture.read(folder / file) for file in files])[..., None]
    inputs, fakes = load([row.input for row in rows]), load([row.file for row in rows])
    real, train = (
        datasets.read(config.real, data_dir, gan.image_size),
        domains.domain(gan.covid, 'covid', gan.image_size, data_dir),
    )
    if len(real.rows) < 2:
        raise InputError(f'config.real={config.real}: has {len(real.rows)} image; name more')
    sets = {
        'synthetic': (fakes, [row.group for row in rows]),
        'their inputs, untranslated': (inputs, [row.group for row in rows]),
        'real, trained on by the generator': (train.images, [row.group for row in train.rows]),
    }
    parts = {
        'distances': distances(config, sets, real),
        'copies': copies(workdir, fakes, real, train),
        'checkerboard': upsampling(sets, real),
        'anatomy': anatomy(workdir, rows, inputs, fakes),
    }
    about = {
        'synthetic': str(config.synthetic),
        'split': config.split,
        'images': len(rows),
        'real': config.real,
        'real_images': len(real.rows),
        'generator_trained_on': gan.covid,
    }
    write_json(
        workdir / 'quality.json',
        {
            'covjax': __version__,
            **about,
            **{
                name: {
                    'columns': columns,
                    'rows': [
                        [None if value != value else value for value in row] for row in values
                    ],
                    'note': note,
                }
                for name, (columns, values, note, _) in parts.items()
            },
        },
    )
    (workdir / 'quality.html').write_text(_page(about, parts), encoding='utf-8')
    for columns, values, note, _ in parts.values():
        print(
            '\n'.join(
                [
                    '',
                    note,
                    *(
                        '  '
                        + ', '.join(
                            f'{column} {html.text(value)}' for column, value in zip(columns, row)
                        )
                        for row in values
                    ),
                ]
            ),
            flush=True,
        )
    print(f'\nquality of {len(rows)} synthetic images in {workdir / "quality.html"}')


def distances(config, sets, real):
    """Kernel and Fréchet distance of every set from the real test images, in every space of features, of whole images and of lungs alone."""
    rows, groups = [], [row.group for row in real.rows]
    for name in map(str.strip, config.features.split(',')):
        see = features.extractor(name)
        for what, view in (
            ('whole image', lambda images: images),
            ('lungs only', lambda images: lungs_only(images, lungs.masks(images))),
        ):
            seen = batches.predict(see, view(real.images), config.batch_size, f'{name}, {what}')
            # Features of a classifier have any scale, which the kernel would cube; pixels and Inception's stay as they are published.
            scale = (
                1.0
                if name == 'pixels' or name.endswith('.h5')
                else float(np.sqrt((seen**2).mean()))
            )
            seen, floor = seen / scale, fid_floor(seen / scale, groups)
            for title, (images, set_groups) in sets.items():
                these = (
                    batches.predict(see, view(images), config.batch_size, f'{name}, {what}') / scale
                )
                rows.append(
                    [
                        name,
                        what,
                        title,
                        len(images),
                        interval(*kid(these, seen, set_groups, groups)),
                        fid(these, seen),
                        floor,
                    ]
                )
    note = (
        f'Distance from {len(real.rows)} real images. KID is 0 on average for images of the same kind, at any number of them. FID is larger the fewer images there are: the last column is '
        'that between two halves of the real ones. Neither compares with values of other features or, for FID, other numbers of images.'
    )
    return (
        (
            'features',
            'part',
            'images',
            'number',
            'KID (95 % interval)',
            'FID',
            'FID of halves of the real images',
        ),
        rows,
        note,
        (),
    )


def copies(workdir, fakes, real, train):
    """How like the most similar real training image each synthetic image is, beside real images that were not trained on."""
    small = lambda images: np.stack([shrunk(image[..., 0]) for image in images])
    known, rows = small(train.images), []
    trained_on = {row.sha256 for row in train.rows}
    unseen = real.images[[row.sha256 not in trained_on for row in real.rows]]
    for title, images in (
        ('synthetic', fakes),
        *([('real, not trained on', unseen)] if len(unseen) else []),
    ):
        alike, which = nearest(small(images), known)
        same = [
            value > THRESHOLD and detail(image[..., 0], train.images[k, ..., 0]) > SAME_DETAIL
            for value, image, k in zip(alike, images, which)
        ]
        rows.append(
            [title, len(images), float(np.median(alike)), float(alike.max()), int(sum(same))]
        )
        if title == 'synthetic':
            most = np.argsort(-alike)[:SHOWN]
            tiles = [
                np.repeat(one, 3, 2)
                for images, index in ((fakes, most), (train.images, which[most]))
                for one in images[index]
            ]
    picture.save(workdir / 'images' / 'nearest.png', pictures.contact_sheet(tiles, len(most)))
    note = f'Correlation of every image at {SIZE}x{SIZE} with the most similar real image that trained the generator; above {THRESHOLD}, with its fine structure, it counts as a copy. A shifted copy is not found.'
    return (
        ('images', 'number', 'median correlation', 'highest', 'copies'),
        rows,
        note,
        (
            (
                workdir / 'images' / 'nearest.png',
                'The synthetic images most like a real training image, and that image below each',
            ),
        ),
    )


def upsampling(sets, real):
    """Decibels at periods of 2 and 4 pixels."""
    rows = [
        [title, len(images), checkerboard(images)]
        for title, images in {
            **{title: images for title, (images, _) in sets.items()},
            'real, test': real.images,
        }.items()
    ]
    return (
        ('images', 'number', 'decibels'),
        rows,
        'Power at periods of 2 and 4 pixels over that of the frequencies around: a generator that doubles its maps can leave a checkerboard there.',
        (),
    )


def contrast(images, rows):
    """Mean grey inside 0.8 of the radius of every nodule less the median of the ring from 1.3 to 2 radii, float [K], in the order of rows; NaN where a part has no pixel."""
    values, (height, width) = [], images.shape[1:3]
    y, x = np.mgrid[:height, :width] + 0.5
    for image, row in zip(images[..., 0].astype(float), rows):
        for nodule in row.nodules:
            ymin, xmin, ymax, xmax = np.array(nodule.box) * [height, width, height, width]
            reach = np.hypot(
                (y - (ymin + ymax) / 2) / max((ymax - ymin) / 2, 1e-6),
                (x - (xmin + xmax) / 2) / max((xmax - xmin) / 2, 1e-6),
            )
            disc, ring = image[reach < 0.8], image[(reach > 1.3) & (reach < 2)]
            values.append(disc.mean() - np.median(ring) if len(disc) and len(ring) else np.nan)
    return np.array(values)


def anatomy(workdir, rows, inputs, fakes):
    """Dice of the lung masks before and after, and the contrast of nodules."""
    before, after = lungs.masks(inputs), lungs.masks(fakes)
    asked = lungs.plausible(before)
    overlap = np.where(lungs.plausible(after), lungs.dice(before, after), 0.0)[asked]
    groups = [row.group for row, ok in zip(rows, asked) if ok]
    values = [
        [
            'Dice of the lungs before and after, 0 where none are left',
            int(asked.sum()),
            interval(overlap.mean(), *mean_interval(overlap, groups)) if len(overlap) else '',
        ]
    ]
    old, new = contrast(inputs, rows), contrast(fakes, rows)
    known = np.isfinite(old) & np.isfinite(new)
    if known.sum() > 1:
        of_nodule = np.array([row.group for row in rows for _ in row.nodules])[known]
        values += [
            [
                f'grey levels by which nodules stand out, {when}',
                int(known.sum()),
                interval(one[known].mean(), *mean_interval(one[known], of_nodule)),
            ]
            for when, one in (('before', old), ('after', new))
        ]
        values.append(
            [
                'correlation of the two',
                int(known.sum()),
                float(np.corrcoef(old[known], new[known])[0, 1]),
            ]
        )
    some = np.flatnonzero(asked)[:SHOWN]
    figures = ()
    if len(some):
        outline = lambda image, mask: np.where(
            (mask & ~np.roll(mask, 1, 0) | mask & ~np.roll(mask, 1, 1))[..., None],
            pictures.YELLOW,
            np.repeat(image, 3, 2),
        ).astype(np.uint8)
        picture.save(
            workdir / 'images' / 'lungs.png',
            pictures.contact_sheet(
                [
                    outline(images[k], masks[k])
                    for images, masks in ((inputs, before), (fakes, after))
                    for k in some
                ],
                len(some),
            ),
        )
        figures = (
            (
                workdir / 'images' / 'lungs.png',
                'Edges of the lung masks: inputs above, their translations below',
            ),
        )
    return (
        ('what', 'number', 'mean (95 % interval)'),
        values,
        'Whether the translation keeps what it has to keep. Masks are found in grey pictures without HU.',
        figures,
    )


def _page(about, parts):
    titles = {
        'distances': 'Distance from real images',
        'copies': 'Copies of training images',
        'checkerboard': 'Traces of upsampling',
        'anatomy': 'Anatomy',
    }
    body = [
        f'<p class="quiet">covjax {__version__}; {about["images"]} images of {html.text(about["synthetic"])}, split {html.text(about["split"] or "all")}, against {html.text(about["real"])}; the generator was '
        f'trained on {html.text(about["generator_trained_on"])}.</p>',
        '<p class="warning"><strong>Not for diagnosis.</strong> No number says that a synthetic image shows disease.</p>',
    ]
    for name, (columns, rows, note, figures) in parts.items():
        body += [
            f'<h2>{titles[name]}</h2>',
            f'<p>{html.text(note)}</p>',
            html.table(columns, rows),
            *(html.figure(path, alt, alt) for path, alt in figures),
        ]
    return html.document('Quality of synthetic images', '\n'.join(body))

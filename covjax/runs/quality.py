"""Synthetic images -> quality.html and quality.json, which measure them.

The questions are how far they are from real ones, whether any is a copy of one, what upsampling
left, and whether anatomy stayed.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from covjax import InputError, features, provenance
from covjax.audit.regions import lungs_only
from covjax.ct import lungs, picture
from covjax.data import batches, datasets, domains
from covjax.data.near_duplicates import SAME_DETAIL, SIZE, THRESHOLD, detail, nearest, shrunk
from covjax.data.synthetic import read_manifest
from covjax.metrics.distances import fid, fid_floor, kid
from covjax.metrics.intervals import mean_interval
from covjax.metrics.spectrum import checkerboard
from covjax.pages import figures, html, pictures, prose
from covjax.pages.figures import Estimate
from covjax.pages.html import Figure
from covjax.pages.tables import interval
from covjax.trained import data_dir_of
from covjax.workdir import read_config, read_json, write_json

SHOWN, TILE = 8, 120  # of a contact sheet: columns, and the least side of an image in pixels
# Of a nodule, in its radii: the disc inside, and the ring around it.
DISC, RING = 0.8, (1.3, 2)

# What the opening of the page says of the measurements (the rest is prose/quality.toml).
DISTANCE = 'Their KID from real images is {synthetic}, that of the untranslated inputs {inputs}.'
KEPT = (
    'Lungs keep a Dice of {dice} in translation, and {copies} images are copies of training ones.'
)
NO_LUNGS = 'No plausible lungs were found, and {copies} images are copies of training ones.'
SYNTHETIC, INPUTS = 'synthetic', 'their inputs, untranslated'
DISTANCES = (
    'features',
    'part',
    'images',
    'number',
    'KID (95 % interval)',
    'FID',
    'FID of halves of the real images',
)
COPIES = ('images', 'number', 'median correlation', 'highest', 'copies')
NEAREST = 'The synthetic images most like a real training image, and that image below each'
CHECKERBOARD = ('images', 'number', 'decibels')
ANATOMY = ('what', 'number', 'mean (95 % interval)')
DICE = 'Dice of the lungs before and after, 0 where none are left'
STANDS_OUT = 'grey levels by which nodules stand out, {when}'
CORRELATION = 'correlation of the two'
OUTLINES = 'Edges of the lung masks: inputs above, their translations below'

FOREST = 'KID from real images with 95 % intervals; 0: no difference is seen'
PROSE = prose.read('quality')

# The views of an image: uint8 [N, H, W, 1] -> the same shape.
VIEWS = {
    'whole image': lambda images: images,
    'lungs only': lambda images: lungs_only(images, lungs.masks(images)),
}


class ImageSet(NamedTuple):
    """Images that are compared with real ones, and which of them belong together."""

    images: np.ndarray  # uint8 [N, size, size, 1]
    groups: list[str]  # patient or series of each image


class Translations(NamedTuple):
    """The synthetic images that are measured."""

    rows: list  # [SyntheticRow]
    inputs: np.ndarray  # uint8 [N, size, size, 1], what was translated
    outputs: np.ndarray  # uint8 [N, size, size, 1], the synthetic images


def run(config, workdir):
    """Measures one split of config.synthetic against config.real."""
    gan = _generator_config(config)
    synthetic = read_translations(pathlib.Path(config.synthetic) / 'synthetic', config.split)
    data_dir = data_dir_of(config)
    real = datasets.read(config.real, data_dir, gan.image_size)
    train = domains.domain(gan.covid, 'covid', gan.image_size, data_dir)
    if len(real.rows) < 2:
        raise InputError(f'config.real={config.real}: has {len(real.rows)} image; name more')
    groups = [row.group for row in synthetic.rows]
    train_groups = [row.group for row in train.rows]
    sets = {
        SYNTHETIC: ImageSet(synthetic.outputs, groups),
        INPUTS: ImageSet(synthetic.inputs, groups),
        'real, trained on by the generator': ImageSet(train.images, train_groups),
    }
    sections = {
        'anatomy': anatomy(workdir / 'images' / 'lungs.png', synthetic),
        'distances': distances(workdir / 'images' / 'distances.png', config, sets, real),
        'copies': copies(workdir / 'images' / 'nearest.png', synthetic.outputs, real, train),
        'checkerboard': upsampling(sets, real),
    }
    about = {
        'synthetic': str(config.synthetic),
        'split': config.split,
        'images': len(synthetic.rows),
        'real': config.real,
        'real_images': len(real.rows),
        'generator_trained_on': f'{gan.covid} and {gan.cancer}',
    }
    made_by = provenance.of(config, synthetic=provenance.images(config.synthetic))
    measured = {name: as_json(section) for name, section in sections.items()}
    write_json(workdir / 'quality.json', {**made_by, **about, **measured})
    _write_page(workdir / 'quality.html', config.title, about, sections)
    for section in sections.values():
        print(_as_text(section), flush=True)
    print(f'\nquality of {about["images"]} synthetic images in {workdir / "quality.html"}')


def _generator_config(config):
    """The config of the CycleGAN run that made config.synthetic.

    Where it lay when that was made, or beside config.synthetic, as the stages of a study do, whose
    folder was moved.
    """
    synthesize = read_config(config.synthetic, 'synthesize', 'synthetic')
    recorded = pathlib.Path(synthesize.generator)
    if recorded.is_dir():
        return read_config(recorded, 'cyclegan', 'generator')
    meta = pathlib.Path(config.synthetic) / 'synthetic' / 'meta.json'
    known = read_json(meta, dict).get('made_from', {}).get('generator', {})
    beside = pathlib.Path(config.synthetic).parent / recorded.name
    if (beside / 'config.json').is_file():
        found = read_config(beside, 'cyclegan', 'generator')
        if provenance.config_hash(found) == known.get('config_hash'):
            return found
    raise InputError(
        f'{config.synthetic}/config.json: its generator {recorded} is not there any more; write '
        'there where it lies now'
    )


def read_translations(folder, split):
    """The Translations of a folder (pathlib.Path) that `synthesize` wrote.

    Args:
        folder: with images/, inputs/ and a manifest.
        split: of the images; '' for all.

    Raises:
        InputError: there are fewer than two such images.
    """
    rows = [row for row in read_manifest(folder) if split in ('', row.split)]
    if len(rows) < 2:
        raise InputError(
            f'config.split={split}: {folder} has {len(rows)} images of that split; choose another'
        )
    read = lambda files: np.stack([picture.read(folder / file) for file in files])[..., None]
    inputs, outputs = read([row.input for row in rows]), read([row.file for row in rows])
    return Translations(rows, inputs, outputs)


def distances(path, config, sets, real):
    """Kernel and Fréchet distance of sets of images from real ones.

    Args:
        path: where a forest plot of the kernel distances is written.
        config: with `features`, names of spaces of features separated by commas, and `batch_size`.
        sets: {title: ImageSet}.
        real: Examples, which the generator has not seen.

    Returns:
        A Section with a row for each space, each view (whole images, lungs alone) and each set.
    """
    rows, panels = [], {}
    for name in map(str.strip, config.features.split(',')):
        extract = features.extractor(name)
        for part, view in VIEWS.items():
            progress = f'{name}, {part}'
            features_of = _features_of(extract, view, config.batch_size, progress)
            lines = panels[f'{part}, {name}'] = []
            for title, n, kernel, *frechet in _distances(features_of, name, sets, real):
                rows.append([name, part, title, n, interval(*kernel), *frechet])
                kind = 'network' if title == SYNTHETIC else 'reference'
                lines.append(Estimate(f'{title} ({n})', *kernel, kind))
    plot = figures.draw_forest(panels, 'kernel distance (KID)', limits=None, reference=0)
    figures.save(plot, path)
    return PROSE.section('distances', DISTANCES, rows, [Figure(path, FOREST)], n=len(real.rows))


def _features_of(extract, view, batch_size, progress):
    """A function uint8 [N, H, W, 1] -> features float [N, D]."""
    return lambda images: batches.predict(extract, view(images), batch_size, progress)


def _distances(features_of, name, sets, real):
    """Yields (title, images, KID, FID, FID of halves of the real images) of each of the sets."""
    real_features, real_groups = features_of(real.images), [row.group for row in real.rows]
    scale = _scale(name, real_features)
    real_features = real_features / scale
    floor = fid_floor(real_features, real_groups)
    for title, (images, groups) in sets.items():
        set_features = features_of(images) / scale
        kernel = kid(set_features, real_features, groups, real_groups)
        yield title, len(images), kernel, fid(set_features, real_features), floor


def _scale(name, real_features):
    """What features are divided by.

    Those of a classifier have any scale, which the kernel would cube; pixels and Inception's stay
    as they are published.
    """
    published = name == 'pixels' or name.endswith('.h5')
    return 1.0 if published else float(np.sqrt((real_features**2).mean()))


def copies(path, images, real, train):
    """How similar each synthetic image is to the real training image most like it.

    Args:
        path: where a picture of the most similar ones is written.
        images: the synthetic ones, uint8 [N, size, size, 1].
        real: Examples; those that were not trained on are measured beside the synthetic ones.
        train: Examples that trained the generator.

    Returns:
        A Section.
    """
    trained_on = {row.sha256 for row in train.rows}
    unseen = real.images[[row.sha256 not in trained_on for row in real.rows]]
    small = _shrunk(train.images)
    alike, index = nearest(_shrunk(images), small)
    rows = [_copies('synthetic', images, alike, train.images[index])]
    if len(unseen):
        unseen_alike, unseen_index = nearest(_shrunk(unseen), small)
        partners = train.images[unseen_index]
        rows.append(_copies('real, not trained on', unseen, unseen_alike, partners))
    most = np.argsort(-alike)[:SHOWN]
    shown = [*images[most], *train.images[index[most]]]
    tiles = [pictures.enlarged(np.repeat(image, 3, 2), TILE) for image in shown]
    picture.save(path, pictures.contact_sheet(tiles, len(most)))
    about = {'size': SIZE, 'threshold': THRESHOLD}
    return PROSE.section('copies', COPIES, rows, [Figure(path, NEAREST)], **about)


def _shrunk(images):
    return np.stack([shrunk(image[..., 0]) for image in images])


def _copies(title, images, alike, partners):
    """A row of COPIES.

    Args:
        title: of the images.
        images: uint8 [N, size, size, 1].
        alike: float [N], the correlation of each image with its partner.
        partners: uint8 [N, size, size, 1], the training image that each image is most like.
    """
    copied = [
        value > THRESHOLD and detail(image[..., 0], partner[..., 0]) > SAME_DETAIL
        for value, image, partner in zip(alike, images, partners)
    ]
    return [title, len(images), float(np.median(alike)), float(alike.max()), int(sum(copied))]


def upsampling(sets, real):
    """The Section on checkerboards, in decibels, of {title: ImageSet} and of real Examples."""
    images_of = {title: part.images for title, part in sets.items()} | {'real, test': real.images}
    rows = [[title, len(images), checkerboard(images)] for title, images in images_of.items()]
    return PROSE.section('checkerboard', CHECKERBOARD, rows)


def anatomy(path, synthetic):
    """How well anatomy survives translation: lungs and nodules.

    Of lungs it is the overlap of their masks, of nodules their contrast.

    Args:
        path: where a picture of the outlines of lungs is written, if any are found.
        synthetic: Translations.

    Returns:
        A Section: Dice of the lung masks before and after, and the contrast of nodules.
    """
    before, after = lungs.masks(synthetic.inputs), lungs.masks(synthetic.outputs)
    plausible = lungs.plausible(before)
    dice = np.where(lungs.plausible(after), lungs.dice(before, after), 0.0)[plausible]
    groups = [row.group for row, has_lungs in zip(synthetic.rows, plausible) if has_lungs]
    kept = _mean(dice, groups) if len(dice) else ''
    rows = [[DICE, int(plausible.sum()), kept], *_nodules(synthetic)]
    shown = np.flatnonzero(plausible)[:SHOWN]
    if not len(shown):
        return PROSE.section('anatomy', ANATOMY, rows)
    tiles = [
        pictures.enlarged(pictures.outline(images[k, ..., 0], masks[k]), TILE)
        for images, masks in ((synthetic.inputs, before), (synthetic.outputs, after))
        for k in shown
    ]
    picture.save(path, pictures.contact_sheet(tiles, len(shown)))
    return PROSE.section('anatomy', ANATOMY, rows, [Figure(path, OUTLINES)])


def _mean(values, groups):
    """The mean of values float [N] with its interval over groups, as text."""
    return interval(values.mean(), *mean_interval(values, groups))


def _nodules(synthetic):
    """Rows on how nodules stand out before and after; none where fewer than two can be measured."""
    before = contrast(synthetic.inputs, synthetic.rows)
    after = contrast(synthetic.outputs, synthetic.rows)
    known = np.isfinite(before) & np.isfinite(after)
    n = int(known.sum())
    if n < 2:
        return []
    groups = np.array([row.group for row in synthetic.rows for _ in row.nodules])[known]
    correlation = float(np.corrcoef(before[known], after[known])[0, 1])
    return [
        [STANDS_OUT.format(when='before'), n, _mean(before[known], groups)],
        [STANDS_OUT.format(when='after'), n, _mean(after[known], groups)],
        [CORRELATION, n, correlation],
    ]


def contrast(images, rows):
    """By how many grey levels nodules stand out from what is around them.

    Args:
        images: uint8 [N, H, W, 1].
        rows: [SyntheticRow] of the images.

    Returns:
        float [K], one for each nodule in the order of the rows: the mean inside 0.8 of its radius
        less the median of the ring from 1.3 to 2 radii; NaN where either has no pixel.
    """
    values = [
        _stands_out(image, nodule.box)
        for image, row in zip(images[..., 0].astype(float), rows)
        for nodule in row.nodules
    ]
    return np.array(values)


def _stands_out(image, box):
    """Disc less ring of the ellipse in a box, of float [H, W]."""
    height, width = image.shape
    ymin, xmin, ymax, xmax = np.array(box) * [height, width, height, width]
    y, x = np.mgrid[:height, :width] + 0.5
    radii = np.hypot(
        (y - (ymin + ymax) / 2) / max((ymax - ymin) / 2, 1e-6),
        (x - (xmin + xmax) / 2) / max((xmax - xmin) / 2, 1e-6),
    )
    disc, ring = image[radii < DISC], image[(radii > RING[0]) & (radii < RING[1])]
    return disc.mean() - np.median(ring) if len(disc) and len(ring) else np.nan


def as_json(section):
    """What quality.json holds of a Section, a dict; NaN, which JSON does not have, is null."""
    is_nan = lambda value: isinstance(value, float) and np.isnan(value)
    rows = [[None if is_nan(value) else value for value in row] for row in section.rows]
    return {'columns': section.columns, 'rows': rows, 'note': ' '.join(section.text.split())}


def _as_text(section):
    """What is printed of a Section."""
    lines = ['', ' '.join(section.text.split())]
    for row in section.rows:
        known = [
            (name, value) for name, value in zip(section.columns, row) if value not in ('', None)
        ]
        shown = lambda value: f'{value:.3f}' if isinstance(value, float) else str(value)
        values = (f'{name} {shown(value)}' for name, value in known)
        lines.append('  ' + ', '.join(values))
    return '\n'.join(lines)


def _write_page(path, title, about, sections):
    """Writes the page of {name: Section}."""
    split = f'split {about["split"]}' if about['split'] else 'of all splits'
    copied = sections['copies'].rows[0][-1]
    dice = sections['anatomy'].rows[0][-1]
    kernel = {row[2]: row[4] for row in reversed(sections['distances'].rows)}
    opening = PROSE.opening.format(
        **{**about, 'split': split},
        distance=DISTANCE.format(synthetic=kernel[SYNTHETIC], inputs=kernel[INPUTS]),
        kept=(KEPT if dice else NO_LUNGS).format(dice=dice, copies=copied),
    )
    html.write(path, title, opening, [*sections.values(), PROSE.section('about', **about)])

"""CT scans through a classifier of slices: the share of positive slices, and the corona score.

Gozes et al. 2020 (arXiv 2003.05037) call a scan positive by the share of its lung slices that a
classifier calls so, and sum the classifier's activation maps over the scan to a score in cm3. Here
the share is that of all slices, since `evaluate`, which chooses its threshold, knows of no lungs.
How they cut and scale the maps is not published. Our reading: in positive slices, inside the lungs
and where Grad-CAM is at least half of its maximum in the slice, the volume of a voxel counts with P
of the slice times Grad-CAM in shares of that maximum.
"""

import pathlib
import time
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from covjax import InputError, classifier, counted, drafts, lung_view, require, scorer, trained
from covjax.audit.attribution import grad_cam
from covjax.classes import positive_class
from covjax.ct import contents, framing, lungs, picture, volume, windows
from covjax.data import batches, results, specs
from covjax.pages import heat_maps, html, pictures, prose
from covjax.pages.html import Figure
from covjax.runs import segment
from covjax.workdir import write_csv

GIVE = {
    'classifier': 'give the workdir of a classifier of slices',
    'input': 'give a CT scan, or a folder of CT scans',
}
COLUMNS = (
    *('file', 'slices', 'lung slices', 'positive slices', 'share', 'positive'),
    *('corona score (ml)', 'volume (ml)', 'lungs (litres)'),
)
SHARE = 'share'  # the way of an evaluation whose thresholds are taken
FRAMED = '_framed'  # how names of data sets end whose slices are cut out and scaled
HALF = 0.5  # of the maximum of Grad-CAM in a slice, from which on it counts
SHOWN, TILE, COLUMNS_SHOWN = 12, 256, 4
PICTURE = 'The slices with the highest probabilities of each scan, and Grad-CAM in their lungs'


class Network(NamedTuple):
    """A classifier of slices, ready for scans."""

    score: object  # uint8 [N, size, size, 1] -> P(positive) [N]
    attribute: object  # the same -> Grad-CAM [N, h, w]
    size: int
    view: str  # '' or a key of framing.VIEWS
    find: object  # uint8 [slices, H, W] -> bool, where lungs are
    threshold: float  # of a slice
    share: float | None  # of the slices of a positive scan; None where it is not known
    batch_size: int


class Found(NamedTuple):
    """What was found in a scan."""

    scores: np.ndarray  # P of every slice, float [slices]
    heat: np.ndarray  # float32 [slices, H, W], 0 to 1: what counts of each voxel
    lungs: np.ndarray  # bool of the same shape


def run(config, workdir):
    """Scores the scans of config.input.

    Writes heat_maps/, NIfTI files with per cent of the heat on the grid of each scan, table.csv and
    corona.html.

    Raises:
        InputError: a key is missing or wrong, or a file cannot be read.
    """
    require(config, GIVE)
    source = pathlib.Path(config.input)
    network = opened(config)
    files, scans, remarks = contents.scans(source, config.hu, workdir)
    if files:
        raise InputError(f'config.input={source}: has pictures; give CT scans')
    for remark in remarks:
        print(remark, flush=True)
    names = segment.names_of(scans, source if source.is_dir() else source.parent)
    rows, tiles, each = [], [], max(SHOWN // len(scans), 1)
    with drafts.folder(workdir / 'heat_maps') as draft:
        for line, grey, found in of_scans(network, names, scans, draft):
            rows.append(line)
            tiles += tiles_of(grey, found, each) if len(tiles) < SHOWN else []
    write_csv(workdir / 'table.csv', [COLUMNS, *rows])
    picture.save(workdir / 'heat_maps.png', pictures.contact_sheet(tiles, COLUMNS_SHOWN))
    write_page(config, network, workdir, rows)
    print(f'heat maps in {workdir / "heat_maps"}, page {workdir / "corona.html"}')


def of_scans(network, names, scans, folder):
    """Scores scans, writes the heat map of each into a folder, and prints what was found.

    Args:
        network: Network.
        names: of the scans.
        scans: [volume.Volume].
        folder: pathlib.Path.

    Yields:
        (row of the table, uint8 [slices, H, W], Found) of each.
    """
    for i, (name, ct) in enumerate(zip(names, scans), 1):
        began = time.monotonic()
        hu, grid, code = volume.lps(ct)
        grey = windows.to_grey(hu)
        found = of_scan(network, grey)
        file = folder / f'{name}.nii.gz'
        file.parent.mkdir(parents=True, exist_ok=True)
        volume.write(file, np.round(100 * found.heat).astype(np.uint8), grid, code)
        line = row(network, name, found, float(np.prod(grid.spacing)) / 1000)
        left = (time.monotonic() - began) * (len(scans) - i)
        if not found.lungs.any():
            print(f'{name}: no lungs found, so its slices are shown whole and have no score')
        told = ', '.join(f'{key} {value}' for key, value in zip(COLUMNS[1:], line[1:]))
        print(f'{name} ({i} of {len(scans)}, {left:.0f} s left): {told}', flush=True)
        yield line, grey, found


def opened(config):
    """The Network of a config.

    Raises:
        InputError: it is no classifier of slices, or config.evaluation has no thresholds of it.
    """
    run_of = trained.open_run(config.classifier, 'classification', 'classifier', config.checkpoint)
    check_shown(config, run_of.config)
    loaded, positive = classifier.of_run(run_of), positive_class(config, run_of.classes)
    own = scorer.own_config(run_of)
    if config.lungs and own.lung_segmenter:
        raise InputError(
            f'config.lungs={config.lungs}: {config.classifier} was trained with a segmenter of its '
            'own, which finds the lungs here too; leave it empty'
        )
    threshold, share = thresholds(config, positive, run_of.step)
    return Network(
        score=jax.jit(classifier.score(loaded, positive)),
        attribute=jax.jit(grad_cam(*loaded, run_of.classes.index(positive))),
        size=run_of.config.image_size,
        view=run_of.config.lungs,
        find=lung_view.finder(own.lung_segmenter or config.lungs, 'lungs'),
        threshold=threshold,
        share=share,
        batch_size=config.batch_size,
    )


def check_shown(config, training):
    """Refuses a classifier that learned from what no scan here is shown as.

    Args:
        config: of the run.
        training: the config of the classifier.

    Raises:
        InputError: it learned from framed slices.
    """
    for dataset, _, _ in specs.parse(training.train):
        if dataset.endswith(FRAMED):
            raise InputError(
                f'config.classifier={config.classifier}: learned from framed slices ({dataset}), '
                'and here slices are shown whole; train one on '
                f'{dataset.removesuffix(FRAMED)}, with config.lungs=crop'
            )


def thresholds(config, positive, step):
    """(threshold of a slice, threshold of the share of positive slices or None).

    Those of config.evaluation, which validation chose, or config.threshold.

    Args:
        config: of the run.
        positive: name of the positive class.
        step: at which the checkpoint of the classifier was written.

    Raises:
        InputError: the evaluation has no shares of patients of this classifier and class, or is of
            another of its checkpoints.
    """
    if not config.evaluation:
        return config.threshold, None
    evaluation = results.read(config.evaluation)
    same = (
        pathlib.Path(evaluation.classifier).resolve() == pathlib.Path(config.classifier).resolve()
    )
    for result in evaluation.by_patient if same else ():
        chosen = result.image_threshold, result.threshold
        is_share = result.aggregate == SHARE and result.positive_class == positive
        is_share &= result.unit == 'patient'
        if not is_share or None in chosen:
            continue
        if result.step == step:
            return chosen
        raise InputError(
            f'config.evaluation={config.evaluation}: is of step {result.step} of '
            f'{config.classifier}, and config.checkpoint={config.checkpoint} is of step {step}; '
            'evaluate that checkpoint'
        )
    raise InputError(
        f'config.evaluation={config.evaluation}: has no share of positive slices of patients of '
        f'{config.classifier}; run evaluate.py with --config.aggregate={SHARE} on it'
    )


def of_scan(network, grey):
    """What a Network finds in the slices uint8 [slices, H, W] of a scan: Found."""
    lung = np.stack([_lungs_of(network, plane) for plane in grey])
    boxes = [_box(network, plane, mask) for plane, mask in zip(grey, lung)]
    images = np.stack([_shown(network, *each) for each in zip(grey, lung, boxes)])
    scores = batches.predict(network.score, images, network.batch_size)
    heat = np.zeros(grey.shape, np.float32)
    counted = np.flatnonzero((scores >= network.threshold) & lung.any((1, 2)))
    if len(counted):
        maps = batches.predict(network.attribute, images[counted], network.batch_size)
        for z, cam in zip(counted, maps):
            heat[z][boxes[z]] = scores[z] * _counted(cam, heat[z][boxes[z]].shape)
    return Found(scores, heat * lung, lung)


def _lungs_of(network, plane):
    """bool [H, W]: plausible lungs of a slice, or nothing; such a slice is shown whole."""
    mask = network.find(plane[None])[0]
    return mask if lungs.plausible(mask[None])[0] else np.zeros_like(mask)


def _box(network, plane, mask):
    """The part of a slice that the network is shown, (slice of rows, slice of columns)."""
    return framing.box_of(mask) if network.view and mask.any() else framing.whole(plane.shape)


def _shown(network, plane, mask, box):
    """What the network is shown of a slice: uint8 [size, size, 1]."""
    has_view = network.view and mask.any()
    shown = framing.VIEWS[network.view](plane, mask) if has_view else plane[box]
    size = (network.size, network.size)
    image = Image.fromarray(np.ascontiguousarray(shown))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))[..., None]


def _counted(cam, shape):
    """Grad-CAM in shares of its maximum, 0 below HALF of it, enlarged to a shape [h, w]."""
    image = Image.fromarray(np.asarray(cam, np.float32))
    large = np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR))
    share = large / max(large.max(), 1e-12)
    return np.where(share >= HALF, share, 0.0)


def row(network, name, found, millilitres):
    """The row of the table of a scan, in the order of COLUMNS.

    Args:
        network: Network.
        name: of the scan.
        found: Found.
        millilitres: of a voxel.
    """
    count = int((found.scores >= network.threshold).sum())
    share = count / len(found.scores)
    in_lungs = int(found.lungs.any((1, 2)).sum())
    verdict = '' if network.share is None else ('yes' if share >= network.share else 'no')
    volumes = found.heat.sum(dtype=float), (found.heat > 0).sum()
    # Without lungs there is nothing to sum over, which is not a score of 0.
    rounded = [round(float(voxels) * millilitres, 2) if in_lungs else '' for voxels in volumes]
    return [
        *(name, len(found.scores), in_lungs, count, round(share, 4), verdict),
        *rounded,
        round(found.lungs.sum() * millilitres / 1000, 3),
    ]


def tiles_of(grey, found, count):
    """The slices with the highest probabilities and their heat, [uint8 [TILE, TILE, 3]]."""
    tiles = []
    for z in sorted(np.argsort(-found.scores, kind='stable')[:count]):
        image = Image.fromarray(heat_maps.overlay(grey[z], found.heat[z]))
        tiles.append(np.asarray(image.resize((TILE, TILE), Image.Resampling.BILINEAR)))
    return tiles


def write_page(config, network, workdir, rows):
    """Writes corona.html.

    Args:
        config: of the run.
        network: Network.
        workdir: pathlib.Path, with heat_maps.png.
        rows: of the table.
    """
    page = prose.read('corona')
    positive = [line for line in rows if line[COLUMNS.index('positive')] == 'yes']
    said = f'{len(positive)} of them are called positive. ' if network.share is not None else ''
    opening = page.opening.format(
        files=counted(len(rows), 'scan'),
        input=config.input,
        classifier=config.classifier,
        threshold=network.threshold,
        positive=said,
    )
    figure = Figure(workdir / 'heat_maps.png', PICTURE)
    sections = [page.section('pictures', figures=[figure]), page.section('table', COLUMNS, rows)]
    html.write(workdir / 'corona.html', page.title, opening, sections)

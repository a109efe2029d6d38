"""Pictures or a CT scan segmented by a trained network: a mask of every file, a table and a page.

Masks lie on the grid of their file, in its orientation.
"""

import itertools
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from covjax import InputError, drafts, joined, lung_view, require, segmenter
from covjax.ct import contents, lungs, masks, picture, volume, windows
from covjax.metrics.segmentation import infection_percentage
from covjax.pages import html, pictures, prose
from covjax.pages.html import Figure
from covjax.workdir import write_csv

SHOWN, TILE, COLUMNS_SHOWN = 12, 256, 4  # of the picture of the page
GIVE = {
    'segmenter': 'give the workdir of a segmentation run, or a .safetensors file of it',
    'input': 'give a folder of pictures, a picture or a CT scan',
}
OTSU = 'otsu'  # what config.lungs calls the lungs that Otsu's threshold finds
COLUMNS = ('file', 'region', 'slices', 'voxels', 'litres', 'percent of lungs')
WINDOW_NOTE = 'pictures have no HU: their grey levels are taken as they are'
# What the opening of the page says (the rest is prose/segment.toml).
FOUND = 'Regions were found in {some} of {count}: {regions}.'
NOTHING = 'No region was found in any file.'
PICTURE = 'Slices with their regions in colour'


class Found(NamedTuple):
    """The mask of one file."""

    name: str  # of the file
    grey: np.ndarray  # uint8 [slices, H, W]
    classes: np.ndarray  # uint8 of the same shape
    lungs: np.ndarray | None  # bool of the same shape, where they are known
    millilitres: float | None  # of a voxel; None of a picture


def run(config, workdir):
    """Segments config.input with config.segmenter.

    Writes masks/ whole or not at all, table.csv, overlay.png and segment.html.

    Raises:
        InputError: a key is missing or wrong, or a file cannot be read.
    """
    require(config, GIVE)
    source = pathlib.Path(config.input)
    network = segmenter.load(config.segmenter, config.checkpoint)
    judge = _lung_judge(config, network)
    files, ct, remarks = contents.inputs(source, config.hu, workdir)
    for remark in [*remarks, WINDOW_NOTE] if files else remarks:
        print(remark, flush=True)
    rows, tiles = [], []
    with drafts.folder(workdir / 'masks') as draft:
        if ct:
            found = [of_volume(config, network, judge, ct, draft)]
        else:
            folder = source if source.is_dir() else source.parent
            found = of_pictures(config, network, judge, files, folder, draft)
        for one in found:
            rows += measured(one, network.classes)
            tiles += tiles_of(one, SHOWN if ct else 1) if len(tiles) < SHOWN else []
    write_csv(workdir / 'table.csv', [COLUMNS, *rows])
    picture.save(workdir / 'overlay.png', pictures.contact_sheet(tiles, COLUMNS_SHOWN))
    count = 1 if ct else len(files)
    write_page(config, network, workdir, rows, count)
    for row in rows[:SHOWN]:
        print(', '.join(f'{name} {value}' for name, value in zip(COLUMNS, row) if value != ''))
    masks_of = 'mask of 1 file' if count == 1 else f'masks of {count} files'
    print(f'{masks_of} in {workdir / "masks"}, page {workdir / "segment.html"}')


def _lung_judge(config, network):
    """What finds the lungs: a function of uint8 [slices, H, W] -> bool, or None for the network."""
    if not config.lungs or any(map(masks.is_lung, network.classes)):
        return None
    return lung_view.finder('' if config.lungs == OTSU else config.lungs, 'lungs')


def _without_small_pieces(config, network, classes):
    """Keeps config.pieces of each region named lung in uint8 [slices, H, W]; changes it."""
    for region, name in enumerate(network.classes):
        if config.pieces and masks.is_lung(name):
            where = classes == region
            classes[where & ~lungs.largest(where, config.pieces)] = 0
    return classes


def of_volume(config, network, judge, ct, target):
    """Segments a volume and writes its mask, on its own grid, into the folder `target`.

    Args:
        config: of the run.
        network: segmenter.Segmenter.
        judge: of `_lung_judge`.
        ct: volume.Volume.
        target: pathlib.Path.

    Returns:
        Found.
    """
    hu, grid, code = volume.lps(ct)
    grey = windows.to_grey(hu)
    del hu
    probabilities = segmenter.predict(network, grey, config.batch_size, config.overlap)
    classes = np.empty(grey.shape, np.uint8)
    bar = tqdm(probabilities, 'segmenting', total=len(grey), unit='slice', disable=None)
    for z, of_slice in enumerate(bar):
        classes[z] = segmenter.decided(of_slice, config.threshold)
    classes = _without_small_pieces(config, network, classes)
    volume.write(target / f'{ct.name}.nii.gz', classes, grid, code)
    lung = judge(grey) if judge else _own_lungs(classes, network)
    millilitres = float(np.prod(grid.spacing)) / 1000
    return Found(ct.name, grey, classes, lung, millilitres)


def of_pictures(config, network, judge, files, folder, target):
    """Segments pictures; each mask is a palette PNG of its name in `target`.

    Args:
        config, network, judge: as for `of_volume`.
        files: [pathlib.Path].
        folder: that the files lie in.
        target: pathlib.Path.

    Yields:
        Found.

    Raises:
        InputError: a file is no picture.
    """
    _check_names(files, folder)
    read = (np.asarray(picture.open_file(path)[0]) for path in files)
    images, shown = itertools.tee(read)
    probabilities = segmenter.predict(network, images, config.batch_size, config.overlap)
    bar = tqdm(files, 'segmenting', unit='picture', disable=None)
    for path, grey, of_picture in zip(bar, shown, probabilities):
        classes = segmenter.decided(of_picture, config.threshold)[None]
        classes = _without_small_pieces(config, network, classes)
        file = (target / path.relative_to(folder)).with_suffix('.png')
        file.parent.mkdir(parents=True, exist_ok=True)
        save_mask(file, classes[0])
        lung = judge(grey[None]) if judge else _own_lungs(classes, network)
        yield Found(str(path.relative_to(folder)), grey[None], classes, lung, None)


def _check_names(files, folder):
    """Refuses pictures whose masks would have one name."""
    seen = {}
    for path in files:
        other = seen.setdefault(path.relative_to(folder).with_suffix('.png'), path)
        if other != path:
            raise InputError(
                f'{path}: differs from {other.name} only in its ending, and masks are .png files; '
                'rename one of the two'
            )


def _own_lungs(classes, network):
    """bool: the lungs that the network itself finds, or None where it has no such region."""
    if any(map(masks.is_lung, network.classes)):
        return masks.in_lungs(classes, network.classes)
    return None


def save_mask(path, classes):
    """Writes a mask uint8 [H, W] as PNG whose pixels are the classes, each shown in its colour."""
    image = Image.fromarray(classes)
    image.putpalette(masks.colours(256).tobytes())
    image.save(path)


def measured(found, names):
    """The rows of the table of one file, in the order of COLUMNS.

    Args:
        found: Found.
        names: of the classes.
    """
    rows = []
    for region, name in enumerate(names[1:], 1):
        where = found.classes == region
        rows.append(_row(found, name, where))
    if found.lungs is not None and not any(map(masks.is_lung, names)):
        rows.append(_row(found, 'lungs', found.lungs))
    return rows


def _row(found, name, where):
    """A row of the table, of a region that is at `where`."""
    voxels = int(where.sum())
    litres = '' if found.millilitres is None else round(voxels * found.millilitres / 1000, 4)
    percent = ''
    if found.lungs is not None and found.lungs.any() and not masks.is_lung(name):
        percent = round(infection_percentage(where, found.lungs), 2)
    return found.name, name, int(where.any((1, 2)).sum()), voxels, litres, percent


def tiles_of(found, count):
    """Slices with their masks in colour, spread over a scan.

    Args:
        found: Found.
        count: how many, at most.

    Returns:
        [uint8 [TILE, TILE, 3]].
    """
    chosen = np.linspace(0, len(found.grey) - 1, count + 2).round().astype(int)[1:-1]
    tiles = []
    for z in np.unique(chosen):
        image = Image.fromarray(pictures.tint(found.grey[z], found.classes[z]))
        tiles.append(np.asarray(image.resize((TILE, TILE), Image.Resampling.BILINEAR)))
    return tiles


def write_page(config, network, workdir, rows, count):
    """Writes segment.html.

    Args:
        config: of the run.
        network: segmenter.Segmenter.
        workdir: pathlib.Path, with overlay.png.
        rows: of the table.
        count: number of files.
    """
    page = prose.read('segment')
    opening = page.opening.format(
        files='1 file' if count == 1 else f'{count} files',
        input=config.input,
        segmenter=config.segmenter,
        found=_found(rows, count, network.classes[1:]),
    )
    _, *colours = masks.COLOURS
    regions = ', '.join(
        f'{name} {colours[i % len(colours)]}' for i, name in enumerate(network.classes[1:])
    )
    picture_of = [Figure(workdir / 'overlay.png', PICTURE)]
    sections = [
        page.section('pictures', figures=picture_of, regions=regions),
        page.section('table', COLUMNS, rows),
    ]
    html.write(workdir / 'segment.html', page.title, opening, sections)


def _found(rows, count, names):
    """A sentence on how many files have which of the regions `names`."""
    files = {name: {row[0] for row in rows if row[1] == name and row[3]} for name in names}
    some = set().union(*files.values())
    if not some:
        return NOTHING
    regions = joined(f'{name} in {len(found)}' for name, found in files.items())
    return FOUND.format(some=len(some), count=count, regions=regions)

"""Pictures or CT scans segmented by a trained network: a mask of every file, a table and a page.

Masks lie on the grid of their file, in its orientation.
"""

import itertools
import pathlib
import time
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from covjax import (
    InputError,
    counted,
    drafts,
    joined,
    lung_view,
    require,
    scan_segmenter,
    segmenter,
)
from covjax.ct import contents, lungs, masks, picture, volume, windows
from covjax.memory import peak_of_process
from covjax.metrics.segmentation import infection_percentage
from covjax.pages import html, pictures, prose
from covjax.pages.html import Figure
from covjax.workdir import write_csv

SHOWN, TILE, COLUMNS_SHOWN = 12, 256, 4  # of the picture of the page
GIVE = {
    'segmenter': 'give the workdir of a segmentation run, its .safetensors file or one of lungmask',
    'input': 'give a folder of pictures or of CT scans, a picture or a CT scan',
}
OTSU = 'otsu'  # what config.lungs calls the lungs that Otsu's threshold finds
COLUMNS = ('file', 'region', 'side', 'slices', 'voxels', 'litres', 'percent of lungs')
WHOLE, SIDES = 'both', ('left', 'right')  # of the patient; pictures do not say which is which
GIB = 2**30
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
    judge = lung_judge(config, network)
    files, scans, remarks = contents.scans(source, config.hu, workdir)
    if files:
        segmenter.check_pictures(network, config.segmenter, source)
    for remark in [*remarks, WINDOW_NOTE] if files else remarks:
        print(remark, flush=True)
    count = len(files) or len(scans)
    rows, tiles, each = [], [], SHOWN if len(scans) == 1 else max(SHOWN // count, 1)
    folder = source if source.is_dir() else source.parent
    with drafts.folder(workdir / 'masks') as draft:
        if files:
            found = of_pictures(config, network, judge, files, folder, draft)
        else:
            found = of_volumes(config, network, judge, scans, folder, draft)
        for one in found:
            rows += measured(one, network.classes)
            tiles += tiles_of(one, each) if len(tiles) < SHOWN else []
    write_csv(workdir / 'table.csv', [COLUMNS, *rows])
    picture.save(workdir / 'overlay.png', pictures.contact_sheet(tiles, COLUMNS_SHOWN))
    write_page(config, network, workdir, rows, count)
    for row in rows[:SHOWN]:
        print(', '.join(f'{name} {value}' for name, value in zip(COLUMNS, row) if value != ''))
    masks_of = f'{"mask" if count == 1 else "masks"} of {counted(count, "file")}'
    print(f'{masks_of} in {workdir / "masks"}, page {workdir / "segment.html"}')


def lung_judge(config, network):
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


def of_volumes(config, network, judge, scans, folder, target):
    """Segments volumes; each mask is a NIfTI file of its name in `target`, on its own grid.

    Prints what each takes.

    Args:
        config: of the run.
        network: segmenter.Segmenter.
        judge: of `lung_judge`.
        scans: [volume.Volume].
        folder: pathlib.Path that they lie in, or that is the one scan.
        target: pathlib.Path.

    Yields:
        Found.

    Raises:
        InputError: the voxels of a scan are damaged or no HU, or two masks would have one name.
    """
    names = names_of(scans, folder)
    for i, (name, ct) in enumerate(zip(names, scans), 1):
        began = time.monotonic()
        print(f'{name} ({i} of {len(scans)}): {_about(config, network, ct)}', flush=True)
        file = target / f'{name}.nii.gz'
        file.parent.mkdir(parents=True, exist_ok=True)
        yield of_volume(config, network, judge, ct, name, file)
        took = time.monotonic() - began
        print(f'{name}: {took:.0f} s, peak of memory {peak_of_process() / GIB:.1f} GiB', flush=True)


def names_of(scans, folder):
    """The names of scans below a folder, without endings; refuses two of one name."""
    seen = {}
    for ct in scans:
        inside = folder in ct.path.parents
        name = (ct.path.relative_to(folder).parent / ct.name).as_posix() if inside else ct.name
        if name in seen:
            raise InputError(
                f'{ct.path}: differs from {seen[name].path.name} only in its ending, and masks are '
                '.nii.gz files; rename one of the two'
            )
        seen[name] = ct
    return list(seen)


def _about(config, network, ct):
    """What goes through a network of a volume.Volume, such as how many tiles."""
    shown = lambda size: ' x '.join(map(str, size))
    if not network.sees_volumes:
        return f'{ct.size[2]} slices of {shown(ct.size[:2])}'
    grid = ct.header.grid
    seen = grid.resampled(network.spacing) if network.spacing else grid
    count = len(scan_segmenter.tiles_of(network, seen.size[::-1], config.overlap))
    voxels = f'{shown(grid.size)} voxels'
    voxels += f' as {shown(seen.size)} of {network.spacing:g} mm' if network.spacing else ''
    return f'{voxels}, {count} tiles'


def of_volume(config, network, judge, ct, name, file):
    """Segments a volume and writes its mask, on its own grid.

    Args:
        config: of the run.
        network: segmenter.Segmenter.
        judge: of `lung_judge`.
        ct: volume.Volume.
        name: of the scan.
        file: pathlib.Path of the mask, .nii.gz.

    Returns:
        Found.
    """
    hu, grid, code = volume.lps(ct)
    probabilities = scan_segmenter.predict(
        network, hu, grid, config.batch_size, config.overlap, 'segmenting'
    )
    classes = np.empty(hu.shape, np.uint8)
    for z, of_slice in enumerate(probabilities):
        classes[z] = segmenter.decided(of_slice, config.threshold)
    grey = windows.to_grey(hu)
    del hu
    classes = _without_small_pieces(config, network, classes)
    volume.write(file, classes, grid, code)
    lung = judge(grey) if judge else own_lungs(classes, network)
    millilitres = float(np.prod(grid.spacing)) / 1000
    return Found(name, grey, classes, lung, millilitres)


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
    check_names(files, folder)
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
        lung = judge(grey[None]) if judge else own_lungs(classes, network)
        yield Found(str(path.relative_to(folder)), grey[None], classes, lung, None)


def check_names(files, folder):
    """Refuses pictures whose masks would have one name."""
    seen = {}
    for path in files:
        other = seen.setdefault(path.relative_to(folder).with_suffix('.png'), path)
        if other != path:
            raise InputError(
                f'{path}: differs from {other.name} only in its ending, and masks are .png files; '
                'rename one of the two'
            )


def own_lungs(classes, network):
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

    Of a scan whose lungs are known each region has a row for either side, too.

    Args:
        found: Found.
        names: of the classes.
    """
    regions = {name: found.classes == region for region, name in enumerate(names[1:], 1)}
    if found.lungs is not None and not any(map(masks.is_lung, names)):
        regions['lungs'] = found.lungs
    sides, rows = sides_of(found), []
    for name, where in regions.items():
        for side, part in sides.items():
            lung = None if found.lungs is None else found.lungs & part
            rows.append(_row(found, name, side, where & part, lung))
    return rows


def sides_of(found):
    """{side: bool [slices, H, W]} of a Found: all of it and, where known, left and right."""
    whole = {WHOLE: np.ones(found.classes.shape, bool)}
    if found.lungs is None or found.millilitres is None or not found.lungs.any():
        return whole
    regions = found.lungs | (found.classes > 0)
    left = lungs.left(regions)
    return whole | dict(zip(SIDES, (left, regions & ~left)))


def _row(found, name, side, where, lung):
    """A row of the table, of a region that is at `where` in lungs that are at `lung`, or None."""
    voxels = int(where.sum())
    litres = '' if found.millilitres is None else round(voxels * found.millilitres / 1000, 4)
    percent = ''
    if lung is not None and lung.any() and not masks.is_lung(name):
        percent = round(infection_percentage(where, lung), 2)
    return found.name, name, side, int(where.any((1, 2)).sum()), voxels, litres, percent


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
        files=counted(count, 'file'),
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

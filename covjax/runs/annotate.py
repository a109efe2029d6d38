"""A person in the loop: a segmenter draws, a person corrects, and training goes on; see rounds.py.

Shan et al. 2020 (arXiv 2003.04655) segment whole scans so; a round is three steps of config.step:

    predict  drafts for unlabelled images, those first that the network is least certain of
    take     the masks that the worklist calls done, checked as every mask is
    train    training goes on from the network that drew, with all that was taken
"""

import contextlib
import functools
import math
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

from covjax import (
    InputError,
    choice,
    counted,
    drafts,
    hashes,
    provenance,
    require,
    rounds,
    scan_segmenter,
    segmenter,
    trained,
)
from covjax.ct import contents, masks, picture, volume, windows
from covjax.data import specs
from covjax.metrics.segmentation import infection_percentage
from covjax.pages import annotate as page
from covjax.pages import pictures
from covjax.runs import prepare, segment
from covjax.runs import train as training
from covjax.workdir import claimed, write_csv, write_json

GIVE = 'give the workdir of a segmentation run'
DATASET = 'ct_scans/annotated'
UNCERTAIN = rounds.ORDERS[0]
UNTAKEN = (
    '{folder}: its masks have not been taken back; mark in worklist.csv what is done and run '
    '--config.step=take, or remove that folder'
)
COLUMNS = ('round', 'segmenter', 'order', 'files', 'edited', 'dice', 'minutes')


class Drawn(NamedTuple):
    """What a network drew on one image."""

    classes: np.ndarray | None  # uint8 [slices, H, W] in LPS; None once they are written
    uncertainty: float  # mean entropy in the lungs, 0 to 1
    percent: float | str  # of the lungs that is infected, '' where it is not known
    sha256: str  # of the image


class Image(NamedTuple):
    """An unlabelled image, open."""

    grey: np.ndarray  # uint8 [slices, H, W]; of a picture one slice
    hu: np.ndarray | None  # int16 [slices, H, W] in LPS, of a volume
    grid: object = None  # grid.Grid of a volume
    code: str = ''  # its orientation

    @property
    def sha256(self):
        """The hash of its HU or pixels, by which it is known again."""
        return hashes.of_bytes((self.grey if self.hu is None else self.hu).tobytes())


def run(config, workdir):
    """Does the step of a round that config.step names.

    Raises:
        InputError: a key is missing or wrong, a file cannot be read, or it is the turn of another
            step.
    """
    if ',' in str(workdir):
        raise InputError(f'--workdir={workdir}: has a comma, which parts folders; choose another')
    STEPS[choice(config, 'step', rounds.STEPS)](config, workdir)


# ---- predict


def predict(config, workdir):
    """Draws what is not labelled yet, and writes a round for the person."""
    found = rounds.read(workdir)
    if found and found[-1].taken is None:
        raise InputError(UNTAKEN.format(folder=found[-1].folder))
    named, source, hu = _sources(config, workdir, found)
    opened = trained.open_run(named, 'segmentation', 'segmenter', config.checkpoint)
    _check_project(config, opened, workdir)
    network = segmenter.of_run(opened)
    images, ending = _listed(network, source, hu, workdir)
    rounds.check_names(images)
    about = {
        **provenance.of(config, segmenter=provenance.network(opened)),
        **{'segmenter': _inside(named, workdir), 'input': str(source), 'hu': hu},
        **{'ending': ending, 'classes': list(network.classes), 'order': config.order},
        'dataset': _dataset(network, ending),
    }
    _check_alike(about, found, named)
    target = rounds.folder_of(workdir, len(found) + 1)
    with drafts.folder(target) as draft:
        drawn = _draw_all(config, network, found, images, ending, draft)
        if not drawn:
            raise InputError(f'config.input={source}: all of its images are taken; name others')
        by_order = lambda name: -drawn[name].uncertainty if config.order == UNCERTAIN else 0
        names = sorted(drawn, key=by_order)[: config.number]
        _keep(draft, names, drawn, images, ending)
        rows = [(name, round(drawn[name].uncertainty, 4), drawn[name].percent) for name in names]
        rounds.write_worklist(draft / 'worklist.csv', rows)
        hashed = {name: drawn[name].sha256 for name in names}
        write_json(draft / 'round.json', about | {'images': hashed})
    _tell(rows, len(drawn), target)


def _tell(rows, count, folder):
    """Prints what there is to do.

    Args:
        rows: of the worklist.
        count: of images that were drawn.
        folder: of the round.
    """
    for name, uncertainty, _ in rows[: segment.SHOWN]:
        print(f'{name}: uncertainty {uncertainty:.4f}')
    print(
        f'{len(rows)} of {count} drafts in {folder / "masks"}: edit them, mark in '
        f'{folder / "worklist.csv"} what is done, and run the same with --config.step=take'
    )


def _draw_all(config, network, found, images, ending, folder):
    """Draws images and writes what was drawn into drafts/ of a folder.

    Left out are those that were taken in the rounds before, under whatever name; of a random order
    no more are drawn than are asked for.

    Args:
        config: of the run.
        network: segmenter.Segmenter.
        found: [rounds.Round].
        images: {name: function that opens an Image}.
        ending: of the files of a round.
        folder: pathlib.Path.

    Returns:
        {name: Drawn}, without its classes.
    """
    judge, drawn = segment.lung_judge(config, network), {}
    labelled, names = rounds.taken_images(found), list(images)
    known, seen = 0, {}
    if choice(config, 'order', rounds.ORDERS) != UNCERTAIN:
        names = np.random.default_rng([config.seed, len(found)]).permutation(names).tolist()
    for i, name in enumerate(names, 1):
        image = images[name]()
        if image.sha256 in labelled:
            known += 1
            continue
        if (first := seen.setdefault(image.sha256, name)) != name:
            print(f'{name}: the same image as {first}, so it is left out', flush=True)
            continue
        print(f'{name} ({i} of {len(names)})', flush=True)
        one = draw(config, network, judge, image)
        _write(folder / 'drafts', name, one.classes, image, ending)
        drawn[name] = one._replace(classes=None)  # of all scans they might fill the memory
        if config.order != UNCERTAIN and len(drawn) == config.number:
            break
    if known:
        print(f'{counted(known, "image was", "images were")} taken before', flush=True)
    return drawn


def _keep(folder, names, drawn, images, ending):
    """Gives the person the files of a round: images, masks to edit, and a picture of both."""
    for name in {*drawn} - {*names}:
        _path(folder / 'drafts', name, ending).unlink()
    tiles, count = [], max(segment.SHOWN // len(names), 1)
    for name in names:
        image, draft = images[name](), _path(folder / 'drafts', name, ending)
        _write_image(folder / 'scans', name, image, ending)
        shutil.copyfile(draft, _path(folder / 'masks', name, ending))
        classes = rounds.read_values(draft, ending)
        shown = segment.Found(name, image.grey, classes, None, None)
        tiles += segment.tiles_of(shown, count) if len(tiles) < segment.SHOWN else []
    picture.save(folder / 'overlay.png', pictures.contact_sheet(tiles, segment.COLUMNS_SHOWN))


def _inside(path, workdir):
    """A path as a project notes it: seen from its folder if it lies there, which may be moved."""
    path, workdir = pathlib.Path(path), pathlib.Path(workdir)
    return str(path.relative_to(workdir)) if workdir in path.parents else str(path)


def _noted(path, workdir):
    """The pathlib.Path of what `_inside` has noted."""
    inside = pathlib.Path(workdir) / path
    return inside if inside.is_dir() else pathlib.Path(path)


def _sources(config, workdir, found):
    """(workdir of the segmenter, folder of the images, config.hu) of a new round.

    Where the config has none they are those of the last round, and its network once it is trained.
    """
    last = found[-1] if found else None
    named, source, hu = config.segmenter, config.input, config.hu
    if last and not named:
        named = _noted(last.about['segmenter'], workdir)
        if last.network.is_dir():
            named = last.network
            if not (named / 'environment.json').is_file():
                raise InputError(
                    f'{named}: its training has not ended; run --config.step=train to its end, or '
                    'remove that folder'
                )
        else:
            print(f'round {last.number} has not been trained on; {named} draws', flush=True)
    if last and not source:
        source, hu = last.about['input'], hu or last.about['hu']
    words = {'segmenter': named, 'input': source}
    require(words, {'segmenter': GIVE, 'input': 'give a folder of unlabelled scans or pictures'})
    return pathlib.Path(named), pathlib.Path(source), hu


def _check_project(config, opened, workdir):
    """Refuses a network whose data another project has, where they are to be trained on, too."""
    if _is_of_rounds(opened) and workdir not in opened.folder.parents and config.old_data:
        raise InputError(
            f'config.segmenter={opened.folder}: was trained in another project of rounds, whose '
            'data set has the same name; go on in that --workdir, or set config.old_data=False to '
            'train on what is taken here alone'
        )


def _is_of_rounds(opened):
    """Whether a training (trained.Trained) was one of `annotate`, whose data come last."""
    return any(part[0].startswith(DATASET) for part in specs.parse(opened.config.train))


def _check_alike(about, found, named):
    """Refuses a round whose masks would mean something else than those of the rounds before."""
    for key in ('classes', 'dataset', 'ending'):
        if found and about[key] != found[0].about[key]:
            shown = lambda value: ', '.join(value) if isinstance(value, list) else value
            raise InputError(
                f'config.segmenter={named}: has the {key} {shown(about[key])}, and the rounds '
                f'before have {shown(found[0].about[key])}; begin in another --workdir'
            )


def _listed(network, source, hu, workdir):
    """({name: function that opens an Image}, ending of files) of what there is to label."""
    files, scans, remarks = contents.scans(source, hu, workdir)
    folder = source if source.is_dir() else source.parent
    for remark in remarks:
        print(remark, flush=True)
    if files:
        segmenter.check_pictures(network, 'the segmenter', source)
        segment.check_names(files, folder)
        names = [path.relative_to(folder).with_suffix('').as_posix() for path in files]
        images = {name: functools.partial(_open_picture, path) for name, path in zip(names, files)}
    else:
        names = segment.names_of(scans, folder)
        images = {name: functools.partial(_open_volume, ct) for name, ct in zip(names, scans)}
    return images, rounds.PICTURE if files else rounds.VOLUME


def _open_picture(path):
    return Image(np.asarray(picture.open_file(path)[0])[None], None)


def _open_volume(ct):
    hu, grid, code = volume.lps(ct)
    return Image(windows.to_grey(hu), hu, grid, code)


def draw(config, network, judge, image):
    """The Drawn of an Image.

    Args:
        config: with threshold, overlap and batch_size.
        network: segmenter.Segmenter.
        judge: of segment.lung_judge.
        image: Image.
    """
    if image.hu is None:
        found = segmenter.predict(network, image.grey, config.batch_size, config.overlap)
    else:
        sizes = config.batch_size, config.overlap
        found = scan_segmenter.predict(network, image.hu, image.grid, *sizes, 'drawing')
    classes = np.empty(image.grey.shape, np.uint8)
    unsure = np.empty(image.grey.shape, np.float16)
    for z, of_slice in enumerate(found):
        classes[z] = segmenter.decided(of_slice, config.threshold)
        unsure[z] = entropy(of_slice)
    lung = judge(image.grey) if judge else segment.own_lungs(classes, network)
    if lung is None or not lung.any():
        return Drawn(classes, float(unsure.mean(dtype=float)), '', image.sha256)
    lesion = (classes > 0) & ~np.isin(classes, masks.lung_numbers(network.classes))
    percent = round(infection_percentage(lesion, lung), 2)
    return Drawn(classes, float(unsure[lung | lesion].mean(dtype=float)), percent, image.sha256)


def entropy(probabilities):
    """How uncertain each pixel is: float [..., classes] -> [...], 0 to 1 where all are alike."""
    p = np.clip(probabilities, 1e-12, 1)
    return -(p * np.log(p)).sum(-1) / math.log(p.shape[-1])


def _write(folder, name, classes, image, ending):
    """Writes a mask, of a volume on the grid and in the orientation of its file."""
    file = _path(folder, name, ending)
    if image.hu is None:
        segment.save_mask(file, classes[0])
    else:
        volume.write(file, classes, image.grid, image.code)


def _write_image(folder, name, image, ending):
    """Writes an image beside its mask."""
    file = _path(folder, name, ending)
    if image.hu is None:
        picture.save(file, image.grey[0])
    else:
        volume.write(file, image.hu, image.grid, image.code)


def _path(folder, name, ending):
    """The path of a file; makes its folder."""
    file = folder / f'{name}{ending}'
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _dataset(network, ending):
    """The config of ct_scans that gives a network what was taken."""
    if ending == rounds.PICTURE:
        return DATASET
    if not network.sees_volumes:
        return f'{DATASET}_slices'
    return f'{DATASET}_{network.spacing * 1000:.0f}um' if network.spacing else DATASET


# ---- take


def take(config, workdir):
    """Takes back what the worklist of the last round calls done, and tells what was edited."""
    found = rounds.read(workdir)
    if not found:
        raise InputError(f'{workdir}: has no round; run --config.step=predict first')
    *before, last = found
    taken = [_taken(config, last, *done) for done in rounds.read_done(last)]
    now = [*before, last._replace(taken=taken)]
    with _tables_kept(workdir):
        rounds.write_tables(workdir, now)
        options = {'unchecked_masks': True} if config.unchecked_masks else {}
        options |= {'hu': '1,0'} if last.about['hu'] else {}  # what is there is in HU
        prepare.build(last.about['dataset'], str(workdir), str(workdir / 'data'), True, **options)
    rounds.note_taken(last, taken)
    summaries = [rounds.summary(one) for one in now]
    write_csv(workdir / 'rounds.csv', [COLUMNS, *_cells(summaries)])
    write_json(workdir / 'rounds.json', {**provenance.of(config), 'rounds': summaries})
    page.write(workdir, summaries, now)
    for row in summaries:
        shown = {name: row[name] for name in COLUMNS if row[name] is not None}
        print(', '.join(f'{name} {_text(value)}' for name, value in shown.items()))
    print(f'{len(taken)} taken; go on with --config.step=train; page {workdir / "annotate.html"}')


def _taken(config, one, name, minutes):
    """What is noted of a mask that a person calls done, after it was checked: rounds.Taken.

    Args:
        config: of the run.
        one: rounds.Round.
        name: of the file.
        minutes: that the person gives, or None.
    """
    file = one.file('masks', name)
    draft, final = (rounds.read_mask(one, kind, name) for kind in ('drafts', 'masks'))
    edited, dice = rounds.compared(draft, final, file)
    image = _open_drawn(one, name)
    if image.hu is None and not config.unchecked_masks:  # volumes are compared where they are built
        masks.check_place([final], [image.grey], tuple(one.about['classes']), file)
    return {'name': name, 'edited': edited, 'dice': dice, 'minutes': minutes}


def _open_drawn(one, name):
    """The Image of a file of a round.

    Raises:
        InputError: it is not the image that was drawn on, or lies elsewhere.
    """
    file, is_picture = one.file('scans', name), one.about['ending'] == rounds.PICTURE
    image = _open_picture(file) if is_picture else _open_volume(volume.open_volume(file, '1,0'))
    is_same = image.sha256 == one.about['images'][name]
    if is_same and not is_picture:
        _, grid = masks.read_volume(one.file('drafts', name))
        is_same = max(image.grid.shifts(grid).values()) <= masks.MOST_SHIFT
    if not is_same:
        raise InputError(f'{file}: is not the image that was drawn on; copy that one there again')
    return image


def _cells(summaries):
    """Rows of rounds.csv."""
    return [['' if row[name] is None else row[name] for name in COLUMNS] for row in summaries]


def _text(value):
    return f'{value:.3f}' if isinstance(value, float) else value


@contextlib.contextmanager
def _tables_kept(workdir):
    """Puts the tables of a project back where its masks are refused."""
    files = [workdir / name for name in ('scans.csv', 'regions.csv')]
    before = [file.read_bytes() if file.is_file() else None for file in files]
    try:
        yield
    except BaseException:
        for file, content in zip(files, before):
            file.unlink(missing_ok=True) if content is None else file.write_bytes(content)
        raise


# ---- train


def train(config, workdir):
    """Trains on from the network of the last round, on what was taken and, if asked, as before."""
    found = rounds.read(workdir)
    if not found or found[-1].taken is None:
        where = UNTAKEN.format(folder=found[-1].folder) if found else f'{workdir}: has no round'
        raise InputError(where)
    last = found[-1]
    named = _noted(last.about['segmenter'], workdir)
    if not named.is_dir():
        raise InputError(
            f'{last.folder}/round.json: its segmenter {named} is not there any more; write there '
            'where it lies now'
        )
    opened = trained.open_run(named, 'segmentation', 'segmenter', config.checkpoint)
    _check_project(config, opened, workdir)
    asked = training_config(config, opened, workdir, last.about['dataset'])
    try:
        with claimed(asked, last.network):
            training.run(asked, last.network)
    except InputError as error:  # whose --workdir is not that of this run
        remedy = f'or remove {last.network}, to train it anew'
        raise InputError(str(error).replace('choose another --workdir', remedy)) from None
    print(f'network of round {last.number} in {last.network}; go on with --config.step=predict')


def training_config(config, opened, workdir, dataset):
    """The ConfigDict of the training that goes on.

    Args:
        config: of the run: steps, learning_rate (0: as before), old_data.
        opened: trained.Trained of the network that drew.
        workdir: pathlib.Path of the project.
        dataset: of what was taken.
    """
    before, own = opened.config, str(workdir / 'data')
    parts = specs.parse(before.train)
    old = [specs.part(*part) for part in parts if not part[0].startswith(DATASET)]
    asked = before.copy_and_resolve_references()
    folders = (before.data_dir or specs.DEFAULT_DIR).split(',')
    folders = folders[:-1] if _is_of_rounds(opened) else folders
    asked.update(
        train='+'.join([*(old if config.old_data else []), f'{dataset}:train']),
        data_dir=','.join([*folders, own]),
        equal_parts=bool(config.old_data and old),
        start=str(opened.folder),
        steps=config.steps,
        learning_rate=config.learning_rate or before.learning_rate,
        seed=config.seed,
    )
    return asked


STEPS = dict(zip(rounds.STEPS, (predict, take, train)))

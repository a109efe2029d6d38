"""Raw files -> a prepared TFDS data set, with a contact sheet of each split.

A build that fails leaves nothing behind, and one that is killed nothing that looks complete.
"""

import contextlib
import io
import pathlib
import shutil
import time

import numpy as np
from absl import logging

from covjax import InputError, counted, drafts, installation
from covjax.ct import picture
from covjax.data import datasets, specs
from covjax.pages import pictures
from covjax.workdir import duration, read_json

SHOWN, TILE = 24, 192  # tiles of a contact sheet, and pixels a side of each
EVERY = ('workers', 'beam')  # options of every builder
# What TFDS makes in a data folder before it builds, the innermost first.
MADE_BY_TFDS = (
    *('.config/metadata.json', '.config'),
    *('extracted', 'downloads/extracted', 'downloads'),
)


def run(config, workdir):
    """Builds config.dataset from config.source into config.data_dir, and draws its first images.

    Writes images/NAME_SPLIT.png, and skipped_series.txt where series were skipped.

    Raises:
        InputError: a key is wrong, or raw files are missing or damaged.
    """
    began = time.monotonic()
    builder = build(
        config.dataset,
        config.source,
        config.data_dir,
        config.overwrite,
        **{key: config[key] for key in options() if config[key]},
    )
    print(f'{config.dataset} in {duration(time.monotonic() - began)}: {builder.data_dir}')
    skipped = getattr(builder, 'skipped', ())
    if skipped:
        listing = workdir / 'skipped_series.txt'
        drafts.write_text(listing, '\n'.join(skipped) + '\n')
        print(
            f'skipped {len(skipped)} series without a volume (first {skipped[0]}), '
            f'all listed in {listing}'
        )
    for split, info in builder.info.splits.items():
        records = datasets.records(f'{config.dataset}:{split}', config.data_dir, SHOWN)
        tiles = [_tile(record) for record in records]
        sheet = workdir / 'images' / f'{config.dataset.replace("/", "_")}_{split}.png'
        picture.save(sheet, pictures.contact_sheet(tiles, min(len(tiles), 6)))
        count = f'{counted(info.num_examples, "example")}, the first {len(tiles)} in {sheet}'
        print(f'{config.dataset}:{split}  {count}')


def _tile(record):
    """A record of datasets.records for people: uint8 [TILE, TILE, 3], boxes and mask drawn in."""
    image, mask = datasets.volume(record.image), record.mask
    if mask is not None:
        mask = datasets.volume(mask)
    if image.ndim == 3:  # the slice with most of the mask says most about it
        areas = [] if mask is None else mask.astype(bool).sum((1, 2))
        z = int(np.argmax(areas)) if np.any(areas) else len(image) // 2
        image, mask = image[z], None if mask is None else mask[z]
    tile = pictures.draw_boxes(image, record.row.boxes, TILE)
    return tile if mask is None else pictures.tint(tile, mask)


def options():
    """The keys of a config that are options of builders, EVERY and those of their own."""
    import tfds_builders

    own = {key for builder in tfds_builders.BUILDERS.values() for key in builder.OPTIONS}
    return (*sorted(own - {'source'}), *EVERY)


def build(dataset, source, data_dir, overwrite=False, **options):
    """Builds a data set, unless it is already there from the same source.

    Args:
        dataset: 'name' or 'name/config'.
        source: the raw folder; '' downloads what may be downloaded.
        data_dir: where to; '' is TFDS's own folder.
        overwrite: whether to replace what was built from another source.
        options: of the builder, those of `options` that are set.

    Returns:
        Its TFDS builder.

    Raises:
        InputError: an argument is wrong, raw files are missing or damaged, or there is no space.
            What was there before is there afterwards.
    """
    kind = _kind(dataset)
    if 'source' in kind.OPTIONS:  # its features depend on the files
        options = options | {'source': str(_given(kind, source))}
    builder = _builder(dataset, data_dir, options)
    source = _source(builder, source, data_dir)
    fingerprint = builder.fingerprint(source)
    if remark := builder.remark(source):
        print(f'{dataset}: {remark}')
    target = pathlib.Path(builder.data_dir)
    stamp = target / 'source.json'
    if (
        target.exists()
        and stamp.is_file()
        and read_json(stamp, dict).get('fingerprint') == fingerprint
    ):
        print(f'{dataset} is already prepared in {target}')
        return builder
    if target.exists() and not overwrite:
        raise InputError(
            f'{target} was prepared from other files than {source}; '
            'choose another config.data_dir, or set config.overwrite=True'
        )
    builder = _build(dataset, source, data_dir, options, target)
    for line in builder.remarks:
        print(f'{dataset}: {line}')
    return builder


def _kind(dataset):
    """The class of the builder of a data set; an InputError where there is none."""
    import tfds_builders

    if not tfds_builders.known(dataset):
        valid = ', '.join(tfds_builders.names())
        raise InputError(f'config.dataset={dataset}: no such data set; choose one of {valid}')
    return tfds_builders.BUILDERS[dataset.partition('/')[0]]


def _builder(dataset, data_dir, options):
    """The TFDS builder of a data set; an InputError where an argument is wrong."""
    import tensorflow_datasets as tfds

    logging.set_verbosity(logging.ERROR)  # TFDS warns of every folder that is not prepared yet
    tfds.disable_progress_bar()  # it knows no total; ours do
    for key in options:
        if key not in (*_kind(dataset).OPTIONS, *EVERY):
            raise InputError(f'config.{key} does not apply to {dataset}; leave it out')
    _check_data_dir(data_dir)
    folder = _data_folder(data_dir)
    if 'beam' in options:  # the builder wants to know whether, and TFDS the rest
        options = options | {'beam': bool(options['beam'])}
    with contextlib.ExitStack() as stack:
        if (folder / dataset).exists():
            stack.enter_context(datasets.readable(folder / dataset, dataset))
        try:
            return tfds.builder(dataset, data_dir=str(folder), **options)
        except InputError as error:  # before which TFDS has put all that the builder was given
            raise InputError(error.message, error.details) from None


def _check_data_dir(data_dir):
    if ',' in data_dir:
        raise InputError(
            f'config.data_dir={data_dir}: a data set is built into one folder; name only one'
        )
    if set(data_dir) & set('[]*?'):
        raise InputError(
            f'config.data_dir={data_dir}: TFDS takes [ ] * ? for patterns; '
            'choose a folder without them'
        )


def _data_folder(data_dir):
    return pathlib.Path(data_dir or specs.DEFAULT_DIR).expanduser()


def _source(builder, source, data_dir):
    """The raw folder: `source`, or where that is empty the folder of a download."""
    if source or not builder.DOWNLOAD:
        return _given(builder, source)
    return _download(builder, _data_folder(data_dir) / 'downloads')


def _given(kind, source):
    """config.source as a path that exists; `kind` is a builder or its class."""
    if not source:
        raise InputError(f'config.source is empty; {kind.MANUAL_DOWNLOAD_INSTRUCTIONS}')
    folder = pathlib.Path(source).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(
            f'config.source={folder}: no such folder; {kind.MANUAL_DOWNLOAD_INSTRUCTIONS}'
        )
    return folder


def _download(builder, folder):
    """The raw folder of a data set that may be downloaded, below a folder."""
    import tensorflow_datasets as tfds

    print(f'downloading {builder.DOWNLOAD} to {folder}', flush=True)
    before = _existing(folder)
    try:
        return builder.download(tfds.download.DownloadManager(download_dir=folder))
    except Exception as error:  # whatever requests, urllib and the unpacking raise
        for part in folder.glob('*.tmp.*'):  # of a download that broke off
            shutil.rmtree(part, ignore_errors=True)
        _take_away(folder, before)
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(
            f'{builder.DOWNLOAD} cannot be downloaded ({reason}); '
            f'{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}, as config.source'
        ) from None


def _existing(folder):
    """The folders of a path that exist."""
    return {part for part in (folder, *folder.parents) if part.exists()}


def _take_away(folder, before):
    """Removes a folder and those above it that did not exist before, where nothing is in them.

    A folder that holds anything but what TFDS makes is kept: another build may have put it there.
    """
    by_tfds = {pathlib.Path(name).parts[0] for name in MADE_BY_TFDS}
    for part in (folder, *folder.parents):
        if part in before or any(path.name not in by_tfds for path in part.glob('*')):
            return
        for name in (*MADE_BY_TFDS, '.'):
            _remove(part / name)
        if part.exists():
            return


def _remove(path):
    """Removes a file, or a folder that is empty; keeps what cannot be removed."""
    with contextlib.suppress(OSError):
        if path.is_file():
            path.unlink()
        else:
            path.rmdir()


def _build(dataset, source, data_dir, options, target):
    """Builds a data set into `target`, the folder of its version."""
    for draft in target.parent.glob(f'incomplete.*_{target.name}'):  # of a build that was killed
        shutil.rmtree(draft, ignore_errors=True)
    with _old_version_aside(target):
        builder = _builder(dataset, data_dir, options)  # one that has not seen the old files
        download_config = _download_config(source, options.get('beam'))
        # TFDS prints that it downloads files of unknown size.
        with _writable(target), contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=download_config)
    return builder


@contextlib.contextmanager
def _old_version_aside(target):
    """Moves what is in `target` aside, and back if the block fails; then nothing new is left."""
    aside, before = target.with_name(target.name + '.replaced'), _existing(target.parent)
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        if aside.exists():
            aside.rename(target)
        _take_away(target.parent, before)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _writable(target):
    """Turns the error of a full disk, or of a folder that cannot be written, into an InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # TFDS passes on what array_record says, which is a RuntimeError.
        refused = error if isinstance(error, OSError) else drafts.refused(error, target)
        if refused is None:
            raise
        remedy = drafts.REMEDIES.get(refused.errno, 'choose another folder')
        raise InputError(
            f'{target}: cannot be written ({refused.strerror or refused}); {remedy}'
        ) from None


def _download_config(source, beam):
    """What TFDS is given: where the raw files are, and the options of a Beam pipeline."""
    import tensorflow_datasets as tfds

    if not beam:
        return tfds.download.DownloadConfig(manual_dir=str(source))
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise InputError(
            f'config.beam needs Apache Beam; {installation.extra("beam")}, '
            'or leave it out and set config.workers'
        ) from None
    beam_options = PipelineOptions(beam.split())
    return tfds.download.DownloadConfig(manual_dir=str(source), beam_options=beam_options)

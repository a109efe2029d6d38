"""Raw files -> a prepared TFDS data set, with a contact sheet of each split."""

import contextlib
import io
import pathlib
import shutil
import time

from absl import logging

from covjax import InputError
from covjax.ct import picture
from covjax.data import datasets, specs
from covjax.pages import pictures
from covjax.workdir import duration, read_json

SHOWN, TILE = 24, 192
OPTIONS = ('annotations', 'candidates', 'allow_missing', 'workers', 'beam')


def run(config, workdir):
    """Builds config.dataset from config.source into config.data_dir."""
    began = time.monotonic()
    builder = build(
        config.dataset,
        config.source,
        config.data_dir,
        config.overwrite,
        **{key: config[key] for key in OPTIONS if config[key]},
    )
    print(f'{config.dataset} in {duration(time.monotonic() - began)}: {builder.data_dir}')
    if getattr(builder, 'skipped', ()):
        listing = workdir / 'skipped_series.txt'
        listing.write_text('\n'.join(builder.skipped) + '\n')
        print(
            f'skipped {len(builder.skipped)} series without a volume (first {builder.skipped[0]}), all listed in {listing}'
        )
    for split, info in builder.info.splits.items():
        examples = datasets.read_native(f'{config.dataset}:{split}', config.data_dir, SHOWN)
        tiles = [pictures.draw_boxes(grey, row.boxes, TILE) for grey, row in examples]
        sheet = workdir / 'images' / f'{config.dataset.replace("/", "_")}_{split}.png'
        picture.save(sheet, pictures.contact_sheet(tiles, min(len(tiles), 6)))
        print(
            f'{config.dataset}:{split}  {info.num_examples} examples, the first {len(tiles)} in {sheet}'
        )


def build(dataset, source, data_dir, overwrite=False, **options):
    """Builds a data set unless it is already there from the same source -> its TFDS builder.

    A build that fails leaves nothing behind, and one that is killed nothing that looks complete: the next call builds it.
    """
    builder = _builder(dataset, data_dir, options)
    source = _source(builder, source, data_dir)
    fingerprint = builder.fingerprint(source)
    if remark := builder.remark(source):
        print(f'{dataset}: {remark}')
    target = pathlib.Path(builder.data_dir)
    stamp = target / 'source.json'
    if target.exists() and stamp.is_file() and read_json(stamp).get('fingerprint') == fingerprint:
        print(f'{dataset} is already prepared in {target}')
        return builder
    if target.exists() and not overwrite:
        raise InputError(
            f'{target} was prepared from other files than {source}; choose another config.data_dir, or set config.overwrite=True'
        )
    return _build(dataset, source, data_dir, options, target)


def _builder(dataset, data_dir, options):
    import tensorflow_datasets as tfds

    import tfds_builders

    logging.set_verbosity(logging.ERROR)  # TFDS warns of every folder that is not prepared yet
    tfds.disable_progress_bar()  # it knows no total; ours do
    if not tfds_builders.known(dataset):
        raise InputError(
            f'config.dataset={dataset}: no such data set; choose one of {", ".join(tfds_builders.names())}'
        )
    for key in options:
        if dataset.partition('/')[0] != 'luna16_patches' and key not in ('workers', 'beam'):
            raise InputError(f'config.{key} does not apply to {dataset}; leave it out')
    if ',' in data_dir:
        raise InputError(
            f'config.data_dir={data_dir}: a data set is built into one folder; name only one'
        )
    if set(data_dir) & set('[]*?'):
        raise InputError(
            f'config.data_dir={data_dir}: TFDS takes [ ] * ? for patterns; choose a folder without them'
        )
    folder = pathlib.Path(data_dir or specs.DEFAULT_DIR).expanduser()
    with (
        datasets.readable(folder / dataset, dataset)
        if (folder / dataset).exists()
        else contextlib.nullcontext()
    ):
        return tfds.builder(
            dataset,
            data_dir=str(folder),
            **options | {key: bool(options[key]) for key in ('beam',) if key in options},
        )


def _source(builder, source, data_dir):
    """The raw folder: the one that is given, or else what can be downloaded."""
    import tensorflow_datasets as tfds

    if source:
        source = pathlib.Path(source).expanduser().resolve()
        if not source.is_dir():
            raise InputError(
                f'config.source={source}: no such folder; {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}'
            )
        return source
    if not builder.DOWNLOAD:
        raise InputError(f'config.source is empty; {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}')
    folder = pathlib.Path(data_dir or specs.DEFAULT_DIR).expanduser() / 'downloads'
    print(f'downloading {builder.DOWNLOAD} to {folder}', flush=True)
    before = _there(folder)
    try:
        return builder.download(tfds.download.DownloadManager(download_dir=folder))
    except Exception as error:  # whatever requests, urllib and the unpacking raise
        for part in folder.glob('*.tmp.*'):  # of a download that broke off
            shutil.rmtree(part, ignore_errors=True)
        _take_away(folder, before)
        told = str(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(
            f'{builder.DOWNLOAD} can not be downloaded ({told}); {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}, as config.source'
        ) from None


def _there(folder):
    """Which folders of a path exist."""
    return {part for part in (folder, *folder.parents) if part.exists()}


def _take_away(folder, before):
    """Removes a folder and those above it that were not there before, as far as they are empty: another build may have put something there."""
    for part in (folder, *folder.parents):
        if part in before:
            return
        others = (
            [
                path
                for path in part.glob('*')
                if path.name not in ('.config', 'downloads', 'extracted')
            ]
            if part.exists()
            else []
        )
        if others:
            return
        for left in (
            '.config/metadata.json',
            '.config',
            'extracted',
            'downloads/extracted',
            'downloads',
            '.',
        ):  # what TFDS makes before it builds
            with contextlib.suppress(OSError):
                (part / left).unlink() if (part / left).is_file() else (part / left).rmdir()
        if part.exists():
            return


def _build(dataset, source, data_dir, options, target):
    """Moves an old version aside, builds, and brings the old one back if that fails."""
    aside, before = target.with_name(target.name + '.replaced'), _there(target.parent)
    for draft in target.parent.glob(f'incomplete.*_{target.name}'):  # of a build that was killed
        shutil.rmtree(draft, ignore_errors=True)
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    try:
        builder = _builder(dataset, data_dir, options)  # a builder that has not seen the old files
        with (
            _writable(target),
            contextlib.redirect_stdout(io.StringIO()),
        ):  # TFDS tells of downloads of unknown size
            builder.download_and_prepare(
                download_config=_download_config(source, options.get('beam'))
            )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        if aside.exists():
            aside.rename(target)
        _take_away(target.parent, before)
        raise
    shutil.rmtree(aside, ignore_errors=True)
    return builder


@contextlib.contextmanager
def _writable(target):
    """A full disk or a folder that can not be written becomes one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        told = str(error).splitlines()[0]
        if (
            isinstance(error, RuntimeError) and 'Failed to finalize writing' not in told
        ):  # how TFDS passes on what array_record says
            raise
        reason = (
            getattr(error, 'strerror', None)
            or told.partition('write() failed: ')[2].partition(';')[0]
            or told
        )
        raise InputError(
            f'{target}: can not be written ({reason}); free some space, or choose another config.data_dir'
        ) from None


def _download_config(source, beam):
    """What TFDS is told: where the raw files are and, for Apache Beam, the options of the pipeline."""
    import tensorflow_datasets as tfds

    if not beam:
        return tfds.download.DownloadConfig(manual_dir=str(source))
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise InputError(
            "config.beam needs Apache Beam; pip install -e '.[beam]', or leave it out and set config.workers"
        ) from None
    return tfds.download.DownloadConfig(
        manual_dir=str(source), beam_options=PipelineOptions(beam.split())
    )

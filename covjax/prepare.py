"""Raw files -> a prepared TFDS data set, with a contact sheet of each split."""
import pathlib
import shutil
import sys

from absl import logging

from covjax import InputError, data, pictures
from covjax.workdir import read_json, write_json

SHOWN, TILE = 24, 192


def run(config, workdir):
    """Builds config.dataset from config.source into config.data_dir."""
    builder = build(config.dataset, config.source, config.data_dir, config.overwrite,
                    **{key: config[key] for key in ('annotations', 'allow_missing') if config[key]})
    if getattr(builder, 'skipped', ()):
        listing = workdir / 'skipped_series.txt'
        listing.write_text('\n'.join(builder.skipped) + '\n')
        print(f'skipped {len(builder.skipped)} annotated series without a volume (first {builder.skipped[0]}), all listed in {listing}')
    for split, info in builder.info.splits.items():
        examples = data.read_native(f'{config.dataset}:{split}', config.data_dir, SHOWN)
        tiles = [pictures.draw_boxes(grey, row.get('nodules', {}).get('box', ()), TILE) for grey, row in examples]
        sheet = workdir / 'images' / f'{config.dataset.replace("/", "_")}_{split}.png'
        pictures.save(sheet, pictures.contact_sheet(tiles, min(len(tiles), 6)))
        print(f'{config.dataset}:{split}  {info.num_examples} examples, the first {len(tiles)} in {sheet}')


def build(dataset, source, data_dir, overwrite=False, **options):
    """Builds a data set unless it is already there from the same source -> its TFDS builder. Nothing is left behind by a failed build."""
    builder = _builder(dataset, data_dir, options)
    if not source:
        raise InputError(f'config.source is empty; {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}')
    source = pathlib.Path(source).expanduser().resolve()
    if not source.is_dir():
        raise InputError(f'config.source={source}: no such folder; {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}')
    fingerprint = builder.fingerprint(source)
    target = pathlib.Path(builder.data_dir)
    stamp = target / 'source.json'
    if target.exists():
        if stamp.is_file() and read_json(stamp)['fingerprint'] == fingerprint:
            print(f'{dataset} is already prepared in {target}')
            return builder
        if stamp.is_file() and not overwrite:
            raise InputError(f'{target} was prepared from other files than {source}; choose another config.data_dir, or set config.overwrite=True')
    return _build(dataset, source, data_dir, options, target, fingerprint)


def _builder(dataset, data_dir, options):
    import tensorflow_datasets as tfds
    import tfds_builders
    logging.set_verbosity(logging.ERROR)                   # TFDS warns of every folder that is not prepared yet
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()                        # its bars are for a screen, in a file they are noise
    names = {f'{name}/{config.name}' for name, builder in tfds_builders.BUILDERS.items() for config in builder.BUILDER_CONFIGS}
    names |= {name for name, builder in tfds_builders.BUILDERS.items() if not builder.BUILDER_CONFIGS}
    if dataset not in names:
        raise InputError(f'config.dataset={dataset}: no such data set; choose one of {", ".join(sorted(names))}')
    if dataset.partition('/')[0] != 'luna16_patches' and options:
        raise InputError(f'config.{next(iter(options))} does not apply to {dataset}; leave it out')
    if ',' in data_dir:
        raise InputError(f'config.data_dir={data_dir}: a data set is built into one folder; name only one')
    folder = pathlib.Path(data_dir or data.DEFAULT_DIR).expanduser()
    with data.readable(folder / dataset, dataset):
        return tfds.builder(dataset, data_dir=str(folder), **options)


def _build(dataset, source, data_dir, options, target, fingerprint):
    """Moves an old version aside, builds, and brings the old one back if that fails."""
    import tensorflow_datasets as tfds
    aside = target.with_name(target.name + '.replaced')
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    try:
        builder = _builder(dataset, data_dir, options)     # a builder that has not seen the old files
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(source)))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        if aside.exists():
            aside.rename(target)
        if made:
            shutil.rmtree(made[-1], ignore_errors=True)
        raise
    if (source / 'lineage.json').is_file():                # of synthetic images: what trained the generator travels with them
        shutil.copy(source / 'lineage.json', target)
    write_json(target / 'source.json', {'fingerprint': fingerprint, 'source': str(source)})
    shutil.rmtree(aside, ignore_errors=True)
    return builder

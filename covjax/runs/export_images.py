"""Synthetic images -> files that other programs read: Hugging Face's imagefolder, or DICOM."""

import pathlib

from tqdm import tqdm

from covjax import choice, require
from covjax.ct import picture, secondary_capture
from covjax.data import imagefolder
from covjax.data.synthetic import read_manifest
from covjax.workdir import read_config, read_json

FORMATS = ('imagefolder', 'dicom')
RUNS = ('synthesize', 'synthesize_pairs')


def run(config, workdir):
    """Writes every image of config.synthetic in config.format.

    Args:
        config: of configs/export_images.py.
        workdir: pathlib.Path.

    Raises:
        InputError: there are no such images, or no such format.
    """
    require(config, {'synthetic': 'give the workdir of a run of synthesize or synthesize_pairs'})
    write = WRITE[choice(config, 'format', FORMATS)]
    read_config(config.synthetic, RUNS, 'synthetic')
    folder = pathlib.Path(config.synthetic) / 'synthetic'
    rows, card = read_manifest(folder), read_json(folder / 'meta.json', dict)
    write(workdir, folder, rows, card)
    print(f'{len(rows)} synthetic images as {config.format} in {workdir}')


def _write_imagefolder(workdir, folder, rows, card):
    text = (folder / 'README.md').read_text(encoding='utf-8')
    imagefolder.write(workdir, folder, rows, card['image_size'], text)


def _write_dicom(workdir, folder, rows, card):
    """A file an image, a series for each split; they are for viewers, not for training."""
    counts = {}
    for row in tqdm(rows, 'DICOM', unit='image', disable=None):
        number = counts[row.split] = counts.get(row.split, 0) + 1
        name = pathlib.PurePosixPath(row.file).stem
        secondary_capture.write(
            workdir / row.split / f'{name}.dcm',
            picture.read(folder / row.file),
            row.id,
            f'{card["generator"]} {row.split}',
            number,
            f'Synthetic CT, {row.split}',
            f'{row.label}; made from {row.source_id} by {card["generator"]}',
        )


WRITE = {'imagefolder': _write_imagefolder, 'dicom': _write_dicom}

"""The pictures with lesions that pairs are made from, by how it is known where these are.

They are *drawn* by doctors, who named their kinds, *outlined* by people who did not, *predicted* by
a segmenter, or not known (*procedural*): data.gaps says what is made of them. A segmenter that
learned from drawn lesions carries what it knows into another data set, so that both must be kept
out of tests, and with them all near copies of either's pictures in the other's: the same figure may
be in both, from another paper.
"""

from functools import partial

import numpy as np
from scipy import ndimage

from covjax import CLASSES, InputError, choice, counted, kept_segmenter, segmenter
from covjax.classes import POSITIVE
from covjax.ct import framing, lungs
from covjax.ct.masks import is_lung
from covjax.data import datasets, gaps, lesion_masks, lineage, near_duplicates, specs
from covjax.data.gaps import Pictures
from covjax.data.lesion_masks import KINDS
from covjax.weights import checkpoint

PREDICTED = 'predicted'
NEAR_COPIES = 'near_copies'  # what lineage.json calls them
BATCH = 8  # pictures that are segmented at a time


def read(config, data_dir, size):
    """The Pictures of a config of pairs.

    Args:
        config: with `masks`, a key of READERS, `pictures` and, for predicted ones,
            `lesion_segmenter`.
        data_dir: where prepared data sets lie.
        size: S.

    Raises:
        InputError: as the readers do, or `masks` is another word.
    """
    reader = READERS[choice(config, 'masks', READERS)]
    if reader is read_predicted:
        reader = partial(reader, segmenter_of(config))
    return reader(config['pictures'], data_dir, size)


def of_run(run, data_dir):
    """The Pictures of a pair training, or of a recipe; none where blobs need none.

    Args:
        run: trained.Trained, or what has its `config` and `folder`.
        data_dir: where the pictures lie.
    """
    config = kept_segmenter.by_copies(run.config, run.folder)
    if config.masks == 'procedural' and not config.pictures:
        return Pictures.none()
    return read(config, data_dir, config.image_size)


def segmenter_of(config):
    """The Segmenter that finds the lesions of a config.

    Raises:
        InputError: none is named, or it finds no lesions.
    """
    key = kept_segmenter.LESIONS
    named = config.get(key)
    if not named:
        raise InputError(
            f'config.masks={PREDICTED}: needs config.{key}, the workdir of a segmentation of '
            'lesions (configs/segmentation.py)'
        )
    found = segmenter.load(named, key=key)
    segmenter.check_slices(found, f'config.{key}={named}')
    if all(map(is_lung, found.classes[1:])):
        raise InputError(
            f'config.{key}={named}: segments {", ".join(found.classes[1:])}; give a segmenter of '
            'lesions'
        )
    return found


def read_predicted(network, spec, data_dir, size):
    """Reads COVID pictures, whose lesions are those that a segmenter finds inside the lungs.

    Args:
        network: segmenter.Segmenter with regions that are no lungs, which are opacities alike.
        spec: 'name/config:split' of framed pictures with the classes noncovid and covid, of which
            the former are not used.
        data_dir: where prepared data sets lie.
        size: S.

    Returns:
        Pictures, levelled to the window of framed slices; those in which no lungs are found are
        left out.

    Raises:
        InputError: there is no such data set, it has other classes, or no lesion is found.
    """
    examples = gaps.of_covid_and_others(spec, data_dir, size)
    chosen = np.flatnonzero(examples.labels == CLASSES.index(POSITIVE))
    lesions = [i for i, name in enumerate(network.classes) if i and not is_lung(name)]
    images, targets, healthy, rows = [], [], [], []
    predicted = segmenter.predict(network, examples.images[chosen, ..., 0], BATCH)
    for index, probabilities in zip(chosen, predicted):
        image = examples.images[index, ..., 0]
        lung = lungs.mask_in_crop(image)
        if lung.any():
            found = np.isin(segmenter.decided(probabilities), lesions) & lungs.hull(lung)
            apart = ndimage.distance_transform_edt(~found) > lesion_masks.APART * size
            images.append(framing.levelled(image, lung, apart))
            targets.append(np.where(found, KINDS.index('opacity'), 0).astype(np.uint8))
            healthy.append(lung & apart)
            rows.append(examples.rows[index])
    if not np.any(targets):
        raise InputError(
            f'config.pictures={spec}: the segmenter finds no lesion in any picture of COVID-19; '
            'name more of them, or another config.lesion_segmenter'
        )
    bank = lesion_masks.Bank.of_targets(targets, KINDS)
    return Pictures(np.stack(images), targets, healthy, rows, PREDICTED, bank)


READERS = {
    'drawn': gaps.read_drawn,
    'outlined': gaps.read_outlined,
    PREDICTED: read_predicted,
    'procedural': gaps.read_labelled,
}


# ---- lineage


def lineage_of(config, workdir):
    """Near copies of what a training of pairs knows through predicted lesions: records to add.

    The pictures and those of the segmenter are compared in all splits of both data sets. A near
    copy of a picture that is learned from counts as learned from, and so does its patient.

    Args:
        config: ConfigDict of any training.
        workdir: pathlib.Path of its folder.

    Returns:
        [lineage.Record], one, also of no images; none at all where no lesions are predicted.

    Raises:
        InputError: a data set of the segmenter is not where config.data_dir says.
    """
    if config.task != 'pairs' or not config.get(kept_segmenter.LESIONS):
        return []
    if checkpoint.exists(workdir):
        return [record for record in lineage.read(workdir) if record['through'] == NEAR_COPIES]
    behind = kept_segmenter.lineage_of(config, workdir)
    specs_of_segmenter = {record['dataset'] for record in behind if record['role'] == 'train'}
    ours = _of_all_splits({config.pictures}, config.data_dir)
    others = _of_all_splits(specs_of_segmenter, config.data_dir)
    known = {image[0] for record in behind for image in record['images']}
    known |= {row.sha256 for row in datasets.read_rows(config.pictures, config.data_dir)}
    copies = {}
    for _, i, j in near_duplicates.copies(ours, others):
        pair = ours[i][1], others[j][1]
        if known & {row.sha256 for row in pair}:
            copies |= {row.sha256: lineage.image(row) for row in pair}
    names = '+'.join(sorted({config.pictures, *specs_of_segmenter}))
    alike = counted(len(copies), 'picture has', 'pictures have')
    print(f'{names}: {alike} a near copy in the other data set', flush=True)
    images = list(copies.values())
    return [{'role': 'pictures', 'dataset': names, 'through': NEAR_COPIES, 'images': images}]


def _of_all_splits(named, data_dir):
    """[(uint8 [H, W], Row)] of every split of the data sets that some specs name."""
    found = {dataset for spec in named for dataset, _, _ in specs.parse(spec)}
    splits = [each for dataset in sorted(found) for each in specs.splits(dataset, data_dir)]
    return [
        picture for each in splits for picture in datasets.read_native(':'.join(each), data_dir)
    ]

"""A trained classifier of images or of scans, as evaluations and audits see it.

It is shown a data set in its own way, and says a probability of each class for every image or scan.
"""

from typing import Any, NamedTuple

import numpy as np

from covjax import InputError, classifier, kept_segmenter, lung_view, scan_classifier, trained
from covjax.classes import check_same
from covjax.data import batches, datasets

TASKS = ('classification', scan_classifier.TASK)


class Shown(NamedTuple):
    """A data set as a classifier is shown it."""

    images: Any  # uint8 [N, H, W, 1], or of scans a list of bags uint8 [k, H, W, C]
    labels: np.ndarray  # int32 [N]
    rows: list  # [data.rows.Row], one an image or scan
    members: list  # of all examples that these are made of, for lineage
    places: list | None = None  # of scans: int [k] of each bag, which slices of the scan these are
    locations: list | None = None  # of candidates for lesions: float32 [k] of each bag
    lesions: list | None = (
        None  # of scans: bool [k] of each bag, which slices have lesions; or None
    )


class Said(NamedTuple):
    """What a network says of them."""

    scores: np.ndarray  # float32 [N, C]
    weights: list | None = None  # of scans: float32 [k] of each bag, how much a slice counts


def open_run(folder, key, which='best'):
    """The trained.Trained of a classifier of images or of scans.

    Args:
        folder: its workdir.
        key: the config key that named it, for messages.
        which: 'best' or 'latest' of its checkpoints.

    Raises:
        InputError: the folder holds no such run.
    """
    return trained.open_run(folder, TASKS, key, which)


def sees_scans(network):
    """Whether a network (trained.Trained) decides on whole scans."""
    return network.config.get('task') == scan_classifier.TASK


class Reader:
    """Data sets as a network is shown them, and as baselines see them; scans are read once each."""

    def __init__(self, network, data_dir):
        """A Reader for a network (trained.Trained), of data sets that lie in data_dir."""
        self.network, self.data_dir = network, data_dir
        self._scans = {}  # {spec: data.bags.Bags}

    def shown(self, spec):
        """A data set as the network is shown it.

        Args:
            spec: 'name/config:split', several joined by '+'.

        Returns:
            Shown.

        Raises:
            InputError: it cannot be read, an image has no label, or its classes are not those that
                the network tells apart.
        """
        if sees_scans(self.network):
            found = self._bags(spec)
            sets = found.images, found.labels, found.rows, found.members
            shown = Shown(*sets, found.places, found.locations, found.lesions)
        else:
            view, size = lung_view.of_run(self.network), self.network.config.image_size
            found = lung_view.read(spec, self.data_dir, size, view)
            shown = Shown(found.images, found.labels, found.rows, found.rows)
        if (shown.labels < 0).any():
            raise InputError(f'{spec}: has images without a label; name a data set that has labels')
        check_same(spec, found.classes, self.network.classes)
        return shown

    def native(self, spec):
        """What baselines see: [(uint8 [H, W] at stored size, Row)], of a scan its middle slice."""
        if not sees_scans(self.network):
            return datasets.read_native(spec, self.data_dir)
        found = self._bags(spec)
        return list(zip(found.middles, found.rows))

    def _bags(self, spec):
        if spec not in self._scans:
            config = own_config(self.network)
            self._scans[spec] = scan_classifier.read(spec, self.data_dir, config)
        return self._scans[spec]


def own_config(network):
    """The config of a network with the segmenter that lies in its own workdir."""
    return kept_segmenter.by_copies(network.config, network.folder)


def applied(network, batch_size):
    """The function from (Shown, caption of a bar) to what a network Said of it."""
    if sees_scans(network):
        loaded = scan_classifier.of_run(network)
        size = max(batch_size // loaded.slices, 1)

        def say(shown, progress):
            found = scan_classifier.predict(loaded, shown, size, progress)
            return Said(found.scores, found.weights)

        return say
    scores = classifier.scores(classifier.of_run(network))
    return lambda shown, progress: Said(batches.predict(scores, shown.images, batch_size, progress))

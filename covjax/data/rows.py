"""Rows: what a data set knows of an example besides its image. No model ever sees any of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from covjax.classes import against_rest

UNKNOWN = -1  # z of a picture, where a data set has a z for all


@dataclasses.dataclass(frozen=True)
class Nodule:
    """A lung nodule in an image, as the annotations of LUNA16 describe it."""

    diameter: float | None = None  # mm, in 3-D
    row: int = -1  # of annotations.csv, from 0
    malignancy: int = -1  # 1 malignant, 0 benign, -1 not known
    # (ymin, xmin, ymax, xmax) in 0..1 of the image.
    box: tuple[float, float, float, float] | None = None
    chord: float | None = None  # mm, diameter of the disc in which the slice cuts it
    centre: tuple[float, float, float] | None = None  # mm from the centre of a patch, x y z

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> 'Nodule':
        """Makes a Nodule from a dict of its fields; other keys are passed over."""
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        for name in ('box', 'centre'):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        return cls(**known)

    def as_json(self) -> dict[str, Any]:
        """Returns a dict of the fields that are known, by name, with lists for tuples."""
        values = {}
        for name in sorted(field.name for field in dataclasses.fields(self)):
            value = getattr(self, name)
            if value is not None:
                values[name] = list(value) if isinstance(value, tuple) else value
        return values


@dataclasses.dataclass(frozen=True)
class Row:
    """What a data set stores of one example besides its image.

    Texts are '' and numbers None where a data set has no such feature.
    """

    id: str  # unique in the data set
    group: str  # what must not straddle train and test: 'document/patient', or a CT series
    sha256: str  # of the decoded pixels
    label: int = -1  # index of its class in the data set; -1 without label
    label_name: str = ''  # the name of that class
    nodules: tuple[Nodule, ...] = ()
    series: str = ''
    z: int | None = None  # index of the axial slice
    window: str = ''  # that made the image grey
    source_id: str = ''  # of a synthetic image: the example that it was made from
    source_sha256: str = ''
    source_dataset: str = ''
    generator: str = ''  # hash of the config of the run that made it, or the name of a stand-in
    generator_step: int | None = None
    file: dict | None = None  # container, mode, width and height of the original file, for audits
    mask_sha256: str = ''  # of the classes of its mask, where masks were read
    others: dict = dataclasses.field(default_factory=dict)  # further features, by name

    @classmethod
    def from_features(cls, features: dict[str, Any], label_names: Sequence[str] = ()) -> 'Row':
        """Makes the Row of what TFDS reads back.

        Args:
            features: {name: value} of one example, without its image; nodules by column, as TFDS
                stores sequences.
            label_names: of the label, where the data set has one.
        """
        values = _plain(features)
        columns = values.pop('nodules', {})
        nodules = [dict(zip(columns, parts)) for parts in zip(*columns.values())]
        if 'label' in values and label_names:
            values['label_name'] = label_names[values['label']]
        if values.get('z') == UNKNOWN:
            values['z'] = None
        known = {field.name for field in dataclasses.fields(cls)} - {'others'}
        return cls(
            **{key: value for key, value in values.items() if key in known},
            nodules=tuple(map(Nodule.from_json, nodules)),
            others={key: value for key, value in values.items() if key not in known},
        )

    def against_rest(self, classes: Sequence[str], positive: str) -> 'Row':
        """This Row with label 1 where its class is the positive one, 0 of any other, -1 of none.

        Args:
            classes: names of the classes of its data set.
            positive: one of them.
        """
        return dataclasses.replace(self, label=int(against_rest(self.label, classes, positive)))

    @property
    def boxes(self) -> list[tuple[float, float, float, float]]:
        """Boxes [(ymin, xmin, ymax, xmax)] in 0..1 of the nodules that have one."""
        return [nodule.box for nodule in self.nodules if nodule.box is not None]


def _plain(value):
    """What TFDS reads back, as plain Python: text as str, numbers as numbers, arrays as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

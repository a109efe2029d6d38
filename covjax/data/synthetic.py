"""The folder of synthetic images that `synthesize` writes.

It has images/ and inputs/ (PNG, the same names), manifest.jsonl with one line an image, the data
card (covjax.data.data_card), boxes in other formats (covjax.data.coco), and lineage.json. A box
stays right at every size: it is a share of the image, and translation keeps geometry.
"""

import dataclasses
import json
import pathlib
from typing import Annotated, NotRequired, TypedDict

import msgspec

from covjax import InputError
from covjax.classes import POSITIVE
from covjax.ct import archive
from covjax.data.rows import Nodule
from covjax.workdir import checked

MANIFEST = 'manifest.jsonl'
AGAIN = 'run the command that made the folder again'
# Fields that only members of pairs have.
OF_PAIRS = ('kind', 'lesion', 'pair', 'gate', 'masks')


def file_name(source_id):
    """What the files of an image are called, without ending, by the id of its source."""
    return source_id.replace('/', '_')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticRow:
    """One line of the manifest: an image, and the slice that it was made from."""

    id: str
    file: str  # of the image, below the folder
    input: str  # of the slice that was translated, below the folder
    split: str  # of the source slice
    group: str  # of the source slice
    series: str
    z: int | None
    source_id: str
    source_sha256: str
    source_dataset: str  # 'name/config:split'
    window: str = ''  # of the source, '' where slices came ready-made
    nodules: tuple[Nodule, ...]
    generator: str  # hash of the config of the run, or the name of a stand-in
    generator_step: int
    label: str = POSITIVE
    # Of a member of a pair, else '': its kind, of data.lesion_masks.KINDS, and that of the lesion
    # of the pair; the name of the pair; its gate, a PNG below the folder; where the mask came from.
    kind: str = ''
    lesion: str = ''
    pair: str = ''
    gate: str = ''
    masks: str = ''

    @classmethod
    def of_source(cls, row, dataset, split, generator, generator_step, label=POSITIVE):
        """The line of an image made from a slice.

        Args:
            row: data.rows.Row of the slice.
            dataset: 'name/config' of its data set.
            split: of its data set, possibly with a share and a class such as 'train[:10%]@normal'.
            generator, generator_step, label: values of the fields of that name.
        """
        name = file_name(row.id)
        return cls(
            id=name,
            file=f'images/{name}.png',
            input=f'inputs/{name}.png',
            split=split.partition('@')[0].partition('[')[0],
            group=row.group,
            series=row.series,
            z=row.z,
            source_id=row.id,
            source_sha256=row.sha256,
            source_dataset=f'{dataset}:{split}',
            nodules=row.nodules,
            generator=generator,
            generator_step=generator_step,
            window=row.window,
            label=label,
        )

    @property
    def boxes(self):
        """[(ymin, xmin, ymax, xmax)] in 0..1 of the nodules that have one."""
        return [nodule.box for nodule in self.nodules if nodule.box is not None]

    def as_json(self):
        """The line as a dict of plain values; OF_PAIRS only of a member of a pair.

        Of other images the label is there where it is not covid.
        """
        left_out = () if self.pair else OF_PAIRS
        if not self.pair and self.label == POSITIVE:
            left_out = (*left_out, 'label')
        names = [field.name for field in dataclasses.fields(self) if field.name not in left_out]
        values = {name: getattr(self, name) for name in names}
        return values | {'nodules': [nodule.as_json() for nodule in self.nodules]}


SHARE = Annotated[float, msgspec.Meta(ge=0, le=1)]


class NoduleJson(TypedDict):
    """A data.rows.Nodule as the manifest has it."""

    diameter: NotRequired[float | None]
    row: NotRequired[int]
    malignancy: NotRequired[int]
    box: NotRequired[tuple[SHARE, SHARE, SHARE, SHARE] | None]
    chord: NotRequired[float | None]
    centre: NotRequired[tuple[float, float, float] | None]


class SyntheticJson(TypedDict):
    """A line of the manifest; `input` is for people to look at."""

    id: str
    file: str
    input: NotRequired[str]
    split: str
    group: str
    series: str
    z: int | None
    source_id: str
    source_sha256: str
    source_dataset: str
    window: NotRequired[str]
    nodules: list[NoduleJson]
    generator: str
    generator_step: int
    label: NotRequired[str]
    kind: NotRequired[str]
    lesion: NotRequired[str]
    pair: NotRequired[str]
    gate: NotRequired[str]
    masks: NotRequired[str]


def write_manifest(folder, rows):
    """Writes manifest.jsonl into a folder.

    Args:
        folder: pathlib.Path of a folder that exists.
        rows: [SyntheticRow].
    """
    lines = [json.dumps(row.as_json()) + '\n' for row in rows]
    (folder / MANIFEST).write_text(''.join(lines), encoding='utf-8')


def read_manifest(folder):
    """[SyntheticRow] of a folder (pathlib.Path) that `synthesize` wrote, in file order.

    Raises:
        InputError: there is no manifest, or it is damaged, empty, or names a file outside its
            folder.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise InputError(
            f'{file}: no such file; '
            'give the `synthetic` folder of a finished run of configs/synthesize.py or '
            'configs/synthesize_pairs.py'
        )
    try:
        lines = [json.loads(line) for line in archive.read_text(file).splitlines()]
    except (ValueError, RecursionError):
        raise InputError(f'{file}: is damaged; {AGAIN}') from None
    if not lines:
        raise InputError(f'{file}: is empty; {AGAIN}')
    return [_row(file, i, values) for i, values in enumerate(lines)]


def _row(file, i, values):
    """The SyntheticRow of one line; unknown fields are ignored."""
    checked(f'{file}: row {i}', values, SyntheticJson, AGAIN)
    known = {field.name for field in dataclasses.fields(SyntheticRow)}
    values = {'input': ''} | {key: value for key, value in values.items() if key in known}
    for name in (values['file'], values['input'], values.get('gate', '')):
        path = pathlib.PurePosixPath(name)
        if path.is_absolute() or '..' in path.parts or '\0' in name:
            raise InputError(
                f'{file}: row {i} names {name!r}, which is outside its folder; {AGAIN}'
            )
    return SyntheticRow(**values | {'nodules': tuple(map(Nodule.from_json, values['nodules']))})

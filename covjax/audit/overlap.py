"""Whether test images, their patients, documents or series, or near copies of them were used in training or to pick the checkpoint."""

import numpy as np

from covjax.audit.verdict import Verdict
from covjax.ct import picture
from covjax.data import lineage
from covjax.data.near_duplicates import (
    SAME_DETAIL,
    SIZE,
    THRESHOLD,
    across_groups,
    detail,
    near_duplicates,
    shrunk,
)

NAME = 'overlap and near-duplicates'
SHOWN = 24


def check(subject):
    """Counts of lineage, and pairs of nearly the same picture, of which one is in training or validation and the other in a test."""
    rows, bad, tiles = [], [], []
    # The real images are what the generator learned from, as far as an audit can know.
    before = {
        row.sha256: (name, grey, row)
        for name, images in (
            ('real', subject.real),
            ('training', subject.train),
            ('validation', subject.validation),
        )
        for grey, row in images.native
    }
    before = list(before.values())
    for test, images in subject.tests.items():
        counts, _ = lineage.overlap(subject.lineage, images.rows)
        both = before + [(test, grey, row) for grey, row in images.native]
        small = np.stack([shrunk(grey) for _, grey, _ in both])
        pairs = [
            (value, i, j)
            for value, i, j in across_groups(near_duplicates(small), [row for _, _, row in both])
            if i < len(before) <= j
        ]
        pairs = [
            (value, i, j)
            for value, i, j in pairs
            if both[i][2].sha256 != both[j][2].sha256
            and detail(both[i][1], both[j][1]) > SAME_DETAIL
        ]  # the same is counted above
        rows += [
            (test, f'test images whose {kind}', n)
            for kind, n in zip(
                (
                    'picture was trained on',
                    'patient or series was',
                    'document or series was',
                    'picture chose the checkpoint',
                ),
                counts.values(),
            )
        ]
        rows.append((test, 'near copies of training, validation or real images', len(pairs)))
        rows += [
            (test, f'{both[j][2].id} is like {both[i][2].id} ({both[i][0]})', f'{value:.4f}')
            for value, i, j in pairs[:SHOWN]
        ]
        tiles += [
            np.repeat(small[k].repeat(3, 0).repeat(3, 1), 3, 2)
            for pair in pairs[:SHOWN]
            for k in pair[1:]
        ]
        if any(counts.values()) or pairs:
            bad.append(
                f'{test}: '
                + ', '.join(
                    [
                        *(f'{n} {kind}' for kind, n in counts.items() if n),
                        *([f'{len(pairs)} near copies'] if pairs else []),
                    ]
                )
            )
    figures = ()
    if tiles:
        picture.save(
            subject.folder / 'near_duplicates.png',
            np.hstack([np.vstack(tiles[i : i + 2]) for i in range(0, len(tiles), 2)]),
        )
        figures = (
            (
                subject.folder / 'near_duplicates.png',
                'Near copies, one above the other: a training or validation image and a test image',
            ),
        )
    return Verdict(
        NAME,
        bool(bad),
        '; '.join(bad) + '.'
        if bad
        else 'No test image, patient, document or series was used before, and no near copy was found.',
        f'Red flag for any. Near copies have a correlation above {THRESHOLD} at {SIZE}x{SIZE}, fine structure in common, and are not known to be of one patient; they are to be looked at. They are searched among the images of training, validation and config.baseline.',
        ('test', 'what', 'number'),
        tuple(rows),
        figures,
    )

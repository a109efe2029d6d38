"""Synthetic images as a folder that Hugging Face's `datasets` reads: imagefolder.

A folder for each split with PNG and metadata.jsonl, a line an image: file_name, label, what it was
made from, and `objects` with the boxes of nodules, x, y, width and height in pixels, as the library
describes detection. README.md is the data card, with the head that the Hub reads.
"""

import json
import shutil

from covjax import drafts

CARD_HEAD = """---
pretty_name: Synthetic CT slices
license: other
task_categories:
- image-classification
tags:
- medical
- synthetic
- not-for-diagnosis
---

"""
KEPT = ('id', 'group', 'series', 'z', 'source_id', 'source_sha256', 'source_dataset', 'generator')


def write(folder, synthetic, rows, size, card):
    """Writes the images of a folder of `synthesize` anew.

    Args:
        folder: pathlib.Path where to.
        synthetic: pathlib.Path of the folder that has them.
        rows: [data.synthetic.SyntheticRow].
        size: pixels of each side.
        card: text of the data card there.
    """
    lines = {}
    for row in rows:
        target = folder / row.split / row.file.rpartition('/')[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        with drafts.file(target) as draft:
            shutil.copyfile(synthetic / row.file, draft)
        lines.setdefault(row.split, []).append(_line(row, target.name, size))
    for split, of_split in lines.items():
        text = ''.join(json.dumps(line) + '\n' for line in of_split)
        drafts.write_text(folder / split / 'metadata.jsonl', text)
    drafts.write_text(folder / 'README.md', CARD_HEAD + card)


def _line(row, name, size):
    """What metadata.jsonl says of an image, a dict."""
    boxes = [
        [round(edge * size, 3) for edge in (left, top, right - left, bottom - top)]
        for top, left, bottom, right in row.boxes
    ]
    facts = {key: getattr(row, key) for key in KEPT}
    kind = {'kind': row.kind, 'pair': row.pair} if row.pair else {}
    objects = {'bbox': boxes, 'categories': ['nodule'] * len(boxes)}
    return {'file_name': name, 'label': row.label, **facts, **kind, 'objects': objects}

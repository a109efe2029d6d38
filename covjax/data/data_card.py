"""The data card of a folder of synthetic images: meta.json for programs, README.md for people.

Whoever is given the folder alone learns from it what the images are and are not, what they were
made from, and which pictures must not be used to test what is trained on them.
"""

import json
from collections import Counter

from covjax import CLASSES, joined
from covjax.classes import POSITIVE
from covjax.data import specs
from covjax.provenance import PLACES

# Of slices of LUNA16, and of others.
LICENCE = (
    'LUNA16 is derived from LIDC-IDRI (Creative Commons Attribution): name Armato et al. 2011 and '
    'Setio et al. 2017.'
)
OF_OTHERS = 'That of the images that were translated: {}.'
# Where pictures took part.
OF_PICTURES = ' The generator was trained on {}, and may have memorised some of it.'
UNLICENSED = ('covid_ct', 'ct_scans/covid_semiseg')  # of which the pictures have no clear licence
OF_UNLICENSED = ' The pictures of COVID-CT and COVID-SemiSeg have no clear licence.'
BOXES = '; boxes are those of the lung nodules of the sources.'
USE = 'Research on methods. The pictures show no patient{}. Not for diagnosis.'
FILES = {
    'images/': 'PNG, 8-bit grey',
    'inputs/': 'what was translated, under the same names',
    'manifest.jsonl': 'one line per picture',
    'annotations.json': 'COCO boxes',
    'annotations.csv': 'the same boxes',
    'lineage.json': 'what trained the generator',
    'meta.json': 'what this page says, for programs',
}
FILES_OF_PAIRS = {
    'inputs/': 'slices before anything was made in them',
    'gates/': 'PNG: where both members of a pair were made anew, in 255 parts',
    'annotations.json': 'COCO boxes of nodules, and lesions as run lengths',
}
LIMITS = (
    'Images are small, and what was made in them can be seen.',
    'A network can learn traces of the generator instead of disease. Judge it on real images, and '
    'beside one that learned from a stand-in (`config.maker` or `config.stand_in`).',
    'No image was judged by a radiologist.',
)


def content(config, rows, change, generator, generator_step, made_by, classes=CLASSES):
    """The content of meta.json, a dict.

    Args:
        config: of the run that trained the generator.
        rows: [data.synthetic.SyntheticRow].
        change: what was done to the slices.
        generator, generator_step: of the rows.
        made_by: provenance.Provenance of the images.
        classes: names of the labels.
    """
    sources = sorted({row.source_dataset for row in rows})
    of_luna = all(source.startswith('luna16_patches') for source in sources)
    what = 'Lung-cancer CT slices' if of_luna else 'CT images'
    disease = ' with COVID-19' if of_luna and POSITIVE in classes else ''
    licence = LICENCE if of_luna else OF_OTHERS.format(joined(sources))
    has_boxes = of_luna or any(row.nodules for row in rows)
    of_pairs = config.task == 'pairs'
    pictures = config.pictures if of_pairs else config.covid
    known = json.loads(config.to_json())
    return {
        **made_by,
        'what': f'{what}, {change}{BOXES if has_boxes else "."}',
        'use': USE.format(disease),
        'images': len(rows),
        'image_size': config.image_size,
        'boxes': sum(len(row.nodules) for row in rows),
        'series': len({row.series or row.group for row in rows}),
        'splits': dict(Counter(row.split for row in rows)),
        'kinds': dict(Counter(row.kind or row.label for row in rows)),
        'classes': list(classes),
        'sources': sources,
        'windows': sorted({row.window for row in rows}),
        'generator': generator,
        'generator_step': generator_step,
        'generator_config': {key: known[key] for key in known if key not in PLACES},
        'licence': licence + (_of_pictures(pictures) if pictures else ''),
        'files': FILES | (FILES_OF_PAIRS if of_pairs else {}),
    }


def _of_pictures(spec):
    """What to know of the pictures that trained a generator, named by a spec."""
    named = [dataset for dataset, _, _ in specs.parse(spec)]
    unlicensed = any(name.startswith(UNLICENSED) for name in named)
    return OF_PICTURES.format(spec) + (OF_UNLICENSED if unlicensed else '')


def text(card, lineage, datasets):
    """The text of README.md, Markdown.

    Args:
        card: of `content`.
        lineage: [data.lineage.Record] of what trained the generator.
        datasets: names of the data sets that are built of the folder.
    """
    split = ', '.join(f'{name} {count}' for name, count in card['splits'].items())
    kinds = ', '.join(f'{name} {count}' for name, count in card['kinds'].items())
    parts = [
        ('What it is', [card['what'], f'**{card["use"]}**']),
        (
            'How many',
            [
                f'- {card["images"]} images of {card["image_size"]}x{card["image_size"]} pixels, '
                f'from {card["series"]} CT series or patients\n- splits, those of the sources: '
                f'{split}\n'
                f'- kinds: {kinds}\n- boxes of nodules: {card["boxes"]}'
            ],
        ),
        (
            'What it was made from',
            [
                f'Slices: {", ".join(card["sources"])}. Maker: {card["generator"]}, step '
                f'{card["generator_step"]} (`generator_config` in meta.json). covjax '
                f'{card["covjax"]}.',
                _known(lineage),
            ],
        ),
        ('Limits', ['\n'.join(f'- {limit}' for limit in LIMITS)]),
        ('Files', ['\n'.join(f'- `{name}`: {what}' for name, what in card['files'].items())]),
        ('To read it', [_loading(datasets)]),
        ('Licence', [card['licence']]),
    ]
    sections = ['\n\n'.join([f'## {title}', *blocks]) for title, blocks in parts]
    return '\n\n'.join(['# Synthetic CT slices', *sections]) + '\n'


def _known(lineage):
    """What must not be used as test images, as Markdown."""
    if not lineage:
        return 'No picture trained its maker.'
    lines = [f'- {record["dataset"]}: {len(record["images"])} images' for record in lineage]
    return '\n'.join(
        ['What trained its maker, and so must not test what learns from these images:\n', *lines]
    )


def _loading(datasets):
    """How the images are read, as Markdown."""
    name = datasets[0]
    return (
        'The files need no library: annotations.json is COCO. The folder `data/` beside this one '
        'holds the same as a TFDS data set, which needs no covjax:\n\n'
        '```python\nimport tensorflow_datasets as tfds\n\n'
        f"images = tfds.data_source('{name}', split='train', data_dir='data')\n"
        "images[0]['image']  # uint8 [H, W, 1]\n```"
    )

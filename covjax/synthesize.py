"""CycleGAN workdir + lung-cancer slices -> synthetic COVID-19 CT with the nodule boxes of the sources, as files and as a TFDS data set.

<workdir>/synthetic holds images/ and inputs/ (PNG, same names) and manifest.jsonl, one row an image; <workdir>/data holds synthetic_covid_ct.
Translation keeps geometry and boxes are shares of the picture, so a box stays right at every size.
"""

import hashlib
import json
import pathlib
import shutil
import time
from collections import Counter

from covjax import (
    InputError,
    __version__,
    checkpoint,
    coco,
    controls,
    cyclegan,
    data,
    pictures,
    prepare,
)
from covjax.log import duration
from covjax.workdir import read_json, write_json

NO_NODULES = {'box': [], 'diameter': [], 'chord': [], 'row': [], 'malignancy': []}


def run(config, workdir):
    """Every slice of config.cancer through generator to_covid of config.generator, or through what config.how puts in its place."""
    if not config.cancer:
        raise InputError(
            'config.cancer is empty; name a data set, for example luna16_patches/nodules'
        )
    how = config.get('how', 'translated')
    if how not in controls.METHODS:
        raise InputError(
            f'config.how={how}: no such choice; choose one of {", ".join(controls.METHODS)}'
        )
    gan, model, step = checkpoint.load_model(config.generator, 'cyclegan', 'generator')
    data_dir = config.data_dir or gan.data_dir
    name = hashlib.sha256(gan.to_json(sort_keys=True).encode()).hexdigest()[:12]
    origin = {'generator': name if how == 'translated' else how, 'generator_step': step}
    training = lambda domain: cyclegan.domain(gan[domain], domain, gan.image_size, data_dir).images
    apply = controls.METHODS[how](gan, model, training, config.batch_size)
    draft, final = workdir / 'synthetic.part', workdir / 'synthetic'
    shutil.rmtree(draft, ignore_errors=True)
    manifest = []
    for dataset, split in data.splits(config.cancer, data_dir):
        began = time.monotonic()
        examples = data.read(f'{dataset}:{split}', data_dir, gan.image_size)
        if 'series' not in examples.rows[0]:
            raise InputError(
                f'config.cancer={config.cancer}: {dataset} has no CT series; name a data set of slices, such as luna16_patches/nodules'
            )
        fakes = apply(examples.images)
        rows = [_row(row, dataset, split, origin) for row in examples.rows]
        for row, real, fake in zip(rows, examples.images, fakes):
            pictures.save(draft / row['input'], real[..., 0])
            pictures.save(draft / row['file'], fake[..., 0])
        manifest += rows
        seconds = time.monotonic() - began
        print(
            f'{dataset}:{split}  {len(rows)} slices translated, {len(rows) / seconds:.0f}/s, {duration(seconds)}',
            flush=True,
        )
    lineage = read_json(pathlib.Path(config.generator) / 'lineage.json')
    for folder in (workdir, draft):  # prepare puts it beside the data set
        write_json(folder / 'lineage.json', lineage)
    (draft / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in manifest))
    coco.write(
        draft,
        manifest,
        gan.image_size,
        'Synthetic COVID-19 CT: LUNA16 slices translated by a CycleGAN. Not for diagnosis.',
    )
    write_json(draft / 'meta.json', card(gan, origin, manifest))
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    prepare.build('synthetic_covid_ct', final, str(workdir / 'data'), overwrite=True)
    pictures.save(workdir / 'images' / 'input_and_synthetic.png', pair_sheet(final, manifest, 8))
    print(
        f'{len(manifest)} synthetic images in {final} and as synthetic_covid_ct in {workdir / "data"}'
    )


def read_manifest(folder):
    """The rows of <workdir>/synthetic."""
    file = folder / 'manifest.jsonl'
    if not file.is_file():
        raise InputError(f'{file}: no such file; let that synthesize run come to its end first')
    return [json.loads(line) for line in file.read_text().splitlines()]


def card(gan, origin, rows):
    """What meta.json says of the whole folder."""
    splits = Counter(row['split'] for row in rows)
    how = origin['generator']
    return {
        'what': f'Lung-cancer CT slices, {"as a control changed by " + how if how in controls.METHODS else "translated to the style of COVID-19 CT by a CycleGAN"}; '
        'boxes are those of the lung nodules of the sources.',
        'use': 'Research on methods. The pictures show no patient with COVID-19. Not for diagnosis.',
        'images': len(rows),
        'image_size': gan.image_size,
        'boxes': sum(len(row['nodules']) for row in rows),
        'series': len({row['series'] for row in rows}),
        'splits': dict(splits),
        'sources': sorted({row['source_dataset'] for row in rows}),
        'windows': sorted({row['window'] for row in rows}),
        **origin,
        'generator_config': json.loads(gan.to_json()),
        'covjax': __version__,
        'licence': 'LUNA16 is derived from LIDC-IDRI (Creative Commons Attribution): name Armato et al. 2011 and Setio et al. 2017. The generator was trained on '
        'COVID-CT, whose pictures have no clear licence, and may have memorised some of it.',
        'files': {
            'images/': 'PNG, 8-bit grey',
            'inputs/': 'what was translated, same names',
            'manifest.jsonl': 'one line a picture',
            'annotations.json': 'COCO boxes',
            'annotations.csv': 'the same boxes',
            'lineage.json': 'what trained the generator',
        },
    }


def _row(row, dataset, split, origin):
    """The manifest row of one source row."""
    name = row['id'].replace('/', '_')
    nodules = row.get('nodules') or NO_NODULES
    nodules = [dict(zip(nodules, values)) for values in zip(*nodules.values())]
    return {
        'id': name,
        'file': f'images/{name}.png',
        'input': f'inputs/{name}.png',
        'split': split.split('[')[0],
        'group': row['group'],
        'series': row['series'],
        'z': row['z'],
        'source_id': row['id'],
        'source_sha256': row['sha256'],
        'source_dataset': f'{dataset}:{split}',
        'window': row.get('window', ''),
        'nodules': nodules,
        **origin,
    }


def pair_sheet(folder, rows, count):
    """The first `count` test rows (any rows, where there is no test split): input above its translation, boxes drawn."""
    rows = ([row for row in rows if row['split'] == 'test'] or rows)[:count]
    boxes = lambda row: [nodule['box'] for nodule in row['nodules']]
    tiles = [
        pictures.draw_boxes(pictures.read(folder / row[key]), boxes(row), 256)
        for key in ('input', 'file')
        for row in rows
    ]
    return pictures.contact_sheet(tiles, len(rows))

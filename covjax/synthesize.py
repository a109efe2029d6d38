"""CycleGAN workdir + lung-cancer slices -> synthetic COVID-19 CT with the nodule boxes of the sources, as files and as a TFDS data set.

<workdir>/synthetic holds images/ and inputs/ (PNG, same names) and manifest.jsonl, one row an image; <workdir>/data holds synthetic_covid_ct.
Translation keeps geometry and boxes are shares of the picture, so a box stays right at every size.
"""
import hashlib
import json
import pathlib
import shutil
import time

from covjax import InputError, checkpoint, data, generator, pictures, prepare
from covjax.log import duration
from covjax.workdir import read_json, write_json

NO_NODULES = {'box': [], 'diameter': [], 'chord': [], 'row': [], 'malignancy': []}


def run(config, workdir):
    """Every slice of config.cancer through generator to_covid of config.generator."""
    if not config.cancer:
        raise InputError('config.cancer is empty; name a data set, for example luna16_patches/nodules')
    gan, model, step = checkpoint.load_model(config.generator, 'cyclegan', 'generator')
    data_dir = config.data_dir or gan.data_dir
    origin = {'generator': hashlib.sha256(gan.to_json(sort_keys=True).encode()).hexdigest()[:12], 'generator_step': step}
    apply = generator.apply_uint8(generator.of_run(gan, model, 'to_covid'))
    draft, final = workdir / 'synthetic.part', workdir / 'synthetic'
    shutil.rmtree(draft, ignore_errors=True)
    manifest = []
    for dataset, split in _splits(config.cancer, data_dir):
        began = time.monotonic()
        examples = data.read(f'{dataset}:{split}', data_dir, gan.image_size)
        if 'series' not in examples.rows[0]:
            raise InputError(f'config.cancer={config.cancer}: {dataset} has no CT series; name a data set of slices, such as luna16_patches/nodules')
        fakes = data.predict(apply, examples.images, config.batch_size, f'translating {dataset}:{split}')
        rows = [_row(row, dataset, split, origin) for row in examples.rows]
        for row, real, fake in zip(rows, examples.images, fakes):
            pictures.save(draft / row['input'], real[..., 0])
            pictures.save(draft / row['file'], fake[..., 0])
        manifest += rows
        seconds = time.monotonic() - began
        print(f'{dataset}:{split}  {len(rows)} slices translated, {len(rows) / seconds:.0f}/s, {duration(seconds)}', flush=True)
    lineage = read_json(pathlib.Path(config.generator) / 'lineage.json')
    for folder in (workdir, draft):                        # prepare puts it beside the data set
        write_json(folder / 'lineage.json', lineage)
    (draft / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in manifest))
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    prepare.build('synthetic_covid_ct', final, str(workdir / 'data'), overwrite=True)
    pictures.save(workdir / 'images' / 'input_and_synthetic.png', pair_sheet(final, manifest, 8))
    print(f'{len(manifest)} synthetic images in {final} and as synthetic_covid_ct in {workdir / "data"}')


def _splits(spec, data_dir):
    """[(dataset, split)] of a spec; all splits of a data set that is named without one."""
    if ':' in spec:
        return [(dataset, split) for dataset, split, _ in data.parse(spec)]
    info = json.loads((data.locate(spec, data_dir) / 'dataset_info.json').read_text())
    return [(spec, split['name']) for split in info['splits']]


def _row(row, dataset, split, origin):
    """The manifest row of one source row."""
    name = row['id'].replace('/', '_')
    nodules = row.get('nodules') or NO_NODULES
    nodules = [dict(zip(nodules, values)) for values in zip(*nodules.values())]
    return {'id': name, 'file': f'images/{name}.png', 'input': f'inputs/{name}.png', 'split': split.split('[')[0], 'group': row['group'],
            'series': row['series'], 'z': row['z'], 'source_id': row['id'], 'source_sha256': row['sha256'], 'source_dataset': f'{dataset}:{split}',
            'nodules': nodules, **origin}


def pair_sheet(folder, rows, count):
    """The first `count` test rows (any rows, where there is no test split): input above its translation, boxes drawn."""
    rows = ([row for row in rows if row['split'] == 'test'] or rows)[:count]
    boxes = lambda row: [nodule['box'] for nodule in row['nodules']]
    tiles = [pictures.draw_boxes(pictures.read(folder / row[key]), boxes(row), 256) for key in ('input', 'file') for row in rows]
    return pictures.contact_sheet(tiles, len(rows))

"""CycleGAN workdir + slices -> synthetic CT of another class, as files and as a TFDS data set.

<workdir>/synthetic is the folder of covjax.data.synthetic, with the nodule boxes of the sources;
<workdir>/data holds the data set synthetic_covid_ct, or of other domains synthetic_ct.
"""

import shutil
import time
from functools import partial
from typing import NamedTuple

from covjax import CLASSES, InputError, choice, counted, provenance, stand_ins, trained
from covjax.classes import POSITIVE
from covjax.ct import picture
from covjax.data import coco, data_card, datasets, domains, lineage, specs, synthetic
from covjax.data.synthetic import SyntheticRow, file_name
from covjax.pages import pictures
from covjax.runs import prepare
from covjax.workdir import duration, write_json

SHOWN, TILE = 8, 256  # slices in images/input_and_synthetic.png, and their side in pixels
CHANGE = 'translated to the style of {} CT by a CycleGAN'
DESCRIPTION = 'Synthetic {} CT: slices translated by a CycleGAN. Not for diagnosis.'


class Target(NamedTuple):
    """What images are translated to."""

    classes: tuple[str, ...]  # of the data set that the generator learned it from
    label: str  # one of them

    @property
    def title(self):
        """What people read of it."""
        return 'COVID-19' if self.label == POSITIVE else self.label


def run(config, workdir):
    """Translates every slice of config.cancer and writes the images and their data set.

    Args:
        config: of configs/synthesize.py. Slices go through the generator to_covid of
            config.generator, or through the stand-in that config.stand_in names.
        workdir: pathlib.Path.

    Raises:
        InputError: a key of the config is wrong, or the data set has no CT series.
    """
    if not config.cancer:
        raise InputError(
            'config.cancer is empty; name a data set, for example luna16_patches/nodules'
        )
    stand_in = choice(config, 'stand_in', stand_ins.METHODS)
    gan = trained.open_run(config.generator, 'cyclegan', 'generator')
    maker = {
        'generator': identity(gan, stand_in if stand_in != 'translated' else ''),
        'generator_step': gan.step,
    }
    records = gan.lineage  # before anything is read
    target = target_of(gan, trained.data_dir_of(config))
    change = CHANGE.format(target.title)
    if stand_in != 'translated':
        change = f'as a stand-in changed by {stand_in}'
    draft = fresh_draft(workdir, records)
    manifest = translate(config, gan, maker, draft, target)
    made_by = provenance.of(config, generator=provenance.network(gan))
    is_usual = target.classes == CLASSES and manifest[0].series
    final = publish(
        draft,
        manifest,
        gan,
        change,
        maker,
        made_by,
        DESCRIPTION.format(target.title),
        ['synthetic_covid_ct' if is_usual else 'synthetic_ct'],
        target.classes,
    )
    picture.save(workdir / 'images' / 'input_and_synthetic.png', pair_sheet(final, manifest, SHOWN))


def target_of(gan, data_dir):
    """The Target of a CycleGAN: the class of its covid domain.

    Of data sets without labels it is covid.

    Args:
        gan: trained.Trained.
        data_dir: where its data sets lie.
    """
    classes = datasets.classes(gan.config.covid, data_dir)
    if not classes or POSITIVE in classes:
        return Target(classes or CLASSES, POSITIVE)
    return Target(classes, datasets.read_rows(gan.config.covid, data_dir)[0].label_name)


def fresh_draft(workdir, records):
    """The folder in which synthetic images are put together; one of the final name is whole.

    Args:
        workdir: pathlib.Path.
        records: [data.lineage.Record] of what trained the generator, which is all that is there.

    Returns:
        pathlib.Path.

    Raises:
        InputError: the workdir has folders of these names that are not of such a run.
    """
    _check_own(workdir)
    draft = workdir / 'synthetic.part'
    shutil.rmtree(draft, ignore_errors=True)
    write_json(draft / 'lineage.json', records)  # `prepare` puts it beside the data set
    return draft


def _check_own(workdir):
    """Refuses a workdir whose folders `publish` would replace, and that are not of such a run."""
    final, data = workdir / 'synthetic', workdir / 'data'
    of_tfds = {name.partition('/')[0] for name in prepare.MADE_BY_TFDS}
    is_own = lambda name: name.startswith(lineage.SYNTHETIC) or name in of_tfds
    other = [path for path in data.glob('*') if not is_own(path.name)]
    if final.exists() and not (final / 'manifest.jsonl').is_file():
        other.append(final)
    if other:
        raise InputError(f'--workdir={workdir}: {other[0]} is not of such a run; choose another')


def publish(draft, manifest, run, change, maker, made_by, description, datasets, classes=CLASSES):
    """Adds what goes with images to their folder, gives it its final name, builds the data set.

    Args:
        draft: of `fresh_draft`, with the images in it.
        manifest: [data.synthetic.SyntheticRow].
        run: trained.Trained of the generator.
        change: what was done to the slices, for the data card.
        maker: {'generator', 'generator_step'} of every row.
        made_by: provenance.Provenance of the images.
        description: a sentence for the head of the boxes in COCO's format.
        datasets: names of the data sets to build of it.
        classes: names of their labels.

    Returns:
        pathlib.Path of the folder.
    """
    workdir, final = draft.parent, draft.with_name('synthetic')
    shutil.rmtree(workdir / 'data', ignore_errors=True)  # of the images that go away here
    synthetic.write_manifest(draft, manifest)
    coco.write(draft, manifest, run.config.image_size, description)
    card = data_card.content(
        run.config, manifest, change, made_by=made_by, classes=classes, **maker
    )
    write_json(draft / 'meta.json', card)
    readme = data_card.text(card, run.lineage, datasets)
    (draft / 'README.md').write_text(readme, encoding='utf-8')
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    write_json(workdir / 'lineage.json', run.lineage)
    for dataset in datasets:
        prepare.build(dataset, final, str(workdir / 'data'), overwrite=True)
    place = f'{final} and as {" and ".join(datasets)} in {workdir / "data"}'
    print(f'{len(manifest)} synthetic images in {place}')
    return final


def identity(run, stand_in):
    """What a manifest calls the maker of its images.

    Args:
        run: trained.Trained of the generator.
        stand_in: the name of what took its place, or ''.

    Returns:
        The name of the stand-in; of the generator itself, a hash of its weights, 12 hex digits.
    """
    if stand_in:
        return stand_in
    return provenance.network(run)['content'][:12]


def translate(config, gan, maker, folder, target):
    """Writes the images of every split of config.cancer, and what they were made from, as PNG.

    Args:
        config: of this run.
        gan: trained.Trained of the CycleGAN.
        maker: {'generator', 'generator_step'} of every row.
        folder: pathlib.Path.
        target: Target.

    Returns:
        [data.synthetic.SyntheticRow], in the order of the data set.

    Raises:
        InputError: the data set has volumes, or images of the target.
    """
    data_dir, size = trained.data_dir_of(config), gan.config.image_size
    training = partial(training_images, gan, size=size, data_dir=data_dir)
    apply = stand_ins.METHODS[config.stand_in](gan, training, config.batch_size)
    manifest = []
    for dataset, split, label in specs.every_part(config.cancer, data_dir):
        began, spec = time.monotonic(), specs.part(dataset, split, label)
        check_images(spec, data_dir, target)
        examples = datasets.read(spec, data_dir, size)
        check_new(examples.rows, manifest, 'cancer')
        fakes = apply(examples.images)
        of_split, facts = spec.partition(':')[2], maker | {'label': target.label}
        rows = [SyntheticRow.of_source(row, dataset, of_split, **facts) for row in examples.rows]
        for row, real, fake in zip(rows, examples.images, fakes):
            picture.save(folder / row.input, real[..., 0])
            picture.save(folder / row.file, fake[..., 0])
        manifest += rows
        seconds = time.monotonic() - began
        rate = f'{len(rows) / seconds:.0f}/s, {duration(seconds)}'
        print(f'{spec}  {counted(len(rows), "slice")} translated, {rate}', flush=True)
    return manifest


def training_images(gan, name, size, data_dir):
    """The images of a domain that trained a CycleGAN, for stand-ins: uint8 [N, size, size, 1].

    Args:
        gan: trained.Trained.
        name: one of domains.DOMAINS.
        size: pixels of each side.
        data_dir: where the data sets lie.

    Raises:
        InputError: the data set there holds other images.
    """
    spec = gan.config[name]
    examples = domains.domain(spec, name, size, data_dir)
    lineage.check_same(gan.lineage, name, examples.rows, spec)
    return examples.images


def check_images(spec, data_dir, target):
    """Refuses volumes, of which one slice would be translated, and images of the target itself.

    Args:
        spec: one part of config.cancer.
        data_dir: where the data set lies.
        target: Target.

    Raises:
        InputError: there is such an image.
    """
    for record in datasets.records(spec, data_dir):
        if datasets.is_volume(record):
            raise InputError(
                f'config.cancer={spec}: has volumes; name the data set of their slices, such as '
                'luna16_patches/nodules or ct_scans/folder_slices'
            )
        if record.row.label_name == target.label:
            raise InputError(
                f'config.cancer={spec}: has images of {target.label}, to which they would be '
                f'translated; name those of another class, such as {spec.partition(":")[0]}@CLASS'
            )


def check_new(rows, manifest, key):
    """Refuses slices that are named twice, and two whose files would have one name.

    Args:
        rows: [data.rows.Row].
        manifest: [data.synthetic.SyntheticRow] of what was made before them.
        key: of the config that names the data sets.

    Raises:
        InputError: one of them was made before, or would overwrite another one.
    """
    made = {row.source_id for row in manifest}
    if twice := [row.id for row in rows if row.id in made]:
        raise InputError(f'config.{key}: names {twice[0]} twice; name every slice once')
    names = {file_name(each): each for each in made}
    for row in rows:
        other = names.setdefault(file_name(row.id), row.id)
        if other != row.id:
            raise InputError(
                f'config.{key}: {other} and {row.id} would both be called {file_name(row.id)}; '
                'rename one of the two'
            )


def pair_sheet(folder, rows, count):
    """Slices above their translations, with the boxes of nodules drawn.

    Args:
        folder: pathlib.Path of the images.
        rows: [data.synthetic.SyntheticRow].
        count: of slices, the first of the test split, or of all rows where it has none.

    Returns:
        uint8 RGB [2 * TILE, slices * TILE, 3].
    """
    rows = ([row for row in rows if row.split == 'test'] or rows)[:count]
    above = [pictures.draw_boxes(picture.read(folder / row.input), row.boxes, TILE) for row in rows]
    below = [pictures.draw_boxes(picture.read(folder / row.file), row.boxes, TILE) for row in rows]
    return pictures.contact_sheet(above + below, len(rows))

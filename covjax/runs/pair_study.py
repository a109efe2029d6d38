"""Pairs of every maker, classifiers that learn from them, and how they read real lesions.

pair_study.json has the numbers, pair_study.html the tables. A row counts only if its classifiers
have learned their own task: a mean area of LEARNED on unseen pairs of their own maker. Otherwise it
speaks of the budget of the training, not of the images.
"""

from typing import NamedTuple

import numpy as np

from covjax import InputError, __version__, choice, classifier, pair_makers, pipeline, runs, trained
from covjax.audit import pair_tests
from covjax.classes import POSITIVE
from covjax.ct import lungs, picture
from covjax.data import batches, datasets, gaps, lineage, specs
from covjax.data.lesion_masks import KINDS
from covjax.metrics.intervals import auc_difference, mean_interval
from covjax.pages import figures, html, pictures
from covjax.pages.tables import interval
from covjax.pipeline import Stage, with_keys
from covjax.runs.synthesize_pairs import DATA_SETS
from covjax.workdir import read_config, write_json

LEARNED = 0.95  # area on unseen pairs from which on a row counts
BATCH = 32
SPLITS = ('train', 'validation', 'test')
READ = ('validation', 'test')
PARTS = ('slices', 'patches')  # in the order of synthesize_pairs.DATA_SETS
STAND_IN = 'painted'  # what the generator is compared with
# Of a CycleGAN, which has no pairs: its translations, and the slices themselves.
CYCLEGAN = {'cyclegan': 'translated', 'framed': 'nothing'}
BLINDED, COLUMNS, TILE = 12, 6, 144  # lesions of each kind in blinded.png, a row, their side
FAINT = 10  # grey levels below which nobody sees a lesion


class Source(NamedTuple):
    """Images that classifiers learn from: specs as covjax.data.specs takes them."""

    maker: str
    part: str
    images: Stage  # that makes them
    train: str
    val: str
    unseen: str  # images of the same kind of other people, on which it shows what was learned


class Row(NamedTuple):
    """Classifiers of several seeds that learned from the same images."""

    source: Source
    classifiers: list  # trained.Trained, one a seed
    data_dir: str  # where its own images and the real ones lie


def run(config, workdir):
    """Makes what is not finished yet, and reads every test.

    Args:
        config: of configs/pair_study.py.
        workdir: pathlib.Path.

    Raises:
        InputError: a key of the config is wrong, or a test overlaps with the training.
    """
    generator = trained.open_run(config.generator, 'pairs', 'generator')
    data_dir = trained.data_dir_of(config) or specs.DEFAULT_DIR
    check(config, data_dir)
    found = sources(config, generator.config.masks, data_dir)
    pipeline.follow(stages(config, found, workdir, data_dir), workdir, runs.find)
    rows = [open_row(config, source, workdir, data_dir) for source in found]
    images, left_out = read_tests(config, rows, data_dir)
    results = {
        'covjax': __version__,
        'read': config.read,
        'left_out': left_out,
        'rows': [measured(row, images, rows) for row in rows],
        'effects': effects(rows, generator, data_dir),
    }
    write_json(workdir / 'pair_study.json', results)
    write_panel(rows, images['lesions'], workdir)
    write_page(results, workdir)


def check(config, data_dir):
    """Refuses a wrong key before hours of training.

    Args:
        config: of the study.
        data_dir: where the real data sets lie.

    Raises:
        InputError: a key of the config has no valid value, or a data set is missing.
    """
    choice(config, 'read', READ)
    for key, valid in (('makers', pair_makers.METHODS), ('parts', PARTS)):
        if not config[key]:
            raise InputError(f'config.{key} is empty; name some of {", ".join(valid)}')
        for name in config[key]:
            choice({key: name}, key, valid)
    if not config.seeds:
        raise InputError('config.seeds is empty; name at least one seed')
    for key in ('lesions', 'scans', 'figures'):
        specs.locate(config[key], data_dir)
    if config.cyclegan:
        read_config(config.cyclegan, 'cyclegan', 'cyclegan')


def sources(config, masks, data_dir):
    """The [Source] of every maker and part, and those of a CycleGAN where one is named.

    Args:
        config: of the study.
        masks: where those of the generator are from, a key of DATA_SETS.
        data_dir: where the real data sets lie.
    """
    found = []
    for maker in config.makers:
        fields = {'maker': maker, 'generator': config.generator, 'data_dir': data_dir}
        stage = Stage(f'{maker}/images', with_keys(config.synthesize, **fields))
        for part, name in zip(PARTS, DATA_SETS[masks]):
            if part in config.parts:
                splits = (f'{name}:{split}' for split in SPLITS)
                found.append(Source(maker, part, stage, *splits))
    if config.cyclegan and 'slices' in config.parts:
        of_split = lambda split: f'synthetic_covid_ct:{split}+{config.figures}:{split}@noncovid'
        unseen = of_split(config.read)
        for maker, stand_in in CYCLEGAN.items():
            fields = {'stand_in': stand_in, 'generator': config.cyclegan, 'data_dir': data_dir}
            stage = Stage(f'{maker}/images', with_keys(config.translate, **fields))
            splits = (of_split('train'), of_split('validation'), unseen)
            found.append(Source(maker, 'slices', stage, *splits))
    return found


def stages(config, found, workdir, data_dir):
    """Yields the Stages: the images of every Source, then the classifiers that learn from them.

    Args:
        config: of the study.
        found: [Source].
        workdir: pathlib.Path of the study.
        data_dir: where the real data sets lie.
    """
    yield from {source.images.folder: source.images for source in found}.values()
    for seed in config.seeds:  # all sources of a seed before the next seed
        for source in found:
            train = with_keys(
                config.train,
                train=source.train,
                val=source.val,
                steps=config.steps[source.part],
                seed=seed,
                data_dir=_data_dir(source, workdir, data_dir),
            )
            name = f'{source.maker}/{source.part}_{seed}'
            yield Stage(name, train, (source.images.folder,))


def _data_dir(source, workdir, data_dir):
    """Where the images of a Source and the real ones lie."""
    return f'{workdir / source.images.folder / "data"},{data_dir}'


def open_row(config, source, workdir, data_dir):
    """The Row of a Source."""
    folders = [workdir / source.maker / f'{source.part}_{seed}' for seed in config.seeds]
    opened = [trained.open_run(folder, 'classification', 'train') for folder in folders]
    return Row(source, opened, _data_dir(source, workdir, data_dir))


def read_tests(config, rows, data_dir):
    """The real images that every row is read on.

    Images that share a picture, patient or source with what trained any row are left out, such as
    the near-copies in the test pictures of COVID-SemiSeg of those that masks were drawn in.

    Args:
        config: of the study.
        rows: [Row].
        data_dir: where the real data sets lie.

    Returns:
        ({'lesions', 'figures', and of the test 'scans': datasets.Examples},
        {the same: number of images that were left out}).

    Raises:
        InputError: a data set is missing, or too little of it is left.
    """
    wanted = {key: f'{config[key]}:{config.read}' for key in ('lesions', 'figures')}
    if config.read == 'test':
        wanted['scans'] = '+'.join(f'{config.scans}:{split}' for split in SPLITS)
    size, found, left_out = rows[0].classifiers[0].config.image_size, {}, {}
    for key, spec in wanted.items():
        examples, shared = datasets.read(spec, data_dir, size), set()
        for row in rows:
            shared |= lineage.overlap(row.classifiers[0].lineage, examples.rows)[1].keys()
        kept = [i for i, row in enumerate(examples.rows) if row.id not in shared]
        if len({*examples.labels[kept]}) < 2:
            raise InputError(
                f'config.{key}={config[key]}: {len(shared)} images share a picture, patient or '
                'source with what was trained on, and two classes are not left; name other images'
            )
        left_out[key] = len(shared)
        found[key] = examples._replace(
            images=examples.images[kept],
            labels=examples.labels[kept],
            rows=[examples.rows[i] for i in kept],
        )
    return found, left_out


def scored(row, images):
    """P(covid) of every seed of a Row, float [S, N], for images uint8 [N, size, size, 1]."""
    scores = [classifier.score(classifier.of_run(run), POSITIVE) for run in row.classifiers]
    return np.stack([batches.predict(score, images, BATCH) for score in scores])


def measured(row, images, rows):
    """What pair_study.json says of a Row.

    Args:
        row: Row.
        images: of `read_tests`.
        rows: all of them, one of which may be that of the stand-in to compare with.
    """
    size = row.classifiers[0].config.image_size
    unseen = datasets.read(row.source.unseen, row.data_dir, size)
    of = lambda examples: (examples.labels, [row.group for row in examples.rows])
    found = {'maker': row.source.maker, 'part': row.source.part}
    found['unseen'] = pair_tests.areas(scored(row, unseen.images), *of(unseen))
    found['counts'] = found['unseen']['mean'] >= LEARNED
    lesions, papers = images['lesions'], images['figures']
    scores = scored(row, lesions.images)
    found['lesions'] = pair_tests.areas(scores, *of(lesions))
    for other in rows:
        if other.source[:2] == (STAND_IN, row.source.part) and other is not row:
            against = scored(other, lesions.images)
            labels, groups = of(lesions)
            found['better'] = auc_difference(labels, scores, against, groups)
    found['figures'] = pair_tests.by_source(scored(row, papers.images), papers.labels, papers.rows)
    if 'scans' in images:
        scans = images['scans']
        areas = lungs.masks(scans.images).mean((1, 2))
        found['scans'] = pair_tests.over_scans(scored(row, scans.images), scans.rows, areas)
    return found


def effects(rows, generator, data_dir):
    """By how many grey levels lesions are brighter than healthy lung, made and real.

    Args:
        rows: [Row].
        generator: trained.Trained of the pair training.
        data_dir: where its pictures lie.

    Returns:
        {maker, and 'real': {kind: {'mean', 'low', 'high', 'faint': share below FAINT, 'lesions'}}}.
    """
    real = gaps.read_pictures(generator.config, data_dir, generator.config.image_size)
    found = {'real': pair_tests.real_effect(real, KINDS)}
    spec = DATA_SETS[generator.config.masks][0] + ':test'
    for row in rows:
        if row.source.maker in pair_makers.METHODS:
            pairs = datasets.pairs(spec, row.data_dir)
            found[row.source.maker] = pair_tests.effect(pairs)
    return {
        maker: {kind: _effect(values) for kind, values in sorted(kinds.items())}
        for maker, kinds in found.items()
    }


def _effect(values):
    levels, groups = np.array([level for level, _ in values]), [group for _, group in values]
    low, high = mean_interval(levels, groups)
    return {
        'mean': float(levels.mean()),
        'low': low,
        'high': high,
        'faint': float((levels < FAINT).mean()),
        'lesions': len(levels),
    }


def write_panel(rows, lesions, workdir):
    """Writes images/blinded.png, lesions that are real or made in random order, and their key.

    blinded_key.json says which is which, row by row, for who has written down a guess. Nothing is
    written where no row has lesions made by the generator as patches.

    Args:
        rows: [Row].
        lesions: datasets.Examples of real lesions and healthy lung.
        workdir: pathlib.Path.
    """
    ours = [row for row in rows if row.source[:2] == ('made', 'patches')]
    if not ours:
        return
    size = lesions.images.shape[1]
    made = datasets.read(ours[0].source.unseen, ours[0].data_dir, size)
    rng, tiles, key = np.random.default_rng(0), [], []
    for name, examples in (('real', lesions), ('made', made)):
        sick = np.flatnonzero(examples.labels == examples.classes.index(POSITIVE))
        for i in rng.permutation(sick)[:BLINDED]:
            tiles.append(pictures.draw_boxes(examples.images[i, ..., 0], (), TILE))
            key.append(name)
    order = rng.permutation(len(tiles))
    sheet = pictures.contact_sheet([tiles[i] for i in order], COLUMNS)
    picture.save(workdir / 'images' / 'blinded.png', sheet)
    write_json(workdir / 'blinded_key.json', [key[i] for i in order])


# ---- the page

BODY = """\
<p class="quiet">covjax {version}</p>
<p class="warning"><strong>Not for diagnosis.</strong> Synthetic images show no patient with \
COVID-19; the scans are those of three people.</p>
<p>Classifiers learned to tell lesions from shams of one maker, in {seeds} seeds, and were read on \
real images of the {read} split. A row counts where the mean area on unseen pairs of its own maker \
is at least {learned}. Images that share a picture, patient or source with what was trained on \
were left out: {left_out}.</p>
{figure}
<h2>Lesion against healthy lung of the same slice</h2>
{lesions}
<h2>Scan against scan, and inside a scan</h2>
{scans}
<h2>Figure against figure</h2>
{papers}
<h2>How bright lesions are</h2>
{effects}"""


def write_page(results, workdir):
    """Writes pair_study.html and the figure in it; prints the tables."""
    rows, path = results['rows'], workdir / 'images' / 'lesions.png'
    draw(rows, path)
    tables = {
        'lesions': (LESION_COLUMNS, [_lesion_line(row) for row in rows]),
        'scans': (SCAN_COLUMNS, [line for row in rows for line in _scan_lines(row)]),
        'papers': (PAPER_COLUMNS, [line for row in rows for line in _paper_lines(row)]),
        'effects': (EFFECT_COLUMNS, _effect_lines(results['effects'])),
    }
    body = BODY.format(
        version=__version__,
        read=results['read'],
        seeds=len(rows[0]['unseen']['seeds']),
        learned=LEARNED,
        left_out=', '.join(f'{n} of {key}' for key, n in results['left_out'].items()),
        figure=html.figure(path, 'Areas under the ROC curve on real lesions, with intervals'),
        **{name: html.table(*table) for name, table in tables.items()},
    )
    page = html.document('What classifiers learn from pairs', body)
    (workdir / 'pair_study.html').write_text(page, encoding='utf-8')
    for columns, lines in tables.values():
        print('', ' | '.join(columns), *(' | '.join(line) for line in lines), sep='\n')
    print(f'\n{workdir / "pair_study.html"}')


LESION_COLUMNS = (
    *('pairs of', 'seen', 'unseen pairs', 'counts', 'real lesions'),
    *('over seeds', f'better than {STAND_IN}'),
)
SCAN_COLUMNS = (
    *('pairs of', 'seen', 'scan', 'mean score, a seed each', 'above the healthy scan'),
    *('infected above not, comparable slices', 'comparable pairs'),
)
PAPER_COLUMNS = ('pairs of', 'seen', 'non-COVID from', 'area', 'over seeds')
EFFECT_COLUMNS = ('lesions', 'kind', 'count', 'brighter by, grey levels', f'less than {FAINT}')


def _lesion_line(row):
    unseen, lesions = row['unseen'], row['lesions']
    low, high = row.get('better', (None, None))
    return (
        *(row['maker'], row['part']),
        f'{unseen["mean"]:.3f} (over seeds {unseen["deviation"]:.3f})',
        'yes' if row['counts'] else 'no',
        interval(lesions['mean'], lesions['low'], lesions['high']),
        f'{lesions["deviation"]:.3f}',
        '' if low is None else f'{low:+.3f} to {high:+.3f}',
    )


def _scan_lines(row):
    numbers = lambda values: ' '.join(f'{value:.3f}' for value in values)
    for scan, found in row.get('scans', {}).items():
        above = found.get('above', ())
        yield (
            *(row['maker'], row['part'], scan, numbers(found['mean'])),
            f'{numbers(above)} ({sum(np.array(above) > 0)} of {len(above)} above 0)'
            if above
            else '',
            numbers(found.get('inside', ())),
            str(found.get('pairs', '')),
        )


def _paper_lines(row):
    for source, found in row['figures'].items():
        yield (
            *(row['maker'], row['part'], source),
            interval(found['mean'], found['low'], found['high']),
            f'{found["deviation"]:.3f}',
        )


def _effect_lines(effects):
    return [
        (
            *(maker, kind, str(found['lesions'])),
            f'{found["mean"]:.1f} ({found["low"]:.1f} to {found["high"]:.1f})',
            f'{found["faint"]:.1%}',
        )
        for maker, kinds in effects.items()
        for kind, found in kinds.items()
    ]


def draw(rows, path):
    """Writes a forest plot of the areas on real lesions, with every seed as a dot."""
    figure, axes = figures.subplots(figsize=(7, 0.5 * len(rows) + 1.2))
    for place, row in enumerate(rows):
        found, colour = row['lesions'], 'C0' if row['counts'] else 'C7'
        axes.plot((found['low'], found['high']), (place, place), color=colour, linewidth=2)
        axes.plot(found['mean'], place, 'D', color=colour)
        axes.plot(found['seeds'], [place] * len(found['seeds']), '|', color='black', markersize=9)
    axes.axvline(0.5, color='gray', linestyle=':')
    axes.set_yticks(range(len(rows)), [f'{row["maker"]}, {row["part"]}' for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel('area under the ROC curve, lesion against healthy lung of the same slice')
    figures.save(figure, path)

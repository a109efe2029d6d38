"""Pair training + slices without lesions -> pairs of slices that differ only in a lesion.

<workdir>/synthetic is the folder of covjax.data.synthetic with gates/ beside it; <workdir>/data
holds the data sets synthetic_pairs/slices and synthetic_pairs/patches: of each slice a member with
a lesion (covid) and a sham (noncovid), made in the same gate by the same network. images/pairs.png
shows some.
"""

import dataclasses
import hashlib
import itertools
import time
from functools import partial
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from covjax import InputError, choice, counted, pair_makers, pair_pictures, provenance, trained
from covjax.ct import picture
from covjax.data import gaps, lineage, specs
from covjax.data.lesion_masks import KINDS, SHAM
from covjax.data.synthetic import SyntheticRow
from covjax.pages import pictures
from covjax.runs import synthesize
from covjax.workdir import duration

# By where masks are from.
DATA_SETS = {
    'drawn': ('synthetic_pairs/slices', 'synthetic_pairs/patches'),
    'outlined': ('synthetic_pairs/slices_outlined', 'synthetic_pairs/patches_outlined'),
    'predicted': ('synthetic_pairs/slices_predicted', 'synthetic_pairs/patches_predicted'),
    'procedural': ('synthetic_pairs/slices_procedural', 'synthetic_pairs/patches_procedural'),
}
TRIES = 20  # draws until a mask is large enough
SHOWN, TILE = 8, 192  # pairs in images/pairs.png, and the side of a picture there
CHANGE = {
    'made': 'a lesion or healthy lung regenerated in a mask by a generator',
    'painted': 'with opacity painted into a mask',
    'pasted': 'with noise in a mask',
}
DESCRIPTION = 'Synthetic CT: slices with a lesion, or a sham. Not for diagnosis.'


class Recipe(NamedTuple):
    """What a stand-in needs, where no generator takes part; it has the fields of a Trained."""

    config: ConfigDict  # of a pair training
    lineage: list  # records of the pictures whose masks are taken
    step: int = 0
    folder: None = None

    @classmethod
    def of_config(cls, config):
        """That of a config of configs/synthesize_pairs.py.

        Raises:
            InputError: masks, or the moments of real lesions, are to come from pictures, and
                config.pictures names none; or a segmenter is to find them.
        """
        if config.masks == pair_pictures.PREDICTED:
            raise InputError(
                'config.masks=predicted: only a training of pairs has them; name its workdir in '
                'config.generator'
            )
        if not config.pictures and (
            config.masks in ('drawn', 'outlined') or config.maker == 'pasted'
        ):
            raise InputError(
                'config.pictures is empty; name pictures with lesions, such as '
                'ct_scans/covid_semiseg_framed:train, or the workdir of a pair training in '
                'config.generator'
            )
        named = {key: config[key] for key in ('masks', 'pictures', 'image_size')}
        recipe = ConfigDict({'task': 'pairs', **named})
        rows = pair_pictures.of_run(cls(recipe, []), config.data_dir).rows
        return cls(
            recipe, lineage.record(recipe, config.data_dir, {'pictures': rows} if rows else {})
        )


def run(config, workdir):
    """Makes a pair of every slice of config.slices in which lungs are found.

    Args:
        config: of configs/synthesize_pairs.py.
        workdir: pathlib.Path.

    Raises:
        InputError: a key of the config is wrong, or the data set has no CT series.
    """
    maker = choice(config, 'maker', pair_makers.METHODS)
    if config.generator or maker == 'made':
        generator = trained.open_run(config.generator, 'pairs', 'generator')
    else:
        generator = Recipe.of_config(config)
    facts = {
        'generator': synthesize.identity(generator, maker if maker != 'made' else ''),
        'generator_step': generator.step,
    }
    upstream = {'generator': provenance.network(generator)} if config.generator else {}
    made_by = provenance.of(config, **upstream)
    draft = synthesize.fresh_draft(workdir, generator.lineage)
    manifest = write_pairs(config, generator, facts, draft)
    final = synthesize.publish(
        draft,
        manifest,
        generator,
        CHANGE[maker],
        facts,
        made_by,
        DESCRIPTION,
        DATA_SETS[generator.config.masks],
    )
    sheet = pictures.draw_panels(final, count=SHOWN, size=TILE)
    picture.save(workdir / 'images' / 'pairs.png', sheet)


def write_pairs(config, generator, facts, folder):
    """Writes the pairs of every split of config.slices, and what they were made from, as PNG.

    Args:
        config: of this run.
        generator: trained.Trained of the pair training.
        facts: {'generator', 'generator_step'} of every row.
        folder: pathlib.Path.

    Returns:
        [data.synthetic.SyntheticRow], the lesion of each pair before its sham.
    """
    if not config.slices:
        raise InputError(
            'config.slices is empty; name framed slices, for example luna16_patches/nodules_framed'
        )
    data_dir, size = trained.data_dir_of(config), generator.config.image_size
    fill = pair_makers.METHODS[config.maker](generator, data_dir)
    drawn = pair_pictures.of_run(generator, data_dir)
    if drawn.rows:
        lineage.check_same(generator.lineage, 'pictures', drawn.rows, generator.config.pictures)
    manifest = []
    for dataset, split, label in specs.every_part(config.slices, data_dir):
        began, spec = time.monotonic(), specs.part(dataset, split, label)
        slices = gaps.read_slices(spec, data_dir, size, 'slices')
        synthesize.check_new(slices.rows, manifest, 'slices')
        manifest += _of_split(config, slices, drawn, fill, facts, folder, spec)
        seconds = time.monotonic() - began
        print(f'{spec}  {counted(len(slices.rows), "slice")}, {duration(seconds)}', flush=True)
    return manifest


def _of_split(config, slices, drawn, fill, facts, folder, spec):
    """Writes the pairs of the Slices of a part of config.slices; returns their rows."""
    places, masks, seeds = _gaps(config, slices, drawn)
    if not masks:
        raise InputError(
            f'config.slices={spec}: no mask of a lesion fits into the lungs of any '
            f'slice; name more slices, or lower config.least={config.least}'
        )
    gates = np.stack([gap['gate'][..., 0] for gap in masks])
    kinds = np.array([gap['kind'] for gap in masks])
    images = slices.images[[index for _, index in places]]
    of_shams = np.full_like(kinds, KINDS.index(SHAM))
    lesions, shams = (fill(images, gates, wanted, seeds) for wanted in (kinds, of_shams))
    rows, (dataset, _, of_split) = [], spec.partition(':')
    for i, (draw, index) in enumerate(places):
        row = SyntheticRow.of_source(slices.rows[index], dataset, of_split, **facts)
        name = f'{row.id}_{draw}'
        gate = f'gates/{name}.png'
        row = dataclasses.replace(row, pair=name, gate=gate, masks=drawn.masks)
        picture.save(folder / row.input, images[i])
        picture.save(folder / gate, gates[i])
        for is_sham, made in enumerate((lesions, shams)):
            rows.append(_member(row, bool(is_sham), KINDS[kinds[i]]))
            picture.save(folder / rows[-1].file, made[i])
    return rows


def _gaps(config, slices, drawn):
    """([(number of the pair, index of the slice)], its gap each, the seed of its noise each)."""
    places, masks, seeds = [], [], []
    for draw, index in itertools.product(range(config.per_slice), range(len(slices.images))):
        rng = random_of(config.seed, slices.rows[index].id, draw)
        seed = rng.integers(2**31)  # the same for both members
        make = partial(
            gaps.gap_in_slice, slices, drawn, rng, index, True, config.least, config.joined
        )
        gap = next((gap for gap in (make() for _ in range(TRIES)) if gap is not None), None)
        if gap is not None:
            places.append((draw, index))
            masks.append(gap)
            seeds.append(seed)
    return places, masks, seeds


def random_of(seed, name, draw):
    """What is random in a pair: a numpy.random.Generator of its own, in whatever split it is.

    Args:
        seed: of the run.
        name: id of the slice.
        draw: number of the pair among those of the slice.
    """
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, draw, int.from_bytes(digest[:8], 'big')])


def _member(row, is_sham, lesion):
    """The row of a member of a pair, from what both share."""
    name = f'{row.pair}_{SHAM if is_sham else "lesion"}'
    return dataclasses.replace(
        row,
        id=name,
        file=f'images/{name}.png',
        label='noncovid' if is_sham else 'covid',
        kind=SHAM if is_sham else lesion,
        lesion=lesion,
    )

"""What the discriminator of a pair training goes by: lesions, or where a picture comes from.

python benchmarks/pair_discriminator.py DATA_DIR RUN

DATA_DIR holds the slices and pictures that RUN, a workdir of a pair training, was trained on;
slices are those of its validation. Prints a Markdown table with the mean score of what it sees (1:
real, 0: made) and the area under the ROC curve by which real examples score higher than each kind.
Real lesions pasted into slices, and lung of slices as it is, are no work of the generator: an area
far from 0.5 there says that it sees origin.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from sklearn.metrics import roc_auc_score

from covjax import pair_generator, trained
from covjax.data import gaps
from covjax.data.augment import to_float
from covjax.data.lesion_masks import KINDS, SHAM
from covjax.training import pairs

DRAWS = 600


def gaps_of(make, count):
    """Up to DRAWS gaps of make(rng, index), of images 0 to count - 1 in turn."""
    found = [make(np.random.default_rng([1, i]), i % count) for i in range(DRAWS)]
    return [gap for gap in found if gap is not None]


def pasted(rng, gap, slices):
    """A gap of a picture with the inside of its gate pasted into a slice."""
    onto = slices.images[rng.integers(len(slices.images))][..., None].astype(float)
    share = gap['gate'] / 255
    mixed = np.round(share * gap['image'] + (1 - share) * onto).astype(np.uint8)
    return gap | {'image': mixed}


def scorer(run):
    """A function from gaps to the mean score of each inside its gate, float [gaps]."""
    nets = pairs.nets_of(run.config)._replace(changes=())
    params = run.variables['disc']['params']

    @jax.jit
    def score(image, gate, kind):
        gap = {'image': to_float(image), 'gate': gate / jnp.float32(255), 'kind': kind}
        logits, _ = nets.judge(params, gap, gap['image'], view=None)
        weight = pairs.at_patches(gap['gate'], logits.shape)
        return (weight * logits).sum((1, 2, 3)) / jnp.maximum(weight.sum((1, 2, 3)), 1e-6)

    return lambda found: np.asarray(score(*stacked(found)))


def stacked(found):
    """The images, gates and kinds of gaps, an array each."""
    return [np.stack([gap[name] for gap in found]) for name in ('image', 'gate', 'kind')]


def examples(real, empty, fill, slices):
    """{what: gaps} that are set against gaps of pictures, `real`; `empty` are those of slices."""
    images = np.asarray(fill(*stacked(empty), np.arange(len(empty))))
    rng = np.random.default_rng(2)
    found = {
        'in its own picture': real,
        'pasted into slices': [pasted(rng, gap, slices) for gap in real],
        'made in slices': [gap | {'image': image} for gap, image in zip(empty, images)],
    }
    return found | ({'slices as they are': empty} if is_sham(empty[0]) else {})


def is_sham(gap):
    """Whether healthy lung is to be in a gap."""
    return gap['kind'] == KINDS.index(SHAM)


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data_dir')
    parser.add_argument('run')
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # Orbax reports what it reads
    run = trained.open_run(args.run, 'pairs', 'run')
    scores, fill = scorer(run), jax.jit(pair_generator.of_run(run))
    size = run.config.image_size
    pictures = gaps.read_pictures(run.config, args.data_dir, size)
    slices = gaps.read_slices(run.config.val, args.data_dir, size, 'val')
    of_pictures = gaps_of(partial(gaps.gap_in_picture, pictures), len(pictures.images))
    of_slices = gaps_of(partial(gaps.gap_in_slice, slices, pictures), len(slices.images))
    print('| kind | what | count | score | real scores higher, area |\n|---|---|---|---|---|')
    for kind, sham in (('lesion', False), ('healthy lung', True)):
        real, empty = (
            [gap for gap in found if is_sham(gap) == sham] for found in (of_pictures, of_slices)
        )
        first = scores(real)
        for what, found in examples(real, empty, fill, slices).items():
            these = scores(found)
            labels = np.repeat([1, 0], [len(first), len(these)])
            area = roc_auc_score(labels, np.concatenate([first, these]))
            print(f'| {kind} | {what} | {len(found)} | {these.mean():.2f} | {area:.2f} |')


if __name__ == '__main__':
    main()

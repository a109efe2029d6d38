"""Makes pairs of slices that differ only in a lesion, and builds synthetic_pairs from them.

python launch.py --config=configs/synthesize_pairs.py --workdir=runs/synthesize_pairs \\
    --config.generator=runs/pairs

Opacity painted into blobs needs neither a generator nor a picture, nor a mask by hand:

python launch.py --config=configs/synthesize_pairs.py --workdir=runs/painted \\
    --config.maker=painted

A set to hand on, the lesions that taught segmenters most (docs/segmentation.md): three pairs of
every ready-made slice, as PNG with COCO and a data card in <workdir>/synthetic, as TFDS in
<workdir>/data. No picture of COVID-19 took part in it.

python launch.py --config=configs/synthesize_pairs.py:released --workdir=runs/released

Cost: two passes through the generator a slice. The data set is in <workdir>/data, the pictures and
their gates are in <workdir>/synthetic, images/pairs.png shows some: slice, gate, lesion, sham.
"""

from configs import base

# Slices for rehearsals of the studies, a tenth of every split.
FEW = '+'.join(
    f'luna16_patches/slices_framed:{split}[:10%]' for split in ('train', 'validation', 'test')
)
VARIANTS = {
    'one': {},
    'released': {
        'slices': 'luna16_patches/slices_framed',
        'maker': 'painted',
        'per_slice': 3,
        'joined': 8,
    },
}


def get_config(variant=''):
    config = base.stage(
        'synthesize_pairs',
        # Workdir of a pair training; '' where a stand-in does without.
        generator='',
        # What a stand-in without a generator needs to know, as in configs/pairs.py.
        masks='procedural',
        pictures='',  # of masks that are drawn
        image_size=96,
        # Framed slices without lesions: every split of the data set, unless one is named.
        slices='luna16_patches/nodules_framed',
        # made is the generator itself; its stand-ins are painted and pasted
        # (covjax/pair_makers.py).
        maker='made',
        least=0.01,  # share of the slice that a mask takes at least; 64 pixels a side show no less
        joined=1,  # masks that are joined to the mask of a lesion at most; a random number of them
        per_slice=1,  # pairs of each slice, each with a mask of its own
        seed=0,  # of masks and noise
    )
    config.update(base.variant(variant, VARIANTS))
    return config

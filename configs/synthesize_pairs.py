"""Makes pairs of slices that differ only in a lesion, and builds synthetic_pairs from them.

python launch.py --config=configs/synthesize_pairs.py --workdir=runs/synthesize_pairs \\
    --config.generator=runs/pairs

Cost: two passes through the generator a slice. The data set is in <workdir>/data, the pictures and
their gates are in <workdir>/synthetic, images/pairs.png shows some: slice, gate, lesion, sham.
"""

from configs import base


def get_config():
    return base.stage(
        'synthesize_pairs',
        # Workdir of a pair training.
        generator='',
        # Framed slices without lesions: every split of the data set, unless one is named.
        slices='luna16_patches/nodules_framed',
        # made is the generator itself; its stand-ins are painted and pasted
        # (covjax/pair_makers.py).
        maker='made',
        least=0.01,  # share of the slice that a mask takes at least; 64 pixels a side show no less
        per_slice=1,  # pairs of each slice, each with a mask of its own
        seed=0,  # of masks and noise
    )

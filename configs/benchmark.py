"""How fast a CycleGAN step is on this machine, beside PyTorch where it is installed.

python launch.py --config=configs/benchmark.py

Random images, the networks of configs/cyclegan.py:original; PyTorch comes with pip install -e
'.[torch]'. Cost: about 8 minutes on two CPU cores. On a GPU, so that both frameworks find memory on
the card:

XLA_PYTHON_CLIENT_PREALLOCATE=false python launch.py --config=configs/benchmark.py:gpu

`gpu` computes in bfloat16 and compares with PyTorch's autocast, channels_last and torch.compile; on
an H100 its first two rows took five minutes, nearly all of it compiling in both frameworks.
docs/speed.md says what was measured, and on which machines.
"""

from configs import base, cyclegan

VARIANTS = {
    'cpu': {},
    'gpu': {
        'image_size': (256, 256, 256),
        'batch_size': (1, 4, 16),
        'cyclegan': {'dtype': 'bfloat16'},
        'peer_compile': True,
        'warmup': 10,
        'steps': 20,
        'peak_tflops': 790.0,
    },
}


def get_config(variant=''):
    config = base.stage(
        'benchmark',
        image_size=(128, 64),  # one row of the table for each pair of these two
        batch_size=(1, 4),
        cyclegan=cyclegan.get_config(),  # what is timed; the two keys above replace its own
        warmup=2,  # steps before the clock starts; the first of them is timed by itself
        rounds=5,  # in which covjax and its peer take turns
        steps=3,  # of each in a round
        # What the device can do at most in this dtype, for the share of it that is used; give your
        # card's own (790 was measured for bfloat16 on an H200). 0: not known, no share.
        peak_tflops=0.0,
        peer='benchmarks/torch_cyclegan.py',  # a program that times its own steps; '' for none
        peer_compile=False,  # whether it uses torch.compile
    )
    config.update(base.variant(variant, VARIANTS))
    return config

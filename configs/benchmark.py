"""How fast a CycleGAN step is on this machine, beside PyTorch where that is installed (pip install -e '.[torch]'). Random images, the networks of `original`.

python launch.py --config=configs/benchmark.py

About 5 minutes on two CPU cores. On a GPU:

XLA_PYTHON_CLIENT_PREALLOCATE=false python launch.py --config=configs/benchmark.py:gpu

(so that both frameworks find memory on the card). `gpu` computes in bfloat16 and compares with PyTorch's autocast, channels_last and torch.compile.
"""

from configs import base, cyclegan

VARIANTS = {
    'cpu': {},
    'gpu': dict(
        image_size=(256, 256, 256),
        batch_size=(1, 4, 16),
        cyclegan={'dtype': 'bfloat16'},
        peer_compile=True,
        warmup=10,
        rounds=5,
        steps=20,
        peak_tflops=790.0,
    ),
}


def get_config(variant=''):
    config = base.stage(
        'benchmark',
        **{
            'image_size': (128, 64),  # one row of the table for each pair of these two
            'batch_size': (1, 4),
            'cyclegan': cyclegan.get_config(),  # what is timed; the two keys above replace its own
            'warmup': 2,  # steps before the clock starts
            'rounds': 5,  # covjax and its peer take turns
            'steps': 3,  # of each in a round
            'peak_tflops': 0.0,  # what the device can do at most, in this dtype, for the share of it; 790 was measured for bfloat16 on an H200;
            # give your card's own; 0: not known, no share
            'peer': 'benchmarks/torch_cyclegan.py',
            'peer_compile': False,
        },
    )
    config.update(base.variant(variant, VARIANTS))
    return config

"""Speed of segmentation networks beside the same ones in PyTorch: forward, and a training step.

python benchmarks/segmenters.py [--network=unet] [--size=176] [--batch=8] [--width=16] [--rounds=5]
    [--return_memory]

Networks are unet, vnet (beside that of MONAI, which has a width of 16) and vbnet, of volumes of
--size voxels a side. Both run in one process in turn and do the same: logits of a batch in
evaluation; forward in training mode, soft Dice and cross-entropy, gradient, AdamW, BatchNorm
statistics; float32, no augmentation. Of slices PyTorch runs with channels last, its faster layout
here. The process keeps the memory that either frees, as every training by launch.py does, or with
--return_memory gives it back to the system, as a plain Python process does. Prints a Markdown table
of medians; the ratio is PyTorch's time over ours, taken round by round.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_unet
import torch_vbnet

from covjax import models
from covjax.memory import keep_memory
from covjax.training.optimizer import adamw
from covjax.training.segmentation import dice_cross_entropy

RATE, DECAY = 1e-3, 1e-4
COLUMNS = ('', 'ours, ms', 'PyTorch, ms', 'ratio (lowest to highest)')


def ours(name, widths, images, target):
    """{'forward': (), 'training step': ()}, functions that do one of them."""
    model, tx = models.create(name, widths=widths), adamw(RATE, DECAY)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    stats = variables.get('batch_stats', {})
    state = variables['params'], stats, tx.init(variables['params'])

    def loss(params, stats):
        variables = {'params': params, 'batch_stats': stats}
        logits, updated = model.apply(variables, images, train=True, mutable=['batch_stats'])
        return dice_cross_entropy(logits, target).mean(), updated.get('batch_stats', {})

    @jax.jit
    def step(state):
        params, stats, opt = state
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats)
        updates, opt = tx.update(grads, opt, params)
        return (jax.tree.map(jnp.add, params, updates), stats, opt), value

    forward = jax.jit(model.apply)

    def train():
        nonlocal state
        state, value = step(state)
        return float(value)

    return {'forward': lambda: float(forward(variables, images).sum()), 'training step': train}


def in_pytorch(name, widths, images):
    """(images as PyTorch has them, modules, function of images) of a network."""
    x = torch.from_numpy(images)
    if name == 'unet':  # channels last already
        network = torch_unet.UNet(widths, 2).to(memory_format=torch.channels_last)
        return x.permute(0, 3, 1, 2), [network], network
    x = x.permute(0, 4, 1, 2, 3).contiguous()
    if name == 'vnet':
        from monai.networks.nets import VNet

        network = VNet(3, 1, 2, dropout_prob_down=0.0, dropout_prob_up=(0.0, 0.0), bias=False)
        return x, [network], network
    named, network = torch_vbnet.vb_net(1, widths[0])
    with torch.no_grad():
        network(x[:1])  # makes the modules
    return x, list(named.values()), network


def peer(name, widths, images, target):
    """The same of the network in PyTorch."""
    x, modules, network = in_pytorch(name, widths, images)
    parameters = [p for module in modules for p in module.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim == 1]
    groups = [{'params': decayed, 'weight_decay': DECAY}, {'params': others, 'weight_decay': 0.0}]
    optimizer = torch.optim.AdamW(groups, RATE)
    axes = tuple(range(1, target.ndim))
    labels = torch.from_numpy(target).long()
    wanted = (labels == 1).float()

    def forward():
        for module in modules:
            module.eval()
        with torch.no_grad():
            return float(network(x).sum())

    def train():
        for module in modules:
            module.train()
        logits = network(x)
        entropy = torch.nn.functional.cross_entropy(logits, labels)
        found = logits.softmax(1)[:, 1]
        shared, both = (found * wanted).sum(axes), (found + wanted).sum(axes)
        loss = entropy + (1 - (2 * shared + 1) / (both + 1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return {'forward': forward, 'training step': train}


def timed(function):
    """Seconds that a function takes."""
    start = time.perf_counter()
    value = function()
    assert np.isfinite(value), value
    return time.perf_counter() - start


def words():
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--network', default='unet', choices=['unet', 'vnet', 'vbnet'])
    for name, number in (('size', 176), ('batch', 8), ('width', 16), ('rounds', 5)):
        parser.add_argument(f'--{name}', type=int, default=number)
    parser.add_argument('--return_memory', action='store_true')
    return parser.parse_args()


def main():
    """Prints what was measured on, then the table."""
    args = words()
    if not args.return_memory:
        keep_memory()
    rng = np.random.default_rng(0)
    shape = (args.batch, *[args.size] * (2 if args.network == 'unet' else 3))
    images = rng.uniform(-1, 1, (*shape, 1)).astype(np.float32)
    target = (rng.random(shape) > 0.8).astype(np.uint8)
    widths = tuple(args.width * 2**level for level in range(5))
    both = [make(args.network, widths, images, target) for make in (ours, peer)]
    versions = f'JAX {jax.__version__}, PyTorch {torch.__version__}'
    sides = 'x'.join(map(str, shape[1:]))
    work = f'{args.network} {widths}, {sides}, batch {args.batch}, {args.rounds} rounds'
    print(f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {versions}, {work}\n')
    print(f'| {" | ".join(COLUMNS)} |\n{"|---" * len(COLUMNS)}|')
    for what in both[0]:
        for functions in both:
            timed(functions[what])
        times = np.array([[timed(f[what]) for f in both] for _ in range(args.rounds)])
        ratios, medians = times[:, 1] / times[:, 0], 1000 * np.median(times, 0)
        spread = f'{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})'
        print(f'| {what} | {medians[0]:.0f} | {medians[1]:.0f} | {spread} |', flush=True)


if __name__ == '__main__':
    main()

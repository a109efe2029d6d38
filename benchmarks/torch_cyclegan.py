"""The CycleGAN and its training step in PyTorch, written for comparison: an independent computation for the tests, a peer for the benchmark.

Modules are numbered as in the authors' implementation, so that state dicts have its names. As a program it times steps on random images: one line with the
device and versions, then for every line `N` on standard input N steps and one line of JSON {"seconds": of one step, "peak_bytes"}.

  echo 5 | python benchmarks/torch_cyclegan.py --size=128 --batch=1
"""

import argparse
import itertools
import json
import resource
import sys
import time

import torch
from torch import nn


class Block(nn.Module):
    """Residual block; the numbers of its layers are those of the original without dropout."""

    def __init__(self, width):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x):
        return x + self.conv_block(x)


class Sequence(nn.Module):
    """A named nn.Sequential: state dict keys begin with 'model.'."""

    def __init__(self, *layers):
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x)


def generator(channels=1, filters=64, blocks=9):
    f = filters
    return Sequence(
        nn.ReflectionPad2d(3),
        nn.Conv2d(channels, f, 7),
        nn.InstanceNorm2d(f),
        nn.ReLU(True),
        nn.Conv2d(f, 2 * f, 3, 2, 1),
        nn.InstanceNorm2d(2 * f),
        nn.ReLU(True),
        nn.Conv2d(2 * f, 4 * f, 3, 2, 1),
        nn.InstanceNorm2d(4 * f),
        nn.ReLU(True),
        *[Block(4 * f) for _ in range(blocks)],
        nn.ConvTranspose2d(4 * f, 2 * f, 3, 2, 1, 1),
        nn.InstanceNorm2d(2 * f),
        nn.ReLU(True),
        nn.ConvTranspose2d(2 * f, f, 3, 2, 1, 1),
        nn.InstanceNorm2d(f),
        nn.ReLU(True),
        nn.ReflectionPad2d(3),
        nn.Conv2d(f, channels, 7),
        nn.Tanh(),
    )


def discriminator(channels=1, filters=64):
    f = filters
    return Sequence(
        nn.Conv2d(channels, f, 4, 2, 1),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(f, 2 * f, 4, 2, 1),
        nn.InstanceNorm2d(2 * f),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(2 * f, 4 * f, 4, 2, 1),
        nn.InstanceNorm2d(4 * f),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(4 * f, 8 * f, 4, 1, 1),
        nn.InstanceNorm2d(8 * f),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(8 * f, 1, 4, 1, 1),
    )


class Trainer:
    """nets {'to_covid', 'to_cancer', 'covid', 'cancer'}: generators by what they make, discriminators by what they judge."""

    def __init__(
        self,
        nets,
        loss='lsgan',
        real_label=1.0,
        cycle_cancer=10.0,
        cycle_covid=10.0,
        identity=0.5,
        rate=2e-4,
        autocast=None,
    ):
        self.nets, self.cycle, self.identity, self.real_label, self.autocast = (
            nets,
            {'cancer': cycle_cancer, 'covid': cycle_covid},
            identity,
            real_label,
            autocast,
        )
        self.criterion = nn.MSELoss() if loss == 'lsgan' else nn.BCEWithLogitsLoss()
        self.gen = torch.optim.Adam(
            itertools.chain(nets['to_covid'].parameters(), nets['to_cancer'].parameters()),
            rate,
            (0.5, 0.999),
        )
        self.disc = torch.optim.Adam(
            itertools.chain(nets['covid'].parameters(), nets['cancer'].parameters()),
            rate,
            (0.5, 0.999),
        )

    def adversarial(self, logits, target):
        return self.criterion(logits.float(), torch.full_like(logits, target, dtype=torch.float32))

    def cast(self):
        return torch.autocast(self.autocast or 'cpu', torch.bfloat16, enabled=bool(self.autocast))

    def step(self, cancer, covid, show=lambda domain, fakes: fakes):
        """One update of the generators, then one of the discriminators on what `show` makes of the fakes -> {term: loss}."""
        nets, l1 = self.nets, nn.functional.l1_loss
        judges = list(itertools.chain(nets['covid'].parameters(), nets['cancer'].parameters()))
        for parameter in judges:
            parameter.requires_grad_(False)
        self.gen.zero_grad(set_to_none=True)
        with self.cast():
            fakes = {'covid': nets['to_covid'](cancer), 'cancer': nets['to_cancer'](covid)}
            terms = {
                f'adversarial_{domain}': self.adversarial(
                    nets[domain](fakes[domain]), self.real_label
                )
                for domain in ('cancer', 'covid')
            }
            terms['cycle_cancer'] = self.cycle['cancer'] * l1(
                nets['to_cancer'](fakes['covid']), cancer
            )
            terms['cycle_covid'] = self.cycle['covid'] * l1(
                nets['to_covid'](fakes['cancer']), covid
            )
            if self.identity:
                terms['identity_cancer'] = (
                    self.cycle['cancer'] * self.identity * l1(nets['to_cancer'](cancer), cancer)
                )
                terms['identity_covid'] = (
                    self.cycle['covid'] * self.identity * l1(nets['to_covid'](covid), covid)
                )
            sum(terms.values()).backward()
        self.gen.step()
        for parameter in judges:
            parameter.requires_grad_(True)
        self.disc.zero_grad(set_to_none=True)
        with self.cast():
            for domain, real in (('cancer', cancer), ('covid', covid)):
                shown = show(domain, fakes[domain].detach())
                terms[f'discriminator_{domain}'] = 0.5 * (
                    self.adversarial(nets[domain](real), self.real_label)
                    + self.adversarial(nets[domain](shown), 0.0)
                )
            sum(terms[f'discriminator_{domain}'] for domain in ('cancer', 'covid')).backward()
        self.disc.step()
        return terms


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--filters', type=int, default=64)
    parser.add_argument('--blocks', type=int, default=9)
    parser.add_argument('--identity', type=float, default=0.5)
    parser.add_argument('--bfloat16', action='store_true', help='autocast')
    parser.add_argument('--compile', action='store_true', help='torch.compile')
    options = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    layout = (
        torch.channels_last if device == 'cuda' else torch.contiguous_format
    )  # each is the faster one there
    nets = {
        name: generator(1, options.filters, options.blocks) for name in ('to_covid', 'to_cancer')
    } | {name: discriminator(1) for name in ('covid', 'cancer')}
    nets = {name: net.to(device, memory_format=layout) for name, net in nets.items()}
    if options.compile:
        nets = {name: torch.compile(net) for name, net in nets.items()}
    trainer = Trainer(
        nets, identity=options.identity, autocast=device if options.bfloat16 else None
    )
    images = lambda: (
        torch.rand(options.batch, 1, options.size, options.size, device=device) * 2 - 1
    ).contiguous(memory_format=layout)
    cancer, covid = images(), images()
    wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
    print(
        json.dumps(
            {
                'torch': torch.__version__,
                'device': torch.cuda.get_device_name() if device == 'cuda' else 'cpu',
                'threads': torch.get_num_threads(),
            }
        ),
        flush=True,
    )
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            trainer.step(cancer, covid)
        wait()
        seconds = (time.perf_counter() - began) / int(line)
        peak = (
            torch.cuda.max_memory_allocated()
            if device == 'cuda'
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(json.dumps({'seconds': seconds, 'peak_bytes': peak}), flush=True)


if __name__ == '__main__':
    main()

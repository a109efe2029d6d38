"""The CycleGAN and its training step in PyTorch, written for comparison.

    echo 5 | python benchmarks/torch_cyclegan.py --size=128 --batch=1

For the tests it is an independent computation, for the benchmark a peer. Modules are numbered as in
the authors' implementation, so that state dicts have its names. As a program it times steps on
random images: it prints one line of JSON with the device and versions, and then for every line `N`
on standard input it does N steps and prints {"seconds": of one step, "peak_bytes"}.
"""

import argparse
import itertools
import json
import pathlib
import re
import resource
import sys
import time

import torch
from torch import nn
from torch.nn.functional import l1_loss

DOMAINS = ('cancer', 'covid')


class Block(nn.Module):
    """Residual block; its layers are numbered as in the original without dropout."""

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
        """[B, C, H, W] -> [B, C, H, W]."""
        return x + self.conv_block(x)


class Sequence(nn.Module):
    """A named nn.Sequential: state dict keys begin with 'model.'."""

    def __init__(self, *layers):
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        """Applies the layers in turn."""
        return self.model(x)


def generator(channels=1, filters=64, blocks=9):
    """The ResNet generator: images [B, C, H, W] in [-1, 1] -> the same."""
    f = filters
    return Sequence(
        nn.ReflectionPad2d(3),
        *(nn.Conv2d(channels, f, 7), nn.InstanceNorm2d(f), nn.ReLU(True)),
        *(nn.Conv2d(f, 2 * f, 3, 2, 1), nn.InstanceNorm2d(2 * f), nn.ReLU(True)),
        *(nn.Conv2d(2 * f, 4 * f, 3, 2, 1), nn.InstanceNorm2d(4 * f), nn.ReLU(True)),
        *(Block(4 * f) for _ in range(blocks)),
        *(nn.ConvTranspose2d(4 * f, 2 * f, 3, 2, 1, 1), nn.InstanceNorm2d(2 * f), nn.ReLU(True)),
        *(nn.ConvTranspose2d(2 * f, f, 3, 2, 1, 1), nn.InstanceNorm2d(f), nn.ReLU(True)),
        nn.ReflectionPad2d(3),
        nn.Conv2d(f, channels, 7),
        nn.Tanh(),
    )


def discriminator(channels=1, filters=64):
    """The 70x70 PatchGAN: images [B, C, H, W] in [-1, 1] -> logits [B, 1, H/8 - 2, W/8 - 2]."""
    f = filters
    leaky = lambda: nn.LeakyReLU(0.2, True)
    return Sequence(
        *(nn.Conv2d(channels, f, 4, 2, 1), leaky()),
        *(nn.Conv2d(f, 2 * f, 4, 2, 1), nn.InstanceNorm2d(2 * f), leaky()),
        *(nn.Conv2d(2 * f, 4 * f, 4, 2, 1), nn.InstanceNorm2d(4 * f), leaky()),
        *(nn.Conv2d(4 * f, 8 * f, 4, 1, 1), nn.InstanceNorm2d(8 * f), leaky()),
        nn.Conv2d(8 * f, 1, 4, 1, 1),
    )


def parameters(*nets):
    """The parameters of several networks."""
    return itertools.chain(*(net.parameters() for net in nets))


class Trainer:
    """Four networks and their optimizers.

    Args:
        nets: {'to_covid', 'to_cancer', 'covid', 'cancer'}: generators by what they make,
            discriminators by what they judge.
        loss: 'lsgan' or 'bce'.
        real_label: the target of real images.
        cycle_cancer, cycle_covid: weights of the cycle losses.
        identity: weight of the identity losses, as a share of those.
        rate: learning rate.
        autocast: device type on which to compute in bfloat16, or None.
    """

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
        self.nets = nets
        self.cycle = {'cancer': cycle_cancer, 'covid': cycle_covid}
        self.identity = identity
        self.real_label = real_label
        self.autocast = autocast
        self.criterion = nn.MSELoss() if loss == 'lsgan' else nn.BCEWithLogitsLoss()
        adam = lambda *nets: torch.optim.Adam(parameters(*nets), rate, (0.5, 0.999))
        self.gen = adam(nets['to_covid'], nets['to_cancer'])
        self.disc = adam(nets['covid'], nets['cancer'])

    def adversarial(self, logits, target):
        """The loss of logits whose target is one number."""
        return self.criterion(logits.float(), torch.full_like(logits, target, dtype=torch.float32))

    def cast(self):
        """The context in which networks compute."""
        return torch.autocast(self.autocast or 'cpu', torch.bfloat16, enabled=bool(self.autocast))

    def step(self, cancer, covid, show=lambda domain, fakes: fakes):
        """One update of the generators, then one of the discriminators.

        Args:
            cancer, covid: real images [B, C, H, W] in [-1, 1].
            show: (domain, fakes) -> the fakes that its discriminator is shown, from a pool.

        Returns:
            {term: loss}.
        """
        judges = list(parameters(self.nets['covid'], self.nets['cancer']))
        for parameter in judges:
            parameter.requires_grad_(False)
        self.gen.zero_grad(set_to_none=True)
        with self.cast():
            fakes, terms = self.generator_losses(cancer, covid)
            sum(terms.values()).backward()
        self.gen.step()
        for parameter in judges:
            parameter.requires_grad_(True)
        self.disc.zero_grad(set_to_none=True)
        with self.cast():
            judged = self.discriminator_losses({'cancer': cancer, 'covid': covid}, fakes, show)
            sum(judged.values()).backward()
        self.disc.step()
        return terms | judged

    def generator_losses(self, cancer, covid):
        """({domain: fakes}, {term: loss}) of both generators."""
        to_cancer, to_covid = self.nets['to_cancer'], self.nets['to_covid']
        fakes = {'covid': to_covid(cancer), 'cancer': to_cancer(covid)}
        terms = {}
        for domain in DOMAINS:
            logits = self.nets[domain](fakes[domain])
            terms[f'adversarial_{domain}'] = self.adversarial(logits, self.real_label)
        terms['cycle_cancer'] = self.cycle['cancer'] * l1_loss(to_cancer(fakes['covid']), cancer)
        terms['cycle_covid'] = self.cycle['covid'] * l1_loss(to_covid(fakes['cancer']), covid)
        if self.identity:
            cancer_weight = self.cycle['cancer'] * self.identity
            covid_weight = self.cycle['covid'] * self.identity
            terms['identity_cancer'] = cancer_weight * l1_loss(to_cancer(cancer), cancer)
            terms['identity_covid'] = covid_weight * l1_loss(to_covid(covid), covid)
        return fakes, terms

    def discriminator_losses(self, reals, fakes, show):
        """{term: loss} of both discriminators."""
        terms = {}
        for domain, real in reals.items():
            shown = show(domain, fakes[domain].detach())
            on_real = self.adversarial(self.nets[domain](real), self.real_label)
            on_fake = self.adversarial(self.nets[domain](shown), 0.0)
            terms[f'discriminator_{domain}'] = 0.5 * (on_real + on_fake)
        return terms


def options():
    """The flags of the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--filters', type=int, default=64)
    parser.add_argument('--blocks', type=int, default=9)
    parser.add_argument('--identity', type=float, default=0.5)
    parser.add_argument('--bfloat16', action='store_true', help='autocast')
    parser.add_argument('--compile', action='store_true', help='torch.compile')
    return parser.parse_args()


def networks(args, device, layout):
    """The four networks, on the device and in the layout."""
    nets = {name: generator(1, args.filters, args.blocks) for name in ('to_covid', 'to_cancer')}
    nets |= {name: discriminator(1) for name in ('covid', 'cancer')}
    nets = {name: net.to(device, memory_format=layout) for name, net in nets.items()}
    if args.compile:
        nets = {name: torch.compile(net) for name, net in nets.items()}
    return nets


def peak_bytes(device):
    """The most memory that was in use so far: of the card, or of the process."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    return peak_of_process()


def peak_of_process():
    """The most memory that this program has had, in bytes.

    As covjax.memory has it, which this program does not import: that would count JAX too.
    """
    status = pathlib.Path('/proc/self/status')
    found = re.search(r'VmHWM:\s*(\d+) kB', status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    """Reads numbers of steps, and prints what they took."""
    args = options()
    cuda = torch.cuda.is_available()
    device = 'cuda' if cuda else 'cpu'
    layout = torch.channels_last if cuda else torch.contiguous_format  # the faster one of each
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    autocast = device if args.bfloat16 else None
    nets = networks(args, device, layout)
    trainer = Trainer(nets, identity=args.identity, autocast=autocast)
    shape = (args.batch, 1, args.size, args.size)
    draw = lambda: (torch.rand(*shape, device=device) * 2 - 1).contiguous(memory_format=layout)
    cancer, covid = draw(), draw()
    machine = {
        'torch': torch.__version__,
        'device': torch.cuda.get_device_name() if cuda else 'cpu',
        'threads': torch.get_num_threads(),
    }
    print(json.dumps(machine), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            trainer.step(cancer, covid)
        if cuda:
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / int(line)
        print(json.dumps({'seconds': seconds, 'peak_bytes': peak_bytes(device)}), flush=True)


if __name__ == '__main__':
    main()

"""The CycleGAN against PyTorch: networks with the same weights, every loss term, three whole steps; and weights in its layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')

from conftest import PlainPool  # noqa: E402
from flax import jax_utils  # noqa: E402
from flax.traverse_util import flatten_dict  # noqa: E402

from benchmarks import torch_cyclegan as reference  # noqa: E402
from configs import cyclegan as config_file  # noqa: E402
from covjax import InputError, generator
from covjax.data import augment, datasets, domains
from covjax.models.cyclegan import UPSAMPLE, Generator  # noqa: E402
from covjax.models.layers import InstanceNorm  # noqa: E402
from covjax.training import (
    cyclegan,
    devices,  # noqa: E402
)
from covjax.weights import pytorch  # noqa: E402

nhwc = lambda tensor: tensor.detach().numpy().transpose(0, 2, 3, 1)
nchw = lambda array: torch.from_numpy(np.asarray(array).transpose(0, 3, 1, 2).copy())
state_of = lambda module: {name: tensor.numpy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    'channels, filters, blocks, shape',
    [(1, 8, 2, (32, 48)), (3, 8, 3, (64, 36)), (1, 64, 9, (64, 64))],
)
def test_networks(channels, filters, blocks, shape):
    torch.manual_seed(0)
    images = torch.rand(2, channels, *shape) * 2 - 1
    theirs = reference.generator(channels, filters, blocks)
    model, params = pytorch.generator_from(state_of(theirs))
    assert model == Generator(filters, blocks)
    np.testing.assert_allclose(
        jax.jit(model.apply)({'params': params}, nhwc(images)),
        nhwc(theirs(images)),
        rtol=1e-4,
        atol=1e-5,
    )
    theirs = reference.discriminator(channels, filters)
    model, params = pytorch.discriminator_from(state_of(theirs))
    np.testing.assert_allclose(
        model.apply({'params': params}, nhwc(images)), nhwc(theirs(images)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    'norm, dropout', [('instance', False), ('affine', False), ('instance', True), ('affine', True)]
)
def test_weights_go_both_ways(norm, dropout):
    """Ours -> names of the Sequential -> ours; what the names say of norm and dropout is found again."""
    params = Generator(4, 2, norm).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    state = pytorch.to_state(params, pytorch.generator_names(2, norm, dropout))
    noise = {'model.2.running_mean': np.zeros(4), 'model.2.num_batches_tracked': np.zeros(())}
    model, back = pytorch.generator_from(
        {f'module.{name}': array for name, array in (state | noise).items()}
    )
    assert model == Generator(4, 2, norm)
    jax.tree.map(np.testing.assert_array_equal, back, jax.device_get(params))
    if norm == 'instance' and not dropout:
        reference.generator(3, 4, 2).load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in state.items()}
        )  # every name and shape


def test_pth_file(tmp_path):
    torch.manual_seed(0)
    theirs, images = reference.generator(3, 4, 1), torch.rand(1, 3, 21, 30) * 2 - 1
    torch.save(theirs.state_dict(), tmp_path / 'latest_net_G_A.pth')
    translator = generator.load(tmp_path / 'latest_net_G_A.pth', 'to_covid')
    padded = torch.nn.functional.pad(images, (0, 2, 0, 3), mode='reflect')  # 24 x 32
    np.testing.assert_allclose(
        generator.apply(translator)(nhwc(images)),
        nhwc(theirs(padded))[:, :21, :30],
        rtol=1e-4,
        atol=1e-5,
    )
    grey = nhwc(images)[..., :1]
    colour = generator.apply(translator)(grey.repeat(3, -1)).mean(-1, keepdims=True)
    np.testing.assert_allclose(generator.apply(translator)(grey), colour, atol=1e-6)


def wrong_channels():
    """A generator from one channel to three."""
    state = reference.generator(1, 4, 1).state_dict()
    return state | {'model.18.weight': torch.zeros(3, 4, 7, 7), 'model.18.bias': torch.zeros(3)}


@pytest.mark.parametrize(
    'spoil, message',
    [
        (
            lambda path: torch.save(reference.discriminator().state_dict(), path),
            'not a ResNet generator',
        ),
        (lambda path: path.write_bytes(b'x'), 'no dict of tensors'),
        (lambda path: torch.save([1, 2], path), 'no dict of tensors'),
        (lambda path: torch.save(wrong_channels(), path), 'do not fit'),
        (lambda path: None, 'no such file'),
    ],
)
def test_wrong_pth_files(tmp_path, spoil, message):
    spoil(tmp_path / 'a.pth')
    with pytest.raises(InputError, match=message):
        generator.load(tmp_path / 'a.pth', 'to_covid')


def test_ways_up_and_norms():
    """The way up with doubled pixels and the affine norm, layer by layer."""
    nn = torch.nn
    torch.manual_seed(0)
    images = torch.rand(2, 6, 5, 7)
    conv, norm = nn.Conv2d(6, 4, 3), nn.InstanceNorm2d(6, affine=True)
    nn.init.normal_(norm.weight, 1.0), nn.init.normal_(norm.bias)
    resize = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), conv)
    params = {
        'kernel': conv.weight.detach().numpy().transpose(2, 3, 1, 0),
        'bias': conv.bias.detach().numpy(),
    }
    np.testing.assert_allclose(
        UPSAMPLE['resize'](4).apply({'params': params}, nhwc(images)),
        nhwc(resize(images)),
        rtol=1e-4,
        atol=1e-5,
    )
    params = {'scale': norm.weight.detach().numpy(), 'bias': norm.bias.detach().numpy()}
    np.testing.assert_allclose(
        InstanceNorm(affine=True).apply({'params': params}, nhwc(images)),
        nhwc(norm(images)),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize('loss', cyclegan.LOSSES)
@pytest.mark.parametrize('target', [1.0, 0.9, 0.0])
def test_adversarial_losses(loss, target):
    logits = np.random.default_rng(0).normal(size=(2, 5, 5, 1)).astype(np.float32) * 4
    criterion = {'lsgan': torch.nn.MSELoss(), 'bce': torch.nn.BCEWithLogitsLoss()}[loss]
    expected = criterion(torch.from_numpy(logits), torch.full(logits.shape, target))
    np.testing.assert_allclose(cyclegan.LOSSES[loss](logits, target), expected, rtol=1e-5)


@pytest.mark.parametrize(
    'fields',
    [
        dict(loss='lsgan', lambda_identity=0.5, lambda_cancer=10.0, lambda_covid=7.0),
        dict(
            loss='bce',
            real_label=0.9,
            lambda_identity=0.0,
            lambda_cancer=5.0,
            lambda_covid=8.0,
            pool_size=0,
        ),
    ],
    ids=['original', 'bce'],
)
def test_three_steps(fields):
    """Generators, then discriminators on pooled fakes: every term of every step, and every parameter after three, with the same decisions of the pool."""
    config = config_file.get_config()
    config.update(
        dict(
            image_size=32,
            load_size=32,
            batch_size=2,
            gen_filters=8,
            gen_blocks=2,
            disc_filters=8,
            augment=augment.OFF,
            **{'pool_size': 3, **fields},
        )
    )
    rng = np.random.default_rng(0)
    examples = {
        domain: datasets.Examples(
            rng.integers(0, 256, (6, 32, 32, 1), np.uint8), np.zeros(6), [{}] * 6
        )
        for domain in domains.DOMAINS
    }
    task = cyclegan.task_on(config, examples, {})
    state = task.init(jax.random.key(0), task.train_batch(0))
    names = {
        'to_covid': pytorch.generator_names(2),
        'to_cancer': pytorch.generator_names(2),
        'covid': pytorch.discriminator_names(),
        'cancer': pytorch.discriminator_names(),
    }
    load = lambda module, params, names: module.load_state_dict(
        {
            name: torch.from_numpy(array.copy())
            for name, array in pytorch.to_state(params, names).items()
        }
    )
    nets = {name: reference.generator(1, 8, 2) for name in ('to_covid', 'to_cancer')} | {
        name: reference.discriminator(1, 8) for name in ('covid', 'cancer')
    }
    for name, net in nets.items():
        load(net, (state.gen.params | state.disc.params)[name], names[name])
    trainer = reference.Trainer(
        nets,
        config.loss,
        config.real_label,
        config.lambda_cancer,
        config.lambda_covid,
        config.lambda_identity,
        config.learning_rate,
    )
    pools = {domain: PlainPool(3) for domain in domains.DOMAINS}
    step_fn, _ = devices.parallel(task)
    state, run_rng = devices.replicated(state), jax.random.key(7)
    swaps = 0
    for step in range(3):
        pool_rng = jax.random.split(jax.random.fold_in(run_rng, step), 3)[2]
        rngs = dict(zip(domains.DOMAINS, jax.random.split(pool_rng)))

        def show(domain, fakes):
            nonlocal swaps
            if not config.pool_size:
                return fakes
            shown = []
            for fake, r in zip(fakes, jax.random.split(rngs[domain], len(fakes))):
                slot_rng, swap_rng = jax.random.split(r)
                shown.append(
                    pools[domain].query(
                        fake,
                        int(jax.random.randint(slot_rng, (), 0, 3)),
                        bool(jax.random.bernoulli(swap_rng)),
                    )
                )
                swaps += shown[-1] is not fake
            return torch.stack(shown)

        batch = task.train_batch(step)
        state, terms = step_fn(state, devices.my_share(batch), run_rng)
        expected = trainer.step(
            *(nchw(augment.to_float(batch[domain])) for domain in ('cancer', 'covid')), show
        )
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            # Rounding alone at first; Adam then makes full steps of gradients that are almost 0.
            np.testing.assert_allclose(
                terms[name][0],
                value.item(),
                rtol=(1e-5, 1e-3, 5e-3)[step],
                err_msg=f'{name} of step {step}',
            )
    assert bool(swaps) == bool(config.pool_size)
    ours = jax.device_get(jax_utils.unreplicate(state))
    for name, net in nets.items():
        got, expected = (
            flatten_dict(params, sep='/')
            for params in (
                (ours.gen.params | ours.disc.params)[name],
                pytorch._params(state_of(net), names[name]),
            )
        )
        for leaf in expected:
            # Kernels within 1e-3, the biases that no norm removes within a tenth of one step of Adam. A bias before a norm has no effect; its gradient is
            # rounding noise, of which Adam makes steps of full size.
            error = np.linalg.norm(got[leaf] - expected[leaf])
            if leaf.endswith('kernel'):
                assert error < 1e-3 * np.linalg.norm(expected[leaf]), (name, leaf, error)
            elif leaf in ('out/bias', *['conv1/bias'] * (name in domains.DOMAINS)):
                assert np.abs(got[leaf] - expected[leaf]).max() < 0.1 * config.learning_rate, (
                    name,
                    leaf,
                    error,
                )


def test_schedule():
    """At the start of every epoch the rate is within 1 % of the original's, which falls once an epoch (to 1/101 of it in the last)."""
    steps, constant = cyclegan.length(config_file.get_config(), [50, 30])
    ours, rate = cyclegan.schedule(2e-4, steps, constant), 2e-4
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], rate)
    theirs = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: 1 - max(0, epoch + 1 - 100) / 101
    )
    for epoch in range(200):
        assert abs(float(ours(epoch * 50)) - theirs.get_last_lr()[0]) < 0.0101 * rate
        optimizer.step()
        theirs.step()
    assert ours(0) == ours(constant) == np.float32(rate) and ours(steps) == 0.0

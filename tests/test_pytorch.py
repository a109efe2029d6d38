"""The CycleGAN and the backbones of torchvision against PyTorch: networks, losses, whole steps.

Also weights in the layout of the authors' PyTorch implementation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import PlainPool
from flax import jax_utils
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import cyclegan as config_file
from covjax import InputError, generator, models
from covjax.data import augment, datasets
from covjax.models.cyclegan import UPSAMPLE, Generator
from covjax.models.layers import InstanceNorm
from covjax.training import cyclegan, devices
from covjax.training.cyclegan import DOMAINS
from covjax.weights import pytorch

torch = pytest.importorskip('torch')
from torch import nn  # noqa: E402

from benchmarks import torch_cyclegan as peer  # noqa: E402
from benchmarks.torch_resnet import ResNet18, ResNet50  # noqa: E402


def nhwc(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def nchw(array):
    return torch.from_numpy(np.asarray(array).transpose(0, 3, 1, 2).copy())


def state_of(module):
    """{name: array} of a module."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def tensors(arrays):
    """The state dict of {name: array}."""
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def uniform(*shape):
    """Images in [-1, 1]."""
    torch.manual_seed(0)
    return torch.rand(*shape) * 2 - 1


def close(ours, theirs):
    np.testing.assert_allclose(ours, nhwc(theirs), rtol=1e-4, atol=1e-5)


# ---- backbones of torchvision


class Plain8(nn.Module):
    """Eight 3x3 convolutions with GroupNorm, for RGB images and 1000 classes."""

    def __init__(self):
        super().__init__()
        widths = [3, 16, 16, 32, 32, 64, 64, 128, 128]
        convs = [nn.Conv2d(a, b, 3, 1, 1, bias=False) for a, b in zip(widths, widths[1:])]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList([nn.GroupNorm(8, width) for width in widths[1:]])
        self.fc = nn.Linear(128, 1000)

    def forward(self, x):
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            if i in (2, 4, 6):
                x = nn.functional.max_pool2d(x, 2)
            x = torch.relu(norm(conv(x)))
        return self.fc(x.mean((2, 3)))


LEAVES = {  # of ours -> of PyTorch
    'kernel': 'weight',
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
}


def of_plain8(module):
    """'stage2_conv1' -> 'convs.2', a module of Plain8."""
    if module == 'head':
        return 'fc'
    stage, layer = module.split('_')
    return f'{layer[:4]}s.{2 * (int(stage[5:]) - 1) + int(layer[4:]) - 1}'


def of_resnet(module):
    """'stage3_block1/norm0' -> 'layer2.0.downsample.1', a module of torchvision's ResNets."""
    if module == 'head':
        return 'fc'
    if module.startswith('stem'):
        return {'stem_conv': 'conv1', 'stem_norm': 'bn1'}[module]
    block, layer = module.split('/')
    stage, index = (int(part[5:]) for part in block.split('_'))
    projection = {'conv0': 'downsample.0', 'norm0': 'downsample.1'}
    layer = projection.get(layer, layer.replace('norm', 'bn'))
    return f'layer{stage - 1}.{index - 1}.{layer}'


PEERS = {  # reference: (module, name of its module by ours)
    'torchvision resnet18': (ResNet18, of_resnet),
    'torchvision resnet50': (ResNet50, of_resnet),
    'PyTorch plain8': (Plain8, of_plain8),
}


def with_weights_of(module, shapes, theirs):
    """Variables like `shapes` from a module of a peer; each of its tensors is used once."""
    state = state_of(module)
    flat = {}
    for (collection, *path, leaf), expected in flatten_dict(shapes).items():
        array = state.pop(f'{theirs("/".join(path))}.{LEAVES[leaf]}')
        if leaf == 'kernel':
            array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
        assert array.shape == expected.shape
        flat[collection, *path, leaf] = array
    assert all(name.endswith('num_batches_tracked') for name in state)
    return unflatten_dict(flat)


def models_with_peers():
    return [name for name in models.MODELS if models.create(name).reference in PEERS]


def with_statistics(module):
    """The module in inference, with the statistics of norms and their parameters drawn anew."""
    torch.manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
        if isinstance(norm, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.2, 0.2)
    return module.eval()


@pytest.mark.parametrize('name', models_with_peers())
def test_logits_of_pytorch_networks(name):
    """At a size whose maps have even and odd sides."""
    model = models.create(name, num_classes=1000)
    peer, theirs = PEERS[model.reference]
    module = with_statistics(peer())
    images = uniform(2, 3, 76, 58)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 76, 58, 3)))
    logits = jax.jit(model.apply)(with_weights_of(module, shapes, theirs), nhwc(images))
    expected = module(images).detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize('peer, count', [(ResNet18, 11_689_512), (ResNet50, 25_557_032)])
def test_the_peer_has_as_many_parameters_as_torchvision_prints(peer, count):
    assert sum(parameter.numel() for parameter in peer().parameters()) == count


# ---- the CycleGAN's networks


@pytest.mark.parametrize(
    'channels, filters, blocks, shape',
    [(1, 8, 2, (32, 48)), (3, 8, 3, (64, 36)), (1, 64, 9, (32, 32))],
)
def test_networks(channels, filters, blocks, shape):
    images = uniform(2, channels, *shape)
    module = peer.generator(channels, filters, blocks)
    model, params = pytorch.generator_from(state_of(module))
    assert model == Generator(filters, blocks)
    close(jax.jit(model.apply)({'params': params}, nhwc(images)), module(images))
    module = peer.discriminator(channels, filters)
    model, params = pytorch.discriminator_from(state_of(module))
    close(jax.jit(model.apply)({'params': params}, nhwc(images)), module(images))


def with_batch_norm(module):
    """As the authors' code builds it with norm='batch': no bias before a norm."""
    for parent in list(module.modules()):
        names = list(parent._modules)
        for before, name in zip([None, *names], names):
            if isinstance(parent._modules[name], nn.InstanceNorm2d):
                parent._modules[name] = nn.BatchNorm2d(parent._modules[name].num_features)
                parent._modules[before].register_parameter('bias', None)
    return with_statistics(module)


@pytest.mark.fast
def test_a_generator_with_batch_norm_uses_running_statistics(tmp_path, capsys):
    """As PyTorch in eval(), and says so."""
    module = with_batch_norm(peer.generator(1, 8, 2))
    torch.save(module.state_dict(), tmp_path / 'a.pth')
    translator = generator.load(tmp_path / 'a.pth', 'to_covid')
    assert 'running statistics' in capsys.readouterr().out
    images = uniform(2, 1, 32, 40)
    close(jax.jit(generator.apply(translator))(nhwc(images)), module(images))


@pytest.mark.fast
def test_weights_that_are_not_finite(tmp_path):
    module = peer.generator(1, 8, 1)
    module.model[1].weight.data[0] = float('nan')
    torch.save(module.state_dict(), tmp_path / 'a.pth')
    with pytest.raises(InputError, match='not finite'):
        generator.load(tmp_path / 'a.pth', 'to_covid')


@pytest.mark.fast
def test_statistics_of_instance_norms_are_said_not_to_be_used(tmp_path, capsys):
    state = peer.generator(1, 8, 1).state_dict()
    state |= {'model.2.running_mean': torch.zeros(8), 'model.2.running_var': torch.ones(8)}
    torch.save(state, tmp_path / 'a.pth')
    generator.load(tmp_path / 'a.pth', 'to_covid')
    assert 'instance norms, which are not used' in capsys.readouterr().out


WRAPPED = {  # how people save a generator: from its state dict to what torch.save gets
    'plain.pth': lambda state: state,
    'plain.pt': lambda state: state,
    'LOUD.PTH': lambda state: state,
    'parallel.pth': lambda state: {f'module.{key}': value for key, value in state.items()},
    'compiled.pt': lambda state: {f'_orig_mod.{key}': value for key, value in state.items()},
    'both.pt': lambda state: {f'_orig_mod.module.{key}': value for key, value in state.items()},
    'lightning.ckpt': lambda state: {'state_dict': {f'gen.{k}': v for k, v in state.items()}},
    'with_others.ckpt': lambda state: {
        'state_dict': {f'netG_A.{k}': v for k, v in state.items()} | {'netD.1': torch.zeros(3)}
    },
    'checkpoint.pth.tar': lambda state: {'epoch': 3, 'state_dict': state, 'loss': [1.0]},
    'deep.pth': lambda state: {'model': {'state_dict': state}, 'epoch': 3},
    'model.pth': lambda state: {'model_state_dict': state, 'optimizer': {'step': 1}},
    'half.pth': lambda state: {key: value.half() for key, value in state.items()},
}


@pytest.mark.fast
@pytest.mark.parametrize('name', WRAPPED)
def test_files_as_people_save_them(tmp_path, name):
    module = peer.generator(1, 8, 1)
    torch.save(WRAPPED[name](module.state_dict()), tmp_path / name)
    translator = generator.load(tmp_path / name, 'to_covid')
    _, expected = pytorch.generator_from(state_of(module))
    close_to = 1e-3 if name.startswith('half') else 0
    for path, array in flatten_dict(translator.variables['params']).items():
        np.testing.assert_allclose(array, flatten_dict(expected)[path], atol=close_to)


@pytest.mark.fast
def test_a_file_with_two_generators_asks_for_one(tmp_path):
    state = peer.generator(1, 8, 1).state_dict()
    both = {f'{name}.{key}': value for name in ('netG_A', 'netG_B') for key, value in state.items()}
    torch.save(both, tmp_path / 'a.ckpt')
    with pytest.raises(InputError, match='holds several generators, netG_A and netG_B; save the'):
        generator.load(tmp_path / 'a.ckpt', 'to_covid')


@pytest.mark.fast
@pytest.mark.parametrize(
    'optimizer',
    [
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.RMSprop,
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    ],
)
def test_checkpoints_of_a_training_in_progress(tmp_path, optimizer):
    module = peer.generator(1, 8, 1)
    steps = optimizer(module.parameters())
    module(torch.zeros(1, 1, 16, 16)).sum().backward()
    steps.step()
    whole = {'epoch': 3, 'state_dict': module.state_dict(), 'optimizer': steps.state_dict()}
    torch.save(whole, tmp_path / 'checkpoint.pth.tar')
    translator = generator.load(tmp_path / 'checkpoint.pth.tar', 'to_covid')
    _, expected = pytorch.generator_from(state_of(module))
    jax.tree.map(np.testing.assert_array_equal, translator.variables['params'], expected)


@pytest.mark.fast
@pytest.mark.parametrize(
    'stored, words',
    [
        ({'a': {'x': torch.zeros(2)}, 'b': {'y': torch.zeros(2)}}, r'2 dicts of tensors \(a, b\)'),
        ({'epoch': 3}, 'no dict of tensors'),
        ([1, 2], 'no dict of tensors'),
        (torch.zeros(3), 'no dict of tensors'),
        ({'model.1.weight': torch.zeros(2)}, 'not a ResNet generator'),
        ({'x': torch.zeros(2)}, 'not a ResNet generator'),
    ],
)
def test_files_of_something_else(tmp_path, stored, words):
    torch.save(stored, tmp_path / 'a.pt')
    with pytest.raises(InputError, match=words) as caught:
        generator.load(tmp_path / 'a.pt', 'to_covid')
    assert '\n' not in str(caught.value)


@pytest.mark.fast
def test_the_way_up_with_doubled_pixels():
    images = uniform(2, 6, 5, 7)
    conv = nn.Conv2d(6, 4, 3)
    module = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), conv)
    kernel = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
    params = {'kernel': kernel, 'bias': conv.bias.detach().numpy()}
    close(UPSAMPLE['resize'](4).apply({'params': params}, nhwc(images)), module(images))


@pytest.mark.fast
def test_the_affine_norm():
    images = uniform(2, 6, 5, 7)
    module = nn.InstanceNorm2d(6, affine=True)
    nn.init.normal_(module.weight, 1.0)
    nn.init.normal_(module.bias)
    params = {'scale': module.weight.detach().numpy(), 'bias': module.bias.detach().numpy()}
    close(InstanceNorm(affine=True).apply({'params': params}, nhwc(images)), module(images))


# ---- files of the authors' implementation


def stored(norm='instance', dropout=False):
    """(params of a small generator of ours, its state dict of arrays)."""
    shapes = jax.eval_shape(
        Generator(4, 2, norm).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
    params = jax.tree.map(draw, shapes['params'])
    return params, pytorch.to_state(params, pytorch.generator_names(2, norm, dropout))


@pytest.mark.fast
@pytest.mark.parametrize('norm', ['instance', 'affine'])
@pytest.mark.parametrize('dropout', [False, True])
def test_weights_go_both_ways(norm, dropout):
    """What the names say of norm and dropout is found again; old files hold statistics too."""
    params, state = stored(norm, dropout)
    state |= {'model.2.running_mean': np.zeros(4), 'model.2.num_batches_tracked': np.zeros(())}
    parallel = {f'module.{name}': array for name, array in state.items()}
    model, back = pytorch.generator_from(parallel)
    assert model == Generator(4, 2, norm)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.fast
def test_names_and_shapes_are_those_of_the_sequential():
    peer.generator(3, 4, 2).load_state_dict(tensors(stored()[1]))


def test_pth_file(tmp_path):
    images, module = uniform(1, 3, 21, 30), peer.generator(3, 4, 1)
    torch.save(module.state_dict(), tmp_path / 'latest_net_G_A.pth')
    translate = generator.apply(generator.load(tmp_path / 'latest_net_G_A.pth', 'to_covid'))
    padded = nn.functional.pad(images, (0, 2, 0, 3), mode='reflect')  # 24 x 32
    close(translate(nhwc(images)), module(padded)[:, :, :21, :30])
    grey = nhwc(images)[..., :1]
    colour = translate(grey.repeat(3, -1)).mean(-1, keepdims=True)
    np.testing.assert_allclose(translate(grey), colour, atol=1e-6)


def another_network(path):
    torch.save(peer.discriminator().state_dict(), path)


def wrong_channels(path):
    """A generator from one channel to three."""
    state = peer.generator(1, 4, 1).state_dict()
    state |= {'model.18.weight': torch.zeros(3, 4, 7, 7), 'model.18.bias': torch.zeros(3)}
    torch.save(state, path)


@pytest.mark.fast
@pytest.mark.parametrize(
    'spoil, message',
    [
        (another_network, 'not a ResNet generator'),
        (wrong_channels, 'do not fit'),
        (lambda path: path.write_bytes(b'x'), 'no dict of tensors'),
        (lambda path: torch.save([1, 2], path), 'no dict of tensors'),
        (lambda path: None, 'no such file'),
    ],
)
def test_wrong_pth_files(tmp_path, spoil, message):
    spoil(tmp_path / 'a.pth')
    with pytest.raises(InputError, match=message):
        generator.load(tmp_path / 'a.pth', 'to_covid')


# ---- training


@pytest.mark.fast
@pytest.mark.parametrize('loss', cyclegan.LOSSES)
@pytest.mark.parametrize('target', [1.0, 0.9, 0.0])
def test_adversarial_losses(loss, target):
    logits = np.random.default_rng(0).normal(size=(2, 5, 5, 1)).astype(np.float32) * 4
    criterion = {'lsgan': nn.MSELoss(), 'bce': nn.BCEWithLogitsLoss()}[loss]
    expected = criterion(torch.from_numpy(logits), torch.full(logits.shape, target))
    np.testing.assert_allclose(cyclegan.LOSSES[loss](logits, target), expected, rtol=1e-5)


class Pools:
    """A plain pool a domain, whose choices are those that ours draw in a step."""

    def __init__(self, size):
        self.size, self.swaps = size, 0
        self.pools = {domain: PlainPool(size) for domain in DOMAINS}

    def of_step(self, rng):
        """The function `show` of peer.Trainer.step, for the rng of a step."""
        domain_rngs = dict(zip(DOMAINS, jax.random.split(jax.random.split(rng, 3)[2])))

        def show(domain, fakes):
            if not self.size:
                return fakes
            rngs = jax.random.split(domain_rngs[domain], len(fakes))
            return torch.stack([self.query(domain, *pair) for pair in zip(fakes, rngs)])

        return show

    def query(self, domain, fake, rng):
        slot_rng, swap_rng = jax.random.split(rng)
        slot = int(jax.random.randint(slot_rng, (), 0, self.size))
        shown = self.pools[domain].query(fake, slot, bool(jax.random.bernoulli(swap_rng)))
        self.swaps += shown is not fake
        return shown


def small_config(**fields):
    config = config_file.get_config()
    small = {'image_size': 32, 'load_size': 32, 'batch_size': 2, 'pool_size': 3}
    networks = {'gen_filters': 8, 'gen_blocks': 1, 'disc_filters': 8, 'augment': augment.OFF}
    config.update(small | networks | fields)
    return config


def random_examples():
    """{domain: six images of 32x32}."""
    rng = np.random.default_rng(0)
    images = {domain: rng.integers(0, 256, (6, 32, 32, 1), np.uint8) for domain in DOMAINS}
    return {
        name: datasets.Examples(array, np.zeros(6), [None] * 6) for name, array in images.items()
    }


def params_of(state):
    return jax.device_get(state.gen.params | state.disc.params)


def peer_trainer(config, state):
    """The Trainer of PyTorch with the parameters of a State of ours."""
    modules = {}
    for name, params in params_of(state).items():
        if name in DOMAINS:
            module, names = peer.discriminator(1, 8), pytorch.discriminator_names()
        else:
            module, names = peer.generator(1, 8, 1), pytorch.generator_names(1)
        module.load_state_dict(tensors(pytorch.to_state(params, names)))
        modules[name] = module
    return peer.Trainer(
        modules,
        config.loss,
        config.real_label,
        config.lambda_cancer,
        config.lambda_covid,
        config.lambda_identity,
        config.learning_rate,
    )


ORIGINAL = dict(loss='lsgan', lambda_identity=0.5, lambda_cancer=10.0, lambda_covid=7.0)
BCE = dict(loss='bce', real_label=0.9, lambda_cancer=5.0, lambda_covid=8.0, pool_size=0)
# Of each step's terms: rounding alone at first; Adam then makes full steps of gradients that are
# almost 0.
TOLERANCE = (1e-5, 1e-3, 5e-3)


@pytest.mark.parametrize(
    'fields',
    [
        pytest.param(ORIGINAL, id='original'),
        pytest.param(BCE | {'lambda_identity': 0.0}, id='bce', marks=pytest.mark.slow),
    ],
)
def test_three_steps(fields):
    """Every term of every step and every parameter after three, with the same pooled fakes."""
    config = small_config(**fields)
    task = cyclegan.task_on(config, random_examples(), {})
    state = task.init(jax.random.key(0), task.train_batch(0))
    trainer, pools = peer_trainer(config, state), Pools(config.pool_size)
    train_step, _ = devices.parallel(task)
    state, rng = devices.replicated(state), jax.random.key(7)
    for step, tolerance in enumerate(TOLERANCE):
        batch = task.train_batch(step)
        state, terms = train_step(state, devices.my_share(batch), rng)
        reals = [nchw(augment.to_float(batch[domain])) for domain in ('cancer', 'covid')]
        expected = trainer.step(*reals, pools.of_step(jax.random.fold_in(rng, step)))
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            message = f'{name} of step {step}'
            np.testing.assert_allclose(terms[name][0], value.item(), tolerance, err_msg=message)
    assert bool(pools.swaps) == bool(config.pool_size)
    for name, params in params_of(jax_utils.unreplicate(state)).items():
        read = pytorch.discriminator_from if name in DOMAINS else pytorch.generator_from
        _, expected = read(state_of(trainer.nets[name]))
        check_parameters(name, params, expected, config.learning_rate)


def check_parameters(network, params, expected, rate):
    """Kernels within 1e-3, and within a tenth of one step of Adam the biases that no norm removes.

    A bias before a norm has no effect; its gradient is rounding noise, of which Adam makes steps of
    full size.
    """
    params, expected = flatten_dict(params, sep='/'), flatten_dict(expected, sep='/')
    assert params.keys() == expected.keys()
    kept = {'out/bias', 'conv1/bias'} if network in DOMAINS else {'out/bias'}
    for path, array in expected.items():
        error = params[path] - array
        if path.endswith('kernel'):
            assert np.linalg.norm(error) < 1e-3 * np.linalg.norm(array), (network, path)
        elif path in kept:
            assert np.abs(error).max() < 0.1 * rate, (network, path)


@pytest.mark.fast
def test_schedule():
    """The rate at the start of every epoch is within 1 % of the original's.

    That falls once an epoch, to 1/101 of it in the last.
    """
    steps, constant = cyclegan.length(config_file.get_config(), [50, 30])
    ours, rate = cyclegan.schedule(2e-4, steps, constant), 2e-4
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], rate)
    falling = lambda epoch: 1 - max(0, epoch + 1 - 100) / 101
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, falling)
    for epoch in range(200):
        assert abs(float(ours(epoch * 50)) - schedule.get_last_lr()[0]) < 0.0101 * rate
        optimizer.step()
        schedule.step()
    assert ours(0) == ours(constant) == np.float32(rate) and ours(steps) == 0.0

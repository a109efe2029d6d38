"""Every config by iteration, and how launch.py answers to wrong words."""

import importlib
import pathlib
import re

import pytest
from conftest import ROOT
from ml_collections import ConfigDict

from configs import base
from covjax import InputError, launcher, models, runs
from covjax.runs import train

NAMES = [pathlib.Path(path).stem for path in launcher.configs(ROOT)]
STAGES = {
    'prepare',
    'cyclegan',
    'synthesize',
    'classifier',
    'evaluate',
    'report',
    'export',
    'quickstart',
    'benchmark',
    'translate',
}
VARIANTS = {
    'cyclegan': ('original', 'paper_text', 'paper_code', 'small'),
    'benchmark': ('cpu', 'gpu'),
    'classifier': tuple(models.MODELS),
}


def test_every_stage_has_a_config():
    assert STAGES <= set(NAMES)


@pytest.mark.parametrize(
    'name, variant',
    [(name, variant) for name in NAMES for variant in ('', *VARIANTS.get(name, ()))],
)
def test_config_loads_and_is_documented(name, variant):
    module = importlib.import_module(f'configs.{name}')
    config = module.get_config(*([variant] if variant else []))
    assert (
        isinstance(config, ConfigDict)
        and config.run in runs.names()
        and f'--config=configs/{name}.py' in module.__doc__
    )
    assert callable(runs.find(config.run))
    if config.run == 'train':
        assert config.task in train.MAKE
    ConfigDict(__import__('json').loads(config.to_json()))  # what a workdir keeps


@pytest.mark.parametrize(
    'name, variant',
    [(name, variant) for name in NAMES for variant in ('', *VARIANTS.get(name, ()))],
)
def test_defaults_pass_the_checks_of_launch(name, variant):
    config = importlib.import_module(f'configs.{name}').get_config(*([variant] if variant else []))
    assert launcher.out_of_range(config) is None


def test_training_configs_have_the_same_shared_keys():
    shared = set(base.training('x').keys())
    for name in ('cyclegan', 'classifier'):
        assert shared <= set(importlib.import_module(f'configs.{name}').get_config().keys())


def commands():
    """Every launch.py command line that people are shown."""
    texts = [ROOT / 'README.md', *(ROOT / 'configs').glob('*.py')]
    joined = '\n'.join(path.read_text(encoding='utf-8') for path in texts).replace('\\\n', ' ')
    return sorted(
        {
            line[line.index('launch.py') :]
            for line in joined.splitlines()
            if 'launch.py --config=configs/' in line and 'NAME' not in line
        }
    )


@pytest.mark.parametrize('command', commands())
def test_shown_commands_have_valid_keys(command):
    name, variant = re.search(r'--config=configs/(\w+)\.py(?::(\w+))?', command).groups()
    config = importlib.import_module(f'configs.{name}').get_config(*([variant] if variant else []))
    assert set(re.findall(r'--config\.([\w.]+)=', command)) <= {
        key for key, _ in launcher.leaves(config)
    }


@pytest.mark.parametrize(
    'arguments, named',
    [
        ([], 'configs/quickstart.py'),
        (['--config=configs/nonsense.py'], 'configs/quickstart.py'),
        (['--config=configs/classifier.py:resnet51'], 'resnet50'),
        (['--config=configs/cyclegan.py:huge'], 'small'),
        (['--config=configs/evaluate.py:variant'], 'evaluate'),
        (['--config=configs/evaluate.py', '--config.classifer=x'], 'config.classifier'),
        (['--config=configs/quickstart.py', '--config.cyclegan.stepz=1'], 'config.cyclegan.steps'),
        (['--config=configs/cyclegan.py', '--config.steps=many'], 'config.steps'),
        (['--config=configs/cyclegan.py', '--config.batch_size=0'], 'config.batch_size=0'),
        (
            ['--config=configs/quickstart.py', '--config.classifier.steps=-1'],
            'config.classifier.steps=-1',
        ),
        (['--config=configs/classifier.py', '--config.dropout=1'], 'config.dropout=1'),
        (['--config=configs/cyclegan.py', 'config.steps=1'], '--config.key=value'),
        (['--config=configs/base.py'], 'configs/quickstart.py'),
        (['--config=configs/cyclegan.py', '--wokdir=x'], 'wokdir'),
    ],
)
def test_wrong_words_print_the_valid_ones(launch, tmp_path, arguments, named):
    result = launch(*arguments, f'--workdir={tmp_path / "run"}')
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    assert re.search(re.escape(named), result.stderr) and not (tmp_path / 'run').exists()


def test_help(launch):
    result = launch('--help')
    assert result.returncode == 0 and all(f'configs/{name}.py' in result.stdout for name in STAGES)


def test_unknown_variant_is_an_input_error():
    with pytest.raises(InputError, match='a, b'):
        base.variant('c', {'a': 1, 'b': 2})
    assert base.variant('', {'a': 1, 'b': 2}) == 1

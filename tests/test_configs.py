"""Every config by iteration, and how launch.py answers to wrong words."""

import functools
import importlib
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from ml_collections import ConfigDict

from configs import base
from covjax import InputError, choices, command_line, models, runs, workdir
from covjax.runs import train

NAMES = [pathlib.Path(path).stem for path in command_line.configs(ROOT)]
STAGES = {
    *('prepare', 'cyclegan', 'synthesize', 'classifier', 'evaluate', 'report', 'export'),
    *('quickstart', 'benchmark', 'translate'),
}
VARIANTS = {
    'cyclegan': ('original', 'paper_text', 'paper_code', 'small', 'rehearsal'),
    'benchmark': ('cpu', 'gpu'),
    'classifier': (*models.MODELS, 'rehearsal'),
    'dre_net': ('full', 'small', 'rehearsal'),
    'gozes': ('full', 'rehearsal'),
    'pairs': (
        'full',
        'outlined',
        'predicted',
        'procedural',
        'small',
        'rehearsal',
        'rehearsal_outlined',
    ),
    'scans': ('max', 'mean', 'attention', 'noisy_or', 'covnet', 'location', 'rehearsal'),
    'clean': ('full', 'small', 'rehearsal'),
    'paper': ('full', 'small', 'rehearsal'),
    **dict.fromkeys(('pair_study', 'mixing', 'segmentation_study'), ('full', 'rehearsal')),
    'segmentation': ('full', 'small', 'rehearsal', 'vnet', 'vbnet', 'vbnet_small'),
}
EVERY = [(name, variant) for name in NAMES for variant in ('', *VARIANTS.get(name, ()))]


def config_of(name, variant=''):
    module = importlib.import_module(f'configs.{name}')
    return module.get_config(*([variant] if variant else []))


@pytest.mark.fast
def test_every_stage_has_a_config():
    assert STAGES <= set(NAMES)


@pytest.mark.fast
@pytest.mark.parametrize('name, variant', EVERY)
def test_config_loads_and_is_documented(name, variant):
    config = config_of(name, variant)
    assert isinstance(config, ConfigDict) and config.run in runs.names()
    documentation = importlib.import_module(f'configs.{name}').__doc__
    assert f'--config=configs/{name}.py' in documentation
    if config.run == 'train':
        assert config.task in train.MAKE
    ConfigDict(json.loads(config.to_json()))  # what a workdir keeps


TRAINED = ('train', 'study', 'pair_study', 'mixing', 'segmentation_study')
TRAINING = [name for name in NAMES if config_of(name).run in TRAINED]


@pytest.mark.fast
@pytest.mark.parametrize('name', TRAINING)
def test_every_training_can_be_rehearsed(name):
    """Of the same keys, with fewer steps."""
    rehearsal, usual = config_of(name, 'rehearsal'), config_of(name)
    assert set(rehearsal) == set(usual) and rehearsal != usual
    assert len(TRAINING) >= 12
    documentation = importlib.import_module(f'configs.{name}').__doc__
    assert 'rehearsal' in documentation or name == 'paper'
    if usual.run == 'train':
        assert rehearsal.steps <= 300 and rehearsal.eval_every <= 150


@pytest.mark.fast
@pytest.mark.parametrize('name', runs.names())
def test_every_command_is_found(name):
    assert callable(runs.find(name))


@pytest.mark.fast
@pytest.mark.parametrize('name, variant', EVERY)
def test_defaults_pass_the_checks_of_launch(name, variant):
    assert command_line.out_of_range(config_of(name, variant)) is None


@pytest.mark.fast
@pytest.mark.parametrize('name, variant', EVERY)
def test_keys_that_a_config_lacks_or_invents_are_named(name, variant):
    config = config_of(name, variant)
    assert command_line.wrong_keys(config, ROOT) is None
    for key in set(config) - {'run', 'task'}:
        shorter = config.copy_and_resolve_references()
        del shorter[key]
        keys = re.findall(r'config\.(\w+)', command_line.wrong_keys(shorter, ROOT))
        assert keys and set(keys) == {key}
    with config.unlocked():
        config.limitt = 3
    assert 'config.limitt: a run of' in command_line.wrong_keys(config, ROOT)


WRONG = {  # the text of a config file of somebody else: what the one line has
    'return base.stage("evaluate")': 'config.baseline',
    'return base.stage("synthesize", how="paste")': 'config.stand_in',
    'return base.stage("look", dataset="x", limit=3, shown=3, limitt=4)': 'config.limitt',
    'return base.stage("look", dataset="x", limit="many", shown=3)': "config.limit='many'",
    'return base.stage("nonsense")': 'config.run=nonsense',
    'return {"run": "look"}': 'must return a ConfigDict',
    'return None': 'must return a ConfigDict',
    'return base.nothing': 'AttributeError',
    'return (': 'SyntaxError',
}


@pytest.mark.parametrize('text', WRONG)
def test_a_wrong_config_of_somebody_else_is_one_line(launch, tmp_path, text):
    file = tmp_path / 'mine.py'
    file.write_text(f'from configs import base\n\n\ndef get_config():\n    {text}\n')
    result = launch(f'--config={file}', f'--workdir={tmp_path / "run"}')
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) == 1 and WRONG[text] in result.stderr, result.stderr
    assert not (tmp_path / 'run').exists()


@pytest.mark.fast
@pytest.mark.parametrize('task', [*workdir.ADDED_KEYS])
def test_a_config_from_before_a_key_was_there_means_what_was_done_then(task):
    """As a stored config.json does."""
    name = {'classification': 'classifier'}.get(task, task)
    config = config_of(name)
    for key in workdir.ADDED_KEYS[task]:
        del config[key]
    workdir.add_keys(config)
    assert command_line.wrong_keys(config, ROOT) is None
    assert {key: config[key] for key in workdir.ADDED_KEYS[task]} == workdir.ADDED_KEYS[task]


@pytest.mark.fast
@pytest.mark.parametrize('key', sorted(base.LEAST | base.BELOW | base.MOST))
def test_numbers_that_are_none_are_out_of_range(key):
    assert command_line.out_of_range(ConfigDict({key: float('nan')}))


@pytest.mark.fast
def test_words_are_valid_as_they_are_and_others_refused_in_every_config():
    seen = set()
    for name, variant in EVERY:
        config = config_of(name, variant)
        choices.check(config)
        for key, default in command_line.leaves(config):
            *stages, last = key.split('.')
            stage = functools.reduce(lambda stage, part: stage[part], stages, config)
            if last in choices.WORDS | choices.WORDS_OF_TASKS.get(stage.get('task'), {}):
                seen.add(last)
                changed = config.copy_and_resolve_references()
                wrong = {tuple: ('nonsense',), int: 99}.get(type(default), 'nonsense')
                changed.update_from_flattened_dict({key: wrong})
                with pytest.raises(InputError, match=f'config.{key}=(nonsense|99): no such choice'):
                    choices.check(changed)
    known = [choices.WORDS, *choices.WORDS_OF_TASKS.values()]
    assert seen == set().union(*known)


@pytest.mark.fast
@pytest.mark.parametrize('key, value', [('shares', ('(1',)), ('shares', (0.5,)), ('seeds', ('a',))])
def test_tuples_have_values_of_one_kind(key, value):
    name = 'audit' if key == 'shares' else 'mixing'
    config = config_of(name)
    config.update_from_flattened_dict({key: value})
    assert f'config.{key}=' in command_line.wrong_keys(config, ROOT)


@pytest.mark.fast
def test_a_stage_of_a_pipeline_stays_what_it_is():
    for name in NAMES:
        for key, _ in command_line.leaves(config_of(name)):
            if key.endswith(('.run', '.task')):
                changed = config_of(name)
                changed.update_from_flattened_dict({key: 'look'})
                assert f'config.{key}=look: must be' in command_line.wrong_keys(changed, ROOT)


HUGE = [99999999999999999999, float('inf')]


@pytest.mark.fast
@pytest.mark.parametrize(
    'key, value',
    [
        *((key, most + 1) for key, most in base.MOST.items()),
        *((key, value) for key in base.MOST for value in HUGE),
        *base.BELOW.items(),
        *((key, least - 1) for key, least in base.LEAST.items()),
    ],
)
def test_numbers_beyond_a_limit_are_named_in_every_config_that_has_the_key(key, value):
    for name in NAMES:
        config = config_of(name)
        for found, default in command_line.leaves(config):
            if found.rpartition('.')[2] != key:
                continue
            changed = config.copy_and_resolve_references()
            *stages, _ = found.split('.')
            stage = functools.reduce(lambda stage, part: stage[part], stages, changed)
            with stage.ignore_type():
                stage[key] = (value,) if isinstance(default, tuple) else value
            assert f'--config.{found}=' in (command_line.out_of_range(changed) or 'nothing')


@pytest.mark.fast
@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
def test_numbers_that_are_not_finite_are_refused_for_every_key(value):
    for name in NAMES:
        for key, default in command_line.leaves(config_of(name)):
            if isinstance(default, float):
                changed = config_of(name)
                changed.update_from_flattened_dict({key: value})
                assert f'--config.{key}=' in (command_line.out_of_range(changed) or 'nothing')


@pytest.mark.fast
@pytest.mark.parametrize('value', [-1, 10**20])
def test_every_whole_number_has_limits(value):
    for name in NAMES:
        for key, default in command_line.leaves(config_of(name)):
            if type(default) is int:
                changed = config_of(name)
                changed.update_from_flattened_dict({key: value})
                assert f'--config.{key}=' in (command_line.out_of_range(changed) or 'nothing')


@pytest.mark.fast
@pytest.mark.parametrize('limits', [base.LEAST, base.MOST])
def test_limits_themselves_are_in_range(limits):
    both = {key: value for key, value in limits.items() if value != base.BELOW.get(key)}
    assert command_line.out_of_range(ConfigDict(both)) is None


@pytest.mark.fast
def test_training_configs_have_the_same_shared_keys():
    shared = set(base.training('x').keys())
    for name in ('cyclegan', 'classifier'):
        assert shared <= set(config_of(name).keys())


@pytest.mark.fast
def test_limits_are_of_keys_that_exist():
    keys = {
        key.rpartition('.')[2] for name in NAMES for key, _ in command_line.leaves(config_of(name))
    }
    assert set(base.LEAST) | set(base.BELOW) | set(base.MOST) <= keys


@pytest.mark.fast
def test_published_protocols_train_the_published_backbones():
    for name in ('clean', 'paper'):
        assert {run.partition(':')[0] for run in config_of(name).runs} == set(models.PUBLISHED)


def commands():
    """Every launch.py command line that people are shown."""
    texts = [path for where in ('*.md', 'docs/*.md', 'configs/*.py') for path in ROOT.glob(where)]
    joined = '\n'.join(path.read_text(encoding='utf-8') for path in texts).replace('\\\n', ' ')
    shown = (line for line in joined.splitlines() if 'launch.py --config=configs/' in line)
    return sorted({line[line.index('launch.py') :] for line in shown if 'NAME' not in line})


@pytest.mark.fast
@pytest.mark.parametrize('command', commands())
def test_shown_commands_have_valid_keys(command):
    name, variant = re.search(r'--config=configs/(\w+)\.py(?::(\w+))?', command).groups()
    valid = {key for key, _ in command_line.leaves(config_of(name, variant))}
    assert set(re.findall(r'--config\.([\w.]+)=', command)) <= valid


@pytest.mark.parametrize(
    'words, named',
    [
        ('', 'configs/quickstart.py'),
        ('--config=configs/nonsense.py', 'configs/quickstart.py'),
        ('--config=nonsense', 'configs/quickstart.py'),
        ('--config=../elsewhere/configs/clean.py', 'no such config'),
        ('--config=audit.yaml', 'no such config'),
        ('--config=/audit.py', 'no such config'),
        ('--config=configs/audit.py --config.run=forensics', 'printed_rates'),
        ('--config=configs/classifier.py:resnet51', 'resnet50'),
        ('--config=configs/cyclegan.py:huge', 'small'),
        ('--config=configs/evaluate.py:variant', 'evaluate'),
        ('--config=configs/evaluate.py --config.classifer=x', 'config.classifier'),
        ('--config=configs/quickstart.py --config.cyclegan.stepz=1', 'config.cyclegan.steps'),
        ('--config=configs/cyclegan.py --config.steps=many', 'config.steps'),
        ('--config=configs/evaluate_masks.py --config.otsu=yes', 'config.otsu=yes: write True or'),
        ('--config=configs/cyclegan.py --config.batch_size=0', 'config.batch_size=0'),
        ('--config=quickstart --config.classifier.steps=-1', 'config.classifier.steps=-1'),
        (
            '--config=quickstart --config.classifiers.real.train=mosmed:train',
            'config.classifiers.real.train=mosmed:train: mosmed is no data set of the quick start',
        ),
        ('--config=configs/classifier.py --config.dropout=1', 'config.dropout=1'),
        ('--config=configs/cyclegan.py config.steps=1', '--config.key=value'),
        ('--config=configs/base.py', 'configs/quickstart.py'),
        ('--config=configs/cyclegan.py --wokdir=x', 'wokdir'),
        ('--config=look --config=cyclegan', 'given twice'),
        ('--config=cyclegan --config.augment.nosuch=1', "no key 'nosuch'"),
        (
            '--config=cyclegan --coordinator=nohost --processes=2 --process=0',
            '--coordinator=nohost',
        ),
    ],
)
def test_wrong_words_print_the_valid_ones(launch, tmp_path, words, named):
    result = launch(*words.split(), f'--workdir={tmp_path / "run"}')
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    assert named in result.stderr and not (tmp_path / 'run').exists()


def test_help_lists_the_configs(launch):
    result = launch('--help')
    assert result.returncode == 0
    assert all(f'configs/{name}.py' in result.stdout for name in STAGES)


@pytest.mark.parametrize('word', ['--config=cyclegan:small', '--config=configs/cyclegan.py:small'])
def test_help_of_a_config_explains_it_and_lists_its_keys(launch, word):
    result = launch(word, '--help')
    assert result.returncode == 0 and 'arXiv 1703.10593' in result.stdout
    assert '--config.image_size=96' in result.stdout


@pytest.mark.fast
def test_the_name_of_a_config_may_be_a_word_of_its_own_and_come_after_its_keys():
    path = ROOT / 'configs' / 'cyclegan.py'
    for words in (['--config', 'cyclegan:small'], ['--config=cyclegan:small']):
        for argv in ([*words, '--workdir', 'cyclegan'], ['--workdir', 'cyclegan', *words]):
            assert command_line.config_argument(argv) == ('cyclegan', 'small')
            replaced = command_line.with_path(['launch.py', *argv], path, 'small')
            assert replaced == ['launch.py', f'--config={path}:small', '--workdir', 'cyclegan']


@pytest.mark.fast
def test_of_a_key_that_is_given_again_the_last_counts():
    words = ['--config.steps=1', '--config.widths=(8, 16)', '--workdir=a', '--config.steps=2']
    assert command_line.last_of_each(words) == words[1:]
    assert command_line.last_of_each([*words, '--config.widths=(4,)']) == [
        *words[2:],
        '--config.widths=(4,)',
    ]


@pytest.mark.fast
def test_unknown_variant_is_an_input_error():
    with pytest.raises(InputError, match='a, b'):
        base.variant('c', {'a': 1, 'b': 2})
    assert base.variant('', {'a': 1, 'b': 2}) == 1


KEEPS = """
import resource, sys
from covjax.memory import keep_memory
if sys.argv[1] == 'keep':
    keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b'x') * 80_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='the C library is not glibc')
@pytest.mark.parametrize(
    'word, environment, kept',
    [('keep', {}, True), ('leave', {}, False), ('keep', {'MALLOC_ARENA_MAX': '8'}, False)],
)
def test_a_training_keeps_the_memory_that_it_frees(word, environment, kept):
    """80 MB, taken again, are the same pages: the system does not clear them a second time."""
    others = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
    command = [sys.executable, '-c', KEEPS, word]
    done = subprocess.run(command, env=others | environment, capture_output=True, check=True)
    assert (int(done.stdout) < 1000) == kept


COMPILES = r"""
import pathlib, re, sys
import jax
from covjax import memory
memory.LONG = 0
for name in sys.argv[1:]:
    setattr(memory, name, '')
memory.keep_memory()
def held():
    return int(re.search(r'VmRSS:\s*(\d+)', pathlib.Path('/proc/self/status').read_text())[1])
blocks = [bytearray(b'x') * 100_000 for _ in range(5000)]
before = held()
del blocks[:-1]  # the last one is at the end of the heap, which is not what is tested
jax.jit(lambda x: x * 2)(1.0)
print(before - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='the C library is not glibc')
@pytest.mark.parametrize(
    'without, given_back',
    [
        (['COMPILING'], True),
        (['COMPILED'], True),
        (['COMPILING', 'COMPILED'], False),
    ],
    ids=['before', 'after', 'neither'],
)
def test_what_is_free_goes_back_when_a_program_is_compiled(without, given_back):
    """500 MB, before and after, without either of the two events that say so."""
    others = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
    environment = others | {'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-c', COMPILES, *without]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert (int(done.stdout) > 250_000) == given_back  # kB


PEAK = """
import subprocess, sys
from covjax.memory import peak_of_process
if sys.argv[1] == 'large':
    kept = bytearray(b'x') * 900_000_000
    del kept
    subprocess.run([sys.executable, '-c', sys.argv[2], 'small', sys.argv[2]], check=True)
print(peak_of_process())
"""


@pytest.mark.skipif(platform.system() != 'Linux', reason='other systems say it another way')
def test_the_peak_of_memory_is_that_of_the_process_alone():
    """Not that of the one that started it, which Linux hands on as ru_maxrss."""
    command = [sys.executable, '-c', PEAK, 'large', PEAK]
    done = subprocess.run(command, capture_output=True, check=True)
    small, large = map(int, done.stdout.split())
    assert small < 600e6 and 900e6 < large


STEPS = """
import jax
from covjax.memory import keep_memory
keep_memory()
slow = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda i, x: x @ x / 400, x))
slow(jax.numpy.ones((400, 400)))
assert slow(jax.numpy.ones((400, 400))).is_ready()
"""


def test_a_training_on_cpu_asks_for_a_step_when_the_one_before_is_done():
    """So that the memory of one step is needed, not that of all that wait."""
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    subprocess.run([sys.executable, '-c', STEPS], env=environment, check=True)


def test_an_interrupt_is_one_line(tmp_path):
    """Outside a training too, which saves its state."""
    program = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from covjax import command_line, launcher, runs

def interrupted(config, workdir):
    raise KeyboardInterrupt

runs.find = lambda name: interrupted
launcher.main(['x', '--config=look'], home=pathlib.Path(sys.argv[1]), below=pathlib.Path('runs'))
"""
    result = subprocess.run(
        [sys.executable, '-c', program, str(ROOT)], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 130 and result.stderr.count('\n') == 1, result.stderr
    assert 'the same command begins this stage again' in result.stderr

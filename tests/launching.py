"""Runs launch.py in a process of its own without importing JAX and TFDS anew for each of them.

A fork server has the libraries loaded but no backend started, so a child is what a fresh process
would be after its imports: own flags, own devices, own exit code.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile

SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(
    [
        *('covjax.launcher', 'covjax.runs.train', 'covjax.runs.prepare', 'covjax.runs.audit'),
        *('covjax.runs.report', 'covjax.runs.synthesize', 'covjax.runs.translate', 'configs.clean'),
        *('covjax.runs.segment', 'covjax.runs.evaluate_masks'),
        *('tensorflow_datasets', 'tfds_builders'),
    ]
)

# The quick start in a minute.
KEYS = {
    'phantom.luna16.series': 6,
    'phantom.luna16.slices': 3,
    'phantom.luna16.size': 128,
    'phantom.covid_ct.train': 4,
    'phantom.covid_ct.validation': 2,
    'phantom.covid_ct.test': 5,
    'cyclegan.image_size': 32,
    'cyclegan.load_size': 36,
    'cyclegan.gen_filters': 4,
    'cyclegan.gen_blocks': 1,
    'cyclegan.disc_filters': 4,
    'cyclegan.steps': 120,
    'cyclegan.eval_every': 60,
    'cyclegan.log_every': 5,
    'classifier.image_size': 32,
    'classifier.load_size': 32,
    'classifier.batch_size': 4,
    'classifier.steps': 2,
    'classifier.eval_every': 1,
    'classifier.log_every': 1,
    'classifier.warmup_steps': 1,
    'quality.split': '',  # the test split has one image
}
TINY_QUICKSTART = [
    '--config=configs/quickstart.py',
    *(f'--config.{key}={value}' for key, value in KEYS.items()),
]


TRAININGS = {
    'cyclegan': {'cancer': 'luna16_patches/nodules:train', 'val': ''},
    'classifier': {'train': 'covid_ct:train', 'val': 'covid_ct:validation', 'model': 'plain8'},
}


def stages_of(finished):
    """{stage: words of its command line, without --workdir} on what a quick start made."""
    data, classifier = finished / 'data', finished / 'classifier' / 'synthetic'
    keys = {
        'prepare': {'dataset': 'covid_ct/clean', 'source': finished / 'phantoms' / 'covid_ct'},
        'look': {'dataset': 'covid_ct', 'data_dir': data},
        'synthesize': {'generator': finished / 'cyclegan'},
        'translate': {
            'generator': finished / 'cyclegan',
            'input': finished / 'synthesize' / 'synthetic' / 'inputs',
        },
        'evaluate': {'classifier': classifier, 'tests': 'covid_ct:test'},
        'quality': {'synthetic': finished / 'synthesize', 'split': ''},
        'audit': {'classifier': classifier, 'tests': 'covid_ct:test', 'names': 'real'},
        'report': {
            'evaluations': finished / 'evaluate' / 'synthetic',
            'audits': finished / 'audit' / 'real',
            'quality': finished / 'quality',
            'synthetic': finished / 'synthesize',
        },
        'export': {'generator': finished / 'cyclegan'},
        'printed_rates': {},
    }
    return {
        stage: [f'--config={stage}', *(f'--config.{key}={value}' for key, value in of.items())]
        for stage, of in keys.items()
    }


def training_of(finished, name, **changes):
    """The words of a tiny training on what a quick start made, without --workdir."""
    tiny = {key: value for key, value in KEYS.items() if key.startswith(f'{name}.')}
    keys = {key.removeprefix(f'{name}.'): value for key, value in tiny.items()}
    keys |= TRAININGS[name] | {'data_dir': finished / 'data'} | changes
    return [f'--config={name}', *(f'--config.{key}={value}' for key, value in keys.items())]


def _child(words, environment, folder, output, errors):
    """Becomes `python launch.py`: its words, environment, folder, and files for what it prints."""
    for path, descriptor in ((output, 1), (errors, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = ['launch.py', *words]
    runpy.run_path(os.path.join(folder, 'launch.py'), run_name='__main__')


def launch(folder, words, environment, timeout=None):
    """subprocess.CompletedProcess of `python launch.py WORDS` in a checkout.

    Args:
        folder: of the checkout.
        words: list of str.
        environment: {name: value} added to the environment.
        timeout: seconds; subprocess.TimeoutExpired when they have passed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = [os.path.join(scratch, name) for name in ('stdout', 'stderr')]
        arguments = (words, environment, str(folder), *files)
        process = SERVER.Process(target=_child, args=arguments)
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        texts = []
        for path in files:
            with open(path, encoding='utf-8', errors='replace') as file:
                texts.append(file.read())
    return subprocess.CompletedProcess(words, process.exitcode, *texts)


def _call(connection, function, arguments, environment):
    """Sends what a function returns."""
    os.environ.update(environment)
    connection.send(function(*arguments))


def call(function, arguments, environment):
    """What a function of a test module returns in a process of its own.

    Args:
        function: at the top of a module; returns what can be pickled.
        arguments: tuple.
        environment: {name: value} added to the environment before any backend starts.
    """
    receiver, sender = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_call, args=(sender, function, arguments, environment))
    process.start()
    sender.close()
    result = receiver.recv()  # EOFError where the process died
    process.join()
    return result

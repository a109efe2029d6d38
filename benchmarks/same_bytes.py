"""Whether two checkouts of covjax do the same: every stage on phantoms, compared file by file.

    python benchmarks/same_bytes.py record CHECKOUT FOLDER        # runs the stages of a checkout
    python benchmarks/same_bytes.py compare FOLDER FOLDER         # exit code 1 where they differ

Arrays of checkpoints, images, volumes, scores and every JSON value must be equal to the last bit,
on one device and on two. The keys that may differ are listed in renamed_keys.json: renamed (old
name -> new name), and added (new names that the older checkout does not write). Stages run in one
fixed folder, since configs hold paths, and the hash of a config names a generator.

What is left out: times, TensorBoard files, versions of libraries, and the order of keys.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
RENAMED = json.loads((HERE / 'renamed_keys.json').read_text())
SCRATCH = pathlib.Path(tempfile.gettempdir()) / 'covjax_same_bytes'
# Compiling is what takes long, and both checkouts compile alike.
FAST = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
LEFT_OUT = ('tensorboard', 'environment.json', '_CHECKPOINT_METADATA', 'source.json')
VOLATILE = {'seconds', 'covjax', 'download_size', 'timestamp'}
SMALL_GAN = {
    'image_size': 32,
    'load_size': 36,
    'gen_filters': 4,
    'gen_blocks': 1,
    'disc_filters': 4,
    'steps': 6,
    'eval_every': 3,
    'log_every': 1,
    'batch_size': 2,
}
SMALL_CLASSIFIER = {
    'image_size': 32,
    'load_size': 36,
    'batch_size': 4,
    'steps': 4,
    'eval_every': 2,
    'log_every': 1,
    'warmup_steps': 1,
}
PHANTOMS = {
    'luna16.series': 10,
    'luna16.slices': 3,
    'luna16.size': 128,
    'covid_ct.train': 8,
    'covid_ct.validation': 4,
    'covid_ct.test': 6,
}


def prefixed(name, keys):
    """{'name.key': value} of a stage inside a larger config."""
    return {f'{name}.{key}': value for key, value in keys.items()}


def quickstart():
    """The keys of a whole path small enough for seconds."""
    return {
        **prefixed('phantom', PHANTOMS),
        **prefixed('cyclegan', SMALL_GAN),
        **prefixed('classifier', SMALL_CLASSIFIER),
    }


def stages(run):
    """Yields (name, devices, config, keys) of every command; each finds its input."""
    for devices in (1, 2):
        yield f'whole_{devices}', devices, 'quickstart', quickstart()
    whole = run / 'whole_1'
    yield from trainings({'data_dir': whole / 'data'})
    yield from preparations(whole / 'phantoms', run / 'more')
    yield from readings(run, whole)
    yield from translations(whole)
    yield 'export_classifier', 1, 'export', {'classifier': whole / 'classifier' / 'resnet50_0'}
    yield 'export_generator', 1, 'export', {'generator': whole / 'cyclegan'}
    yield 'printed_rates', 1, 'printed_rates', {'bound': 60}


def trainings(data):
    """Yields the stages that train, on one device and on two."""
    gan = {**SMALL_GAN, **data}
    cross_entropy = {'loss': 'bce', 'lambda_identity': 0.5, 'norm': 'affine', 'disc_last_stride': 2}
    resized = {
        'upsample': 'resize',
        'pool_size': 0,
        'dtype': 'bfloat16',
        'best': '-val/cancer/cycle_l1',
    }
    schedule = {'schedule': 'step', 'class_weights': 'balanced', 'dropout': 0.3, 'freeze_steps': 2}
    smooth = {'label_smoothing': 0.1, 'body_rate': 0.5, 'train': 'covid_ct:train'}
    classifier = SMALL_CLASSIFIER | schedule | smooth | data
    for devices in (1, 2):
        yield f'gan_bce_{devices}', devices, 'cyclegan', gan | cross_entropy
        yield f'gan_resize_{devices}', devices, 'cyclegan', gan | resized
        yield f'classifier_{devices}', devices, 'classifier', classifier


def preparations(phantoms, folder):
    """Yields the stages that build data sets into a folder."""
    for name in ('nodules_hu', 'nodules_minmax', 'patches', 'patches_3d', 'candidates'):
        keys = {'dataset': f'luna16_patches/{name}', 'source': phantoms / 'luna16'}
        yield f'prepare_{name}', 1, 'prepare', {**keys, 'data_dir': folder}
    keys = {'dataset': 'covid_ct/clean', 'source': phantoms / 'covid_ct', 'data_dir': folder}
    yield 'prepare_clean', 1, 'prepare', keys


def readings(run, whole):
    """Yields the stages that look at data, score a classifier, and report."""
    data = {'data_dir': whole / 'data'}
    both = {'data_dir': f'{whole / "data"},{whole / "synthesize" / "data"}'}
    yield 'look_covid_ct', 1, 'look', {'dataset': 'covid_ct', **data}
    yield 'look_nodules', 1, 'look', {'dataset': 'luna16_patches/nodules', **data}
    classifier, synthetic = whole / 'classifier' / 'resnet50_0', whole / 'synthesize'
    keys = {'classifier': classifier, 'protocol': 'official', 'checkpoint': 'latest'}
    yield 'evaluate', 1, 'evaluate', {**keys, **both}
    audited = {'classifier': classifier, 'synthetic': synthetic, 'protocol': 'official'}
    fewer = {'stand_ins': "('jpeg',)", 'shares': '(0,100)', **both}
    yield 'audit', 1, 'audit', {**audited, **fewer}
    yield 'quality', 1, 'quality', {'synthetic': synthetic, 'split': '', **data}
    keys = {'evaluations': whole / 'evaluate' / 'resnet50_0', 'synthetic': synthetic}
    yield 'report', 1, 'report', {**keys, 'audits': run / 'audit'}


def translations(whole):
    """Yields the stages that a generator or its stand-in makes images in."""
    generator = {'generator': whole / 'cyclegan'}
    for stand_in in ('reconstructed', 'untrained', 'histogram'):
        keys = {**generator, 'stand_in': stand_in, 'data_dir': whole / 'data'}
        yield f'synthesize_{stand_in}', 1, 'synthesize', keys
    side_by_side = {**generator, 'side_by_side': True}
    pictures = whole / 'synthesize' / 'synthetic' / 'inputs'
    keys = {**side_by_side, 'input': pictures, 'batch_size': 3}
    yield 'translate_pictures', 1, 'translate', keys
    volume = '{first}' + str(whole / 'phantoms' / 'luna16') + '/**/*.mhd'
    yield 'translate_volume', 1, 'translate', {**side_by_side, 'input': volume}


def record(checkout, folder):
    """Runs every stage of a checkout and keeps what they wrote."""
    checkout, folder = checkout.resolve(), folder.resolve()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    old = not (checkout / 'configs' / 'printed_rates.py').is_file()
    for name, devices, config, keys in stages(SCRATCH):
        if old:
            config = RENAMED['old_configs'].get(config, config)
            keys = {RENAMED['old_flags'].get(key, key): value for key, value in keys.items()}
        command = [sys.executable, 'launch.py', f'--config=configs/{config}.py']
        command += [f'--workdir={SCRATCH / name}']
        command += [f'--config.{key}={first(str(value))}' for key, value in keys.items()]
        flags = f'{FAST} --xla_force_host_platform_device_count={devices}'
        environment = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(checkout)}
        print(f'{name} ...', flush=True)
        done = subprocess.run(
            command, cwd=checkout, env=environment, text=True, capture_output=True
        )
        if done.returncode:
            sys.exit(f'{" ".join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}')
    shutil.rmtree(folder, ignore_errors=True)
    shutil.move(SCRATCH, folder)


def first(value):
    """The first file of a pattern marked by {first}, else the value itself."""
    if not value.startswith('{first}'):
        return value
    root, _, pattern = value.removeprefix('{first}').partition('/**/')
    return str(sorted(pathlib.Path(root).rglob(pattern))[0])


def fingerprints(folder):
    """{path below the folder, in new names: what must be equal} of all that the stages wrote."""
    found = {}
    for path in sorted(folder.rglob('*')):
        name = str(path.relative_to(folder))
        if any(part in name for part in LEFT_OUT) or not path.is_file():
            continue
        for old, new in RENAMED['files'].items():
            name = name.replace(old, new)
        if '/checkpoints/' not in name:
            found[name] = fingerprint(path)
        elif item := re.match(r'.*checkpoints/\d+/(model|rest)(?=/)', name):
            if item[0] not in found:
                found[item[0]] = arrays(folder / item[0])
    return found


def fingerprint(path):
    """What must be equal of a file that is not part of a checkpoint."""
    if path.suffix in ('.json', '.jsonl'):
        return normalised(path)
    if path.suffix == '.html':
        return page(path)
    if '.array_record' in path.name:
        return examples(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def page(path):
    """The hash of a page without the version of covjax and the times of runs."""
    text = re.sub(r'covjax \d+\.\d+\.\d+', 'covjax', path.read_text(encoding='utf-8'))
    text = re.sub(r'<td>(\d+s|\d+m\d\ds|\d+h\d\dm)</td>', '<td>TIME</td>', text)
    return hashlib.sha256(text.encode()).hexdigest()


def examples(path):
    """The examples of a split as TFDS reads them; files differ in the order of features."""
    import tensorflow_datasets as tfds

    split = path.name.partition('.')[0].rpartition('-')[2]
    source = tfds.builder_from_directory(str(path.parent)).as_data_source(split)
    describe = lambda value: hashlib.sha256(repr(value).encode()).hexdigest()
    return [
        {name: as_text(value, describe) for name, value in example.items()} for example in source
    ]


def as_text(value, describe):
    """A feature as nested dicts of hashes of its arrays."""
    if isinstance(value, dict):
        return {name: as_text(part, describe) for name, part in value.items()}
    if hasattr(value, 'tobytes'):
        return describe((value.shape, str(value.dtype), value.tobytes()))
    return describe(value)


def arrays(path):
    """{name: (shape, dtype, hash)} of the arrays of one item of a checkpoint."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    tree = ocp.StandardCheckpointer().restore(path)
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    describe = lambda a: [list(a.shape), str(a.dtype), hashlib.sha256(a.tobytes()).hexdigest()]
    return {jax.tree_util.keystr(key): describe(np.asarray(leaf)) for key, leaf in leaves}


def normalised(path):
    """The value of a JSON file, or of each line, in new names, without added and volatile keys."""
    lines = path.read_text().splitlines() if path.suffix == '.jsonl' else [path.read_text()]
    return [plain(json.loads(line)) for line in lines if line.strip()]


def plain(value):
    """A JSON value in new names, without added and volatile keys."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        pairs = {RENAMED['keys'].get(key, key): plain(item) for key, item in value.items()}
        return {k: v for k, v in pairs.items() if k not in VOLATILE | set(RENAMED['added'])}
    if isinstance(value, str):
        for old, new in RENAMED['values'].items():
            value = value.replace(old, new)
    return value


def differences(first, second, place=''):
    """Yields lines that name where two values differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            if key not in first or key not in second:
                yield f'{place}/{key}: only in the {"second" if key in second else "first"}'
            else:
                yield from differences(first[key], second[key], f'{place}/{key}')
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for i, (one, other) in enumerate(zip(first, second)):
            yield from differences(one, other, f'{place}[{i}]')
    elif first != second:
        yield f'{place}: {str(first)[:120]} | {str(second)[:120]}'


def compare(first, second):
    """Prints where two recordings differ, and how much was compared."""
    one, other = fingerprints(first), fingerprints(second)
    lines = list(differences(one, other))
    print('\n'.join(lines[:60]))
    more = f' (the first 60 of {len(lines)} are shown)' if len(lines) > 60 else ''
    print(f'{len(one.keys() | other.keys())} files, {len(lines)} differences{more}')
    sys.exit(bool(lines))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('what', choices=('record', 'compare'))
    parser.add_argument('first', type=pathlib.Path)
    parser.add_argument('second', type=pathlib.Path)
    given = parser.parse_args()
    {'record': record, 'compare': compare}[given.what](given.first, given.second)

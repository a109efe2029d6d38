"""A trained network -> files for other programs, with a model card.

As .safetensors they hold nothing but the weights; as .onnx the network itself, which programs run
that know neither JAX nor covjax.
"""

import json
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from covjax import InputError, choice, classifier, drafts, generator, segmenter, trained
from covjax.data import model_card
from covjax.generator import SMALLEST
from covjax.weights import onnx

KEYS = ('classifier', 'generator', 'segmenter')
FORMATS = ('safetensors', 'onnx')
ONNX_CODE = """import onnxruntime

session = onnxruntime.InferenceSession('{name}')
(found,) = session.run(None, {{'images': images}})  # uint8 {shape}"""


class Network(NamedTuple):
    """A network to export."""

    name: str  # of its files, without ending
    what: str  # it does, for the card
    save: Any  # function of a path that writes the weights
    load: str  # how the weights are read, as Python with the place of a file name
    function: Any  # uint8 images -> what it gives
    takes: onnx.Input
    gives: str  # name of the output
    output: str  # what that is, for the card
    classes: tuple[str, ...] = ()  # of the output


def run(config, workdir):
    """Writes a trained network, and README.md about it.

    They are <workdir>/<model>.safetensors or .onnx of config.classifier or config.segmenter, or
    <direction> of both generators of config.generator.

    Raises:
        InputError: not exactly one of them is given, the folder holds no such run, or the network
            does what ONNX has no operation for.
    """
    given = [key for key in KEYS if config[key]]
    if len(given) != 1:
        named = ', '.join(f'config.{key}' for key in KEYS)
        raise InputError(f'{named}: give one of them, the workdir of a run')
    write = WRITE[choice(config, 'format', FORMATS)]
    (key,) = given
    task, networks_of = NETWORKS[key]
    of_run = trained.open_run(config[key], task, key, config.checkpoint)
    files, networks = {}, networks_of(of_run)
    for network in networks:
        path = workdir / f'{network.name}.{config.format}'
        files[path.name] = write(path, network, of_run)
        print(f'{DESCRIBED[config.format]} of step {of_run.step} in {path}')
    if of_run.config.get('lungs'):
        print(
            f'it was trained with config.lungs={of_run.config.lungs}: show it images as '
            'covjax.lung_view does'
        )
    first = networks[0]
    title = ', '.join(network.name for network in networks)
    card = model_card.text(title, first.what, of_run, _input(first.takes), first.output, files)
    drafts.write_text(workdir / 'README.md', card)


def _input(takes):
    """A sentence on what goes in."""
    shape = 'N, D, H, W, 1' if takes.sides == 3 else 'N, H, W, 1'
    size = (
        f'of {takes.fixed} pixels' if takes.fixed else f'of any size from {takes.least} pixels on'
    )
    return (
        f'In: grey CT through the lung window, {size}. ONNX takes uint8 [{shape}], the weights '
        'alone float32 in -1..1.'
    )


# ---- formats


def _write_weights(path, network, run):
    """Writes .safetensors -> how it is read."""
    network.save(path, run)
    return network.load.format(name=path.name)


def _write_onnx(path, network, run):
    """Writes .onnx -> how it is read."""
    about = {
        'what': network.what,
        'use': model_card.USE,
        'output': network.output,
        'classes': json.dumps(network.classes),
        'config_hash': run.config_hash,
        'step': run.step,
    }
    model = onnx.model_of(network.function, network.takes, network.gives, about)
    with drafts.file(path) as draft:
        draft.write_bytes(model.SerializeToString())
    sides = '[N, D, H, W, 1]' if network.takes.sides == 3 else '[N, H, W, 1]'
    return ONNX_CODE.format(name=path.name, shape=sides)


WRITE = {'safetensors': _write_weights, 'onnx': _write_onnx}
DESCRIBED = {'safetensors': 'weights', 'onnx': 'network'}


# ---- networks


def _classifier(run):
    """The one network of a classification."""
    loaded = classifier.of_run(run)
    classes = ', '.join(loaded.classes)
    return [
        Network(
            name=run.config.model,
            what=f'A classifier of CT slices that tells {classes} apart ({run.config.model}).',
            save=classifier.save,
            load="from covjax import classifier\n\nloaded = classifier.load('{name}')",
            function=classifier.scores(loaded),
            takes=onnx.Input('images', np.uint8, least=getattr(loaded.model, 'smallest', 32)),
            gives='probabilities',
            output=f'Out: the probability of each class, float32 [N, {len(loaded.classes)}]: '
            f'{classes}.',
            classes=loaded.classes,
        )
    ]


def _generators(run):
    """Both directions of a CycleGAN."""
    return [
        Network(
            name=direction,
            what='Generators of a CycleGAN that translate CT slices of one domain to another. What '
            'they make shows no patient and no disease.',
            save=partial(generator.save, direction=direction),
            load=(
                'from covjax import generator\n\n'
                f"translator = generator.load('{{name}}', '{direction}')"
            ),
            function=generator.apply_uint8(generator.of_run(run, direction)),
            takes=onnx.Input('images', np.uint8, multiple=4, least=SMALLEST),
            gives='translated',
            output='Out: the translated image, uint8 of the same shape.',
        )
        for direction in generator.DIRECTIONS
    ]


def _segmenter(run):
    """The one network of a segmentation."""
    loaded = segmenter.of_run(run)
    classes = ', '.join(loaded.classes)
    interpolates = run.config.model == 'unet' and run.config.up == 'bilinear'
    return [
        Network(
            name=run.config.model,
            what=f'A segmenter of CT that finds {", ".join(loaded.classes[1:])}.',
            save=segmenter.save,
            load="from covjax import segmenter\n\nloaded = segmenter.load('{name}')",
            function=segmenter.apply_uint8(loaded),
            takes=onnx.Input(
                'images',
                np.uint8,
                sides=len(loaded.patch),
                multiple=2 ** (len(run.config.widths) - 1),
                margin='edge',
                # Interpolation depends on the size, which is then that of training.
                fixed=loaded.patch if interpolates else (),
            ),
            gives='probabilities',
            output=f'Out: the probability of each class in every pixel, float32 [..., '
            f'{len(loaded.classes)}]: {classes}.',
            classes=loaded.classes,
        )
    ]


NETWORKS = {
    'classifier': ('classification', _classifier),
    'generator': ('cyclegan', _generators),
    'segmenter': ('segmentation', _segmenter),
}

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
OF_SCORES = (
    'A score says how well images of its data sets were told apart, not that disease was seen: '
    'audit it on your images (covjax, docs/audit.md).'
)
OF_MASKS = 'Where images come from another scanner, its masks may be wrong without any sign of it.'
LUNGS = {  # what config.lungs does to an image
    '': '',
    'crop': 'Before that they were cropped to the lungs: do so too (covjax.lung_view).',
    'mask': 'Before that all but the lungs was made black: do so too (covjax.lung_view).',
}
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
    shown: str  # how images were prepared in training, for the card
    limit: str  # of what it gives, for the card
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
        print(networks[0].shown)
    drafts.write_text(workdir / 'README.md', _card(networks, of_run, files))


def _card(networks, run, files):
    """The model card of one or several networks of a run; `files` as model_card.text takes it."""
    first = networks[0]
    title = ', '.join(network.name for network in networks)
    takes = f'{_input(first.takes)} {first.shown}'
    return model_card.text(title, first.what, run, takes, first.output, files, first.limit)


def _input(takes):
    """A sentence on what goes in."""
    if takes.fixed:
        size = f'of {takes.fixed} pixels'
    else:
        size = 'of any size' + (f' from {takes.least} pixels on' if takes.least > 1 else '')
    return f'In: grey CT, uint8 {_shape(takes.sides)}, {size}.'


def _shape(sides):
    return '[N, D, H, W, 1]' if sides == 3 else '[N, H, W, 1]'


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
        'input': network.shown,
        'image_size': run.config.image_size,
        'lungs': run.config.get('lungs', ''),
        'output': network.output,
        'classes': json.dumps(network.classes),
        'config_hash': run.config_hash,
        'step': run.step,
    }
    model = onnx.model_of(network.function, network.takes, network.gives, about)
    with drafts.file(path) as draft:
        draft.write_bytes(model.SerializeToString())
    return ONNX_CODE.format(name=path.name, shape=_shape(network.takes.sides))


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
            load="from covjax import classifier\n\nloaded = classifier.load('{name}')\n"
            'probabilities = classifier.scores(loaded)(images)  # uint8 [N, H, W, 1]',
            function=classifier.scores(loaded),
            takes=onnx.Input('images', np.uint8, least=getattr(loaded.model, 'smallest', 32)),
            gives='probabilities',
            output=f'Out: the probability of each class, float32 [N, {len(loaded.classes)}]: '
            f'{classes}.',
            shown=f'{_resized("lung", run)} {LUNGS[run.config.lungs]}'.strip(),
            limit=OF_SCORES,
            classes=loaded.classes,
        )
    ]


def _generators(run):
    """Both directions of a CycleGAN."""
    cancer, covid = run.config.cancer, run.config.covid
    return [
        Network(
            name=direction,
            what='Generators of a CycleGAN that translate CT slices of one domain to another: '
            f'to_covid makes images like those of `{covid}` from those of `{cancer}`, to_cancer '
            'the other way round.',
            save=partial(generator.save, direction=direction),
            load=(
                'from covjax import generator\n\n'
                f"translator = generator.load('{{name}}', '{direction}')\n"
                'translated = generator.apply_uint8(translator)(images)  # uint8 [N, H, W, 1]'
            ),
            function=generator.apply_uint8(generator.of_run(run, direction)),
            takes=onnx.Input('images', np.uint8, multiple=4, least=SMALLEST),
            gives='translated',
            output='Out: the translated image, uint8 of the same shape.',
            shown=_resized('lung', run),
            limit='What it makes shows no patient and no disease: do not read it as a finding.',
        )
        for direction in generator.DIRECTIONS
    ]


def _segmenter(run):
    """The one network of a segmentation."""
    loaded = segmenter.of_run(run)
    patch = loaded.patch
    classes = ', '.join(loaded.classes)
    interpolates = run.config.model == 'unet' and run.config.up == 'bilinear'
    return [
        Network(
            name=run.config.model,
            what=f'A segmenter of CT that finds {", ".join(loaded.classes[1:])}.',
            save=segmenter.save,
            load="from covjax import segmenter\n\nloaded = segmenter.load('{name}')\n"
            f'probabilities = segmenter.apply_uint8(loaded)(images)  # uint8 {_shape(len(patch))}',
            function=segmenter.apply_uint8(loaded),
            takes=onnx.Input(
                'images',
                np.uint8,
                sides=len(patch),
                multiple=2 ** (len(run.config.widths) - 1),
                margin='edge',
                # Interpolation depends on the size, which is then that of training.
                fixed=patch if interpolates else (),
            ),
            gives='probabilities',
            output=f'Out: the probability of each class in every pixel, float32 [..., '
            f'{len(loaded.classes)}]: {classes}.',
            shown=_voxels(loaded) if loaded.sees_volumes else _pixels(loaded, run),
            limit=OF_MASKS,
            classes=loaded.classes,
        )
    ]


def _resized(window, run):
    """A sentence on the window and the size of the images of training."""
    size = run.config.image_size
    return (
        f'It was trained on images through the {window} window, resized to {size}x{size} pixels '
        '(bilinear, aspect not kept): resize yours to that before.'
    )


def _pixels(loaded, run):
    """How a Segmenter of slices was shown them."""
    cropped = ' They were cropped to the body.' if loaded.crops else ''
    return f'{_resized(loaded.window, run)}{cropped}'


def _voxels(loaded):
    """How a Segmenter of volumes was shown them."""
    voxels = f'voxels of {loaded.spacing:g} mm' if loaded.spacing else 'their own voxels'
    return f'It was trained on volumes with {voxels}, through the {loaded.window} window.'


NETWORKS = {
    'classifier': ('classification', _classifier),
    'generator': ('cyclegan', _generators),
    'segmenter': ('segmentation', _segmenter),
}

"""A trained network -> files with nothing but the weights, for other programs."""

from covjax import InputError, classifier, generator, segmenter, trained

KEYS = ('classifier', 'generator', 'segmenter')


def run(config, workdir):
    """Writes the weights of a trained run as .safetensors.

    They are <workdir>/<model>.safetensors of config.classifier or config.segmenter, or
    <direction>.safetensors of both generators of config.generator.

    Raises:
        InputError: not exactly one of them is given, or the folder holds no such run.
    """
    given = [key for key in KEYS if config[key]]
    if len(given) != 1:
        named = ', '.join(f'config.{key}' for key in KEYS)
        raise InputError(f'{named}: give one of them, the workdir of a run')
    EXPORT[given[0]](config, workdir)


def _export_classifier(config, workdir):
    run = trained.open_run(config.classifier, 'classification', 'classifier', config.checkpoint)
    path = workdir / f'{run.config.model}.safetensors'
    classifier.save(path, run)
    print(f'weights of step {run.step} in {path}')
    if run.config.lungs:
        print(
            f'it was trained with config.lungs={run.config.lungs}: show it images as '
            'covjax.lung_view does'
        )


def _export_generators(config, workdir):
    run = trained.open_run(config.generator, 'cyclegan', 'generator', config.checkpoint)
    for direction in generator.DIRECTIONS:
        path = workdir / f'{direction}.safetensors'
        generator.save(path, run, direction)
        print(f'weights of step {run.step} in {path}')


def _export_segmenter(config, workdir):
    run = trained.open_run(config.segmenter, 'segmentation', 'segmenter', config.checkpoint)
    path = workdir / f'{run.config.model}.safetensors'
    segmenter.save(path, run)
    print(f'weights of step {run.step} in {path}')


EXPORT = {
    'classifier': _export_classifier,
    'generator': _export_generators,
    'segmenter': _export_segmenter,
}

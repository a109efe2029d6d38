"""A trained classifier or CycleGAN -> files with nothing but the weights, for other programs."""

from covjax import InputError, classifier, generator, trained


def run(config, workdir):
    """Writes the weights of a trained run as .safetensors.

    They are <workdir>/<model>.safetensors of config.classifier, or <direction>.safetensors of both
    generators of config.generator.

    Raises:
        InputError: neither or both are given, or the folder holds no such run.
    """
    if bool(config.classifier) == bool(config.generator):
        raise InputError(
            'config.classifier and config.generator: give one of the two, the workdir of a run'
        )
    if config.classifier:
        _export_classifier(config, workdir)
    else:
        _export_generators(config, workdir)


def _export_classifier(config, workdir):
    run = trained.open_run(config.classifier, 'classification', 'classifier', config.checkpoint)
    path = workdir / f'{run.config.model}.safetensors'
    classifier.save(path, run)
    print(f'weights of step {run.step} in {path}')


def _export_generators(config, workdir):
    run = trained.open_run(config.generator, 'cyclegan', 'generator', config.checkpoint)
    for direction in generator.DIRECTIONS:
        path = workdir / f'{direction}.safetensors'
        generator.save(path, run, direction)
        print(f'weights of step {run.step} in {path}')

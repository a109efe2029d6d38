"""A trained classifier or generator -> one file with nothing but its weights, for other programs."""

from covjax import InputError, classifier, generator, trained


def run(config, workdir):
    """Writes <workdir>/<model>.safetensors of config.classifier, or <direction>.safetensors of both generators of config.generator."""
    if bool(config.classifier) == bool(config.generator):
        raise InputError(
            'config.classifier and config.generator: give one of the two, the workdir of a run'
        )
    if config.classifier:
        source = trained.open_run(
            config.classifier, 'classification', 'classifier', config.checkpoint
        )
        path = workdir / f'{source.config.model}.safetensors'
        classifier.save(path, source)
        print(f'weights of step {source.step} in {path}')
        return
    source = trained.open_run(config.generator, 'cyclegan', 'generator', config.checkpoint)
    for direction in generator.DIRECTIONS:
        path = workdir / f'{direction}.safetensors'
        generator.save(path, source, direction)
        print(f'weights of step {source.step} in {path}')

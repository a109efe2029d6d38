"""A trained classifier or generator -> one file with nothing but its weights, for other programs."""

from covjax import InputError, checkpoint, classifier, generator


def run(config, workdir):
    """Writes <workdir>/<model>.safetensors of config.classifier, or <direction>.safetensors of both generators of config.generator."""
    if bool(config.classifier) == bool(config.generator):
        raise InputError(
            'config.classifier and config.generator: give one of the two, the workdir of a run'
        )
    if config.classifier:
        trained, state, step = checkpoint.load_model(
            config.classifier, 'classification', 'classifier', config.checkpoint
        )
        path = workdir / f'{trained.model}.safetensors'
        classifier.save(path, trained, classifier.variables_of(state), step)
        print(f'weights of step {step} in {path}')
        return
    trained, state, step = checkpoint.load_model(
        config.generator, 'cyclegan', 'generator', config.checkpoint
    )
    for direction in generator.DIRECTIONS:
        path = workdir / f'{direction}.safetensors'
        generator.save(path, trained, state, direction, step)
        print(f'weights of step {step} in {path}')

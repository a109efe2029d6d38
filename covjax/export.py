"""A trained classifier -> one file with nothing but its weights, for other programs."""
from covjax import checkpoint, classifier


def run(config, workdir):
    """Writes <workdir>/<model>.safetensors of config.classifier."""
    trained, state, step = checkpoint.load_model(config.classifier, 'classification', 'classifier', config.checkpoint)
    path = workdir / f'{trained.model}.safetensors'
    classifier.save(path, trained, classifier.variables_of(state), step)
    print(f'weights of step {step} in {path}')

"""The networks as Flax linen modules. Importing this needs jax and flax only.

    model = covjax.models.create('resnet50', num_classes=2)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    logits = model.apply(variables, images)                       # images [B, H, W, 1] float in [-1, 1]
"""
from covjax import InputError
from covjax.models.resnet import ResNet50

MODELS = {'resnet50': ResNet50}


def create(name, num_classes=2, **options):
    """The linen module of a name in MODELS. num_classes=None gives pooled features; options are the module's own fields (dtype, axis_name, ...)."""
    if name not in MODELS:
        raise InputError(f'{name}: no such model; choose one of {", ".join(MODELS)}')
    return MODELS[name](num_classes=num_classes, **options)

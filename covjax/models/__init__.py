"""The networks as Flax linen modules. Importing this needs jax and flax only.

model = covjax.models.create('resnet50', num_classes=2)
variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
logits = model.apply(variables, images)                       # images [B, H, W, 1] float in [-1, 1]
"""

import jax.numpy as jnp

from covjax import InputError
from covjax.models.densenet import DenseNet169
from covjax.models.inception import InceptionV3
from covjax.models.inception_resnet import InceptionResNetV2
from covjax.models.resnet import ResNet50
from covjax.models.vgg import VGG16

MODELS = {
    'vgg16': VGG16,
    'resnet50': ResNet50,
    'inception_v3': InceptionV3,
    'inception_resnet_v2': InceptionResNetV2,
    'densenet169': DenseNet169,
}
DTYPES = ('float32', 'bfloat16')


def create(name, num_classes=2, **options):
    """The module of a name in MODELS (models.backbone.Backbone). num_classes=None gives pooled features; options are the module's own fields:
    dtype, axis_name, bn_momentum, dropout, hidden."""
    if name not in MODELS:
        raise InputError(f'{name}: no such model; choose one of {", ".join(MODELS)}')
    return MODELS[name](num_classes=num_classes, **options)


def compute_dtype(config):
    """The dtype of config.dtype, float32 where it has none. Parameters, statistics of norms, losses and optimizers are float32 in any case."""
    name = config.get('dtype', 'float32')
    if name not in DTYPES:
        raise InputError(f'config.dtype={name}: no such choice; choose one of {", ".join(DTYPES)}')
    return jnp.dtype(name)

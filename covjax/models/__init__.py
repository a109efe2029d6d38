"""The networks as Flax linen modules. Importing this needs only jax and flax.

model = covjax.models.create('resnet50', num_classes=2)
variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
logits = model.apply(variables, images)  # images [B, H, W, 1] float in [-1, 1]
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from covjax import InputError, choice
from covjax.models.densenet import DenseNet169
from covjax.models.dre_net import DRENet, auxiliary_loss
from covjax.models.inception import InceptionV3
from covjax.models.inception_resnet import InceptionResNetV2
from covjax.models.plain import Plain8
from covjax.models.resnet import ResNet18, ResNet50, ResNet50Torch
from covjax.models.unet import UNet
from covjax.models.vgg import VGG16
from covjax.models.vnet import V_NET, VB_NET

MODELS = {
    'vgg16': VGG16,
    'resnet50': ResNet50,
    'inception_v3': InceptionV3,
    'inception_resnet_v2': InceptionResNetV2,
    'densenet169': DenseNet169,
    'resnet18': ResNet18,
    'resnet50_torch': ResNet50Torch,
    'plain8': Plain8,
    'dre_net': DRENet,
}
# What a network learns from beside the cross-entropy of its logits: (endpoints, labels int [B]) ->
# float [B].
AUXILIARY_LOSSES = {'dre_net': auxiliary_loss}
# Networks with a class for every pixel, and those with one for every voxel of a volume.
SEGMENTERS = {'unet': UNet}
VOLUME_SEGMENTERS = {'vnet': V_NET, 'vbnet': VB_NET}
# The backbones of Jiang et al. 2020, whose results covjax reproduces.
PUBLISHED = ('vgg16', 'resnet50', 'inception_v3', 'inception_resnet_v2', 'densenet169')
DTYPES = ('float32', 'bfloat16')


def create(name: str, num_classes: int | None = 2, **options: Any) -> nn.Module:
    """The module of a network by its name.

    Args:
        name: a key of MODELS, SEGMENTERS or VOLUME_SEGMENTERS.
        num_classes: how many logits it gives, an image, a pixel or a voxel; a backbone with None
            gives pooled features.
        **options: other fields of the module: of models.backbone.Backbone, such as dtype,
            axis_name, dropout or hidden, of models.unet.UNet, such as widths, up or norm, or of
            models.vnet.VNet.

    Returns:
        models.backbone.Backbone, models.unet.UNet or models.vnet.VNet.

    Raises:
        InputError: no model has that name.
    """
    networks = MODELS | SEGMENTERS | VOLUME_SEGMENTERS
    if name not in networks:
        raise InputError(f'{name}: no such model; choose one of {", ".join(networks)}')
    return networks[name](num_classes=num_classes, **options)


def compute_dtype(config: Any) -> Any:
    """The dtype that config.dtype names, in which a network computes.

    Parameters, statistics of norms, losses and optimizers are float32 in any case.

    Raises:
        InputError: the name is not in DTYPES.
    """
    return jnp.dtype(choice(config, 'dtype', DTYPES))

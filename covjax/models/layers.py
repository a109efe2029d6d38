"""Layers shared by the model families. Arrays are [B, H, W, C]."""
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


def reflect_pad(x, n):
    """Mirrors n pixels at each edge of [B, H, W, C], the edge itself not repeated."""
    return jnp.pad(x, ((0, 0), (n, n), (n, n), (0, 0)), mode='reflect')


def instance_norm(x, eps=1e-5):
    """Each image and channel to mean 0, variance 1 over H, W: biased variance, float32 statistics, no affine (Ulyanov et al. 2016)."""
    wide = x.astype(jnp.float32)
    mean = wide.mean((1, 2), keepdims=True)
    variance = ((wide - mean) ** 2).mean((1, 2), keepdims=True)
    return ((wide - mean) * lax.rsqrt(variance + eps)).astype(x.dtype)


def max_pool_3x3(x):
    """3x3 maximum, stride 2, after one pixel of zero padding: the stem of Keras' ResNets, where inputs are >= 0."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return nn.max_pool(x, (3, 3), strides=(2, 2))

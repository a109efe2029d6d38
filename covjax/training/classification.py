"""COVID against non-COVID classification of single CT slices, as a Task. Two logits (noncovid, covid); the score is softmax P(covid)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax import lax

from covjax import CLASSES, InputError, classifier
from covjax.data import batches, datasets
from covjax.data.augment import augment, to_float
from covjax.metrics.rates import rates
from covjax.models.layers import ExampleDropout
from covjax.training.task import AXIS, Net, Task, first_index
from covjax.weights import keras as keras_weights


@struct.dataclass
class State:
    """Everything that a step changes."""

    step: jax.Array
    net: Net
    batch_stats: dict  # running statistics of BatchNorm, the same on every device


def make(config):
    """The Task of a config (configs/classifier.py) on the data sets that it names."""
    return task_on(
        config,
        _labelled(config, 'train', config.load_size),
        _labelled(config, 'val', config.image_size),
    )


def task_on(config, train, val):
    """The Task on data.Examples of both classes. Batches are {'image': uint8 [B, load_size, load_size, 1], 'label': int32 [B]}."""
    model = classifier.network(
        config, axis_name=AXIS, bn_momentum=config.bn_momentum, dropout=config.dropout
    )
    preprocess = classifier.preprocess(config)
    class_weights, tx = _class_weights(config, train.labels), optimizer(config)

    def train_batch(step):
        index = batches.batch_indices(step, len(train.labels), config.batch_size, config.seed)
        batch = {'image': train.images[index], 'label': train.labels[index]}
        # This key tells the two phases apart: pmap compiles a step for each.
        return batch | ({'frozen': np.ones(len(index), bool)} if step < config.freeze_steps else {})

    def init(rng, batch):
        if config.pretrained:
            variables, _ = keras_weights.load(
                model, config.pretrained, channels=1, new_head=True, rng=rng
            )
        else:
            variables = jax.jit(model.init)(
                rng, jnp.zeros((1, config.image_size, config.image_size, batch['image'].shape[-1]))
            )
        return State(
            jnp.zeros((), jnp.int32),
            Net.create(variables['params'], tx),
            variables.get('batch_stats', {}),
        )

    def whole(params, batch_stats, images, rng):
        logits, updated = model.apply(
            {'params': params, 'batch_stats': batch_stats},
            images,
            train=True,
            mutable=['batch_stats'],
            rngs={'dropout': rng},
        )
        return logits, updated.get('batch_stats', {})

    def head_only(params, batch_stats, images, rng):
        features = model.clone(num_classes=None).apply(
            {'params': params, 'batch_stats': batch_stats}, images
        )
        features = ExampleDropout(config.dropout, AXIS).apply(
            {}, lax.stop_gradient(features), deterministic=False, rngs={'dropout': rng}
        )
        return nn.Dense(len(CLASSES)).apply({'params': params['head']}, features), batch_stats

    def loss(forward, params, batch_stats, images, labels, rng):
        logits, batch_stats = forward(params, batch_stats, images, rng)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, len(CLASSES)), config.label_smoothing)
        cross_entropy = (
            class_weights[labels] * optax.softmax_cross_entropy(logits, targets)
        ).mean()
        return cross_entropy, (
            batch_stats,
            {'loss': cross_entropy, 'accuracy': (logits.argmax(-1) == labels).mean()},
        )

    def train_step(state, batch, rng):
        augment_rng, dropout_rng = jax.random.split(rng)
        images = preprocess(
            augment(
                augment_rng,
                batch['image'],
                config.augment,
                config.image_size,
                first_index(len(batch['label'])),
            )
        )
        gradient = jax.grad(partial(loss, head_only if 'frozen' in batch else whole), has_aux=True)
        grads, (batch_stats, scalars) = gradient(
            state.net.params, state.batch_stats, images, batch['label'], dropout_rng
        )
        net = state.net.update(grads, tx)
        net = only_head(state.net, net) if 'frozen' in batch else net
        state = State(state.step + 1, net, lax.pmean(batch_stats, AXIS))
        return state, lax.pmean(scalars, AXIS)

    def eval_batches():
        return {
            '': batches.padded_batches(
                {'image': val.images, 'label': val.labels}, config.batch_size
            )
        }

    def eval_step(state, batch):
        logits = model.apply(
            {'params': state.net.params, 'batch_stats': state.batch_stats},
            preprocess(to_float(batch['image'])),
        )
        return {
            'loss': optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']),
            'score': jax.nn.softmax(logits)[:, 1],
            'label': batch['label'],
        }

    def summarize(outputs):
        values = rates(outputs['label'], outputs['score'])
        return {
            'loss': outputs['loss'].mean(),
            **{name: values[name] for name in ('accuracy', 'recall', 'specificity', 'auc')},
        }, {}

    return Task(
        train_batch,
        eval_batches,
        init,
        train_step,
        eval_step,
        summarize,
        config.steps,
        {'train': train.rows, 'val': val.rows},
    )


def only_head(old, new):
    """`new` with the body of `old`, its optimizer included, so that Adam's moments of the body start at the first step that moves it."""
    states = {
        'head': new.opt_state.inner_states['head'],
        'body': old.opt_state.inner_states['body'],
    }
    return Net(
        {**old.params, 'head': new.params['head']}, new.opt_state._replace(inner_states=states)
    )


def optimizer(config):
    """AdamW with decay of kernels alone, for the head and, at a rate of its own, for the body, whose steps are counted from the first that moves it."""
    if config.freeze_steps >= config.steps:
        raise InputError(
            f'config.freeze_steps={config.freeze_steps}: leaves the body frozen to the end; choose fewer than config.steps={config.steps}'
        )
    if config.schedule == 'step' and config.warmup_steps >= config.steps // 2:
        raise InputError(
            f'config.warmup_steps={config.warmup_steps}: the step schedule falls at half of config.steps={config.steps}; choose fewer'
        )
    if config.schedule not in SCHEDULES:
        raise InputError(
            f'config.schedule={config.schedule}: no such choice; choose one of {", ".join(SCHEDULES)}'
        )
    rate = SCHEDULES[config.schedule](
        config.learning_rate, min(config.warmup_steps, config.steps - 1), config.steps
    )

    def body_rate(step):
        warm = (
            jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
            if config.freeze_steps
            else 1.0
        )
        return config.body_rate * rate(step + config.freeze_steps) * warm

    adamw = lambda rate: optax.adamw(
        rate,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    )
    return optax.partition(
        {'head': adamw(rate), 'body': adamw(body_rate)},
        lambda params: {name: 'head' if name == 'head' else 'body' for name in params},
    )


def _cosine(rate, warmup, steps):
    return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps)


def _step(rate, warmup, steps):
    falls = optax.piecewise_constant_schedule(
        rate, {steps // 2 - warmup: 0.1, steps * 3 // 4 - warmup: 0.1}
    )
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), falls], [warmup])


SCHEDULES = {'cosine': _cosine, 'step': _step}


def _class_weights(config, labels):
    """Float32 [2]: 1 for both, or what makes both classes count alike; their mean over the training images is 1."""
    if config.class_weights not in ('', 'balanced'):
        raise InputError(
            f"config.class_weights={config.class_weights}: no such choice; choose '' or balanced"
        )
    counts = np.bincount(labels, minlength=2)
    return jnp.asarray(
        len(labels) / (2 * counts) if config.class_weights else np.ones(2), jnp.float32
    )


def _labelled(config, key, size):
    """The examples of config.train or config.val, which must have both classes."""
    if not config[key]:
        raise InputError(
            f'config.{key} is empty; name a data set, for example covid_ct:{"train" if key == "train" else "validation"}'
        )
    examples = datasets.read(config[key], config.data_dir, size)
    classes = np.unique(examples.labels).tolist()
    if classes != [0, 1]:
        raise InputError(
            f'config.{key}={config[key]}: needs images of both classes, covid and noncovid; add the missing one with +'
        )
    return examples

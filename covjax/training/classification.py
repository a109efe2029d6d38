"""Classification of single CT slices, such as COVID against non-COVID, as a Task.

Networks return one logit for each class of the training set, two or more (noncovid, covid); scores
are their softmax. A batch is {'image': uint8 [B, load_size, load_size, 1], 'label': int32 [B]}, and
marked as `frozen` while only the head learns.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from covjax import InputError, choice, classifier, lung_view, models, pretraining
from covjax.classes import against_rest, listed, positive_classes
from covjax.data import batches
from covjax.data.augment import augment, recoloured_each, to_float
from covjax.metrics.rates import macro_rates, rates
from covjax.models.layers import ExampleDropout
from covjax.training.optimizer import adamw, schedule
from covjax.training.task import AXIS, Net, State, Task, first_index
from covjax.weights import keras as keras_weights

# The batch key that says that only the head learns. What counts is whether it is there: batches
# with and without it are different inputs to pmap, which compiles a program for each, and that of
# the frozen phase has no backward pass through the body. Only `mark_frozen` and `is_frozen` may use
# it.
FROZEN = 'frozen'
CLASS_WEIGHTS = ('', 'balanced')
COLOUR = 2  # the number of the rng of colours
SUMMARY = ('accuracy', 'recall', 'specificity', 'auc')  # rates in the log, after the loss


class Parts(NamedTuple):
    """What the steps need of a config."""

    model: Any  # models.backbone.Backbone or another network of models.MODELS
    auxiliary: Callable | None  # of models.AUXILIARY_LOSSES
    preprocess: Callable  # float images [B, H, W, 1] in [-1, 1] -> input of the model
    class_weights: jax.Array  # float32 [C]
    tx: optax.GradientTransformation
    augment: dict  # settings of data.augment.augment
    colour: dict  # settings of data.augment.recoloured
    image_size: int
    dropout: float
    label_smoothing: float


def make(config):
    """The Task of a config (configs/classifier.py) on the data sets that it names.

    Raises:
        InputError: a key of the config has no valid value, a data set cannot be read or lacks a
            class, or the two have other classes.
    """
    train = _labelled(config, 'train', config.load_size)
    val = _labelled(config, 'val', config.image_size)
    check_classes(config, train, val)
    return task_on(config, train, val)


def task_on(config, train, val):
    """The Task of a config on examples in memory: binds the functions of this module to it.

    Args:
        config: ConfigDict of configs/classifier.py; the data sets it names are not read.
        train: datasets.Examples of every class, images [N, load_size, load_size, 1].
        val: datasets.Examples of the same classes, images [N, image_size, image_size, 1].

    Raises:
        InputError: a key of the config has no valid value.
    """
    parts = parts_of(config, train.labels, len(train.classes))
    return Task(
        train_batch=partial(train_batch, train, config),
        eval_batches=partial(eval_batches, val, config.batch_size),
        init=partial(init, parts, config, train.classes),
        train_step=partial(train_step, parts),
        eval_step=partial(eval_step, parts),
        summarize=partial(summarize, train.classes),
        steps=config.steps,
        sources={'train': train.rows, 'val': val.rows},
        classes=train.classes,
        scalars=tuple(f'val/{name}' for name in ('loss', *SUMMARY)),
    )


def parts_of(config, labels, num_classes):
    """The Parts of a config, for training labels int [N] of so many classes.

    Raises:
        InputError: the model, dtype, schedule, class weights or numbers of steps are not valid.
    """
    model = classifier.network(
        config,
        num_classes=num_classes,
        axis_name=AXIS,
        bn_momentum=config.bn_momentum,
        dropout=config.dropout,
    )
    return Parts(
        model=model,
        auxiliary=models.AUXILIARY_LOSSES.get(config.model),
        preprocess=classifier.preprocess(config),
        class_weights=class_weights(config, labels, num_classes),
        tx=optimizer(config),
        augment=config.augment,
        colour={key: config[key] for key in ('brightness', 'contrast')},
        image_size=config.image_size,
        dropout=config.dropout,
        label_smoothing=config.label_smoothing,
    )


# Data.


def train_batch(train, config, step):
    """The batch of a step, from Examples; marked as frozen during the first freeze_steps."""
    parts = train.parts if config.equal_parts else None
    index = batches.batch_indices(step, len(train.labels), config.batch_size, config.seed, parts)
    batch = {'image': train.images[index], 'label': train.labels[index]}
    return mark_frozen(batch) if step < config.freeze_steps else batch


def mark_frozen(batch):
    """A batch whose step leaves everything but the head as it is."""
    return batch | {FROZEN: np.ones(len(batch['label']), bool)}


def is_frozen(batch):
    """Whether only the head learns from a batch; a bool that is known when the step is compiled."""
    return FROZEN in batch


def eval_batches(val, batch_size):
    """{'': batches {'image': uint8 [B, H, W, 1], 'label': int32 [B], 'mask': bool [B]}}."""
    arrays = {'image': val.images, 'label': val.labels}
    return {'': batches.padded_batches(arrays, batch_size)}


def init(parts, config, classes, rng, batch):
    """The State before the first step: random, or with weights from elsewhere.

    Args:
        parts: Parts.
        config: its `start` is the workdir of a run, or '', its `pretrained` a file of Keras, or ''.
        classes: names of the outputs.
        rng: key.
        batch: of one example.

    Raises:
        InputError: there is no such run or file, or it holds another network.
    """
    shape = (1, parts.image_size, parts.image_size, batch['image'].shape[-1])
    if config.start:
        variables = pretraining.load(config, parts.model, (jnp.zeros(shape),), classes, rng)
    elif config.pretrained:
        variables, _ = keras_weights.load(
            parts.model, config.pretrained, channels=1, new_head=True, rng=rng
        )
    else:
        variables = jax.jit(parts.model.init)(rng, jnp.zeros(shape))
    return State(
        step=jnp.zeros((), jnp.int32),
        net=Net.create(variables['params'], parts.tx),
        batch_stats=variables.get('batch_stats', {}),
    )


# The loss, and the two ways forward to it.


class Forward(NamedTuple):
    """What a forward pass gives."""

    logits: jax.Array  # float [B, C]
    batch_stats: dict  # after it
    maps: dict  # endpoints of the model


def forward_whole(parts, params, batch_stats, images, rng):
    """The forward pass in which everything learns.

    Args:
        parts: Parts.
        params, batch_stats: of the model.
        images: float [B, H, W, C], preprocessed.
        rng: key of the dropout.

    Returns:
        Forward.
    """
    (logits, maps), updated = parts.model.apply(
        {'params': params, 'batch_stats': batch_stats},
        images,
        train=True,
        endpoints=True,
        mutable=['batch_stats'],
        rngs={'dropout': rng},
    )
    return Forward(logits, updated.get('batch_stats', {}), maps)


def forward_head(parts, params, batch_stats, images, rng):
    """The forward pass in which only the head learns; the body runs as in evaluation.

    Args:
        parts: Parts.
        params, batch_stats: of the model.
        images: float [B, H, W, C], preprocessed.
        rng: key of the dropout.

    Returns:
        Forward, batch_stats as they were, without maps.
    """
    body = parts.model.clone(num_classes=None)
    features = body.apply({'params': params, 'batch_stats': batch_stats}, images)
    features = ExampleDropout(parts.dropout, AXIS).apply(
        {}, lax.stop_gradient(features), deterministic=False, rngs={'dropout': rng}
    )
    head = nn.Dense(parts.model.num_classes)
    return Forward(head.apply({'params': params['head']}, features), batch_stats, {})


def loss(parts, forward, params, batch_stats, images, labels, rng):
    """Cross-entropy with smoothed labels, and what the network has beside it, weighted by class.

    Args:
        parts: Parts.
        forward: forward_whole or forward_head.
        params: what is differentiated.
        batch_stats: of the model.
        images: float [B, H, W, C], preprocessed.
        labels: int32 [B].
        rng: key of the dropout.

    Returns:
        (mean loss, (new batch_stats, {'loss', 'accuracy'})).
    """
    logits, batch_stats, maps = forward(parts, params, batch_stats, images, rng)
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(one_hot, parts.label_smoothing)
    losses = optax.softmax_cross_entropy(logits, targets)
    if parts.auxiliary and maps:
        losses += parts.auxiliary(maps, labels)
    mean = (parts.class_weights[labels] * losses).mean()
    return mean, (batch_stats, {'loss': mean, 'accuracy': (logits.argmax(-1) == labels).mean()})


# Steps.


def train_step(parts, state, batch, rng):
    """One update of the network, or of its head alone where the batch is marked as frozen.

    Args:
        parts: Parts.
        state: State.
        batch: {'image': uint8 [B, load_size, load_size, 1], 'label': int32 [B]}.
        rng: key, the same on every device.

    Returns:
        (State, {'loss', 'accuracy'}), averaged over all devices.
    """
    augment_rng, dropout_rng = jax.random.split(rng)
    first = first_index(len(batch['label']))
    images = augment(augment_rng, batch['image'], parts.augment, parts.image_size, first)
    if any(parts.colour.values()):
        # Folded in, so that a training without it draws what it always did.
        images = recoloured_each(jax.random.fold_in(rng, COLOUR), images, parts.colour, first)
    images = parts.preprocess(images)

    forward = forward_head if is_frozen(batch) else forward_whole
    gradient = jax.grad(partial(loss, parts, forward), has_aux=True)
    grads, (batch_stats, scalars) = gradient(
        state.net.params, state.batch_stats, images, batch['label'], dropout_rng
    )
    net = state.net.update(grads, parts.tx)
    if is_frozen(batch):
        net = only_head(state.net, net)
    state = State(state.step + 1, net, lax.pmean(batch_stats, AXIS))
    return state, lax.pmean(scalars, AXIS)


def only_head(old, new):
    """The Net `new` with the body of `old`.

    The state of the body's optimizer is that of `old` too, so that Adam's moments of the body start
    at the first step that moves it.
    """
    states = {
        'head': new.opt_state.inner_states['head'],
        'body': old.opt_state.inner_states['body'],
    }
    return Net(
        params={**old.params, 'head': new.params['head']},
        opt_state=new.opt_state._replace(inner_states=states),
    )


def eval_step(parts, state, batch):
    """Scores a batch.

    Args:
        parts: Parts.
        state: State.
        batch: {'image': uint8 [B, image_size, image_size, 1], 'label': int32 [B]}.

    Returns:
        {'loss': float32 [B] without class weights or smoothing; 'scores': float32 [B, C], the
        probability of each class; 'label': int32 [B]}.
    """
    variables = {'params': state.net.params, 'batch_stats': state.batch_stats}
    logits = parts.model.apply(variables, parts.preprocess(to_float(batch['image'])))
    return {
        'loss': optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']),
        'scores': jax.nn.softmax(logits),
        'label': batch['label'],
    }


def summarize(classes, outputs):
    """What the log says of eval_step's outputs on a split.

    Of two classes these are the rates of the positive one at a threshold of 0.5; of more, where an
    image is taken for the class with the highest score, accuracy and the means over classes.

    Args:
        classes: their names.
        outputs: {'loss': float [N], 'scores': float [N, C], 'label': int [N]}.

    Returns:
        ({'loss', *SUMMARY}, no images).
    """
    labels, scores = outputs['label'], outputs['scores']
    if len(classes) > 2:
        values = macro_rates(labels, scores)
    else:
        (positive,) = positive_classes(classes)
        of_positive = scores[:, classes.index(positive)]
        values = rates(against_rest(labels, classes, positive), of_positive)
    return {'loss': outputs['loss'].mean(), **{name: values[name] for name in SUMMARY}}, {}


# The optimizer.


def optimizer(config):
    """AdamW with decay of kernels only, and separate rates for the head and for the body.

    The schedule of the body counts from the first step that moves it, after config.freeze_steps.

    Raises:
        InputError: the schedule is unknown, or no steps are left for a part of it.
    """
    if config.freeze_steps >= config.steps:
        raise InputError(
            f'config.freeze_steps={config.freeze_steps}: leaves the body frozen to the end; '
            f'choose fewer than config.steps={config.steps}'
        )
    head_rate = schedule(config)

    def body_rate(step):
        warm = 1.0
        if config.freeze_steps:
            warm = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        return config.body_rate * head_rate(step + config.freeze_steps) * warm

    decay = config.weight_decay
    return optax.partition(
        {'head': adamw(head_rate, decay), 'body': adamw(body_rate, decay)},
        lambda params: {name: 'head' if name == 'head' else 'body' for name in params},
    )


def class_weights(config, labels, num_classes):
    """The weight of each class in the loss, float32 [C]; its mean over the training images is 1.

    Args:
        config: its class_weights is '', for a weight of 1 each, or 'balanced', for weights inverse
            to the numbers of images, so that all classes count the same in total.
        labels: int [N] of the training images, 0 to num_classes - 1.
        num_classes: C.

    Raises:
        InputError: config.class_weights is neither.
    """
    if choice(config, 'class_weights', CLASS_WEIGHTS) == 'balanced':
        weights = len(labels) / (num_classes * np.bincount(labels, minlength=num_classes))
    else:
        weights = np.ones(num_classes)
    return jnp.asarray(weights, jnp.float32)


def _labelled(config, key, size):
    """The examples of config.train or config.val, which must have images of every class."""
    if not config[key]:
        split = {'train': 'train', 'val': 'validation'}[key]
        raise InputError(f'config.{key} is empty; name a data set, for example covid_ct:{split}')
    view = lung_view.of_config(config)
    examples = lung_view.read(config[key], config.data_dir, size, view)
    check_labels(f'config.{key}={config[key]}', examples, 'images')
    return examples


def check_labels(named, examples, what):
    """Refuses a data set to learn from, or to choose by, that lacks labels or a class.

    Args:
        named: how messages name it, such as 'config.train=covid_ct:train'.
        examples: anything with labels int [N] and names of classes.
        what: 'images' or 'scans'.

    Raises:
        InputError: it does.
    """
    if len(examples.classes) < 2 or (examples.labels < 0).any():
        raise InputError(
            f'{named}: has {what} without a label, or fewer than two classes; name a data set with '
            f'the label of every {what[:-1]}'
        )
    counts = np.bincount(examples.labels, minlength=len(examples.classes))
    missing = [name for name, count in zip(examples.classes, counts) if not count]
    if missing:
        raise InputError(
            f'{named}: needs {what} of {listed(examples.classes)}, and has none of '
            f'{", ".join(missing)}; add the missing ones with +'
        )


def check_classes(config, train, val):
    """Refuses a validation set of other classes than the training set; both have `classes`."""
    if val.classes != train.classes:
        raise InputError(
            f'config.val={config.val}: has {listed(val.classes)}, and config.train='
            f'{config.train} has {listed(train.classes)}; name data sets of the same classes'
        )

"""COVID against non-COVID classification of single CT slices, as a Task. Two logits (noncovid, covid); the score is softmax P(covid)."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from covjax import InputError, data, models
from covjax.augment import augment, to_float
from covjax.metrics.rates import rates
from covjax.task import AXIS, Net, Task, first_index


@struct.dataclass
class State:
    """Everything that a step changes."""
    step: jax.Array
    net: Net
    batch_stats: dict                     # running statistics of BatchNorm, the same on every device


def network(config):
    """The backbone of a config, with two logits and BatchNorm statistics over all devices."""
    return models.create(config.model, num_classes=2, axis_name=AXIS, bn_momentum=config.bn_momentum, dropout=config.dropout)


def score(config, model):
    """uint8 [B, H, W, C] -> P(covid) float32 [B], of a trained `model` (checkpoint.load_model)."""
    variables = {'params': model['net']['params'], 'batch_stats': model['batch_stats']}
    return lambda images: jax.nn.softmax(network(config).apply(variables, to_float(images)))[:, 1]


def make(config):
    """The Task of a config (configs/classifier.py). Batches are {'image': uint8 [B, load_size, load_size, 1], 'label': int32 [B]}."""
    model = network(config)
    train = _labelled(config, 'train', config.load_size)
    val = _labelled(config, 'val', config.image_size)
    schedule = optax.warmup_cosine_decay_schedule(0., config.learning_rate, min(config.warmup_steps, config.steps - 1), max(config.steps, 1))
    tx = optax.adamw(schedule, weight_decay=config.weight_decay)

    def train_batch(step):
        index = data.batch_indices(step, len(train.labels), config.batch_size, config.seed)
        return {'image': train.images[index], 'label': train.labels[index]}

    def init(rng, batch):
        variables = model.init(rng, jnp.zeros((1, config.image_size, config.image_size, batch['image'].shape[-1])))
        return State(jnp.zeros((), jnp.int32), Net.create(variables['params'], tx), variables['batch_stats'])

    def loss(params, batch_stats, images, labels, rng):
        logits, updated = model.apply({'params': params, 'batch_stats': batch_stats}, images, train=True, mutable=['batch_stats'], rngs={'dropout': rng})
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return cross_entropy, (updated['batch_stats'], {'loss': cross_entropy, 'accuracy': (logits.argmax(-1) == labels).mean()})

    def train_step(state, batch, rng):
        augment_rng, dropout_rng = jax.random.split(rng)
        images = augment(augment_rng, batch['image'], config.augment, config.image_size, first_index(len(batch['label'])))
        grads, (batch_stats, scalars) = jax.grad(loss, has_aux=True)(state.net.params, state.batch_stats, images, batch['label'], dropout_rng)
        state = State(state.step + 1, state.net.update(grads, tx), lax.pmean(batch_stats, AXIS))
        return state, lax.pmean(scalars, AXIS)

    def eval_batches():
        return {'': data.padded_batches({'image': val.images, 'label': val.labels}, config.batch_size)}

    def eval_step(state, batch):
        logits = model.apply({'params': state.net.params, 'batch_stats': state.batch_stats}, to_float(batch['image']))
        return {'loss': optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']),
                'score': jax.nn.softmax(logits)[:, 1], 'label': batch['label']}

    def summarize(outputs):
        values = rates(outputs['label'], outputs['score'])
        return {'loss': outputs['loss'].mean(), **{name: values[name] for name in ('accuracy', 'recall', 'specificity', 'auc')}}, {}

    return Task(train_batch, eval_batches, init, train_step, eval_step, summarize, {'train': train.rows, 'val': val.rows})


def _labelled(config, key, size):
    """The examples of config.train or config.val, which must have both classes."""
    if not config[key]:
        raise InputError(f'config.{key} is empty; name a data set, for example covid_ct:{"train" if key == "train" else "validation"}')
    examples = data.read(config[key], config.data_dir, size)
    classes = np.unique(examples.labels).tolist()
    if classes != [0, 1]:
        raise InputError(f'config.{key}={config[key]}: needs images of both classes, covid and noncovid; add the missing one with +')
    return examples

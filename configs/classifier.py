"""A classifier of slices, by default COVID against non-COVID on synthetic and real ones.

Its classes are those of the data sets in config.train and config.val, two or more.

Source: Jiang et al. 2020 (doi 10.21203/rs.3.rs-58467/v1), who compare the five backbones of
covjax.models.PUBLISHED. The variant names the backbone, one of covjax.models.MODELS, or is
rehearsal, minutes on two CPU cores to see that data and paths are right:

python launch.py --config=configs/classifier.py:resnet50 --workdir=runs/resnet50 \\
    --config.data_dir=$HOME/tensorflow_datasets,runs/synthesize/data

The Inception networks need image_size >= 75. For real training data: --config.train=covid_ct:train
To fine-tune weights that Keras published: --config.pretrained=FILE.h5 --config.freeze_steps=200
--config.body_rate=0.1
To go on from a classifier of the same network that was trained on other data, such as synthetic
ones: --config.start=WORKDIR
"""

from configs import base
from covjax.models import MODELS

REHEARSAL = {
    'model': 'resnet18',
    'image_size': 64,
    'load_size': 72,
    'batch_size': 16,
    'steps': 100,
    'eval_every': 50,
    'warmup_steps': 10,
}
VARIANTS = {name: {'model': name} for name in ('resnet50', *MODELS)} | {'rehearsal': REHEARSAL}


def get_config(variant=''):
    config = base.training(
        'classification',
        # Data.
        train='synthetic_covid_ct:train+covid_ct:train@noncovid',
        val='covid_ct:validation',
        # What is shown of an image, before it is resized: '' all of it, crop: the lungs and what is
        # in the box around them, mask: the lungs alone, the rest black.
        lungs='',
        # What finds the lungs: the workdir of a segmenter, or '' for Otsu's threshold.
        lung_segmenter='',
        # Whether the data sets that + joins in config.train are shown equally often, however many
        # images each has.
        equal_parts=False,
        class_weights='',  # balanced: each class counts the same, however many images it has
        image_size=224,  # what the network sees
        load_size=224,  # what is kept in memory and augmented from
        batch_size=32,
        # Random changes of what is seen in training, beside config.augment: what is added to an
        # image in -1..1 at most, and the logarithm of what it is multiplied by.
        brightness=0.0,
        contrast=0.0,
        # Network.
        model='resnet50',
        # A .h5 or .weights.h5 of the same network, written by Keras; '' trains from scratch.
        pretrained='',
        start='',  # the workdir of a run of the same network, to begin with its weights
        dtype='float32',  # of the computation, or bfloat16; parameters and statistics are float32
        dropout=0.0,
        bn_momentum=0.9,
        # Length.
        steps=2000,
        # In which only the head learns and the body stays as it was, BatchNorm statistics included.
        freeze_steps=0,
        eval_every=100,
        best='val/auc',
        # Optimizer and loss.
        learning_rate=1e-3,
        body_rate=1.0,  # learning rate of everything but the head, relative to learning_rate
        # After the warm-up: cosine to 0, or step: a tenth after 1/2 and again after 3/4 of the
        # steps.
        schedule='cosine',
        warmup_steps=100,  # also of the body, once it is no longer frozen
        weight_decay=1e-4,  # of kernels
        label_smoothing=0.0,
    )
    config.update(base.variant(variant, VARIANTS))
    return config

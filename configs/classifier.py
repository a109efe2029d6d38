"""COVID against non-COVID classifier, trained on synthetic COVID and real non-COVID slices. The variant names the backbone.

python launch.py --config=configs/classifier.py:resnet50 --workdir=runs/resnet50 --config.data_dir=$HOME/tensorflow_datasets,runs/synthesize/data
For real training data: --config.train=covid_ct:train
"""
from configs import base
from covjax.models import MODELS


def get_config(backbone=''):
    return base.training(
        'classification',
        train='synthetic_covid_ct:train+covid_ct:train@noncovid',
        val='covid_ct:validation',
        model=base.variant(backbone, {name: name for name in ('resnet50', *MODELS)}),
        batch_size=32,
        steps=2000,
        eval_every=100,
        best='val/auc',
        learning_rate=1e-3,
        warmup_steps=100,
        weight_decay=1e-4,
        dropout=0.,
        bn_momentum=0.9)

"""Asks what the score of a trained classifier rests on besides disease: one page, a verdict a line.

python launch.py --config=configs/audit.py --workdir=runs/audit --config.classifier=runs/resnet50 --config.synthetic=runs/synthesize
Cost: the checks take about a minute on two CPU cores. With config.synthetic twelve classifiers of the same kind are trained on controls and mixtures as well, each for as long as the
audited one took; they are kept in config.experiments, so that a second audit finds them and a stopped one goes on.
"""

from configs import base, classifier, evaluate, synthesize
from covjax.stand_ins import STAND_INS


def get_config():
    return base.stage(
        'audit',
        classifier='',  # workdir of a classification run
        checkpoint='best',  # by validation; or latest
        tests='synthetic_covid_ct:test+covid_ct:test@noncovid,covid_ct:test',
        names='synthetic test,real test',
        protocol='clean',  # of the experiments: official and paper allow overlap
        baseline='covid_ct:train',  # real pictures of both classes, for baselines, and non-COVID images of the experiments
        pairs='luna16_patches/nodules:train,covid_ct:train@noncovid;synthetic_covid_ct:test,covid_ct:test@covid',  # pairs of sources of one class
        synthetic='',  # workdir of a synthesize run; '' leaves out what has to be trained
        stand_ins=STAND_INS,  # in place of the generator
        shares=(0, 25, 50, 75, 100),  # per cent of synthetic among the COVID-19 images of a mixture
        experiments='',  # where trained controls and mixtures are; '' is <workdir>/experiments
        batch_size=32,
        synthesize=synthesize.get_config(),
        train=classifier.get_config(),  # what is not set by the audited classifier
        evaluate=evaluate.get_config(),
    )

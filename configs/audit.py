"""Asks what the score of a trained classifier rests on besides disease: one page of verdicts.

python launch.py --config=configs/audit.py --workdir=runs/audit \\
    --config.classifier=runs/resnet50 --config.synthetic=runs/synthesize

Cost: the checks take about a minute on two CPU cores. With config.synthetic twelve classifiers of
the same kind are trained on stand-ins and mixtures as well, each for as long as the audited one.
They are kept in config.experiments, so that a second audit finds them and a stopped one resumes.
"""

from configs import base, classifier, evaluate, synthesize
from covjax.stand_ins import STAND_INS


def get_config():
    return base.stage(
        'audit',
        # Workdir of a classification run.
        classifier='',
        # Which of its checkpoints: best (by validation) or latest.
        checkpoint='best',
        # The class that is set against the rest, by its name in the data sets; '' is covid.
        positive_class='',
        # Test sets, each with that class and another, and what the page calls them.
        tests='synthetic_covid_ct:test+covid_ct:test@noncovid,covid_ct:test',
        names='synthetic test,real test',
        # Of the experiments: official and paper allow overlap of training and test.
        protocol='clean',
        # Real pictures of these classes, for the baselines and as real images of the experiments;
        # '' takes what the classifier was trained on.
        baseline='covid_ct:train',
        # FIRST,SECOND: data sets of one class, to see how well their images can be told apart.
        pairs=(
            'luna16_patches/nodules:train,covid_ct:train@noncovid;'
            'synthetic_covid_ct:test,covid_ct:test@covid'
        ),
        # Workdir of a synthesize run; '' leaves out what has to be trained.
        synthetic='',
        # What takes the generator's place, one experiment each.
        stand_ins=STAND_INS,
        # Per cent of synthetic images among those of COVID-19, one mixture each.
        shares=(0, 25, 50, 75, 100),
        # Where stand-ins and mixtures are trained; '' is <workdir>/experiments.
        experiments='',
        title='Shortcut audit',  # of the page
        batch_size=32,  # of the audited classifier; no result depends on it
        # The stages of the experiments. They inherit what the audited classifier was trained with.
        synthesize=synthesize.get_config(),
        train=classifier.get_config(),
        evaluate=evaluate.get_config(),
    )

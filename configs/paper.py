"""The published protocol (Jiang et al. 2020), as far as the data allow.

Its leaks are counted beside every number.

python launch.py --config=configs/paper.py --workdir=runs/paper
python launch.py --config=configs/paper.py:small --workdir=runs/paper \\
    --config.luna16=luna16_patches/slices

As published: the CycleGAN learns from all 349 COVID-19 images and all slices; synthetic images are
divided at random into training and test, whatever series they are from; the real test set has the
COVID-19 images that the CycleGAN learned from; the last checkpoint counts; the threshold is 0.5.

What differs because the data do not allow it: 84 % of the synthetic images train (996 of 1186; the
published 1000 + 300 are more than there are) and 16 % test (190). Non-COVID are 292 pictures of the
published training and validation splits, weighted to count as much as the synthetic ones, instead
of 1000, and the 105 of the test split in both test sets, instead of 300; the real test set has all
349 COVID-19 images instead of 300. The origin of the published 1300 non-COVID images is not known.
"""

from configs import clean


def get_config(variant=''):
    config = clean.get_config(variant)
    config.covid_ct = 'covid_ct'
    luna16, covid_ct = config.get_ref('luna16'), config.get_ref('covid_ct')

    config.cyclegan.cancer = every_split(luna16)
    config.cyclegan.covid = every_split(covid_ct)

    noncovid = '+' + covid_ct + ':train@noncovid+' + covid_ct + ':validation@noncovid'
    config.classifier.train = every_split('synthetic_covid_ct', '[:84%]') + noncovid

    noncovid_test = '+' + covid_ct + ':test@noncovid'
    synthetic_test = every_split('synthetic_covid_ct', '[84%:]') + noncovid_test
    real_test = every_split(covid_ct, '@covid') + noncovid_test
    config.evaluate.tests = synthetic_test + ',' + real_test
    config.evaluate.protocol = 'paper'
    config.evaluate.checkpoint = 'latest'

    config.report.title = 'Published protocol'
    return config


def every_split(dataset, part=''):
    """All three splits of a data set (a name or a reference to one), or the same part of each."""
    train, validation, test = (f':{name}{part}' for name in ('train', 'validation', 'test'))
    return dataset + train + '+' + dataset + validation + '+' + dataset + test

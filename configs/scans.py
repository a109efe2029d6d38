"""A classifier of whole scans: a backbone on every slice, and one answer from all of them.

Its classes are those of the data sets in config.train and config.val, volumes or slices of
ct_scans with labels. Slices take most of the time: a bag of 16 at 128x128 costs about as much as
16 images in a classifier.

python launch.py --config=configs/scans.py:covnet --workdir=runs/covnet \\
    --config.train=ct_scans/covid_ct_md_hu:train --config.val=ct_scans/covid_ct_md_hu:validation \\
    --config.start=runs/slices --config.lung_segmenter=runs/lungs

max, mean, attention, noisy_or  A ResNet-18 with that pooling, for any data set.
covnet  COVNet (Li et al. 2020, Radiology 296:E65): ResNet-50, the maximum of each feature, lungs
        alone in the window -1250..250 HU, maxima of slabs of 5 mm. They report on 3322 patients of
        their own, which are not public; their lung segmenter and weights are not published either.

location  Location attention (Xu et al. 2020, Engineering 6:1122): patches around candidates for
        lesions, how far each lies from the edge of the lungs, and noisy-OR. Theirs tell COVID-19,
        influenza A and neither apart on 618 scans that are not public, and propose patches by a
        network that is not published; here config.lesion_segmenter proposes them, a run of
        configs/segmentation.py, by default runs/lesions.

rehearsal  Eight slices at 64x64, minutes on two CPU cores, to see that data and paths are right.

config.start names a classifier of slices of the same backbone, or another run of this kind.
Without one, statistics of BatchNorm must be learned: --config.bn=batch.
"""

from configs import base

COVNET = {
    'model': 'resnet50_torch',
    'pooling': 'max',
    'window': 'covid',
    'mip': 5.0,
    'apart': 5.0,
    'lungs': 'mask',
    'slices': 48,
    'image_size': 224,
    'batch_size': 1,
    'learning_rate': 1e-5,
    'weight_decay': 0.1,
    'class_weights': 'balanced',
}
VARIANTS = {
    'max': {'pooling': 'max'},
    'mean': {'pooling': 'mean'},
    'attention': {'pooling': 'attention'},
    'noisy_or': {'pooling': 'noisy_or'},
    'covnet': COVNET,
    'location': {
        'pooling': 'noisy_or',
        'lesion_segmenter': 'runs/lesions',
        'image_size': 64,
        'slices': 12,
        'bn': 'batch',
    },
    'rehearsal': {
        'image_size': 64,
        'slices': 8,
        'batch_size': 2,
        'bn': 'batch',
        'steps': 60,
        'eval_every': 30,
        'warmup_steps': 5,
    },
}


def get_config(variant=''):
    config = base.training(
        'scans',
        # Data.
        train='',  # data sets of scans with labels, such as ct_scans/covid_ct_md:train
        val='',
        # Whether the data sets that + joins in config.train are shown equally often, however many
        # scans each has.
        equal_parts=False,
        class_weights='',  # balanced: each class counts the same, however many scans it has
        # What a bag is: slices spread evenly over those that cut the lungs.
        slices=16,  # at most
        window='lung',  # or another of windows.WINDOWS, of data sets in HU (_hu)
        mip=0.0,  # mm: the maximum of slabs so thick is shown; 0: slices themselves
        apart=0.0,  # mm between the slices that may be taken; 0: all
        # What is shown of a slice: '' all of it, crop: the box around the lungs of the scan,
        # mask: the lungs alone, the rest black.
        lungs='',
        # What finds the lungs: the workdir of a segmenter, or '' for Otsu's threshold.
        lung_segmenter='',
        # The workdir of a segmenter of lesions: a bag then has patches around what it finds, with
        # their places in the lungs; '' for slices.
        lesion_segmenter='',
        image_size=128,
        batch_size=4,  # scans, over all devices
        # Random changes, of all slices of a scan alike; see configs/classifier.py.
        brightness=0.0,
        contrast=0.0,
        # Network.
        model='resnet18',  # of covjax.models.MODELS
        pooling='max',  # or mean, attention, noisy_or
        # Of BatchNorm: frozen keeps the statistics that the network came with, scan takes those of
        # the slices of each scan, in evaluation too, batch is the usual way.
        bn='frozen',
        # The class of scans without disease, for noisy_or; '' is normal, noncovid or healthy.
        negative_class='',
        start='',  # the workdir of a classifier of slices, or of scans, to begin with its weights
        pretrained='',  # a .h5 or .weights.h5 of the backbone, written by Keras
        dtype='float32',  # of the computation, or bfloat16; parameters and statistics are float32
        dropout=0.0,
        bn_momentum=0.9,
        # Length.
        steps=1000,
        eval_every=100,
        best='val/auc',
        # Optimizer and loss.
        learning_rate=1e-3,
        body_rate=1.0,  # learning rate of the backbone, relative to learning_rate
        schedule='cosine',  # or step
        warmup_steps=50,
        weight_decay=1e-4,  # of kernels
        label_smoothing=0.0,
    )
    config.update(base.variant(variant, VARIANTS))
    return config

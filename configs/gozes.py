"""A classifier of slices cropped to the lungs, for shares of positive slices and corona scores.

Source: Gozes et al. 2020 (arXiv 2003.05037): a ResNet-50 on the box around the lungs, which their
U-Net finds. They report an area under the ROC curve of 0.996 (0.989 to 1) for 56 patients with
and 51 without COVID-19, not public. Image size, loss, optimizer and the crop itself are not
published: they are ours, and so are those of configs/corona.py.

python launch.py --config=configs/gozes.py --workdir=runs/gozes \\
    --config.lung_segmenter=runs/lungs --config.train=ct_scans/folder_slices:train \\
    --config.val=ct_scans/folder_slices:validation
python launch.py --config=configs/evaluate.py --workdir=runs/patients --config.baseline= \\
    --config.classifier=runs/gozes --config.tests=ct_scans/folder_slices:test \\
    --config.aggregate=share
python launch.py --config=configs/corona.py --workdir=runs/corona --config.classifier=runs/gozes \\
    --config.input=SCANS --config.evaluation=runs/patients

Cost: that of classifier.py:resnet50; gozes.py:rehearsal takes minutes on two CPU cores, to see that
data and paths are right. Without config.lung_segmenter Otsu's threshold finds lungs.
"""

from configs import base, classifier

VARIANTS = {'full': {}, 'rehearsal': classifier.REHEARSAL | {'model': 'resnet50', 'steps': 50}}


def get_config(variant=''):
    config = classifier.get_config('resnet50')
    config.lungs = 'crop'
    config.update(base.variant(variant, VARIANTS))
    return config

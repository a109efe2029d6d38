"""CT scans through a classifier of slices: share of positive slices, corona score, heat maps.

Source: Gozes et al. 2020 (arXiv 2003.05037), who report an area under the ROC curve of 0.996 on 157
patients of their own, which are not public. Their classifier is a ResNet-50 of slices cropped to
the lungs (classifier.py:resnet50 with config.lungs=crop), and their definition of the score is not
published: ours is in covjax/runs/corona.py.

python launch.py --config=configs/corona.py --workdir=runs/corona \\
    --config.classifier=runs/slices --config.input=FOLDER_OR_SCAN --config.evaluation=runs/evaluate

Cost: every slice is scored once, and positive ones twice more for Grad-CAM.
"""

from configs import base


def get_config():
    return base.stage(
        'corona',
        # Workdir of a classification run on slices.
        classifier='',
        checkpoint='best',  # by validation, or latest
        positive_class='',  # whose share and score these are; '' is covid
        # A volume (.mhd, .mha, .nii, .nii.gz, .nrrd, DICOM), or a folder of volumes and of folders
        # with a DICOM series each.
        input='',
        # For volumes whose values are not HU: SLOPE,INTERCEPT with HU = SLOPE x value + INTERCEPT.
        hu='',
        # Workdir of an evaluation of the classifier with config.aggregate=share, whose validation
        # chose the thresholds; '' takes the next key, and calls no scan positive.
        evaluation='',
        threshold=0.5,  # of a slice
        # What finds the lungs, where the classifier has no segmenter of its own: the workdir of
        # one, or '' for Otsu's threshold.
        lungs='',
        batch_size=32,  # slices at a time
    )

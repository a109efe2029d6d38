"""A person in the loop: a segmenter draws, a person corrects, training goes on (Shan et al. 2020).

Three commands in a circle, with one --workdir:

python launch.py --config=configs/annotate.py --workdir=runs/annotate \\
    --config.segmenter=runs/lesions --config.input=SCANS
python launch.py --config=configs/annotate.py --workdir=runs/annotate --config.step=take
python launch.py --config=configs/annotate.py --workdir=runs/annotate --config.step=train

After the first, edit round_1/masks beside round_1/scans (3D Slicer and ITK-SNAP open both), and
mark in round_1/worklist.csv what is done. The second checks these masks and tells what was edited;
the third trains on from the network that drew. Then begin again: the first command draws with the
new network what is not labelled yet.
"""

from configs import base


def get_config():
    return base.stage(
        'annotate',
        step='predict',  # take, train
        # predict
        segmenter='',  # workdir of a segmentation run; '' is the network of the last round
        checkpoint='best',  # of a workdir: by validation, or latest
        input='',  # a folder of unlabelled scans or pictures; '' is that of the last round
        hu='',  # for volumes whose values are not HU, as in segment.py
        number=10,  # how many are drawn for a round
        order='uncertain',  # the least certain first; or random
        threshold=0.5,  # from which probability on a pixel is of a region
        overlap=0.5,  # of neighbouring tiles
        # In which the uncertainty counts, where the network has no region named lung: otsu, the
        # workdir or file of a lung segmenter, or '' for the whole image.
        lungs='otsu',
        batch_size=8,  # as in segment.py
        # take
        unchecked_masks=False,  # take masks that do not lie on the lungs of their images
        # train
        old_data=True,  # beside what was taken also on what the network was trained on
        steps=300,
        learning_rate=0.0,  # 0: as the network was trained
        seed=0,  # of the training and of a random order
    )

"""U-Net, V-Net, VB-Net: a class for every pixel of a CT slice or volume, such as lung or lesion.

Source: Ronneberger et al. 2015 (arXiv 1505.04597); loss, foreground patches and tiles as in nnU-Net
(Isensee et al. 2021).

python launch.py --config=configs/segmentation.py --workdir=runs/lesions \\
    --config.train=ct_scans/covid_semiseg:train --config.val=ct_scans/covid_semiseg:validation \\
    --config.regions=ground_glass+consolidation

full    A U-Net of the published widths at 256x256.
small   A quarter of the widths at 176x176 and 600 steps, for two CPU cores.
rehearsal  A narrow one at 96x96, minutes on two CPU cores, to see that data and paths are right.
vnet    A V-Net (Milletari et al. 2016, arXiv 1606.04797), for volumes.
vbnet   A VB-Net (Shan et al. 2020, arXiv 2003.04655), for volumes.
vbnet_small  The same of four levels of half the widths, in patches of 32x48x48, for a CPU.

Expect val/dice to rise within the first hundred steps; images/ shows image, mask and prediction.
"""

from configs import base

VOLUMES = {
    'widths': (16, 32, 64, 128, 256),
    'patch': (96, 96, 96),
    'batch_size': 2,
}
VARIANTS = {
    'full': {},
    'small': {
        'widths': (16, 32, 64, 128, 256),
        'image_size': 176,
        'patch': (176, 176),
        'steps': 600,
        'eval_every': 100,
    },
    'rehearsal': {
        'widths': (8, 16, 32, 64),
        'image_size': 96,
        'patch': (96, 96),
        'steps': 100,
        'eval_every': 50,
        'warmup_steps': 10,
    },
    'vnet': VOLUMES | {'model': 'vnet'},
    'vbnet': VOLUMES | {'model': 'vbnet'},
    'vbnet_small': {
        'model': 'vbnet',
        'widths': (8, 16, 32, 64),
        'patch': (32, 48, 48),
        'batch_size': 4,
        # Its logits are normed, so that they must learn to be sure.
        'learning_rate': 1e-2,
        'steps': 600,
        'eval_every': 100,
    },
}


def get_config(variant=''):
    config = base.training(
        'segmentation',
        # Data.
        train='',  # data sets with masks, such as ct_scans/covid_semiseg:train
        val='',  # '' evaluates nothing; config.best is '' then
        # Whether the data sets that + joins in config.train are shown equally often, however many
        # images each has.
        equal_parts=False,
        # Which regions of the masks: separated by commas, joined by + where several are one, as in
        # lung+lesion; '' is every region for itself. What is not named is background.
        regions='',
        # Slices and their masks are resized to this square; volumes are not resized.
        image_size=256,
        # Of networks of volumes: mm a side of the cubic voxels, which the data sets must have and
        # to which scans are brought that are segmented; 0: voxels as they are, in both.
        spacing=1.5,
        patch=(256, 256),  # what the network sees of an image in training
        # The share of patches that have a pixel of a region in the middle.
        foreground=1 / 3,
        batch_size=8,
        # Image and mask are moved together; brightness and contrast are those of the image, in
        # which grey levels are -1 to 1.
        augment={
            **{'scale': 0.2, 'flip': True, 'rotate': 15.0, 'crop': 0.0},
            **{'brightness': 0.2, 'contrast': 0.2},
        },
        # Network.
        model='unet',  # of slices; vnet and vbnet of volumes
        widths=(64, 128, 256, 512, 1024),
        up='transposed',  # or bilinear
        norm='batch',  # or instance; like `up` of the U-Net alone
        bottleneck=1,  # of the VB-Net: kernel at both ends of its bottlenecks, 1 or 3; 0 for none
        dtype='float32',  # of the computation, or bfloat16; parameters and statistics are float32
        bn_momentum=0.9,
        start='',  # the workdir of a run of the same network, to begin with its weights
        # Length.
        steps=5000,
        eval_every=250,
        best='val/dice',
        # Optimizer and loss.
        loss='dice_ce',  # soft Dice and cross-entropy; or dice, cross_entropy, focal
        learning_rate=1e-3,
        schedule='cosine',  # or step
        warmup_steps=50,
        weight_decay=1e-4,  # of kernels
    )
    config.update(base.variant(variant, VARIANTS))
    return config

"""DRE-Net, a classifier of slices that looks again at details it chooses itself.

Source: Song et al. 2021 (IEEE/ACM TCBB 18:2775) and their code, which is NTS-Net (Yang et al.
2018); our readings are in covjax/models/dre_net.py. On 88 patients with COVID-19 and 100 with
bacterial pneumonia, not public, they report an area under the ROC curve of 0.95; the score of a
patient is the mean of 15 slices.

python launch.py --config=configs/dre_net.py --workdir=runs/dre_net \\
    --config.train=ct_scans/folder_slices:train --config.val=ct_scans/folder_slices:validation
python launch.py --config=configs/evaluate.py --workdir=runs/patients --config.baseline= \\
    --config.classifier=runs/dre_net --config.tests=ct_scans/folder_slices:test \\
    --config.aggregate=mean

full   Slices of 448x448, as published; a step takes 14 times the work of a ResNet-50 on 224x224.
small  The same at 112x112, for a CPU.
rehearsal  At 64x64, minutes on two CPU cores, to see that data and paths are right.

Theirs begins with weights of ImageNet, is trained by SGD and fills the background with shifted
copies of the lungs; here it is AdamW, on whole slices or, with config.lungs=crop, on the lungs. It
begins with random weights or, by config.start, with those of another DRE-Net or of a classifier
with the same body, configs/classifier.py:resnet50_torch.
"""

from configs import base, classifier

VARIANTS = {
    'full': {'image_size': 448, 'load_size': 448, 'batch_size': 4},
    'small': {'image_size': 112, 'load_size': 112, 'batch_size': 8},
    'rehearsal': {
        'image_size': 64,
        'load_size': 64,
        'batch_size': 4,
        'steps': 30,
        'eval_every': 15,
        'warmup_steps': 5,
    },
}


def get_config(variant=''):
    config = classifier.get_config('dre_net')
    config.update(
        dropout=0.5,  # of the features of the slice and of every detail
        schedule='step',
        learning_rate=8e-4,
        brightness=0.126,
        **base.variant(variant, VARIANTS),
    )
    return config

"""Says in one command whether this machine is fit: what is installed, what it has, what it does.

python launch.py --config=configs/doctor.py

Versions, devices, memory and disk; how exact float32 and bfloat16 are; on drawn phantoms twenty
steps of every kind of training, whether a step gives the same bytes again, and how long it takes
beside what a matrix product of this machine lets expect. Nothing is downloaded.

Cost: 138 seconds on two CPU cores with nothing compiled before (docs/speed.md).
"""

from configs import base, classifier, cyclegan, pairs, scans, segmentation


def get_config():
    config = base.stage(
        'doctor',
        steps=20,  # of each training
        # The trainings, in the sizes of their rehearsals.
        cyclegan=cyclegan.get_config('rehearsal'),
        classification=classifier.get_config('rehearsal'),
        segmentation=segmentation.get_config('rehearsal'),
        pairs=pairs.get_config('rehearsal'),
        scans=scans.get_config('rehearsal'),
    )
    config.cyclegan.update(cancer='luna16_patches/nodules:train', covid='covid_ct:train', val='')
    config.classification.update(train='covid_ct:train', val='covid_ct:validation')
    semiseg = 'ct_scans/covid_semiseg'
    config.segmentation.update(train=f'{semiseg}:train', val='', best='', regions='any_lesion')
    config.pairs.update(
        slices='luna16_patches/nodules_framed:train',
        pictures=f'{semiseg}_framed:train',
        val='',
        val_pictures='',
        best='',
    )
    scans_of = '+'.join(f'ct_scans/covid_ct_md:{split}' for split in ('train', 'test'))
    config.scans.update(train=scans_of, val=scans_of)
    return config

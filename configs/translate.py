"""A folder of pictures, or one CT volume, through a trained generator.

Files keep their names, volumes their geometry and HU.

python launch.py --config=configs/translate.py --workdir=runs/translate \\
    --config.generator=runs/cyclegan --config.input=FOLDER_OR_VOLUME

A generator knows lungs at the size it was trained on: a slice of 512x512 through one trained at
96x96 shows texture of the wrong scale. Pictures can be resized with config.image_size; for volumes
train at their size. benchmarks/translate_volume.py measures memory and time.
"""

from ml_collections.config_dict import placeholder

from configs import base


def get_config():
    return base.stage(
        'translate',
        # Workdir of a CycleGAN, a .safetensors file of configs/export.py, or a .pth generator of
        # the PyTorch implementation.
        generator='',
        # Or to_cancer. A .pth file holds one direction, so there the word does not matter.
        direction='to_covid',
        # A folder of pictures or one of them; a volume (.mhd, .mha, .nii, .nii.gz, .nrrd, DICOM);
        # or a folder with one DICOM series.
        input='',
        # For volumes whose values are not HU: SLOPE,INTERCEPT with HU = SLOPE x value + INTERCEPT.
        # '' refuses such volumes.
        hu='',
        # Resize pictures to this square first; not set: each at its own size, and every new size is
        # compiled.
        image_size=placeholder(int),
        window='lung',  # for volumes: the HU range that becomes grey, and that the result can have
        batch_size=1,
        side_by_side=False,  # also draw inputs above outputs
    )

"""Pictures or CT scans through a trained segmenter -> masks on their own grid, a table, a page.

python launch.py --config=configs/segment.py --workdir=runs/segment \\
    --config.segmenter=runs/lesions --config.input=FOLDER_OR_SCAN

A slice is resized to the square that the network was trained on, and its mask back; a network of
volumes sees the scan on cubic voxels of its own size, in tiles.
benchmarks/segment_volume.py measures time and memory.
"""

from configs import base


def get_config():
    return base.stage(
        'segment',
        # Workdir of a segmentation run, a .safetensors file of configs/export.py, or a .pth file of
        # lungmask.
        segmenter='',
        checkpoint='best',  # of a workdir: by validation, or latest
        # A folder of pictures or one of them; a volume (.mhd, .mha, .nii, .nii.gz, .nrrd, DICOM);
        # or a folder of volumes and of folders with a DICOM series each.
        input='',
        # For volumes whose values are not HU: SLOPE,INTERCEPT with HU = SLOPE x value + INTERCEPT.
        # '' refuses such volumes.
        hu='',
        # From which probability on a pixel is of a region: evaluate_masks prints the one
        # that validation chooses.
        threshold=0.5,
        overlap=0.5,  # of neighbouring tiles, where the network was trained on parts of an image
        pieces=2,  # of each region named lung, the largest pieces that are kept; 0: all
        # What lesions are a percentage of, where the network has no region named lung: otsu, the
        # workdir or file of a lung segmenter, or '' for no percentage.
        lungs='otsu',
        # Slices at a time, or tiles of volumes with as many voxels as so many slices of 256x256.
        batch_size=8,
    )

"""Pictures as DICOM Secondary Capture, for viewers: synthetic ones, marked as such in three places.

The mark is burnt into the pixels, where no viewer can leave it out, and stands in the name of the
patient and in the comments. Such a file is no CT image: it has no HU and no place in a body
(DICOM PS3.3, A.8.1).
"""

import pathlib
import uuid

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from covjax import __version__, drafts

MARK = 'synthetic, not for diagnosis'
PATIENT = 'SYNTHETIC^NOT FOR DIAGNOSIS'
STRIP = 14  # pixels below the picture, of the mark
LEAST = 176  # pixels of a side, so that the mark is whole: smaller pictures are enlarged
OURS = uuid.uuid5(uuid.NAMESPACE_DNS, 'covjax')  # of identifiers that names are made into
# The attributes that all pictures share; those that must be there and are not known are empty.
UNCHANGED = {
    'SpecificCharacterSet': 'ISO_IR 192',
    'ImageType': ['DERIVED', 'SECONDARY', 'OTHER', 'SYNTHETIC'],
    'SOPClassUID': SecondaryCaptureImageStorage,
    **dict.fromkeys(['StudyDate', 'StudyTime', 'AccessionNumber', 'StudyID'], ''),
    **dict.fromkeys(['PatientBirthDate', 'PatientSex', 'PatientOrientation'], ''),
    'ReferringPhysicianName': '',
    'PatientName': PATIENT,
    'PatientID': 'SYNTHETIC',
    'Modality': 'OT',
    'ConversionType': 'WSD',  # made on a workstation
    'Manufacturer': 'covjax',
    'SoftwareVersions': __version__,
    'SeriesNumber': 1,
    'BurnedInAnnotation': 'YES',
    'DerivationDescription': f'{MARK}; made by covjax {__version__}',
    'SamplesPerPixel': 1,
    'PhotometricInterpretation': 'MONOCHROME2',
    'BitsAllocated': 8,
    'BitsStored': 8,
    'HighBit': 7,
    'PixelRepresentation': 0,
}


def marked(grey: np.ndarray) -> np.ndarray:
    """A picture with the mark below it.

    Args:
        grey: uint8 [H, W].

    Returns:
        uint8 [h, w]: whole pixels enlarged where it was smaller than LEAST, and a strip of STRIP
        pixels below.
    """
    times = -(-LEAST // min(grey.shape))
    grey = grey.repeat(times, 0).repeat(times, 1)
    strip = Image.new('L', (grey.shape[1], STRIP))
    draw = ImageDraw.Draw(strip)
    draw.text((2, 0), MARK, fill=255, font=ImageFont.load_default(11))
    return np.concatenate([grey, np.asarray(strip)])


def write(
    path: pathlib.Path,
    grey: np.ndarray,
    name: str,
    series: str,
    number: int,
    description: str,
    comments: str,
) -> None:
    """Writes one picture.

    Args:
        path: pathlib.Path of the file; its folder is made.
        grey: uint8 [H, W].
        name: of the picture, from which its identifiers are made: the same each time.
        series: name of the series that it belongs to.
        number: of the picture in the series, from 1.
        description: of the series.
        comments: what a reader should know of the picture; the mark is put before it.
    """
    of_instance, of_series, of_study = (
        f'2.25.{uuid.uuid5(OURS, "/".join(sources)).int}'
        for sources in (('instance', series, name), ('series', series), ('study', series))
    )
    pixels = marked(grey)
    facts = {
        **UNCHANGED,
        'SOPInstanceUID': of_instance,
        'SeriesInstanceUID': of_series,
        'StudyInstanceUID': of_study,
        'SeriesDescription': description[:64],
        'InstanceNumber': number,
        'ImageComments': f'{MARK}; {comments}'[:10240],
        'Rows': pixels.shape[0],
        'Columns': pixels.shape[1],
        'PixelData': pixels.tobytes() + bytes(pixels.size % 2),
    }
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = of_instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    for keyword, value in facts.items():
        setattr(ds, keyword, value)
    with drafts.file(path) as draft:
        pydicom.dcmwrite(draft, ds, enforce_file_format=True)

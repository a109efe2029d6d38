"""Phantom scans and pictures with exact masks, written in the layouts of ct_scans.

Each layout is written with the traps that its real files have: pictures on their side, volumes
stored turned, names that differ, files out of order, windowed grey levels beside HU.
"""

import csv
import pathlib
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from PIL import Image
from tqdm import tqdm

from covjax import InputError
from covjax.ct import archive, luna16, windows
from covjax.phantom.chest import draw_chest, render_parts
from covjax.phantom.raw_files import NOTE, series_ids

FIELD = 350.0  # mm, the side of an image
THICKNESS = 5.0  # mm from slice to slice
OPACITIES = 5  # of those who have any
CONSOLIDATION = -300.0  # HU from which an opacity is consolidation
KERNEL = 'B60f'  # convolution kernel of series of DICOM
AIRWAY = (40.0, -700.0)  # mm from the middle within which airways are, and HU below which


class Truth(NamedTuple):
    """What must be read of one picture or volume, whatever way it is stored."""

    id: str
    image: np.ndarray  # uint8 [y, x] of a picture, int16 HU [z, y, x] of a volume; LPS
    regions: dict[str, np.ndarray] = {}  # {region: bool, as the image}; {} without a mask
    label: str = ''
    patient: str = ''
    split: str = ''
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)  # mm, (z, y, x); 0 of pictures
    by_slice: dict[str, Any] = {}  # {feature: array [slices, ...]}, from foot to head
    kernel: str = ''  # of the reconstruction, which DICOM alone names


class Drawn(NamedTuple):
    """One phantom person, scanned; arrays are [z, y, x] in LPS."""

    hu: np.ndarray  # int16
    lung: np.ndarray  # bool, with the opacities
    opacity: np.ndarray  # bool
    airway: np.ndarray  # bool
    spacing: tuple[float, float, float]  # mm, (z, y, x)

    @property
    def left(self):
        """bool: the lung on the patient's left, which is on the right of an image."""
        return self.lung & (np.arange(self.lung.shape[2]) >= self.lung.shape[2] / 2)

    @property
    def right(self):
        """bool: the lung on the patient's right."""
        return self.lung & ~self.left

    @property
    def consolidation(self):
        """bool: the dense part of the opacities."""
        return self.opacity & (self.hu > CONSOLIDATION)


def write_ct_scans(folder, layout, seed=0, size=96, slices=8):
    """Writes a small raw folder in the layout of a config of ct_scans.

    Args:
        folder: where to; made where there is none.
        layout: a key of WRITERS.
        seed: of everything that is drawn.
        size: pixels a side of a slice.
        slices: of a volume.

    Returns:
        [Truth] of what is to be read, sorted by id.

    Raises:
        InputError: there is no such layout.
    """
    if layout not in WRITERS:
        raise InputError(f'layout {layout}: choose one of {", ".join(WRITERS)}')
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draw = partial(_draw, size=size, slices=slices)
    truths = WRITERS[layout](folder, np.random.default_rng([seed, 20]), draw)
    (folder / 'PHANTOM.txt').write_text(NOTE, encoding='utf-8')
    return sorted(truths, key=lambda truth: truth.id)


def write_lungs(folder, seed=0, people=(60, 15, 20), opacities=(0, 4, 8), size=256):
    """Writes slices with their lungs in the layout `folder`, with few and with many opacities.

    Two slices a person; the label says how many opacities the person has in them, such as
    opacities_8, so that a spec can choose them. Opacities are part of the lungs.

    Args:
        folder: where to; made where there is none.
        seed: of everything that is drawn.
        people: how many of each label in train, validation and test.
        opacities: numbers of opacities.
        size: pixels a side of a slice.
    """
    folder, rng = pathlib.Path(folder), np.random.default_rng([seed, 21])
    persons = [
        (split, count, i)
        for split, number in zip(('train', 'validation', 'test'), people)
        for count in opacities
        for i in range(number)
    ]
    rows = []
    for split, count, i in tqdm(persons, 'drawing', unit='person', disable=None):
        drawn, person = _draw(rng, size, 4, count), f'{split}_{count}_{i}'
        for z in (1, 2):
            name, mask = f'slices/{person}_{z}.png', f'masks/{person}_{z}.png'
            _write_picture(folder / name, windows.to_grey(drawn.hu[z]))
            _write_picture(folder / mask, drawn.lung[z].astype(np.uint8))
            rows.append([name, mask, f'opacities_{count}', person, split])
    _write_table(folder / 'scans.csv', ['file', 'mask', 'label', 'patient', 'split'], *rows)
    _write_table(folder / 'regions.csv', ['value', 'region'], [1, 'lung'])
    (folder / 'PHANTOM.txt').write_text(NOTE, encoding='utf-8')


def write_volumes(folder, seed=0, people=(16, 4, 12), size=96, slices=64, most=7, healthy=False):
    """Writes scans of whole lungs with their opacities in the layout `folder`, as NIfTI.

    Each person has 1 to `most` opacities, which reach over several slices; masks have the regions
    lung and lesion, which is part of no lung there.

    Args:
        folder: where to; made where there is none.
        seed: of everything that is drawn.
        people: how many in train, validation and test.
        size: pixels a side of a slice.
        slices: of a volume, THICKNESS apart.
        most: opacities of a person.
        healthy: whether every second person has none; labels are then normal and covid.
    """
    folder, rng = pathlib.Path(folder), np.random.default_rng([seed, 22])
    persons = [
        (split, i) for split, n in zip(('train', 'validation', 'test'), people) for i in range(n)
    ]
    rows = []
    for split, i in tqdm(persons, 'drawing', unit='person', disable=None):
        is_healthy = healthy and i % 2 == 0
        drawn = _draw(rng, size, slices, 0 if is_healthy else int(rng.integers(1, most + 1)))
        name, mask = f'scans/{split}_{i:02d}.nii.gz', f'masks/{split}_{i:02d}.nii.gz'
        regions = {'lung': drawn.lung, 'lesion': drawn.opacity}
        _write_volume(folder / name, drawn.hu, drawn.spacing)
        _write_volume(folder / mask, _valued(regions, {'lung': 1, 'lesion': 2}), drawn.spacing)
        label = [('normal' if is_healthy else 'covid')] if healthy else []
        rows.append([name, mask, f'{split}_{i:02d}', split, *label])
    columns = ['file', 'mask', 'patient', 'split', *(['label'] if healthy else [])]
    _write_table(folder / 'scans.csv', columns, *rows)
    _write_table(folder / 'regions.csv', ['value', 'region'], [1, 'lung'], [2, 'lesion'])
    (folder / 'PHANTOM.txt').write_text(NOTE, encoding='utf-8')


def _draw(rng, size, slices, opacities=OPACITIES):
    """A Drawn person."""
    pixel, height = FIELD / size, (slices - 1) * THICKNESS
    reach = max(height / 2 - THICKNESS, THICKNESS)
    chest = draw_chest(rng, opacities=opacities, z_range=(-reach, reach))
    heights = np.linspace(-height / 2, height / 2, slices)
    parts = [render_parts(chest, z, size, pixel) for z in heights]
    hu, lung, opacity = (np.stack(arrays) for arrays in zip(*parts))
    axis = (np.arange(size) - (size - 1) / 2) * pixel
    reach, densest = AIRWAY
    central = np.hypot(axis[None, :], axis[:, None]) < reach
    return Drawn(
        hu=np.round(hu).astype(np.int16),
        lung=lung > 0.5,
        opacity=opacity > 0.5,
        airway=(hu < densest) & (lung < 0.5) & central,
        spacing=(THICKNESS, pixel, pixel),
    )


# ---- files


def _write_volume(path, array, spacing, code='LPS', packed=True):
    """Writes an array [z, y, x] in LPS, stored in the orientation of a code such as RAI."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(spacing[::-1])
    image.SetOrigin([-FIELD / 2, -FIELD / 2, -array.shape[0] * spacing[0] / 2])
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.on_disk(path) as file:
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(file), useCompression=packed)


def write_dicom(folder, hu, spacing, series, kernel=KERNEL):
    """Writes a DICOM series whose names are not in the order of its slices.

    Args:
        folder: where to; made where there is none.
        hu: int16 [z, y, x] in LPS.
        spacing: mm between voxels, (z, y, x).
        series: its SeriesInstanceUID.
        kernel: its ConvolutionKernel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z, plane in enumerate(np.maximum(hu, -1024)):
        height = (z - len(hu) / 2) * spacing[0]
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing(spacing[::-1])
        tags = {
            '0008|0018': f'{series}.{z + 1}',
            **{'0008|0020': '20200301', '0008|0030': '120000', '0008|0060': 'CT'},
            **{'0008|0008': 'ORIGINAL\\PRIMARY\\AXIAL', '0020|000d': f'{series}.0'},
            **{'0020|000e': series, '0020|0037': '1\\0\\0\\0\\1\\0'},
            '0020|0032': f'{-FIELD / 2}\\{-FIELD / 2}\\{height}',
            **{'0020|1041': f'{height}', '0018|0050': f'{spacing[0]}'},
            **{'0028|1052': '-1024', '0028|1053': '1', '0018|1210': kernel},
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f'IM_{(7 * z + 3) % 101}.dcm'))
        writer.Execute(image)


def _write_picture(path, pixels, palette=None):
    """Writes uint8 [y, x], as a palette picture where colours are given."""
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _write_table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(rows)


def _valued(regions, values, dtype=np.uint8):
    """An array of the value of each region, 0 elsewhere; later regions lie over earlier ones."""
    stored = np.zeros(next(iter(regions.values())).shape, dtype)
    for name, inside in regions.items():
        stored[inside] = values[name]
    return stored


# ---- layouts


def _covid_semiseg(folder, rng, draw):
    """Pictures on their side, cropped to the lungs, two of each person, some in train and test.

    Training and test pictures share one numbering, and the masks are palette pictures.
    """
    truths = []
    for person in range(9):
        drawn = draw(rng)
        rows, columns = (np.flatnonzero(drawn.lung.any(axes)) for axes in ((0, 2), (0, 1)))
        top, bottom, left, right = rng.integers(0, drawn.hu.shape[1] // 8, 4)
        top, left = max(rows[0] - top, 0), max(columns[0] - left, 0)
        box = np.s_[top : rows[-1] + bottom, left : columns[-1] + right]
        most = int(np.argmax(drawn.opacity[:-1].sum((1, 2))))
        for k in range(2):
            split = 'test' if person in (2, 5, 8) and k else 'train'
            truth = _lesion_picture(folder, drawn, (most + k, *box), split, len(truths))
            truths.append(truth)
    return truths


def _lesion_picture(folder, drawn, place, split, number):
    """Writes the part `place` (z, rows, columns) as COVID-SemiSeg has it -> Truth."""
    regions = {
        'ground_glass': (drawn.opacity & ~drawn.consolidation)[place],
        'consolidation': drawn.consolidation[place],
    }
    base, name = folder / split, f'{number}'
    image = base / 'Imgs' / f'{name}.jpg'
    _write_picture(image, np.ascontiguousarray(windows.to_grey(drawn.hu[place]).T))
    lesion = _valued(regions, {'ground_glass': 255, 'consolidation': 255})
    _write_picture(base / 'GT' / f'{name}.png', np.ascontiguousarray(lesion.T))
    multi = _valued(regions, {'ground_glass': 1, 'consolidation': 2})
    palette = [0, 0, 0, 128, 0, 0, 0, 128, 0]
    _write_picture(base / 'GT-multiclass' / f'{name}.png', np.ascontiguousarray(multi.T), palette)
    with Image.open(image) as stored:  # JPEG has changed it
        pixels = np.asarray(stored).T
    return Truth(f'{split}/{name}', pixels, regions, split=split)


def _covid_ct_md(folder, rng, draw):
    """Cases as DICOM and NIfTI; tables of slices that leave an index out, corrected once."""
    cases = {'P001': 0, 'P044': 44, 'cap001': 54, 'normal001': None}
    places = {'P': 'COVID-19 subjects', 'cap': 'Cap subjects', 'normal': 'Normal subjects'}
    diagnoses = {'P': 'covid', 'cap': 'cap', 'normal': 'normal'}
    truths, drawn_of = [], {}
    for case, index in cases.items():
        kind = case.rstrip('0123456789')
        drawn = drawn_of[case] = draw(rng, opacities=OPACITIES if index is not None else 0)
        if kind == 'P':
            write_dicom(folder / places[kind] / case, drawn.hu, drawn.spacing, f'2.25.{index + 7}')
        else:
            file = folder / places[kind] / f'{case}.nii.gz'
            _write_volume(file, drawn.hu, drawn.spacing, 'RAS')
        hu = np.maximum(drawn.hu, -1024) if kind == 'P' else drawn.hu
        tables = {} if index is None else _labels_of_slices(drawn)
        label = diagnoses[kind]
        kernel = KERNEL if kind == 'P' else ''
        truths.append(Truth(case, hu, {}, label, case, '', drawn.spacing, tables, kernel))
    _write_index(folder, cases, {truth.id: truth.by_slice for truth in truths})
    return truths


def _labels_of_slices(drawn):
    """{table: int8 [slices, ...]}: which slices have most of the opacities, and in which lobes.

    The table of lobes has five columns, of which a phantom knows the sides only.
    """
    areas = drawn.opacity.sum((1, 2))
    infected = areas > areas.mean()
    sides = [(drawn.opacity & side).any((1, 2)) for side in (drawn.left, drawn.right)]
    none = np.zeros_like(infected)
    lobes = np.stack([sides[0] & infected, none, sides[1] & infected, none, none], 1)
    return {'infected': infected.astype(np.int8), 'lobes': lobes.astype(np.int8)}


def _write_index(folder, cases, tables):
    """Index.csv without index 43, whose tables have a row less, and tables before and after."""
    indices = [index for index in range(60) if index != 43]
    names = {index: case for case, index in cases.items()}
    lines = [[i, 'x', './x/', names.get(i, f'other{i}')] for i in indices]
    head = ['Label Index', 'Diagnosis', 'Relative Path', 'Folder/ID']
    _write_table(folder / 'Index.csv', head, *lines)
    for name, feature in (('Slice', 'infected'), ('Lobe', 'lobes')):
        known = {case: table[feature] for case, table in tables.items() if table}
        example = next(iter(known.values()))
        # Tables run from head to foot, and are wider than the scans have slices.
        whole = np.zeros((len(indices), len(example) + 4, *example.shape[1:]), np.int32)
        for case, labels in known.items():
            whole[indices.index(cases[case]), : len(labels)] = labels[::-1]
        np.save(folder / f'{name}-level-labels.npy', 1 - whole)
        np.save(folder / f'{name}-level-labels-updated-1.npy', whole)


def _luna16_lungs(folder, rng, draw):
    """Series of which some are stored turned, masks alike, and one without a mask."""
    truths = []
    for i, series in enumerate(series_ids(rng, 4)):
        drawn, code = draw(rng), 'RAS' if i % 2 else 'LPS'
        name, split = f'{series}.mhd', luna16.series_split(series)
        _write_volume(folder / f'subset{i}' / name, drawn.hu, drawn.spacing, code, packed=i == 2)
        stored = _valued(
            {'left': drawn.left, 'right': drawn.right, 'airway': drawn.airway},
            {'left': 3, 'right': 4, 'airway': 5},
        )
        _write_volume(folder / 'seg-lungs-LUNA16' / name, stored, drawn.spacing, code)
        regions = {'lung': drawn.lung & ~drawn.airway, 'airway': drawn.airway}
        truths.append(Truth(series, drawn.hu, regions, '', series, split, drawn.spacing))
    extra = folder / 'subset0' / '2.25.1.mhd'
    _write_volume(extra, drawn.hu, drawn.spacing)
    return truths


SCANS_OF_20 = {  # {name of the scan: name of its mask, its patient}
    'coronacases_org_001': ('coronacases_001', 'coronacases_001'),
    'coronacases_org_002': ('coronacases_002', 'coronacases_002'),
    'radiopaedia_org_covid-19-pneumonia-7_85703_0-dcm': ('radiopaedia_7_85703_0', 'radiopaedia_7'),
    'radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm': (
        *('radiopaedia_10_85902_1', 'radiopaedia_10'),
    ),
    'radiopaedia_org_covid-19-pneumonia-10_85902_3-dcm': (
        *('radiopaedia_10_85902_3', 'radiopaedia_10'),
    ),
}


def _covid_ct_seg(folder, rng, draw):
    """HU beside grey levels of another window; names, orientations and patients as published."""
    truths, window = [], windows.WINDOWS['covid']
    for scan, (case, patient) in SCANS_OF_20.items():
        drawn, code = draw(rng), 'LPI' if scan.startswith('corona') else 'RAS'
        image = hu = drawn.hu
        if scan.startswith('radio'):
            step = (window.high - window.low) / 255
            image = np.rint((np.clip(hu, *window) - window.low) / step).astype(np.uint8)
            hu = np.rint(image * step + window.low).astype(np.int16)
        _write_volume(folder / 'ct_scans' / f'{scan}.nii', image, drawn.spacing, code)
        lungs = {'left': drawn.left, 'right': drawn.right}
        values = {'left': 1, 'right': 2, 'lesion': 3}
        parts = {
            'lung_mask': _valued(lungs, values),
            'infection_mask': drawn.opacity.astype(np.uint8),
            'lung_and_infection_mask': _valued({**lungs, 'lesion': drawn.opacity}, values),
        }
        for name, stored in parts.items():
            _write_volume(folder / name / f'{case}.nii', stored, drawn.spacing, code)
        regions = {'lung': drawn.lung & ~drawn.opacity, 'lesion': drawn.opacity}
        truths.append(Truth(case, hu, regions, '', patient, '', drawn.spacing))
    return truths


def _mosmed(folder, rng, draw):
    """Studies of five severities, of which some of CT-1 have a mask."""
    truths = []
    for i in range(5):
        drawn, name = draw(rng), f'study_{255 + i:04d}'
        file = folder / 'studies' / 'CT-1' / f'{name}.nii.gz'
        _write_volume(file, drawn.hu, drawn.spacing, 'LAS')
        if i == 4:
            continue  # one study without a mask
        mask = folder / 'masks' / f'{name}_mask.nii.gz'
        _write_volume(mask, drawn.opacity.astype(np.uint8), drawn.spacing, 'LAS')
        regions = {'lesion': drawn.opacity}
        truths.append(Truth(name, drawn.hu, regions, 'ct_1', name, '', drawn.spacing))
    for i, severity in enumerate((0, 2, 3, 4)):
        drawn = draw(rng, opacities=3 * severity)
        file = folder / 'studies' / f'CT-{severity}' / f'study_{i + 1:04d}.nii.gz'
        _write_volume(file, drawn.hu, drawn.spacing, 'LAS')
    return truths


def _covnet(folder, rng, draw):
    """Masked scans in the folders of three cases, in two lists."""
    truths = []
    for i, split in enumerate(('train', 'train', 'validation')):
        drawn, case = draw(rng), f'case{i}'
        hu = np.where(drawn.lung, drawn.hu, np.int16(0))
        _write_volume(folder / case / 'masked_ct.nii', hu, drawn.spacing, 'RAS')
        _write_volume(
            folder / case / 'mask.nii.gz', drawn.lung.astype(np.uint8), drawn.spacing, 'RAS'
        )
        regions = {'lung': drawn.lung}
        truths.append(Truth(case, hu, regions, f'class_{i}', '', split, drawn.spacing))
    for name, chosen in (('train.csv', truths[:2]), ('val.csv', truths[2:])):
        rows = [[truth.id, truth.label[-1]] for truth in chosen]
        _write_table(folder / name, ['case', 'label'], *rows)
    return truths


def _folder_pictures(folder, rng, draw):
    """Pictures of people with and without opacities, masks of 0 and 255, patients of several."""
    truths = []
    for i in range(8):
        drawn = draw(rng, opacities=OPACITIES * (i % 2))
        label = ('Non-COVID', 'COVID')[i % 2]
        for z in range(2, 4):
            name, person = f'{label}/person {i} ({z}).png', f'person {i}'
            grey, mask = windows.to_grey(drawn.hu[z]), drawn.opacity[z]
            _write_picture(folder / name, grey)
            _write_picture(folder / 'masks' / f'{i}_{z}.png', mask.astype(np.uint8) * 255)
            word = label.lower().replace('-', '_')
            truths.append(Truth(name, grey, {'lesion': mask}, word, person))
    head = ['file', 'mask', 'label', 'patient']
    rows = [
        [truth.id, f'masks/{i // 2}_{i % 2 + 2}.png', truth.id.split('/')[0], truth.patient]
        for i, truth in enumerate(truths)
    ]
    _write_table(folder / 'scans.csv', head, *rows)
    return truths


def _folder_volumes(folder, rng, draw):
    """Volumes of four formats, masks with the lungs by side, and a split that is given."""
    truths, rows = [], []
    names = ['a/one.nii.gz', 'a/two.mha', 'b/three.nrrd', 'b/four']
    for i, name in enumerate(names):
        drawn, split = draw(rng), 'test' if i == 2 else ''
        hu = np.maximum(drawn.hu, -1024)
        if name == 'b/four':
            write_dicom(folder / name, drawn.hu, drawn.spacing, '2.25.99')
        else:
            _write_volume(folder / name, hu, drawn.spacing, ('RAS', 'LPS', 'LAI')[i])
        regions = {
            'left_lung': drawn.left & ~drawn.opacity,
            'right_lung': drawn.right & ~drawn.opacity,
            'lesion': drawn.opacity,
        }
        stored = _valued(regions, {'left_lung': 20, 'right_lung': 10, 'lesion': 300}, np.int16)
        _write_volume(folder / f'masks/{i}.nii.gz', stored, drawn.spacing, 'LPS')
        kernel = KERNEL if name == 'b/four' else ''
        facts = {'patient': f'p{i}', 'split': split, 'spacing': drawn.spacing, 'kernel': kernel}
        truths.append(Truth(name, hu, regions, **facts))
        rows.append([name, f'masks/{i}.nii.gz', f'p{i}', split])
    _write_table(folder / 'scans.csv', ['file', 'mask', 'patient', 'split'], *rows)
    regions = [[20, 'left_lung'], [10, 'right lung'], [300, 'Lesion'], [0, 'background']]
    _write_table(folder / 'regions.csv', ['value', 'region'], *regions)
    return truths


WRITERS = {
    'covid_semiseg': _covid_semiseg,
    'covid_ct_md': _covid_ct_md,
    'luna16_lungs': _luna16_lungs,
    'covid_ct_seg': _covid_ct_seg,
    'mosmed': _mosmed,
    'covnet': _covnet,
    'folder_pictures': _folder_pictures,
    'folder_volumes': _folder_volumes,
}

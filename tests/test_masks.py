"""Masks are read with their values, and refused where they do not lie on their images."""

import itertools
import tracemalloc

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from covjax import InputError
from covjax.ct import lungs, masks, windows
from covjax.ct.grid import Grid
from covjax.phantom.chest import draw_chest, render_parts

pytestmark = pytest.mark.fast

LUNG_NAMES, LESION_NAMES = ('background', 'lung'), ('background', 'lesion')
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0]
# Every other way that an array [z, y, x] can lie, by NumPy alone.
TURNED = {
    (turns, mirrored, from_head): lambda array, t=turns, m=mirrored, h=from_head: np.rot90(
        array[:: -1 if h else 1, :, :: -1 if m else 1], t, (1, 2)
    )
    for turns in range(4)
    for mirrored in (False, True)
    for from_head in (False, True)
    if turns or mirrored or from_head
}


def scanned(seed, opacities=4, size=96):
    """(grey uint8, lungs bool, opacities bool) of a phantom, each [8, size, size]."""
    chest = draw_chest(np.random.default_rng(seed), opacities=opacities, z_range=(-30, 30))
    parts = [render_parts(chest, z, size, 350 / size) for z in np.linspace(-42, 42, 8)]
    hu, lung, opacity = (np.stack(arrays) for arrays in zip(*parts))
    return windows.to_grey(hu), lung > 0.5, opacity > 0.5


@pytest.fixture(scope='module')
def phantom():
    return scanned(1)


def check(mask, grey, names, unchanged=''):
    """check_place of one mask of one image; what it returns is as expected."""
    assert masks.check_place([mask.astype(np.uint8)], [grey], names, 'a.nii') == unchanged


# ---- reading


def save(path, pixels, mode='L'):
    image = Image.fromarray(pixels)
    if mode == 'P':
        image.putpalette(PALETTE)
    elif mode != 'L':
        image = image.convert(mode)
    image.save(path)
    return path


@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'RGBA', 'LA'])
def test_values_of_a_picture_are_those_that_are_stored(tmp_path, mode):
    """Of a palette the indices; three equal channels count as one."""
    values = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    np.testing.assert_array_equal(
        masks.read_picture(save(tmp_path / 'a.png', values, mode)), values
    )


@pytest.mark.parametrize('mode', ['LA', 'RGBA', 'P'])
@pytest.mark.parametrize('hidden', [0, 2])
def test_values_under_transparent_pixels_are_refused(tmp_path, mode, hidden):
    """An editor keeps what is erased there; the background may be transparent."""
    values = np.array([[1, hidden], [1, 1]], np.uint8)
    image = Image.fromarray(values)
    if mode == 'P':
        image.putpalette(PALETTE[::-1])
        image.info['transparency'] = hidden
    else:
        image = image.convert(mode)
        image.putalpha(Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8)))
    image.save(tmp_path / 'a.png')
    if hidden:
        with pytest.raises(InputError, match='a.png: has regions under transparent pixels'):
            masks.read_picture(tmp_path / 'a.png')
    else:
        np.testing.assert_array_equal(masks.read_picture(tmp_path / 'a.png'), values)


def test_a_picture_of_one_bit_has_0_and_255(tmp_path):
    values = np.array([[0, 255], [255, 0]], np.uint8)
    np.testing.assert_array_equal(masks.read_picture(save(tmp_path / 'a.png', values, '1')), values)


def test_a_mask_in_colour_is_refused(tmp_path):
    Image.fromarray(np.uint8([[[255, 0, 0], [0, 0, 0]]])).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match='a.png: is a mask in colour; save it as grey levels'):
        masks.read_picture(tmp_path / 'a.png')


def test_a_mask_of_16_bits_is_refused(tmp_path):
    Image.fromarray(np.zeros((3, 3), np.uint16)).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match='a.png: has 16 bits'):
        masks.read_picture(tmp_path / 'a.png')


@pytest.mark.parametrize('code', ['LPS', 'RAS', 'LAI', 'PIR'])
@pytest.mark.parametrize('kind', [np.uint8, np.int16, np.uint16, np.float32])
def test_values_of_a_volume_are_turned_as_its_ct(tmp_path, code, kind):
    values = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(kind)
    image = sitk.DICOMOrient(sitk.GetImageFromArray(values), code)
    sitk.WriteImage(image, str(tmp_path / 'a.nii.gz'))
    np.testing.assert_array_equal(masks.read_volume(tmp_path / 'a.nii.gz')[0], values)


@pytest.mark.parametrize(
    'name, options',
    [
        ('a.jpg', {'quality': 95}),
        ('a.webp', {'lossless': False}),
        ('a.jp2', {}),
        ('a.tif', {'compression': 'jpeg'}),
    ],
)
def test_a_mask_in_a_picture_that_changes_values_is_refused(tmp_path, name, options):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name, **options)
    with pytest.raises(InputError, match=f'{name}: is a .* picture, .*; save it as PNG'):
        masks.read_picture(tmp_path / name)


@pytest.mark.parametrize('name', ['a.png', 'a.bmp', 'a.tif', 'a.gif'])
def test_a_mask_in_a_picture_that_keeps_values_is_read(tmp_path, name):
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / name)
    np.testing.assert_array_equal(masks.read_picture(tmp_path / name), values)


@pytest.mark.parametrize('value', [0.3, 0.6, 1.49, -0.5, 65537, -40000, np.nan, np.inf])
@pytest.mark.parametrize('end', ['nii.gz', 'mha', 'nrrd'])
def test_values_that_are_no_numbers_of_regions_are_refused(tmp_path, end, value):
    values = np.ones((3, 4, 5), np.float32)
    values[1, 2, 3] = value
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f'a.{end}'))
    named = f'the value {value:.3g}' if abs(value) < 2 else 'voxels that|the value'
    with pytest.raises(InputError, match=f'a.{end}: has ({named}).*; save the mask with whole num'):
        masks.read_volume(tmp_path / f'a.{end}')


def test_whole_numbers_may_be_stored_with_a_slope(tmp_path):
    """As 0 and 255 with a slope of 1/255 are 0 and 1."""
    stored = np.array([0, 255, 255, 0, 0, 255], np.uint8).reshape(1, 2, 3)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(1 / 255, 0)
    nibabel.save(image, tmp_path / 'a.nii')
    expected = stored.T[:, ::-1, ::-1] // 255  # x of NIfTI runs to the right, y to the front
    np.testing.assert_array_equal(masks.read_volume(tmp_path / 'a.nii')[0], expected)


SCAN = Grid((64, 64, 20), (0.7031, 0.7031, 2.5), (-170.25, -160.5, 80.0), np.eye(3).ravel())


def tilted(degrees):
    """Direction cosines of a grid that is turned about x."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return (1, 0, 0, 0, cosine, -sine, 0, sine, cosine)


@pytest.mark.parametrize(
    'change',
    [
        {'spacing': (1.0, 1.0, 1.0)},
        {'spacing': (0.7031, 0.7031, 2.6)},
        {'origin': (0.0, 0.0, 0.0)},
        {'origin': (-170.25, -160.5, 82.5)},
        {'direction': (-1, 0, 0, 0, -1, 0, 0, 0, 1)},
        {'direction': tilted(5)},
    ],
    ids=str,
)
def test_a_mask_on_another_grid_is_refused_by_what_differs(change):
    ((fact, _),) = change.items()
    with pytest.raises(InputError, match=f'a.nii: lies on a different grid from its scan: {fact} '):
        masks.check_grid(SCAN._replace(**change), SCAN, 'a.nii')


@pytest.mark.parametrize(
    'change',
    [
        {},
        {'spacing': (0.703125, 0.703125, 2.5)},
        {'origin': (-170.2539, -160.498, 80.0001)},
        {'direction': tilted(1e-3)},
    ],
    ids=str,
)
def test_rounding_of_a_grid_is_no_difference(change):
    masks.check_grid(SCAN._replace(**change), SCAN, 'a.nii')


@pytest.mark.parametrize('fact', ['spacing', 'origin', 'direction'])
def test_shifts_of_voxels_are_those_of_simpleitk(fact):
    """The farthest corner, along the axes of a grid of cubes."""
    cubes = Grid((12, 10, 8), (1.5,) * 3, (1.0, 2.0, 3.0), tuple(np.eye(3).ravel()))
    values = {'spacing': (1.6, 1.5, 1.5), 'origin': (1.0, 2.0, 3.9), 'direction': tilted(2)}
    other = cubes._replace(**{fact: values[fact]})
    places = [
        grid.place(sitk.Image(grid.size, sitk.sitkUInt8)).TransformIndexToPhysicalPoint(corner)
        for grid in (other, cubes)
        for corner in itertools.product(*((0, n - 1) for n in cubes.size))
    ]
    apart = np.abs(np.subtract(places[:8], places[8:])).max() / 1.5
    assert other.shifts(cubes)[fact] == pytest.approx(apart, rel=0.05)


def test_several_values_may_be_one_region_or_the_background():
    regions = {20: 'lung', 10: 'lung', 300: 'lesion', 7: 'background'}
    assert masks.classes(regions) == ('background', 'lung', 'lesion')
    stored = np.array([[0, 20, 10], [300, 7, 0]], np.int16)
    expected = [[0, 1, 1], [2, 0, 0]]
    np.testing.assert_array_equal(masks.as_classes(stored, regions, 'a'), expected)
    np.testing.assert_array_equal(masks.as_classes(stored[None], regions, 'a'), [expected])


@pytest.mark.parametrize('value', [-1, 2, 255, 32767, -32768])
def test_a_value_that_is_not_listed_is_named(value):
    stored = np.array([[0, 1], [value, 1]], np.int16)
    expected = f'a.nii: has the values {value} besides those listed .0 background, 1 lung.'
    with pytest.raises(InputError, match=expected):
        masks.as_classes(stored, {1: 'lung'}, 'a.nii')


def test_classes_take_one_byte_a_voxel():
    stored = np.random.default_rng(0).integers(0, 4, (30, 256, 256)).astype(np.int16)
    tracemalloc.start()
    classes = masks.as_classes(stored, {1: 'lung', 2: 'lung', 3: 'lesion'}, 'a')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * classes.nbytes


def test_of_many_values_eight_are_named():
    with pytest.raises(InputError, match='has the values 2, 3, 4, 5, 6, 7, 8, 9, ... besides'):
        masks.as_classes(np.arange(40, dtype=np.uint8).reshape(5, 8), {1: 'lung'}, 'a.nii')


def test_a_mask_of_another_size_is_refused_with_both():
    with pytest.raises(InputError, match='a: is 5 x 4 x 3, its image 6 x 4 x 3; give the mask'):
        masks.check_size(np.zeros((3, 4, 5)), np.zeros((3, 4, 6)), 'a')


# ---- place


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('opacities', [0, 4, 10])
def test_right_lung_masks_pass(seed, opacities):
    grey, lung, _ = scanned(seed, opacities)
    check(lung, grey, LUNG_NAMES)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('opacities', [1, 4, 10])
def test_right_lesion_masks_pass(seed, opacities):
    """Also where much of them is consolidation, which is outside of what Otsu's threshold finds."""
    grey, _, opacity = scanned(seed, opacities)
    check(opacity, grey, LESION_NAMES)


@pytest.mark.parametrize('names', [LUNG_NAMES, LESION_NAMES])
@pytest.mark.parametrize('how', TURNED)
def test_a_mask_in_any_other_position_is_refused(phantom, how, names):
    grey, *known = phantom
    turned = TURNED[how](known[names == LESION_NAMES])
    with pytest.raises(InputError, match='a.nii: .*unchecked_masks') as caught:
        check(turned, grey, names)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'how, words',
    [
        ((0, True, False), 'mirrored left to right '),
        ((2, True, False), 'upside down '),
        ((2, False, False), 'turned by 180 degrees '),
        ((1, False, False), 'turned by 270 degrees '),
        ((0, False, True), 'from head to foot '),
        ((0, True, True), 'mirrored left to right and from head to foot '),
    ],
)
def test_the_message_says_how_to_turn_it_back(phantom, how, words):
    grey, _, opacity = phantom
    with pytest.raises(InputError, match=f'a.nii: fits its image better {words}.*; turn it'):
        check(TURNED[how](opacity), grey, LESION_NAMES)


@pytest.mark.parametrize('how', [(0, True, False), (2, True, False), (2, False, False)])
def test_turned_lesions_of_pictures_are_refused_together(how):
    """Of pictures that are cropped to the lungs too, where no lungs are found."""
    pictures, lesions = [], []
    for seed in range(6):
        grey, lung, opacity = scanned(seed)
        box = np.s_[4, 20:-20, 12:-12]
        pictures.append(grey[box])
        lesions.append(TURNED[how](opacity[None, 4, 20:-20, 12:-12])[0].astype(np.uint8))
    with pytest.raises(InputError, match='folder: fits its image better'):
        masks.check_place(lesions, pictures, LESION_NAMES, 'folder')


@pytest.mark.parametrize('seed', range(2, 8))
def test_lesions_of_another_patient_are_refused(seed):
    """What lies in healthy lung is no denser than the lung around it."""
    healthy, _, _ = scanned(1, opacities=0)
    with pytest.raises(InputError, match='a.nii: .*unchecked_masks'):
        check(scanned(seed)[2], healthy, LESION_NAMES)


def test_lesions_that_are_no_denser_than_the_lung_around_them_are_refused():
    """Where all other positions are the same, so that none can fit better."""
    grey, lung, _ = scanned(1, opacities=0)
    places = lung
    for turned in TURNED.values():
        places = places & turned(lung)
    with pytest.raises(InputError, match='its lesions are no denser than the lungs around them'):
        check(places, grey, LESION_NAMES)


def test_lesions_outside_of_the_lungs_are_refused(phantom):
    grey, lung, _ = phantom
    wall = np.zeros_like(lung)
    wall[:, 40:56, 2:14] = True  # the arm of a side, far from the lungs
    with pytest.raises(InputError, match='of the lesions are outside the lungs'):
        check(wall, np.where(wall, 90, grey).astype(np.uint8), LESION_NAMES)


def test_a_lung_mask_that_is_elsewhere_is_refused(phantom):
    grey, lung, _ = phantom
    with pytest.raises(InputError, match=r'does not lie on the lungs of its images .Dice 0\.'):
        check(np.roll(lung, 24, 2) & np.roll(lung, 24, 1), grey, LUNG_NAMES)


def test_an_empty_lung_mask_of_a_chest_is_refused(phantom):
    grey, lung, _ = phantom
    with pytest.raises(InputError, match='does not lie on the lungs of its images .Dice 0.00'):
        check(np.zeros_like(lung), grey, LUNG_NAMES)


def test_an_empty_lesion_mask_is_that_of_a_scan_without_lesions(phantom):
    grey, lung, _ = phantom
    check(np.zeros_like(lung), grey, LESION_NAMES)


@pytest.mark.parametrize('median, right', [(-1250, 0), (-990, 0), (-860, 1), (-400, 1), (40, 0)])
def test_lungs_have_the_hu_of_lungs(median, right):
    """Not those of grey levels of another window."""
    hu, mask = np.full((4, 20, 20), 40, np.int16), np.zeros((4, 20, 20), np.uint8)
    mask[:, 5:15, 5:15], hu[:, 5:15, 5:15] = 1, median
    if right:
        masks.check_hu(mask, hu, LUNG_NAMES, 'a.nii')
        return
    with pytest.raises(
        InputError, match=f'a.nii: is not in HU: the median of its lungs is {median}'
    ):
        masks.check_hu(mask, hu, LUNG_NAMES, 'a.nii')


def test_masks_without_lungs_say_nothing_about_hu():
    mask = np.ones((4, 20, 20), np.uint8)
    masks.check_hu(mask, 40 * mask.astype(np.int16), LESION_NAMES, 'a.nii')
    masks.check_hu(0 * mask, mask.astype(np.int16), LUNG_NAMES, 'a.nii')


def test_masks_of_the_lungs_by_side_must_not_be_exchanged(phantom):
    grey, lung, opacity = phantom
    names = ('background', 'left_lung', 'right_lung', 'lesion')
    columns = np.arange(lung.shape[2])
    mask = np.where(columns >= 48, 1, 2) * lung
    mask[opacity] = 3
    check(mask, grey, names)
    with pytest.raises(InputError, match='has the left lung on the right of the patient'):
        check(mask, grey, ('background', 'right_lung', 'left_lung', 'lesion'))


@pytest.mark.parametrize('names', [('left_upper_lobe', 'right_lobes'), ('lung_parenchyma',)])
def test_lobes_and_parenchyma_are_lungs(phantom, names):
    grey, lung, _ = phantom
    mask = np.where(np.arange(96) >= 48, 1, len(names)) * lung
    check(mask, grey, ('background', *names))
    with pytest.raises(InputError, match='fits its image better'):
        check(np.rot90(lung, 1, (1, 2)), grey, ('background', names[0]))


def test_airways_are_not_counted_among_the_lungs(phantom):
    grey, lung, _ = phantom
    mask = lung.astype(np.uint8)
    mask[:, :10] = 2
    check(mask, grey, ('background', 'lung', 'airway'))


def test_regions_of_other_names_are_not_judged_and_a_line_says_so(phantom):
    grey, lung, _ = phantom
    remark = 'where heart, liver should be is not known, so the masks were not checked'
    check(lung[:, ::-1], grey, ('background', 'heart', 'liver'), remark)


def test_cropped_images_have_no_lungs_to_compare_with(phantom):
    """Air in lungs that touch the edge counts as outside, so what is found there means nothing."""
    grey, lung, opacity = (array[:, 24:-24, 12:-12] for array in phantom)
    remark = 'lungs are found in no image, so the lung masks were not checked'
    check(lung, grey, LUNG_NAMES, remark)
    count = int(opacity.any((1, 2)).sum())
    remark = f'lungs are found in 0 of {count} images with lesions, so whether'
    message = masks.check_place([opacity.astype(np.uint8)], [grey], LESION_NAMES, 'a')
    assert message.startswith(remark)


def test_lungs_of_otsu_are_those_of_the_phantom(phantom):
    """What all comparisons rest on."""
    grey, lung, _ = phantom
    assert lungs.dice(np.stack([lungs.mask(part) for part in grey]), lung).min() > 0.9


def test_checks_do_not_change_their_arguments(phantom):
    grey, lung, _ = (array.copy() for array in phantom)
    before = grey.copy(), lung.copy()
    check(lung, grey, LUNG_NAMES)
    assert (grey == before[0]).all() and (lung == before[1]).all()


@pytest.mark.parametrize('code', ['LPS', 'RAS', 'LAI'])
def test_a_header_of_no_scan_does_not_turn_a_mask(tmp_path, code):
    """A mask that is taken as it is may lie elsewhere, but not with other axes of its own."""
    scan = sitk.GetImageFromArray(np.zeros((4, 6, 5), np.int16))
    scan.SetOrigin((-10.0, -20.0, -30.0))
    grid = Grid.of(scan)
    image = sitk.GetImageFromArray(np.ones((4, 6, 5), np.uint8))
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / 'a.nii.gz'))
    if code == 'LPS':
        masks.check_axes(tmp_path / 'a.nii.gz', grid, 'LPS')
    else:
        with pytest.raises(InputError, match=f'axes run otherwise .*{code}, of the scan LPS'):
            masks.check_axes(tmp_path / 'a.nii.gz', grid, 'LPS')
    image.CopyInformation(scan)  # where it lies on its scan its axes may run as they like
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / 'b.nii.gz'))
    masks.check_axes(tmp_path / 'b.nii.gz', grid, 'LPS')

"""How well a mask agrees with the true one: overlap, surfaces, lesions, volume; Dice of soft maps.

A mask is a bool array of a slice or of a scan, [H, W] or [Z, Y, X]. `spacing` is the size of a
voxel in mm in the order of the axes of the array, so (z, y, x) for a scan; where it is unknown, as
for pictures, pass ones and read pixels for mm. Sizes are in ml for scans and in cm2 for slices.

Empty masks have one rule. Where both masks are empty there is nothing to agree on: the scores are
NaN, and `summary` leaves the scan out and says how many there were. Where one is empty, overlap and
surface Dice are 0 and the distance is the diagonal of the scan, so that a lesion that was missed
altogether can never improve a mean.

Scores belong to one scan. `summary` takes their mean over scans, never over pooled voxels, which
would weigh a scan by its lesions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from scipy.spatial import KDTree

from covjax.metrics.intervals import mean_interval

TOLERANCES = (1.0, 3.0)  # mm: lungs and infections in the benchmark of Ma et al. 2021
SMALLEST = {2: 0.0, 3: 0.1}  # of a lesion: any area, and 0.1 ml; by number of dimensions
MATCH = 0.1  # the IoU from which on a lesion is found
SIZE_ERROR = {2: 'area_error_cm2', 3: 'volume_error_ml'}  # by number of dimensions
ROUNDING = 1e-6  # mm, or relative: three voxels of 0.4 mm, in floats above 1.2 mm, are within it
# The values of a picture of 8 bits, highest first. Single precision rounds k / 255 up for every k,
# so that it reaches its threshold as it does in double precision.
THRESHOLDS = np.arange(255, -1, -1) / 255


class Mean(NamedTuple):
    """The mean of a score over scans; NaN where no scan has one."""

    value: float
    low: float  # of the 95 % interval
    high: float
    counted: int  # scans that have a value


class Summary(NamedTuple):
    """The scores of many scans."""

    scans: int
    both_empty: int  # scans without a single voxel in either mask, which most scores leave out
    means: dict[str, Mean]  # by name of the score


def dice(prediction: ArrayLike, truth: ArrayLike) -> float:
    """The Dice coefficient, 2 size(P and T) / (size(P) + size(T)); it equals F1 of the voxels.

    Args:
        prediction, truth: masks, bool [H, W] or [Z, Y, X].

    Returns:
        float in 0..1; 0 where one mask is empty, NaN where both are.

    Raises:
        ValueError: the arrays are not masks of one shape.

    References:
        Dice, Measures of the amount of ecologic association between species, Ecology 26, 1945.
    """
    prediction, truth = _masks(prediction, truth)
    return _share(2 * _count(prediction & truth), _count(prediction) + _count(truth))


def iou(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Intersection over union, size(P and T) / size(P or T), the Jaccard index.

    Args:
        prediction, truth: masks, bool [H, W] or [Z, Y, X].

    Returns:
        float in 0..1; 0 where one mask is empty, NaN where both are.

    Raises:
        ValueError: the arrays are not masks of one shape.

    References:
        Jaccard, The distribution of the flora in the alpine zone, New Phytologist 11, 1912.
    """
    prediction, truth = _masks(prediction, truth)
    return _share(_count(prediction & truth), _count(prediction | truth))


def border(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask that have a face (in a slice, an edge) in common with the background.

    What lies beyond the array counts as background, so a mask that is cut off by the edge of the
    scan has its border there, as in MONAI.

    Args:
        mask: bool [H, W] or [Z, Y, X].

    Returns:
        bool of the same shape.

    Raises:
        ValueError: the array is not a mask.
    """
    (mask,) = _masks(mask)
    return mask & ~ndimage.binary_erosion(mask)


def border_distances(
    prediction: ArrayLike, truth: ArrayLike, spacing: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """How far every border voxel of either mask is from the border of the other.

    Distances are exact and between centres of voxels.

    Args:
        prediction, truth: masks, bool [H, W] or [Z, Y, X].
        spacing: mm, in the order of the axes.

    Returns:
        Distances in mm of the P border voxels of the prediction and the T ones of the truth, float
        [P] and [T]; infinite where the other mask is empty.

    Raises:
        ValueError: the arrays are not masks of one shape, or the spacing does not fit them.
    """
    prediction, truth = _masks(prediction, truth)
    spacing = _spacing(spacing, prediction.ndim)
    # Outside of the joint box there is only background, as beyond the array: no border changes.
    box = _box(prediction | truth)
    points = [np.argwhere(border(mask[box])) * spacing for mask in (prediction, truth)]
    return _nearest(points[0], points[1]), _nearest(points[1], points[0])


def _nearest(points, others):
    """The distance of every point [N, D] to the nearest of others [M, D], float [N]."""
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    # A tree takes a tenth of the time of a distance transform of the box. Balanced and compact
    # trees are ten times slower for points on a grid that are far from the others.
    tree = KDTree(others, leafsize=32, balanced_tree=False, compact_nodes=False)
    return tree.query(points)[0]


def nsd(prediction: ArrayLike, truth: ArrayLike, spacing: ArrayLike, tolerance: float) -> float:
    """The normalised surface Dice, voxel border: the share of both borders within a tolerance.

    It counts border voxels and does not weigh them by the area of their faces. The package
    surface-distance does, so its numbers differ where voxels are not cubes or surfaces are curved;
    MONAI (its default) and MetricsReloaded count as here.

    Args:
        prediction, truth: masks, bool [H, W] or [Z, Y, X].
        spacing: mm, in the order of the axes.
        tolerance: mm; a distance that equals it is within.

    Returns:
        float in 0..1; 0 where one mask is empty, NaN where both are.

    Raises:
        ValueError: the arrays are not masks of one shape, the spacing does not fit them, or the
            tolerance is negative or not finite.

    References:
        Nikolov et al., Clinically applicable segmentation of head and neck anatomy for
        radiotherapy, Journal of Medical Internet Research 23, 2021 (arXiv 1809.04430); Seidlitz
        et al., Robust deep learning-based semantic organ segmentation in hyperspectral images,
        Medical Image Analysis 80, 2022 (arXiv 2111.05408).
    """
    return _nsd(border_distances(prediction, truth, spacing), tolerance)


def _nsd(distances, tolerance):
    """`nsd` of the distances of both borders."""
    if not 0 <= tolerance < np.inf:
        raise ValueError(f'a tolerance is a number of mm of at least 0, not {tolerance}')
    distances = np.concatenate(distances)
    return _share(_count(distances <= tolerance + ROUNDING), len(distances))


def hd95(prediction: ArrayLike, truth: ArrayLike, spacing: ArrayLike) -> float:
    """The 95 % Hausdorff distance, voxel border.

    Of each border it takes the 95th percentile of the distances to the other one (interpolated),
    and of the two the greater.

    Args:
        prediction, truth: masks of the whole slice or scan, bool [H, W] or [Z, Y, X].
        spacing: mm, in the order of the axes.

    Returns:
        float, mm; the diagonal of the array, which no distance reaches, where one mask is empty;
        NaN where both are.

    Raises:
        ValueError: the arrays are not masks of one shape, or the spacing does not fit them.

    References:
        Huttenlocher et al., Comparing images using the Hausdorff distance, IEEE Transactions on
        Pattern Analysis and Machine Intelligence 15, 1993.
    """
    distances = border_distances(prediction, truth, spacing)
    return _hd95(distances, _diagonal(np.shape(truth), spacing))


def _hd95(distances, diagonal):
    """`hd95` of the distances of both borders."""
    if not any(map(len, distances)):
        return float('nan')
    if not all(map(len, distances)):
        return diagonal
    return float(max(np.percentile(side, 95) for side in distances))


def lesion_scores(
    prediction: ArrayLike, truth: ArrayLike, spacing: ArrayLike, smallest: float | None = None
) -> dict[str, Any]:
    """How many lesions are found; a small one counts as much as a large one.

    Lesions are the connected components of the truth; voxels that share a corner are connected. A
    lesion is found when its IoU with the union of the predicted components that touch it is at
    least MATCH. A predicted component is false when it touches no lesion that is found, so one that
    floods the lungs finds nothing and is false. The smallest size says what is counted, in either
    mask; the matching looks at components of every size.

    Args:
        prediction, truth: masks, bool [H, W] or [Z, Y, X].
        spacing: mm, in the order of the axes.
        smallest: ml for scans, cm2 for slices; by default SMALLEST.

    Returns:
        A dict of four counts (int), true_lesions, found_lesions, predicted_lesions, false_lesions,
        and three shares (float), lesion_sensitivity (of true lesions), lesion_precision (of
        predicted ones) and lesion_f1, their harmonic mean. A share of nothing is NaN; F1 is so only
        where neither mask has a lesion that counts.

    Raises:
        ValueError: the arrays are not masks of one shape, the spacing does not fit them, or the
            smallest size is negative.

    References:
        The choices for this match of objects are discussed in Maier-Hein et al., Metrics reloaded,
        Nature Methods 21, 2024 (arXiv 2206.01653).
    """
    prediction, truth = _masks(prediction, truth)
    spacing = _spacing(spacing, prediction.ndim)
    smallest = SMALLEST[prediction.ndim] if smallest is None else smallest
    if not smallest >= 0:
        raise ValueError(f'the smallest size of a lesion is a number of at least 0, not {smallest}')
    voxels = smallest / _voxel_size(spacing) * (1 - ROUNDING)
    box = _box(prediction | truth)
    predicted_sizes, true_sizes, pairs = _components(prediction[box], truth[box])
    found, right = _matched(predicted_sizes, true_sizes, pairs)
    counts = true_sizes >= voxels
    predicted_counts = predicted_sizes >= voxels
    return _rates_of_lesions(
        true=_count(counts),
        found=_count(found & counts),
        predicted=_count(predicted_counts),
        false=_count(~right & predicted_counts),
    )


def _components(prediction, truth):
    """The connected components of two masks and where they meet.

    Returns:
        Voxels of each predicted component, int [P]; of each true one, int [T]; and (true index,
        predicted index, voxels in common) of every pair that meets, int [K] each.
    """
    corners = np.ones((3,) * truth.ndim)
    predicted, n_predicted = ndimage.label(prediction, corners)
    true, n_true = ndimage.label(truth, corners)
    sizes = lambda labels, n: np.bincount(labels[labels > 0], minlength=n + 1)[1:]
    common = prediction & truth
    key = (true[common].astype(np.int64) - 1) * n_predicted + predicted[common] - 1
    pair, shared = np.unique(key, return_counts=True)
    pairs = (pair // max(n_predicted, 1), pair % max(n_predicted, 1), shared)
    return sizes(predicted, n_predicted), sizes(true, n_true), pairs


def _matched(predicted_sizes, true_sizes, pairs):
    """Which true components are found, bool [T], and which predicted ones touch such, bool [P]."""
    i_true, i_predicted, shared = pairs
    of_lesion = lambda voxels: np.bincount(i_true, voxels, minlength=len(true_sizes))
    intersection = of_lesion(shared)
    union = true_sizes + of_lesion(predicted_sizes[i_predicted]) - intersection
    found = intersection / union >= MATCH
    right = np.zeros(len(predicted_sizes), bool)
    right[i_predicted[found[i_true]]] = True
    return found, right


def _rates_of_lesions(true, found, predicted, false):
    """The dict of `lesion_scores` from its four counts."""
    sensitivity = _share(found, true)
    precision = _share(predicted - false, predicted)
    # A lesion alone, or a false component alone, has no precision or no sensitivity, but F1 0.
    parts = np.nan_to_num([sensitivity, precision])
    f1 = _share(2 * parts.prod(), parts.sum()) if parts.any() else _share(0, true + predicted)
    return {
        'true_lesions': true,
        'found_lesions': found,
        'predicted_lesions': predicted,
        'false_lesions': false,
        'lesion_sensitivity': sensitivity,
        'lesion_precision': precision,
        'lesion_f1': f1,
    }


def size(mask: ArrayLike, spacing: ArrayLike) -> float:
    """The volume of a mask of a scan in ml, or the area of one of a slice in cm2.

    Args:
        mask: bool [H, W] or [Z, Y, X].
        spacing: mm, in the order of the axes.

    Returns:
        float, 0 for an empty mask.

    Raises:
        ValueError: the array is not a mask, or the spacing does not fit it.
    """
    (mask,) = _masks(mask)
    return _count(mask) * _voxel_size(_spacing(spacing, mask.ndim))


def size_error(prediction: ArrayLike, truth: ArrayLike, spacing: ArrayLike) -> float:
    """The size of the prediction less that of the truth, in ml for scans, in cm2 for slices.

    Args:
        prediction, truth: masks, bool [H, W] or [Z, Y, X].
        spacing: mm, in the order of the axes.

    Returns:
        float, negative where too little is predicted; 0 where both masks are empty.

    Raises:
        ValueError: the arrays are not masks of one shape, or the spacing does not fit them.
    """
    _masks(prediction, truth)
    return size(prediction, spacing) - size(truth, spacing)


def infection_percentage(mask: ArrayLike, lungs: ArrayLike) -> float:
    """The percentage of infection: infected voxels in per cent of the voxels of the lungs.

    Infected voxels outside the mask of the lungs count as well, because automatic masks of lungs
    tend to leave consolidation at the pleura out. For one lung pass masks that are cut to its side.

    Args:
        mask: of the infection, bool [H, W] or [Z, Y, X].
        lungs: mask of the lungs, bool of the same shape.

    Returns:
        float from 0 on; NaN where there are no lungs.

    Raises:
        ValueError: the arrays are not masks of one shape.

    References:
        Shan et al., Abnormal lung quantification in chest CT images of COVID-19 patients with deep
        learning and its application to severity prediction, Medical Physics 48, 2021 (arXiv
        2003.04655).
    """
    mask, lungs = _masks(mask, lungs)
    return _share(100 * _count(mask), _count(lungs))


def infection_percentage_error(prediction: ArrayLike, truth: ArrayLike, lungs: ArrayLike) -> float:
    """The percentage of infection of the prediction less that of the truth, in percentage points.

    Args:
        prediction, truth: masks of the infection, bool [H, W] or [Z, Y, X].
        lungs: mask of the lungs, bool of the same shape.

    Returns:
        float, negative where too little is predicted; NaN where there are no lungs.

    Raises:
        ValueError: the arrays are not masks of one shape.
    """
    _masks(prediction, truth)
    return infection_percentage(prediction, lungs) - infection_percentage(truth, lungs)


def scan_scores(
    prediction: ArrayLike,
    truth: ArrayLike,
    spacing: ArrayLike,
    tolerances: Sequence[float] = TOLERANCES,
    lungs: ArrayLike | None = None,
    smallest: float | None = None,
) -> dict[str, Any]:
    """All scores of one slice or scan.

    Args:
        prediction, truth: masks of the whole slice or scan, bool [H, W] or [Z, Y, X].
        spacing: mm, in the order of the axes.
        tolerances: mm, of the surface Dice.
        lungs: mask of the lungs, bool of the same shape, where the masks are of an infection.
        smallest: lesion that counts, in ml for scans, cm2 for slices; by default SMALLEST.

    Returns:
        A dict of both_empty (bool), dice, iou, hd95_mm, nsd_1mm and so on for each tolerance, what
        `lesion_scores` returns, and the signed volume_error_ml (area_error_cm2 for slices) with
        absolute_volume_error_ml (absolute_area_error_cm2) beside it. With lungs it has
        infection_percentage_error and absolute_infection_percentage_error too.

    Raises:
        ValueError: the arrays are not masks of one shape, the spacing does not fit them, a
            tolerance is negative or not finite, or the smallest size is negative.
    """
    prediction, truth = _masks(prediction, truth)
    distances = border_distances(prediction, truth, spacing)
    errors = {SIZE_ERROR[truth.ndim]: size_error(prediction, truth, spacing)}
    if lungs is not None:
        name = 'infection_percentage_error'
        errors[name] = infection_percentage_error(prediction, truth, lungs)
    return {
        'both_empty': not any(map(len, distances)),
        'dice': dice(prediction, truth),
        'iou': iou(prediction, truth),
        'hd95_mm': _hd95(distances, _diagonal(truth.shape, spacing)),
        **{f'nsd_{tolerance:g}mm': _nsd(distances, tolerance) for tolerance in tolerances},
        **lesion_scores(prediction, truth, spacing, smallest),
        **errors,
        **{f'absolute_{name}': abs(error) for name, error in errors.items()},
    }


def summary(
    scores: Sequence[dict[str, Any]], groups: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """The means of scores over scans, with intervals from a bootstrap over patients.

    Every scan counts once, however many a patient has; the bootstrap draws whole patients.

    Args:
        scores: sequence of N dicts of `scan_scores` or `soft_scores`, with the same names.
        groups: patient of each scan, str [N].
        seed: of the draws.

    Returns:
        A Summary. A scan whose score is NaN is not counted in that mean; each Mean says how many
        are. Ends of intervals are NaN for a single patient.

    Raises:
        ValueError: there are no scores, their names differ, or groups are more or fewer.
    """
    if not len(scores) or len(scores) != len(groups):
        raise ValueError(
            'a summary needs the scores of at least one scan and the patient of each, '
            f'not {len(scores)} and {len(groups)}'
        )
    names = [name for name in scores[0] if name != 'both_empty']
    if any(set(scan) != set(scores[0]) for scan in scores):
        raise ValueError('a summary needs the same scores of every scan')
    values = {name: np.array([scan[name] for scan in scores], float) for name in names}
    means = {name: _mean(values[name], groups, seed) for name in names}
    return Summary(len(scores), sum(bool(scan['both_empty']) for scan in scores), means)


def _mean(values, groups, seed):
    """The Mean of values, float [N], in which NaN does not count."""
    counted = _count(~np.isnan(values))
    return Mean(_share(np.nansum(values), counted), *mean_interval(values, groups, seed), counted)


def stretched(soft: np.ndarray) -> np.ndarray:
    """A soft map stretched to 0..1 by its own least and greatest value.

    The published evaluation of Inf-Net does this to every map. A map without any lesion then has a
    value of 1 somewhere like all others, so it is not for maps whose values are probabilities.

    Args:
        soft: float [H, W] or [Z, Y, X], finite.

    Returns:
        float of the same shape and precision; 0 where all values are equal.
    """
    soft = np.asarray(soft)
    low, high = soft.min(), soft.max()
    return (soft - low) / (high - low) if high > low else np.zeros_like(soft)


def dice_by_threshold(soft: np.ndarray, truth: np.ndarray) -> Any:
    """The Dice coefficient of `soft >= t` for each t of THRESHOLDS: 1, 254/255, ..., 1/255, 0.

    Args:
        soft: float [H, W] or [Z, Y, X] in 0..1.
        truth: mask, bool of the same shape.

    Returns:
        float [256]; 0 where one mask is empty, NaN where both are.

    Raises:
        ValueError: soft is not a map in 0..1, or truth not a mask of its shape.
    """
    (truth,) = _masks(truth)
    soft = np.asarray(soft)
    if not np.issubdtype(soft.dtype, np.floating) or soft.shape != truth.shape:
        raise ValueError(
            f'a soft map is float of the shape of the mask, {truth.shape}, '
            f'not {soft.dtype} {soft.shape}'
        )
    if not ((soft >= 0) & (soft <= 1)).all():
        raise ValueError('a soft map has values in 0..1: divide a picture of 8 bits by 255')
    reach = lambda values: len(values) - np.searchsorted(np.sort(values), THRESHOLDS)
    in_truth = soft[truth]
    both, all_of_either = 2.0 * reach(in_truth), reach(soft.reshape(-1)) + len(in_truth)
    nothing = all_of_either == 0
    return np.where(nothing, np.nan, both / np.where(nothing, 1, all_of_either))


def soft_scores(soft: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """The scores of a soft map: its mean Dice over 256 thresholds, and its Dice at 0.5.

    "Dice" of the COVID-SemiSeg benchmark, in which Inf-Net has 0.682, is the mean over images of
    dice_mean_of_256_thresholds, of maps that are `stretched` first. It is not the Dice of any mask:
    a network whose masks at 0.5 are perfect but whose maps are soft has less than 1.

    Args:
        soft: float [H, W] or [Z, Y, X] in 0..1.
        truth: mask, bool of the same shape.

    Returns:
        A dict of both_empty (bool, at 0.5), dice_mean_of_256_thresholds, and dice_at_0.5 (float).
        The mean is NaN where truth is empty: at the threshold 0 everything is lesion, so the empty
        masks at high thresholds would be all that counts.

    Raises:
        ValueError: soft is not a map in 0..1, or truth not a mask of its shape.

    References:
        Fan et al., Inf-Net: automatic COVID-19 lung infection segmentation from CT images, IEEE
        Transactions on Medical Imaging 39, 2020 (arXiv 2004.14133).
    """
    by_threshold = dice_by_threshold(soft, truth)
    at_half = dice(np.asarray(soft) >= 0.5, truth)
    return {
        'both_empty': bool(np.isnan(at_half)),
        'dice_mean_of_256_thresholds': float(by_threshold.mean()) if np.any(truth) else np.nan,
        'dice_at_0.5': at_half,
    }


def _masks(*masks):
    """The arrays, which must be masks of one shape.

    Labels and pictures of 0 and 255 are refused: their sums would be scores above 1.

    Raises:
        ValueError: they are not.
    """
    masks = [np.asarray(mask) for mask in masks]
    for mask in masks:
        if mask.dtype != bool:
            raise ValueError(
                f'a mask is a bool array, not {mask.dtype}: compare labels with their value first'
            )
        if mask.ndim not in (2, 3) or mask.shape != masks[0].shape:
            shapes = ', '.join(str(mask.shape) for mask in masks)
            raise ValueError(f'masks need two or three dimensions and one shape, not {shapes}')
    return masks


def _spacing(spacing, ndim):
    """The spacing as float [ndim].

    Raises:
        ValueError: it has another length, or a value that is not positive and finite.
    """
    spacing = np.asarray(spacing, float)
    if spacing.shape != (ndim,) or not ((spacing > 0) & (spacing < np.inf)).all():
        raise ValueError(f'a spacing is {ndim} positive numbers of mm, not {spacing.tolist()}')
    return spacing


def _voxel_size(spacing):
    """Of a voxel in ml, or of a pixel in cm2."""
    return float(np.prod(spacing)) / 10 ** len(spacing)


def _diagonal(shape, spacing):
    """From corner to corner of an array, in mm."""
    return float(np.linalg.norm(np.multiply(shape, _spacing(spacing, len(shape)))))


def _box(mask):
    """The slices of the smallest box that holds a mask; of no voxel where it is empty."""
    slices = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        where = np.flatnonzero(mask.any(axis=others))
        slices.append(slice(where[0], where[-1] + 1) if len(where) else slice(0, 0))
    return tuple(slices)


def _count(mask):
    """How many are True, int."""
    return int(np.count_nonzero(mask))


def _share(part, whole):
    """part / whole as float; NaN for 0 / 0."""
    return float(part / whole) if whole else float('nan')

"""The segmentation task: patches, augmentation, losses, counts of whole images, devices."""

import dataclasses
import json
import tracemalloc
from functools import partial

import jax
import jax.numpy as jnp
import launching
import numpy as np
import pytest
from conftest import flags_of_devices
from sklearn import metrics
from steps import follow

from configs import segmentation as config_file
from covjax import InputError, models, segmenter
from covjax.data import augment, segmented
from covjax.data.rows import Row
from covjax.training import loop, segmentation
from covjax.training.segmentation import IGNORED

fast = pytest.mark.fast
OFF = {**augment.OFF, 'brightness': 0.0, 'contrast': 0.0}
SMALL = {
    'train': 'ct_scans/folder:train',
    'val': 'ct_scans/folder:validation',
    'widths': (4, 8),
    'image_size': 24,
    'patch': (16, 16),
    'batch_size': 4,
    'steps': 4,
    'eval_every': 4,
    'warmup_steps': 0,
}
DIMENSIONS = {2: ((30, 21), (16, 16)), 3: ((7, 30, 21), (4, 16, 16))}  # images, patches
every_dimension = pytest.mark.parametrize('dimensions', DIMENSIONS)
every_loss = pytest.mark.parametrize('name', segmentation.LOSSES)


def config_of(**fields):
    config = config_file.get_config()
    with config.ignore_type():
        config.update(SMALL | fields)
    return config


def examples(n, shape, classes=3, seed=0):
    """Images with a bright blob a region, at random places; the rest is noise."""
    rng = np.random.default_rng(seed)
    images, targets = [], []
    for _ in range(n):
        image, target = rng.integers(0, 80, shape).astype(np.uint8), np.zeros(shape, np.uint8)
        for region in range(1, classes):
            corner = [rng.integers(0, size - size // 3) for size in shape]
            where = tuple(slice(c, c + size // 3) for c, size in zip(corner, shape))
            image[where], target[where] = 80 * region, region
        images.append(image)
        targets.append(target)
    rows = [Row(f'{i}', f'group{i}', f'{i}') for i in range(n)]
    names = ('background', *(f'region{region}' for region in range(1, classes)))
    return segmented.Segmented(images, targets, rows, names)


def patches_of(dimensions, **fields):
    shape, patch = DIMENSIONS[dimensions]
    found = examples(5, shape)
    places = [segmentation.foreground_places(target) for target in found.targets]
    values = {'shape': patch, 'batch_size': 4, 'foreground': 1 / 3, 'seed': 0} | fields
    return segmentation.Patches(found.images, found.targets, places, **values)


def random_logits(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_target(*shape, classes=3, seed=1):
    return np.random.default_rng(seed).integers(0, classes, shape).astype(np.uint8)


# ---- patches


@fast
@every_dimension
def test_a_batch_is_a_function_of_the_step_alone(dimensions):
    patches = patches_of(dimensions)
    first, again, next_one = (segmentation.train_batch(patches, step) for step in (3, 3, 4))
    _, patch = DIMENSIONS[dimensions]
    assert first['image'].shape == (4, *patch, 1) and first['target'].shape == (4, *patch)
    np.testing.assert_array_equal(first['image'], again['image'])
    assert (first['image'] != next_one['image']).any()


@fast
@every_dimension
def test_a_patch_is_cut_from_image_and_target_at_one_place(dimensions):
    patches = patches_of(dimensions)
    for step in range(10):
        batch = segmentation.train_batch(patches, step)
        image, target = batch['image'][..., 0], batch['target']
        assert ((image == 80 * target) | (target == 0)).all()  # as the images are drawn


@fast
@every_dimension
def test_the_share_of_patches_with_foreground_in_the_middle_is_what_was_asked(dimensions):
    rare = patches_of(dimensions, batch_size=1)
    for target in rare.targets:  # one pixel each, which few patches have by chance
        target[:] = 0
        target[(1,) * target.ndim] = 1
    places = [segmentation.foreground_places(target) for target in rare.targets]
    for foreground, least, most in ((1.0, 300, 300), (0.0, 0, 30), (0.5, 120, 200)):
        patches = rare._replace(places=places, foreground=foreground)
        batches = [segmentation.train_batch(patches, step) for step in range(300)]
        assert least <= sum((batch['target'] == 1).any() for batch in batches) <= most


@fast
@every_dimension
def test_foreground_at_the_edge_does_not_pull_patches_out_of_the_image(dimensions):
    patches = patches_of(dimensions, foreground=1.0)
    for target in patches.targets:
        target[:] = 0
        target[(0,) * target.ndim] = 1
    places = [segmentation.foreground_places(target) for target in patches.targets]
    for step in range(10):
        batch = segmentation.train_batch(patches._replace(places=places), step)
        assert (batch['target'] != IGNORED).all() and (batch['target'] == 1).any()


@fast
def test_what_a_patch_has_beyond_a_small_image_is_ignored():
    patches = patches_of(2, shape=(40, 40))
    target = segmentation.train_batch(patches, 0)['target']
    assert (target[:, :30, :21] != IGNORED).all()
    assert (target[:, 30:] == IGNORED).all() and (target[:, :, 21:] == IGNORED).all()


# ---- augmentation


def test_patches_are_cut_without_copies_of_whole_scans():
    """A step holds little more than its batch, whatever the scans take."""
    large, nowhere = np.zeros((64, 128, 128), np.uint8), np.zeros((0, 3), int)
    scans = segmentation.Patches(
        [large] * 4, [large] * 4, [nowhere] * 4, (8, 16, 16), 2, foreground=0.0, seed=0
    )
    segmentation.train_batch(scans, 0)
    tracemalloc.start()
    batch = segmentation.train_batch(scans, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * sum(array.nbytes for array in batch.values()) + 50_000 < large.nbytes / 4


def moved(settings, dimensions=2, seed=0, first=0):
    """(images, targets, moved images, moved targets); the images are as bright as their class."""
    _, patch = DIMENSIONS[dimensions]
    # Smooth blobs, so that interpolation and the nearest class agree but at edges.
    targets = np.stack(examples(6, patch, seed=seed).targets)
    images = (120 * targets)[..., None].astype(np.uint8)
    change = jax.jit(partial(segmentation.augment, settings=settings, first=first))
    return images, targets, *map(np.asarray, change(jax.random.key(seed), images, targets))


@fast
@every_dimension
def test_without_changes_image_and_target_stay(dimensions):
    images, targets, image, target = moved(OFF, dimensions)
    np.testing.assert_allclose(image, images / 127.5 - 1, atol=1e-5)
    np.testing.assert_array_equal(target, targets)


@fast
@every_dimension
@pytest.mark.parametrize(
    'change', [{'scale': 0.3}, {'flip': True}, {'rotate': 30.0}, {'crop': 0.3}], ids=str
)
def test_image_and_target_are_moved_together(dimensions, change):
    images, targets, image, target = moved({**OFF, **change}, dimensions)
    assert (target != targets).any()  # something moved
    assert set(np.unique(target)) <= {0, 1, 2, IGNORED}
    known = target != IGNORED
    brightness = (image[..., 0] + 1) * 127.5
    agree = np.abs(brightness - 120.0 * target) < 61
    assert agree[known].mean() > 0.95
    assert (image[..., 0][~known] == -1).all()


@fast
def test_left_and_right_are_exchanged_where_an_image_is_mirrored():
    """The image is as bright as its class, so that it says where each side has gone."""
    names = ('background', 'left_lung', 'right_lung')
    mirrored = segmentation.mirrored_targets(names)
    images, targets, image, plain = moved({**OFF, 'flip': True})
    change = partial(segmentation.augment, settings={**OFF, 'flip': True}, first=0)
    again, target = change(jax.random.key(0), images, targets, mirrored=mirrored)
    np.testing.assert_allclose(again, image, atol=1e-6)
    flips = [(plain[i] != targets[i]).any() for i in range(len(targets))]
    assert 0 < sum(flips) < len(flips)
    for i, flipped in enumerate(flips):
        np.testing.assert_array_equal(target[i], mirrored[plain[i]] if flipped else targets[i])
    assert mirrored[IGNORED] == IGNORED


@fast
@pytest.mark.parametrize(
    'names, becomes',
    [
        (('background', 'lung', 'lesion'), [0, 1, 2]),
        (('background', 'right_lung', 'left_lung', 'trachea'), [0, 2, 1, 3]),
        (('background', 'lobe_upper_left', 'lobe_upper_right'), [0, 2, 1]),
    ],
    ids=str,
)
def test_a_mirror_exchanges_sides_by_their_names(names, becomes):
    table = segmentation.mirrored_targets(names)
    found = range(256) if table is None else table
    assert list(found) == [*becomes, *range(len(names), 256)]


@fast
def test_a_side_without_the_other_is_not_mirrored():
    one_sided = examples(4, (24, 24))._replace(classes=('background', 'left_lung', 'lesion'))
    with pytest.raises(InputError, match='flip=True: left_lung has no other side'):
        segmentation.task_on(config_of(augment={**OFF, 'flip': True}), one_sided, one_sided)
    segmentation.task_on(config_of(augment={**OFF, 'flip': False}), one_sided, one_sided)


@fast
def test_the_slices_of_a_volume_are_moved_by_one_matrix():
    _, patch = DIMENSIONS[3]
    plane = examples(2, patch[1:]).targets
    targets = np.stack([np.stack([target] * patch[0]) for target in plane])
    images = (120 * targets)[..., None].astype(np.uint8)
    settings = {**OFF, 'rotate': 30.0, 'scale': 0.3}
    image, target = segmentation.augment(jax.random.key(0), images, targets, settings, 0)
    for slices in (*image, *target):
        np.testing.assert_array_equal(slices, jnp.broadcast_to(slices[:1], slices.shape))


@fast
def test_brightness_and_contrast_change_the_image_alone():
    images, targets, image, target = moved({**OFF, 'brightness': 0.3, 'contrast': 0.3})
    np.testing.assert_array_equal(target, targets)
    assert np.abs(image - (images / 127.5 - 1)).max() > 0.05
    assert image.min() >= -1 and image.max() <= 1


@fast
def test_an_example_is_changed_alike_wherever_it_is_in_the_batch():
    settings = {**OFF, 'rotate': 30.0, 'brightness': 0.3}
    images, targets, image, target = moved(settings)
    half = segmentation.augment(jax.random.key(0), images[3:], targets[3:], settings, 3)
    np.testing.assert_allclose(half[0], image[3:], atol=1e-5)
    np.testing.assert_array_equal(half[1], target[3:])


# ---- losses


@fast
@every_loss
@every_dimension
def test_pixels_that_are_ignored_do_not_count(name, dimensions):
    _, patch = DIMENSIONS[dimensions]
    logits, target = random_logits(2, *patch, 3), random_target(2, *patch)
    loss = segmentation.LOSSES[name]
    margin = [(0, 0), *[(0, 4)] * dimensions]
    wide = np.pad(target, margin, constant_values=IGNORED)
    other = np.pad(logits, [*margin, (0, 0)], constant_values=3.0)
    np.testing.assert_allclose(loss(other, wide), loss(logits, target), rtol=1e-5)
    gradient = jax.grad(lambda logits: loss(logits, wide).sum())(other)
    assert not np.asarray(gradient)[wide == IGNORED].any()


@fast
@every_loss
def test_an_example_counts_for_itself(name):
    logits, target = random_logits(4, 6, 6, 3), random_target(4, 6, 6)
    loss = segmentation.LOSSES[name]
    apart = [loss(logits[i : i + 1], target[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(loss(logits, target), apart, rtol=1e-6)


@fast
@every_loss
def test_a_loss_is_least_where_the_prediction_is_right_and_has_finite_gradients(name):
    target, loss = random_target(2, 6, 6), segmentation.LOSSES[name]
    right = 100.0 * np.eye(3, dtype=np.float32)[target]
    assert float(loss(right, target).max()) < 1e-2 < float(loss(-right, target).min())
    for logits in (right, -right):
        gradient = jax.grad(lambda logits: loss(logits, target).sum())(logits)
        assert np.isfinite(gradient).all()


@fast
def test_cross_entropy_is_that_of_scikit_learn():
    logits, target = random_logits(1, 5, 7, 3), random_target(1, 5, 7)
    probabilities = np.asarray(jax.nn.softmax(logits)).reshape(-1, 3)
    expected = metrics.log_loss(target.ravel(), probabilities, labels=[0, 1, 2])
    np.testing.assert_allclose(segmentation.cross_entropy(logits, target)[0], expected, rtol=1e-5)


@fast
def test_focal_loss_without_its_weight_would_be_cross_entropy(monkeypatch):
    logits, target = random_logits(2, 5, 7, 3), random_target(2, 5, 7)
    weighted = segmentation.focal_loss(logits, target)
    monkeypatch.setattr(segmentation, 'FOCUS', 0.0)
    entropy = segmentation.cross_entropy(logits, target)
    np.testing.assert_allclose(segmentation.focal_loss(logits, target), entropy, rtol=1e-6)
    assert (weighted < entropy).all()


@fast
def test_dice_of_certain_predictions_is_that_of_their_masks():
    found, target = random_target(3, 20, 20, seed=5), random_target(3, 20, 20)
    logits = 100.0 * np.eye(3, dtype=np.float32)[found]
    losses = segmentation.dice_loss(logits, target)
    for loss, one, truth in zip(losses, found, target):
        f1 = metrics.f1_score(truth.ravel(), one.ravel(), labels=[1, 2], average='macro')
        assert float(loss) == pytest.approx(1 - f1, abs=0.01)  # but for SMOOTH


@fast
def test_a_region_that_is_neither_there_nor_found_costs_nothing():
    target = np.zeros((1, 8, 8), np.uint8)
    logits = 100.0 * np.eye(2, dtype=np.float32)[target]
    assert float(segmentation.dice_loss(logits, target)[0]) == pytest.approx(0, abs=1e-6)


@fast
@pytest.mark.parametrize('name', ['dice', 'focal'])
def test_losses_are_those_of_monai(name):
    monai, torch = pytest.importorskip('monai.losses'), pytest.importorskip('torch')
    logits, target = random_logits(2, 6, 8, 3), random_target(2, 6, 8)
    theirs = {
        'dice': monai.DiceLoss(False, True, softmax=True, smooth_nr=1, smooth_dr=1),
        'focal': monai.FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0),
    }[name]
    channels_first = torch.from_numpy(np.moveaxis(logits, -1, 1).copy())
    expected = float(theirs(channels_first, torch.from_numpy(target[:, None].astype(np.int64))))
    ours = segmentation.LOSSES[name](logits, target).mean()
    classes = 3 if name == 'focal' else 1  # MONAI also averages over the classes
    np.testing.assert_allclose(ours / classes, expected, rtol=1e-5)


# ---- whole images from tiles


@pytest.fixture(scope='module')
def task():
    """Of images that no patch divides."""
    return segmentation.task_on(config_of(), examples(6, (30, 21)), examples(5, (37, 18), seed=9))


def called(task):
    """(counts of every scan by tiles, scans) of an untrained network, as the loop gathers them."""
    state = task.init(jax.random.key(0), {'image': task.train_batch(0)['image'][:1]})
    step, parts = jax.jit(task.eval_step), []
    for batch in task.eval_batches()['']:
        mask = batch.pop('mask')
        parts.append({name: np.asarray(array)[mask] for name, array in step(state, batch).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_counts_of_tiles_are_those_of_whole_images(task, monkeypatch):
    """Of a network that looks at single pixels, so that tiles have no edges."""
    pixel = lambda variables, images, **_: jnp.concatenate([-images, images * 0, images], -1)
    found = {}
    for patch in ((16, 16), (64, 64)):
        made = segmentation.task_on(
            config_of(patch=patch, image_size=64),
            examples(6, (30, 21)),
            examples(5, (37, 18), seed=9),
        )
        parts = made.eval_step.args[0]
        model = type('Pixel', (), {'init': parts.model.init, 'apply': staticmethod(pixel)})
        step = partial(segmentation.eval_step, parts._replace(model=model))
        outputs = called(made._replace(eval_step=step))
        found[patch] = np.stack(
            [outputs['counts'][outputs['scan'] == scan].sum(0) for scan in range(5)]
        )
        scalars, _ = made.summarize(outputs)
        val = examples(5, (37, 18), seed=9)
        classes = [np.digitize(image / 127.5 - 1, (-1e-9, 1e-9)) for image in val.images]
        dice = [
            metrics.f1_score(
                t.ravel(), c.ravel(), labels=[1, 2], average=None, zero_division=np.nan
            )
            for t, c in zip(val.targets, classes)
        ]
        np.testing.assert_allclose(scalars['dice_region2'], np.nanmean(dice, 0)[1], rtol=1e-6)
    np.testing.assert_array_equal(found[16, 16], found[64, 64])
    pixels = found[16, 16][:, :, [0, 2]].sum((1, 2))
    np.testing.assert_array_equal(pixels, 37 * 18)  # every pixel is of one class


def test_pictures_of_evaluation_show_image_target_and_prediction(task):
    outputs = called(task)
    assert outputs['panel'].shape[1:] == (16, 48, 3) and outputs['panel'].dtype == np.uint8
    assert outputs['counts'].ndim == 3  # rank 4 would be taken for pictures


def test_a_region_without_a_pixel_in_target_and_prediction_is_left_out_of_the_mean():
    counts = np.zeros((2, 3, 3), int)
    counts[0, 1] = (10, 0, 0)  # region 1 found whole in the first scan, in the second not there
    counts[1, 2] = (0, 5, 0)  # region 2 only called so in the second
    outputs = {'loss': np.zeros(2), 'counts': counts, 'scan': np.array([4, 7]), 'panel': None}
    scalars, _ = segmentation.summarize(('background', 'a', 'b'), outputs)
    assert (scalars['dice_a'], scalars['dice_b'], scalars['dice']) == (1.0, 0.0, 0.5)


# ---- training


@pytest.mark.parametrize(
    'loss, dtype', [*((loss, 'float32') for loss in segmentation.LOSSES), ('dice_ce', 'bfloat16')]
)
def test_every_loss_learns_blobs(loss, dtype):
    config = config_of(
        **{'loss': loss, 'dtype': dtype, 'steps': 60, 'learning_rate': 1e-2, 'augment': OFF},
    )
    made = segmentation.task_on(config, examples(6, (24, 24)), examples(5, (24, 24), seed=9))
    states, scalars = follow(made, 60)
    state = states[-1]
    assert scalars[-1]['loss'] < scalars[0]['loss']
    step, outputs = jax.jit(made.eval_step), []
    for batch in made.eval_batches()['']:
        mask = batch.pop('mask')
        outputs.append({k: np.asarray(v)[mask] for k, v in step(state, batch).items()})
    outputs = {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}
    assert made.summarize(outputs)[0]['dice'] > 0.7


def losses_on(count):
    """The losses of three steps on so many devices, augmentation and BatchNorm included."""
    assert jax.device_count() == count
    made = segmentation.task_on(config_of(), examples(6, (30, 21)), examples(2, (30, 21), seed=9))
    return [scalars['loss'] for scalars in follow(made, 3)[1]]


def test_two_devices_equal_one():
    alone, together = (
        launching.call(losses_on, (count,), {'XLA_FLAGS': flags_of_devices(count)})
        for count in (1, 2)
    )
    assert len(set(alone)) == 3
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-6)
    np.testing.assert_allclose(together, alone, rtol=1e-3)  # Adam's first steps magnify rounding


# ---- configs


@fast
@pytest.mark.parametrize(
    'fields, message',
    [
        *(
            ({'patch': patch}, r'config.patch=\(.*\): write \(side, side\), whole numbers of')
            for patch in (
                *(
                    (),
                    (16,),
                    (16, 24),
                    (4, 16, 16),
                    (0, 0),
                    (-3, -3),
                    (16.0, 16.0),
                    (8.5, 8.5),
                    (1, 1),
                ),
                *(('a', 'a'), (True, True), (None, None), (float('nan'),) * 2),
            )
        ),
        ({'widths': ()}, r'config.widths=\(\): give 1 to 8 levels'),
        ({'widths': (4,) * 9}, 'config.widths=.*: give 1 to 8 levels'),
        *(
            ({'widths': widths}, 'config.widths=.* is no number of features; write whole numbers')
            for widths in ((0,), (-4, 8), (4.5, 8), ('a',), (4, None), (4, True), (8193,))
        ),
        ({'widths': (1, 1), 'up': 'bilinear'}, 'config.widths=.* write whole numbers from 2 to'),
        ({'patch': (32, 32)}, r'config.patch=\(32, 32\): is larger than the images'),
        ({'loss': 'hinge'}, 'config.loss=hinge: no such choice'),
        ({'model': 'resnet50'}, 'config.model=resnet50: no such choice; choose one of unet'),
        ({'up': 'nearest'}, 'config.up=nearest'),
        ({'norm': 'group'}, 'config.norm=group'),
        ({'schedule': 'linear'}, 'config.schedule=linear'),
        ({'dtype': 'float16'}, 'config.dtype=float16'),
    ],
    ids=str,
)
def test_wrong_configs_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        segmentation.task_on(config_of(**fields), examples(4, (24, 24)), examples(2, (24, 24)))


@fast
@pytest.mark.parametrize('key', ['train', 'val'])
@pytest.mark.parametrize(
    'spec, slices',
    [
        ('ct_scans/mosmed:train[:5]', 'ct_scans/mosmed_slices:train[:5]'),
        ('ct_scans/folder_hu:test@covid', 'ct_scans/folder_slices_hu:test@covid'),
        ('ct_scans/mosmed:train+test', 'ct_scans/mosmed_slices:train+ct_scans/mosmed_slices:test'),
    ],
)
def test_volumes_are_refused_with_the_name_of_their_slices(key, spec, slices):
    sets = {name: examples(2, (24, 24)) for name in ('train', 'val')}
    sets[key] = examples(2, (4, 24, 24))
    with pytest.raises(InputError) as caught:
        segmentation.task_on(config_of(**{key: spec}), **sets)
    assert str(caught.value).startswith(f'config.{key}={spec}: has volumes, and unet sees slices')
    assert str(caught.value).endswith(f'name {slices}')


def read_instead(monkeypatch, **sets):
    """Makes segmented.read give these sets, by the split of the spec."""
    monkeypatch.setattr(
        segmented, 'read', lambda spec, *_: sets[{'train': 'train', 'validation': 'val'}[spec[16:]]]
    )


@fast
@pytest.mark.parametrize('key', ['train', 'val'])
def test_a_split_without_a_pixel_of_a_region_is_refused(monkeypatch, key):
    sets = {name: examples(4, (24, 24)) for name in ('train', 'val')}
    for target in sets[key].targets:
        target[target == 2] = 0
    read_instead(monkeypatch, **sets)
    with pytest.raises(InputError, match=f'config.{key}=ct_scans/folder:.*: no pixel is region2'):
        segmentation.make(config_of())


@fast
def test_training_and_validation_of_other_regions_are_refused(monkeypatch):
    val = examples(4, (24, 24))._replace(classes=('background', 'region1', 'lung'))
    read_instead(monkeypatch, train=examples(4, (24, 24)), val=val)
    with pytest.raises(InputError, match='config.val=.*: has the regions region1, lung, config.tr'):
        segmentation.make(config_of())


@fast
def test_a_config_without_data_is_refused():
    with pytest.raises(InputError, match='config.train is empty; name a data set with masks'):
        segmentation.make(config_of(train=''))


@fast
def test_a_score_needs_a_validation_set():
    config = config_of(val='', best='val/dice')
    task = segmentation.task_on(config, examples(3, (24, 24)), None)
    with pytest.raises(InputError, match='config.best=val/dice: no such scalar; name config.val'):
        loop.check(task, config)


@fast
def test_without_a_validation_set_nothing_is_evaluated():
    task = segmentation.task_on(config_of(val='', best=''), examples(3, (24, 24)), None)
    assert task.eval_batches() == {} and [*task.sources] == ['train']


@fast
@pytest.mark.parametrize(
    'names, table',
    [
        (('background', 'ground_glass', 'consolidation'), [0, 1, 1]),
        (('background', 'opacity'), [0, 1]),
        (('background', 'left_lung', 'infection', 'right_lung'), [0, 0, 1, 0]),
    ],
)
def test_any_lesion_is_every_region_that_is_no_lung(names, table):
    classes, found = segmented.classes_of('any_lesion', names)
    assert classes == ('background', 'any_lesion') and found.tolist() == table


@fast
@pytest.mark.parametrize('names', [('background', 'left_lung', 'right_lung')])
def test_masks_of_lungs_alone_have_no_lesion(names):
    with pytest.raises(InputError, match='config.regions=any_lesion: no region any_lesion'):
        segmented.classes_of('any_lesion', names)


@fast
@pytest.mark.parametrize(
    'regions, names, table',
    [
        ('', ('background', 'lung', 'lesion', 'airway'), [0, 1, 2, 3]),
        ('lung+lesion', ('background', 'lung+lesion'), [0, 1, 1, 0]),
        ('lesion, lung', ('background', 'lesion', 'lung'), [0, 2, 1, 0]),
    ],
)
def test_regions_are_joined_left_out_and_ordered(regions, names, table):
    found, changed = segmented.classes_of(regions, ('background', 'lung', 'lesion', 'airway'))
    assert found == names and changed.tolist() == table


@fast
@pytest.mark.parametrize('regions', ['heart', 'lung,lung', 'lung+', 'background', 'lung,,lesion'])
def test_regions_that_masks_do_not_have_are_refused(regions):
    with pytest.raises(InputError, match='config.regions=.*they have lung, lesion'):
        segmented.classes_of(regions, ('background', 'lung', 'lesion'))


# ---- volumes

VOLUMES = {
    **{'widths': (4, 8), 'patch': (8, 16, 16), 'spacing': 0.0},
    **{'learning_rate': 1e-2, 'steps': 100},
}


LEARN_FAST = 'vbnet'  # the others take three times as long


@pytest.mark.parametrize(
    'model',
    [
        pytest.param(name, marks=[] if name == LEARN_FAST else pytest.mark.slow)
        for name in models.VOLUME_SEGMENTERS
    ],
)
def test_networks_of_volumes_learn(tmp_path, model):
    config = config_of(**VOLUMES, model=model, eval_every=100, best='val/dice')
    sets = [examples(n, (9, 24, 20), classes=2, seed=n) for n in (6, 3)]
    loop.fit(segmentation.task_on(config, *sets), config, tmp_path)
    logged = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').open()]
    dice = [line['val/dice'] for line in logged if 'val/dice' in line]
    assert dice[-1] > 0.8
    assert [path.name for path in (tmp_path / 'images').iterdir()] == ['val_panel_000100.png']


@fast
@pytest.mark.parametrize('model', models.VOLUME_SEGMENTERS)
def test_slices_are_refused_by_networks_of_volumes(model):
    sets = {name: examples(2, (24, 24)) for name in ('train', 'val')}
    with pytest.raises(InputError, match=f'has slices, and {model} sees volumes'):
        segmentation.task_on(config_of(**VOLUMES, model=model), **sets)


@fast
@pytest.mark.parametrize('spacing', [(1.5, 1.5, 1.49), (5.0, 1.5, 1.5), (0.0, 0.0, 0.0), None])
def test_volumes_must_have_the_voxels_of_the_config(spacing):
    config = config_of(**VOLUMES | {'spacing': 1.5}, model='vbnet')
    others = [{} if spacing is None else {'spacing': spacing}, {'spacing': (1.5, 1.5, 1.5)}]
    sets = {}
    for name, of_set in zip(('train', 'val'), (others[1:], others)):
        sets[name] = examples(len(of_set), (9, 24, 20))
        rows = [dataclasses.replace(row, others=o) for row, o in zip(sets[name].rows, of_set)]
        sets[name] = sets[name]._replace(rows=rows)
    shape = ' x '.join(f'{mm:.3g}' for mm in spacing or (0, 0, 0))
    message = f'config.val=.*: 0 has voxels of {shape} mm .*end in _1500um, or set config.spacing=0'
    with pytest.raises(InputError, match=message):
        segmentation.task_on(config, **sets)
    segmentation.task_on(config, sets['train'], None)
    segmentation.task_on(config_of(**VOLUMES, model='vbnet'), **sets)


@fast
@pytest.mark.parametrize('patch', [(16, 16), (16,), (8, 16, 12), (4, 16, 16), (8.0, 16, 16)])
def test_patches_of_volumes_have_three_sides(patch):
    config = config_of(**VOLUMES | {'patch': patch}, model='vbnet')
    with pytest.raises(InputError, match=r'config.patch=.*: write \(depth, side, side\)'):
        segmenter.patch_of(config)


@fast
def test_bottlenecks_are_those_of_a_vb_net():
    for bottleneck in segmenter.BOTTLENECKS:
        config = config_of(**VOLUMES, model='vbnet', bottleneck=bottleneck)
        assert segmenter.network(config, 2).bottleneck == (bottleneck or None)
    with pytest.raises(InputError, match='config.bottleneck=2'):
        segmenter.network(config_of(**VOLUMES, model='vbnet', bottleneck=2), 2)

"""Checks on phantoms with a disc as disease: shortcuts are caught, an honest score is not."""

import functools
import hashlib
import inspect

import jax
import numpy as np
import pytest
from flax import linen as nn
from scipy import ndimage

from configs import classifier as classifier_config
from covjax import stand_ins
from covjax.audit import (
    attribution,
    calibration,
    experiments,
    grey_statistics,
    lesion_pairs,
    metadata_baseline,
    mixing,
    origin,
    overlap,
    pixel_baseline,
    regions,
    verdict,
)
from covjax.audit import stand_ins as stand_ins_check
from covjax.audit.verdict import Images, Subject
from covjax.ct import lungs, windows
from covjax.data import lineage, near_duplicates
from covjax.data.results import Interval, Result, ScoredImage
from covjax.data.rows import Row
from covjax.models import MODELS, create
from covjax.models.backbone import Backbone
from covjax.phantom import chest
from covjax.runs.audit import CHECKS

SIZE, RADIUS, GREY = 64, 3, 90
DISC = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2  # a little smaller than that of the disease
PEOPLE = {'train': 40, 'validation': 16, 'test': 40}
# All checks but those that need a network, experiments or pairs.
NEED_MORE = (attribution, lesion_pairs, mixing, origin, stand_ins_check)
ASKED = tuple(check for check in CHECKS if check not in NEED_MORE)
BACKBONES = [
    pytest.param(name, marks=[] if name in ('vgg16', 'resnet18', 'plain8') else pytest.mark.slow)
    for name in MODELS
]


def draw(people, seed):
    """uint8 [people, SIZE, SIZE] phantom slices; every second has a grey disc in a lung."""
    rng = np.random.default_rng(seed)
    return np.stack([_draw(rng, diseased=i % 2) for i in range(people)])


def _draw(rng, diseased):
    """A slice, framed by hand as pictures in papers are."""
    window, room = windows.Window(rng.uniform(-1250, -1000), rng.uniform(200, 400)), SIZE // 4
    person, height = chest.draw_chest(rng), rng.uniform(-18, 18)
    hu = chest.render(person, height, SIZE + room, rng.uniform(345, 420) / (SIZE + room))
    top, left = rng.integers(3, room - 2, 2)
    grey = windows.to_grey(hu[top : top + SIZE, left : left + SIZE], window)
    if not diseased:
        return grey
    inside = np.argwhere(ndimage.binary_erosion(lungs.mask(grey), iterations=2))
    centre = inside[rng.integers(len(inside))]
    disc = np.hypot(*(np.mgrid[:SIZE, :SIZE] - centre[:, None, None])) <= RADIUS
    return np.where(disc, np.maximum(grey, GREY), grey).astype(np.uint8)


def images_of(name, greys):
    labels = np.arange(len(greys)) % 2
    rows = [
        Row(
            id=f'{name}_{i}',
            group=f'{name}_{i}/1',
            label=int(label),
            sha256=hashlib.sha256(grey.tobytes()).hexdigest(),
            file={'width': SIZE, 'height': SIZE, 'mode': 'L', 'container': 'PNG'},
        )
        for i, (grey, label) in enumerate(zip(greys, labels))
    ]
    return Images(name, greys[..., None], labels, rows, list(zip(greys, rows)))


@functools.cache
def brightest_disc(content):
    """The brightest grey that fills a disc inside the lungs of an image, as bytes."""
    image = np.frombuffer(content, np.uint8).reshape(SIZE, SIZE)
    inside = ndimage.binary_erosion(lungs.mask(image), iterations=3)
    return (ndimage.grey_erosion(image, footprint=DISC) * inside).max(initial=0)


def honest(images):
    """P(covid) of a score that sees the disc and nothing else."""
    brightest = np.array([brightest_disc(image.tobytes()) for image in images], float)
    return 1 / (1 + np.exp(-(brightest - 85) / 3))


def inside_lungs(images):
    """An attribution that is where it should be, float [N, SIZE, SIZE]."""
    masks = lungs.masks(images)
    return np.stack([ndimage.binary_erosion(mask, iterations=3) for mask in masks]).astype(float)


@pytest.fixture(scope='module')
def drawn():
    return {name: draw(people, seed) for seed, (name, people) in enumerate(PEOPLE.items())}


def unchanged(greys, labels):
    return greys


def corner_mark(greys, labels):
    """White in a corner of every COVID image, as a burnt-in letter would be."""
    greys = greys.copy()
    greys[labels == 1, 2:8, 2:8] = 255
    return greys


def black_level(greys, labels):
    """Black is a little brighter in COVID images, as another export would make it."""
    covid = (labels == 1)[:, None, None]
    return np.where(covid, np.maximum(greys, 14), greys).astype(np.uint8)


@pytest.fixture
def subject(drawn, tmp_path):
    """subject(change, score, **fields) -> Subject of images that change(greys, labels) has made."""

    def build(change=unchanged, score=honest, **fields):
        labelled = {name: change(greys, np.arange(len(greys)) % 2) for name, greys in drawn.items()}
        sets = {name: images_of(name, greys) for name, greys in labelled.items()}
        train, validation = sets['train'], sets['validation']
        built = Subject(
            folder=tmp_path,
            score=score,
            train=train,
            validation=validation,
            tests={'test': sets['test']},
            real=train,
            origins={0: {'a'}, 1: {'a'}},
            lineage=[record('train', train), record('val', validation)],
        )
        return built._replace(**fields)

    return build


def record(role, images):
    entries = [[row.sha256, row.group, row.id] for row in images.rows]
    return {'role': role, 'dataset': role, 'through': '', 'images': entries}


def test_an_honest_score_on_clean_phantoms_passes(subject):
    """The pass is one of substance: the score is good, and every check has an answer."""
    clean = subject(attribute=inside_lungs)
    assert verdict.area(honest(clean.tests['test'].images), clean.tests['test']).low > 0.9
    flags = {check.NAME: check.check(clean).flag for check in (*ASKED, attribution)}
    assert set(flags.values()) == {False}, flags


def sees_the_corner(images):
    return images[:, 4, 4, 0] / 255.0


def sees_the_black_level(images):
    return np.clip(images.min((1, 2, 3)) / 14, 0, 1)


@pytest.mark.parametrize(
    'change, learned, caught_by',
    [
        (corner_mark, sees_the_corner, {pixel_baseline, regions}),
        (black_level, sees_the_black_level, {grey_statistics, metadata_baseline}),
    ],
)
def test_a_planted_shortcut_is_caught(subject, change, learned, caught_by):
    """A score that has learned the shortcut is as good as can be, and is found out.

    Scores are near 0 or 1, or calibration would flag them as well. A change that also moves grey
    levels is caught by the regressions on grey levels and on files, one in the whole image by
    `regions`: every check that catches a change is listed.
    """
    planted = subject(change, learned)
    test = planted.tests['test']
    assert verdict.area(learned(test.images), test).value > 0.99
    flagged = {check.NAME for check in ASKED if check.check(planted).flag}
    assert flagged == {check.NAME for check in caught_by}


def test_a_shortcut_is_reported_even_when_the_score_does_not_use_it(subject):
    """The data have the shortcut; the honest score needs none, and regions say so."""
    planted = subject(corner_mark)
    assert pixel_baseline.check(planted).flag and not regions.check(planted).flag


def test_attribution_at_the_mark_is_caught(subject):
    heat = np.zeros((1, 8, 8))
    heat[0, 0, 0] = 1
    at_the_mark = lambda images: heat.repeat(len(images), 0)
    found = attribution.check(subject(corner_mark, attribute=at_the_mark))
    assert found.flag and '0%' in found.finding and found.figures[0][0].is_file()


def test_a_near_duplicate_across_splits_is_caught(subject):
    clean = subject()
    test, (copy, row) = clean.tests['test'], clean.train.native[0]
    brighter = np.clip(copy * 0.9 + 9, 0, 255).astype(np.uint8)
    near = test._replace(native=[(brighter, test.rows[0]), *test.native[1:]])
    found = overlap.check(clean._replace(tests={'test': near}))
    assert found.flag and '1 near copy' in found.finding and found.figures[0][0].is_file()
    assert any(f'{test.rows[0].id} is like {row.id}' in what for _, what, _ in found.rows)


def test_a_copy_across_splits_is_caught(subject):
    clean = subject()
    test, (copy, row) = clean.tests['test'], clean.train.native[0]
    exact = test._replace(rows=[row, *test.rows[1:]], native=[(copy, row), *test.native[1:]])
    assert lineage.overlap(clean.lineage, exact.rows)[0]['images'] == 1
    found = overlap.check(clean._replace(tests={'test': exact}))
    assert found.flag and '1 image' in found.finding


def test_origins_that_look_alike_are_no_flag(subject, drawn):
    same = images_of('a', drawn['train']), images_of('b', drawn['test'])
    apart = {0: {'a'}, 1: {'b'}}
    assert origin.check(subject(pairs=(same,), origins=apart)).flag is False


def test_an_origin_is_a_flag_where_each_class_has_its_own(subject, drawn):
    """Another black level gives an origin away, which matters if it is that of one class alone."""
    other = images_of('a', drawn['train']), images_of('b', np.maximum(drawn['test'], 14))
    apart, together = {0: {'a'}, 1: {'b'}}, {0: {'a', 'b'}, 1: {'b'}}
    found = origin.check(subject(pairs=(other,), origins=apart))
    assert found.flag is True and 'AUC 1.000 (' in found.finding
    assert 'different data sets: a for non-COVID and b for COVID' in found.finding
    found = origin.check(subject(pairs=(other,), origins=together))
    assert found.flag is False and 'AUC 1.000 (' in found.finding
    assert 'partly the same data sets: a, b for non-COVID and b for COVID' in found.finding


def test_without_pairs_origins_are_not_asked_for(subject):
    assert origin.check(subject()).flag is None


def result(scores, images, seen=0):
    """What an evaluation finds of scores on Images, of which it has trained on some."""
    found = verdict.area(scores, images)
    return Result(
        model='resnet50',
        kind='network',
        train_set='train',
        seed=0,
        step=1,
        checkpoint='best',
        test_set=images.spec,
        test_name='real test',
        overlap={'images': seen},
        metrics={'auc': found.value},
        intervals={'auc': Interval(found.low, found.high)},
        images=[
            ScoredImage(row.id, row.label, float(score), row.group)
            for row, score in zip(images.rows, scores)
        ],
    )


@pytest.fixture
def compared(subject):
    """compared(check, {experiment: 'good' or 'chance'}, seen=0) -> Verdict."""
    clean = subject()
    test = clean.tests['test']
    chance = np.random.default_rng(0).random(len(test.labels))
    scores = {'good': honest(test.images), 'chance': chance}

    def verdict_of(check, found, seen=0):
        results = {name: [result(scores[how], test, seen)] for name, how in found.items()}
        return check.check(clean._replace(experiments=results))

    return verdict_of


def test_a_stand_in_that_does_worse_is_no_flag(compared):
    found = {'controls/translated': 'good', 'controls/jpeg': 'chance'}
    assert compared(stand_ins_check, found).flag is False


def test_a_stand_in_that_does_as_well_is_a_flag(compared):
    found = {'controls/translated': 'good', 'controls/jpeg': 'chance', 'controls/nothing': 'good'}
    answer = compared(stand_ins_check, found)
    assert answer.flag is True
    assert 'nothing on real test' in answer.finding and 'jpeg' not in answer.finding


def test_stand_ins_explain_nothing_where_the_generator_teaches_nothing(compared):
    assert compared(stand_ins_check, {}).flag is None
    found = {'controls/translated': 'chance', 'controls/jpeg': 'chance'}
    answer = compared(stand_ins_check, found)
    assert answer.flag is None and 'nothing that a stand-in could explain' in answer.finding


def test_synthetic_images_that_are_worse_than_real_ones_are_a_flag(compared):
    worse = {'mixing/0': 'good', 'mixing/50': 'good', 'mixing/100': 'chance'}
    assert compared(mixing, worse).flag is True
    assert compared(mixing, {'mixing/0': 'chance', 'mixing/100': 'good'}).flag is False


def test_mixtures_need_both_ends_of_the_curve(compared):
    assert compared(mixing, {'mixing/0': 'good'}).flag is None


def test_synthetic_images_made_of_test_images_prove_nothing(compared):
    found = {'mixing/0': 'good', 'mixing/100': 'good'}
    assert compared(mixing, found, seen=3).flag is None


@pytest.fixture
def calibrated():
    """A Subject whose images are their scores, from which the labels are drawn."""
    rng = np.random.default_rng(0)

    def scored(name, n):
        scores = rng.beta(2, 2, n)
        rows = [Row(id=f'{name}_{i}', group=f'{name}_{i}', sha256='') for i in range(n)]
        return Images(name, scores, (rng.random(n) < scores).astype(int), rows)

    train, validation, test = (scored(name, 100) for name in PEOPLE)
    return Subject(
        folder=None,
        score=lambda images: images,
        train=train,
        validation=validation,
        tests={'test': test},
        real=train,
        origins={},
    )


@pytest.mark.fast
def test_scores_that_mean_what_they_say_pass(calibrated):
    assert calibration.check(calibrated).flag is False


@pytest.mark.fast
def test_scores_that_are_far_too_sure_are_a_flag(calibrated):
    """In one direction, and on the test only."""
    test = calibrated.tests['test'].images
    sure = lambda images: np.clip(images + 0.4 * (images is test), 0, 0.999)
    assert calibration.check(calibrated._replace(score=sure)).flag is True


@pytest.mark.fast
def test_images_of_one_patient_are_no_more_evidence_than_one():
    scores = np.random.default_rng(0).beta(2, 2, 60)
    by_patient = calibration.expected_by_chance(scores, np.arange(60) // 10)
    assert by_patient > 1.3 * calibration.expected_by_chance(scores, np.arange(60))


@pytest.fixture
def changed(drawn):
    """(images, masks, {name: changed images})."""
    images = drawn['test'][:6, ..., None]
    masks = lungs.masks(images)
    return images, masks, {name: change(images, masks) for name, change in regions.CHANGES.items()}


def test_lungs_and_the_rest_make_the_whole(changed):
    images, masks, by_name = changed
    black, only = by_name['lungs blacked out'], by_name['lungs only']
    assert (black[masks] == 0).all() and (black[~masks] == images[~masks]).all()
    assert (black.astype(int) + only == images).all()


def test_the_border_is_an_eighth_on_every_side(changed):
    images, _, by_name = changed
    border = by_name['border only']
    assert (border[:, 8:-8, 8:-8] == 0).all()
    assert (border[:, :8] == images[:, :8]).all() and (border[:, -8:] == images[:, -8:]).all()
    assert (border[:, :, :8] == images[:, :, :8]).all()
    assert (border[:, :, -8:] == images[:, :, -8:]).all()


def test_shuffling_moves_pixels_and_keeps_them_the_same_way_each_time(changed):
    images, _, by_name = changed
    shuffled = by_name['patches shuffled']
    for before, after in zip(images, shuffled):
        assert (np.sort(before.ravel()) == np.sort(after.ravel())).all() and (before != after).any()
    assert (regions.shuffled(images) == shuffled).all()


@pytest.mark.parametrize('name', BACKBONES)
def test_grad_cam_of_every_backbone_has_the_shape_of_its_last_map(name):
    model, shapes = create(name), []

    class Recorded:
        """The model, with the shape of its last map noted."""

        @staticmethod
        def apply(variables, images, endpoints):
            output, maps = model.apply(variables, images, endpoints=endpoints)
            shapes.append(maps['features'].shape)
            return output, maps

    image = jax.ShapeDtypeStruct((1, 96, 96, 1), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    apply = lambda variables, images: attribution.grad_cam(Recorded, variables, lambda x: x)(images)
    heat = jax.eval_shape(apply, variables, jax.ShapeDtypeStruct((2, 96, 96, 1), np.uint8))
    assert [heat.shape] == [shape[:3] for shape in shapes]


def small_body(x, conv, norm):
    x = nn.relu(conv(8, (3, 3), (2, 2), name='conv1')(x))
    return {'last': nn.relu(conv(16, (3, 3), (2, 2), name='conv2')(x))}


@pytest.fixture
def small():
    """(a backbone with one linear layer on the mean of its last map, its params, images)."""
    model = Backbone('small', small_body, 8, 'no reference')
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1] / 127.5 - 1)
    return model, variables['params'], images


def heat_of(model, params, images):
    apply = attribution.grad_cam(model, {'params': params}, lambda x: x)
    return np.asarray(jax.jit(apply)(images))


def test_grad_cam_is_the_class_activation_map(small):
    """Of such a network it is that of Zhou et al. 2016 over the number of cells."""
    model, params, images = small
    _, maps = model.apply({'params': params}, np.float32(images / 127.5 - 1), endpoints=True)
    features = np.asarray(maps['features'])
    weighted = features @ (np.asarray(params['head']['kernel']) @ [-1, 1])
    expected = np.maximum(weighted, 0) / np.prod(features.shape[1:3])
    tolerance = 1e-4 * np.abs(weighted).max()
    assert expected.any()
    np.testing.assert_allclose(heat_of(model, params, images), expected, atol=tolerance)


def test_grad_cam_cuts_off_the_map_of_the_other_class(small):
    """Without the cut the cells add up to what the network itself says."""
    model, params, images = small
    negated = params | {'head': jax.tree.map(lambda leaf: -leaf, params['head'])}
    heat, other = heat_of(model, params, images), heat_of(model, negated, images)
    logits = model.apply({'params': params}, np.float32(images / 127.5 - 1))
    margin = np.asarray(logits[:, 1] - logits[:, 0])
    np.testing.assert_allclose((heat - other).sum((1, 2)), margin, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('n', [2, 3, 4])
def test_grad_cam_of_a_class_is_that_of_the_logit_of_its_probability(n):
    """By the derivative of log(p / (1 - p)), which lets each other class count by its share."""
    model = Backbone('small', small_body, 8, 'no reference', num_classes=n)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    params = jax.jit(model.init)(jax.random.key(0), images[:1] / 127.5 - 1)['params']
    logits, maps = model.apply({'params': params}, np.float32(images / 127.5 - 1), endpoints=True)
    features, kernel = np.asarray(maps['features']), np.asarray(params['head']['kernel'])
    for k in range(n):
        others = [j for j in range(n) if j != k]
        shares = np.asarray(jax.nn.softmax(logits[:, others]))
        weights = kernel[:, k] - shares @ kernel[:, others].T
        weighted = (features * weights[:, None, None]).sum(-1)
        expected = np.maximum(weighted, 0) / np.prod(features.shape[1:3])
        apply = attribution.grad_cam(model, {'params': params}, lambda x: x, positive=k)
        heat = jax.jit(apply)(images)
        np.testing.assert_allclose(heat, expected, atol=1e-4 * np.abs(weighted).max())


@pytest.mark.fast
def test_every_check_keeps_the_contract():
    assert len({check.NAME for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.RULE.startswith('Red flag when ') or check.RULE.startswith('Red flag for ')
        assert check.COLUMNS and list(inspect.signature(check.check).parameters) == ['subject']


@pytest.mark.fast
def test_nearest_is_numpys_correlation():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (n, 32, 32, 1), np.uint8) for n in (5, 7))
    value, index = near_duplicates.nearest(first, second)
    full = np.corrcoef(first.reshape(5, -1), second.reshape(7, -1))[:5, 5:]
    np.testing.assert_allclose(value, full.max(1), atol=1e-5)
    assert (index == full.argmax(1)).all()


@pytest.fixture(scope='module')
def styled(drawn):
    """(slices, images of another style, {stand-in: what it makes of the slices})."""
    slices = drawn['test'][..., None]
    darker = drawn['train'][..., None].astype(int) // 2 + 60
    goal = np.clip(darker, 0, 255).astype(np.uint8)
    training = {'cancer': slices, 'covid': goal}.get
    names = ('nothing', 'window', 'histogram', 'jpeg')
    by_name = {name: stand_ins.METHODS[name](None, training, 8)(slices) for name in names}
    for images in by_name.values():
        assert images.shape == slices.shape and images.dtype == np.uint8
    return slices, goal, by_name


def test_nothing_changes_nothing(styled):
    slices, _, by_name = styled
    assert (by_name['nothing'] == slices).all()


def test_jpeg_hardly_changes_anything(styled):
    slices, _, by_name = styled
    assert 0 < np.abs(by_name['jpeg'].astype(int) - slices).mean() < 6


def test_the_window_gives_the_mean_and_spread_of_the_goal(styled):
    _, goal, by_name = styled
    assert abs(by_name['window'].mean() - goal.mean()) < 2
    assert abs(by_name['window'].std() - goal.std()) < 3


def test_the_histogram_gives_the_distribution_of_the_goal_and_keeps_order(styled):
    slices, goal, by_name = styled
    for before, after in zip(slices, by_name['histogram']):
        order = np.argsort(before.ravel(), kind='stable')
        assert (np.diff(after.ravel()[order].astype(int)) >= 0).all()
    shares = [0.6, 0.75, 0.9, 0.97]
    expected = np.quantile(goal, shares)
    np.testing.assert_allclose(np.quantile(by_name['histogram'], shares), expected, atol=12)


# What version 0.5.0 listed as inherited, when the config of a classifier had no other keys.
INHERITED = {
    *('model', 'pretrained', 'dtype', 'dropout', 'bn_momentum', 'image_size', 'load_size'),
    *('batch_size', 'steps', 'eval_every', 'best', 'val', 'seed', 'augment', 'class_weights'),
    *('learning_rate', 'schedule', 'warmup_steps', 'weight_decay', 'label_smoothing'),
    *('freeze_steps', 'body_rate'),
}


@pytest.mark.fast
def test_experiments_inherit_the_recipe_of_the_audited_classifier():
    config = classifier_config.get_config()
    config.steps, config.augment.rotate = 7, 33.0
    inherited = experiments.inherited(config)
    assert inherited.keys() >= INHERITED
    assert inherited == {key: config[key] for key in inherited}
    assert inherited['augment'].rotate == 33.0


@pytest.mark.fast
def test_a_new_key_of_the_classifiers_config_reaches_the_experiments():
    config = classifier_config.get_config()
    config.sharpness = 0.5
    assert experiments.inherited(config)['sharpness'] == 0.5


@pytest.mark.fast
def test_experiments_have_their_own_data_and_their_own_run():
    config = classifier_config.get_config()
    own = set(config) - set(experiments.inherited(config))
    assert own == {'run', 'task', 'train', 'start', 'data_dir', 'log_every'}


@pytest.mark.parametrize('check', [regions, attribution], ids=['regions', 'attribution'])
def test_of_a_classifier_of_lungs_alone_nothing_outside_is_asked(check, subject):
    verdict = check.check(subject(attribute=inside_lungs, lungs='mask'))
    assert verdict.flag is None and 'shown the lungs alone (config.lungs=mask)' in verdict.finding
    assert check.check(subject(attribute=inside_lungs, lungs='crop')).rows

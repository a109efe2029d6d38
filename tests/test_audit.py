"""Checks on phantoms with a disc as disease: planted shortcuts are caught, an honest score and clean data are not."""

import hashlib

import jax
import numpy as np
import pytest
from scipy import ndimage

from covjax import stand_ins
from covjax.audit import (
    attribution,
    grey_statistics,
    metadata_baseline,
    mixing,
    origin,
    overlap,
    pixel_baseline,
    regions,
    verdict,
)
from covjax.audit import calibration as calibration_check
from covjax.audit import stand_ins as stand_ins_check
from covjax.audit.verdict import Images, Subject
from covjax.ct import lungs, windows
from covjax.data import lineage, near_duplicates
from covjax.models import MODELS, create
from covjax.phantom import chest
from covjax.runs.audit import CHECKS

SIZE, RADIUS, GREY = 64, 3, 90
DISC = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2  # a little smaller


def draw(people, seed):
    """uint8 [2 * people, SIZE, SIZE] phantom slices, framed by hand; every second has a grey disc somewhere in a lung."""
    rng, images = np.random.default_rng(seed), []
    for i in range(2 * people):
        window, room = windows.Window(rng.uniform(-1250, -1000), rng.uniform(200, 400)), SIZE // 4
        hu = chest.render(
            chest.draw_chest(rng),
            rng.uniform(-18, 18),
            SIZE + room,
            rng.uniform(345, 420) / (SIZE + room),
        )
        top, left = rng.integers(3, room - 2, 2)
        grey = windows.to_grey(hu[top : top + SIZE, left : left + SIZE], window)
        if i % 2:
            inside = np.argwhere(ndimage.binary_erosion(lungs.mask(grey), iterations=2))
            y, x = inside[rng.integers(len(inside))]
            disc = np.hypot(*(np.mgrid[:SIZE, :SIZE] - np.array([y, x])[:, None, None])) <= RADIUS
            grey = np.where(disc, np.maximum(grey, GREY), grey).astype(np.uint8)
        images.append(grey)
    return np.stack(images)


def images_of(name, greys):
    labels = np.arange(len(greys)) % 2
    rows = [
        {
            'id': f'{name}_{i}',
            'group': f'{name}_{i}/1',
            'label': int(label),
            'sha256': hashlib.sha256(grey.tobytes()).hexdigest(),
            'file': {'width': SIZE, 'height': SIZE, 'mode': 'L', 'container': 'PNG'},
        }
        for i, (grey, label) in enumerate(zip(greys, labels))
    ]
    return Images(name, greys[..., None], labels, rows, list(zip(greys, rows)))


def honest(images):
    """Sees the disc and nothing else: the brightest grey that fills one, inside the lungs -> P(covid)."""
    inside = [ndimage.binary_erosion(lungs.mask(image[..., 0]), iterations=3) for image in images]
    seen = np.array(
        [
            (ndimage.grey_erosion(image[..., 0], footprint=DISC) * where).max(initial=0)
            for image, where in zip(images, inside)
        ],
        float,
    )
    return 1 / (1 + np.exp(-(seen - 85) / 3))


@pytest.fixture(scope='module')
def drawn():
    return {
        name: draw(people, seed)
        for seed, (name, people) in enumerate({'train': 30, 'validation': 10, 'test': 30}.items())
    }


@pytest.fixture
def subject(drawn, tmp_path):
    """subject(change, score, attribute): every grey image [N, SIZE, SIZE] goes through change(greys, labels) first."""

    def make(change=lambda greys, labels: greys, score=honest, attribute=None, **fields):
        sets = {
            name: images_of(name, change(greys, np.arange(len(greys)) % 2))
            for name, greys in drawn.items()
        }
        records = [
            {
                'role': role,
                'dataset': role,
                'through': '',
                'images': [
                    [row[key] for key in ('sha256', 'group', 'id')] for row in sets[name].rows
                ],
            }
            for role, name in (('train', 'train'), ('val', 'validation'))
        ]
        made = Subject(
            tmp_path,
            score,
            sets['train'],
            sets['validation'],
            {'test': sets['test']},
            sets['train'],
            {0: {'a'}, 1: {'a'}},
            records,
            attribute,
        )
        return made._replace(**fields)

    return make


def corner_mark(greys, labels):
    """White in a corner of every COVID image, as a burnt-in letter would be."""
    greys = greys.copy()
    greys[labels == 1, 2:8, 2:8] = 255
    return greys


def black_level(greys, labels):
    """Black is a little brighter in COVID images, as another export would make it."""
    return np.where((labels == 1)[:, None, None], np.maximum(greys, 14), greys).astype(np.uint8)


ASKED = (metadata_baseline, pixel_baseline, grey_statistics, overlap, regions, calibration_check)


def test_an_honest_score_on_clean_phantoms_passes(subject):
    """The pass is one of substance: the score is good, and every check was asked."""
    heat = lambda images: np.stack(
        [ndimage.binary_erosion(lungs.mask(image[..., 0]), iterations=3) for image in images]
    ).astype(float)
    clean = subject(attribute=heat)
    assert verdict.area(honest(clean.tests['test'].images), clean.tests['test']).low > 0.9
    flags = {check.__name__: check.check(clean).flag for check in (*ASKED, attribution)}
    assert set(flags.values()) == {False}, flags


@pytest.mark.parametrize(
    'change, learned, caught_by',
    [
        (corner_mark, lambda images: images[:, 4, 4, 0] / 255.0, {pixel_baseline, regions}),
        (
            black_level,
            lambda images: np.clip(images.min((1, 2, 3)) / 14, 0, 1),
            {grey_statistics, metadata_baseline},
        ),
    ],
)
def test_a_planted_shortcut_is_caught(subject, change, learned, caught_by):
    """A score that has learned the shortcut is as good as can be, and is found out."""
    planted = subject(change, learned)
    assert verdict.area(learned(planted.tests['test'].images), planted.tests['test']).value > 0.99
    flagged = {check for check in ASKED if check.check(planted).flag}
    assert flagged == caught_by


def test_what_is_planted_is_told_even_when_the_score_does_not_use_it(subject):
    """The data have the shortcut; the honest score needs none, and regions say so."""
    planted = subject(corner_mark)
    assert pixel_baseline.check(planted).flag and not regions.check(planted).flag


def test_attribution_at_the_mark_is_caught(subject):
    heat = np.zeros((1, 8, 8))
    heat[0, 0, 0] = 1
    found = attribution.check(
        subject(corner_mark, attribute=lambda images: heat.repeat(len(images), 0))
    )
    assert found.flag and '0%' in found.finding and found.figures[0][0].is_file()


def test_a_duplicate_across_splits_is_caught(subject):
    clean = subject()
    test, (copy, row) = clean.tests['test'], clean.train.native[0]
    brighter = np.clip(copy * 0.9 + 9, 0, 255).astype(np.uint8)
    near = test._replace(native=[(brighter, test.rows[0]), *test.native[1:]])
    found = overlap.check(clean._replace(tests={'test': near}))
    assert (
        found.flag
        and '1 near copies' in found.finding
        and any(row['id'] in str(line) and test.rows[0]['id'] in str(line) for line in found.rows)
    )
    exact = test._replace(rows=[row, *test.rows[1:]], native=[(copy, row), *test.native[1:]])
    found = overlap.check(clean._replace(tests={'test': exact}))
    assert (
        found.flag
        and lineage.overlap(clean.lineage, exact.rows)[0]['images'] == 1
        and '1 images' in found.finding
    )


def test_source_is_told_only_where_it_differs(subject, drawn):
    """Two halves of one source are not told apart; a source with another black level is, which is a flag when each class has a source of its own."""
    same = images_of('a', drawn['train']), images_of('b', drawn['test'])
    other = same[0], images_of('b', np.maximum(drawn['test'], 14))
    apart = {0: {'a'}, 1: {'b'}}
    assert origin.check(subject(sources=[same], origins=apart)).flag is False
    assert origin.check(subject(sources=[other], origins=apart)).flag is True
    assert (
        origin.check(subject(sources=[other])).flag is False
        and 'AUC 1.000 (' in origin.check(subject(sources=[other])).finding
    )
    assert origin.check(subject()).flag is None


def result(scores, images, test='real test', seen=0):
    found = verdict.area(scores, images)
    rows = [
        {'label': int(label), 'group': group, 'score': float(score)}
        for label, group, score in zip(images.labels, images.groups, scores)
    ]
    return [
        {
            'test_name': test,
            'metrics': {'auc': found.value},
            'intervals': {'auc': {'low': found.low, 'high': found.high}},
            'images': rows,
            'overlap': {'images': seen},
        }
    ]


def test_controls_and_mixtures(subject):
    """A control that does as well is a flag, one that does not is none; synthetic images that are worse than real ones are a flag."""
    clean, rng = subject(), np.random.default_rng(0)
    test = clean.tests['test']
    good, chance = honest(test.images), rng.random(len(test.labels))
    asked = lambda check, **scores: check.check(
        clean._replace(
            experiments={
                name.replace('_', '/'): result(values, test) for name, values in scores.items()
            }
        )
    )
    assert asked(stand_ins_check, controls_translated=good, controls_jpeg=chance).flag is False
    found = asked(
        stand_ins_check, controls_translated=good, controls_jpeg=chance, controls_nothing=good
    )
    assert (
        found.flag is True
        and 'nothing on real test' in found.finding
        and 'jpeg' not in found.finding
    )
    assert (
        asked(stand_ins_check).flag is None
        and 'nothing that a control could explain'
        in asked(stand_ins_check, controls_translated=chance, controls_jpeg=chance).finding
    )
    trained_on = {f'mixing/{share}': result(good, test, seen=share) for share in (0, 100)}
    assert (
        mixing.check(clean._replace(experiments=trained_on)).flag is None
    )  # synthetic images made of the test images prove nothing
    assert asked(mixing, mixing_0=good, mixing_50=good, mixing_100=chance).flag is True
    assert (
        asked(mixing, mixing_0=chance, mixing_100=good).flag is False
        and asked(mixing, mixing_0=good).flag is None
    )


def test_calibration_flags_what_chance_does_not_explain(subject):
    """Scores that mean what they say pass; the same order of scores, all far too sure in one direction on the test only, does not. Images of one patient are no more evidence than one."""
    rng = np.random.default_rng(0)
    clean = subject()
    labels = {
        name: images.labels
        for name, images in (('validation', clean.validation), ('test', clean.tests['test']))
    }
    truth = {
        id(clean.validation.images): rng.beta(2, 2, len(labels['validation'])),
        id(clean.tests['test'].images): rng.beta(2, 2, len(labels['test'])),
    }
    drawn = lambda images: images._replace(
        labels=(rng.random(len(images.labels)) < truth[id(images.images)]).astype(int)
    )
    meant = clean._replace(
        validation=drawn(clean.validation),
        tests={'test': drawn(clean.tests['test'])},
        score=lambda images: truth[id(images)],
    )
    assert calibration_check.check(meant).flag is False
    assert (
        calibration_check.check(
            meant._replace(
                score=lambda images: np.clip(
                    truth[id(images)] + 0.4 * (images is meant.tests['test'].images), 0, 0.999
                )
            )
        ).flag
        is True
    )
    scores = rng.beta(2, 2, 60)
    assert calibration_check.expected_by_chance(
        scores, np.arange(60) // 10
    ) > 1.3 * calibration_check.expected_by_chance(scores, np.arange(60))


def test_regions_change_only_what_they_say(drawn):
    images = drawn['test'][:6, ..., None]
    masks = lungs.masks(images)
    black, only, border, mixed = (change(images, masks) for change in regions.CHANGES.values())
    assert (
        (black[masks] == 0).all()
        and (black[~masks] == images[~masks]).all()
        and ((black.astype(int) + only) == images).all()
    )
    assert (
        (border[:, 8:-8, 8:-8] == 0).all()
        and (border[:, :8] == images[:, :8]).all()
        and (border[:, :, -8:] == images[:, :, -8:]).all()
    )
    for one, other in zip(images, mixed):
        assert (
            np.bincount(one.ravel(), minlength=256) == np.bincount(other.ravel(), minlength=256)
        ).all() and (one != other).any()
    assert (regions.shuffled(images) == mixed).all()


@pytest.mark.parametrize('name', MODELS)
def test_grad_cam_of_every_backbone(name):
    """Of the shape of the last map, whatever the network."""
    model, images = create(name), jax.ShapeDtypeStruct((2, 96, 96, 1), np.uint8)
    variables = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 96, 96, 1), np.float32)
    )
    heat = jax.eval_shape(
        lambda variables, images: attribution.grad_cam(model, variables, lambda x: x)(images),
        variables,
        images,
    )
    features = jax.eval_shape(
        lambda variables, images: model.apply(variables, images, endpoints=True)[1]['features'],
        variables,
        jax.ShapeDtypeStruct((2, 96, 96, 1), np.float32),
    )
    assert heat.shape == features.shape[:3]


def test_grad_cam_is_the_class_activation_map():
    """With one linear layer on the mean of the last map, Grad-CAM is the class activation map of Zhou et al. 2016 over the number of cells."""
    model, images = (
        create('vgg16'),
        np.random.default_rng(0).integers(0, 256, (2, 96, 96, 1), np.uint8),
    )
    variables = jax.jit(model.init)(jax.random.key(0), images[:1] / 127.5 - 1)
    heat = jax.jit(attribution.grad_cam(model, variables, lambda x: x))(images)
    float_images = np.float32(images / 127.5 - 1)
    features = np.asarray(
        jax.jit(lambda x: model.apply(variables, x, endpoints=True)[1]['features'])(float_images)
    )
    weighted = features @ (np.asarray(variables['params']['head']['kernel']) @ [-1, 1])
    np.testing.assert_allclose(
        heat,
        np.maximum(weighted, 0) / np.prod(features.shape[1:3]),
        atol=1e-4 * np.abs(weighted).max(),
    )
    # What was cut off is the map for the other class, and without the cut the cells add up to what the network itself says.
    head = jax.tree.map(lambda leaf: -leaf, variables['params']['head'])
    other = jax.jit(
        attribution.grad_cam(model, {'params': variables['params'] | {'head': head}}, lambda x: x)
    )(images)
    logits = np.asarray(jax.jit(lambda x: model.apply(variables, x))(float_images))
    np.testing.assert_allclose(
        (heat - other).sum((1, 2)), logits[:, 1] - logits[:, 0], rtol=1e-3, atol=1e-5
    )


def test_every_check_has_a_name_and_one_signature():
    assert len({check.NAME for check in CHECKS}) == len(CHECKS) == 10 and all(
        check.check.__code__.co_varnames[0] == 'subject' for check in CHECKS
    )


def test_nearest_is_numpys_correlation(drawn):
    small = drawn['test'][:5, ::2, ::2, None]
    value, index = near_duplicates.nearest(small, drawn['train'][:7, ::2, ::2, None])
    full = np.corrcoef(small.reshape(5, -1), drawn['train'][:7, ::2, ::2].reshape(7, -1))[:5, 5:]
    np.testing.assert_allclose(value, full.max(1), atol=1e-5)
    assert (index == full.argmax(1)).all()


def test_controls_do_what_they_are_called(drawn):
    """The window keeps order and gives the mean and spread of the goal; the histogram gives its distribution; JPEG hardly changes anything."""
    source_images, goal = (
        drawn['test'][..., None],
        np.clip(drawn['train'][..., None].astype(int) // 2 + 60, 0, 255).astype(np.uint8),
    )
    training = {'cancer': source_images, 'covid': goal}.get
    made = {
        name: stand_ins.METHODS[name](None, None, training, 8)(source_images)
        for name in ('nothing', 'window', 'histogram', 'jpeg')
    }
    assert all(
        images.shape == source_images.shape and images.dtype == np.uint8 for images in made.values()
    )
    assert (
        (made['nothing'] == source_images).all()
        and np.abs(made['jpeg'].astype(int) - source_images).mean() < 6
        and (made['jpeg'] != source_images).any()
    )
    assert (
        abs(made['window'].mean() - goal.mean()) < 2 and abs(made['window'].std() - goal.std()) < 3
    )
    for one, other in zip(source_images[..., 0], made['histogram'][..., 0]):
        order = np.argsort(one.ravel(), kind='stable')
        assert (np.diff(other.ravel()[order].astype(int)) >= 0).all()  # grey levels stay in order
    np.testing.assert_allclose(
        np.quantile(made['histogram'], [0.6, 0.75, 0.9, 0.97]),
        np.quantile(goal, [0.6, 0.75, 0.9, 0.97]),
        atol=12,
    )

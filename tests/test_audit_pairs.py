"""The audit of pairs: what tells lesions from shams besides what was made there.

Pairs are phantoms here, made anew by a rule whose lesions are brighter by a chosen contrast, and
whose trace can be planted in lesions alone.
"""

import functools
import hashlib
import itertools
import json

import launching
import numpy as np
import pytest
from scipy import ndimage
from test_lungs import drawn

from configs import classifier as classifier_file
from covjax import CLASSES
from covjax.audit import attribution, lesion_pairs
from covjax.audit.verdict import Images, Member, Subject
from covjax.data import augment, datasets, lesion_masks
from covjax.data.lesion_masks import HALF, SHAM
from covjax.data.rows import Row
from covjax.training import classification, loop

SIZE, PEOPLE = 48, 60
NOISE = 8.0  # grey levels


@functools.cache
def slices():
    """[(uint8 [SIZE, SIZE], gate)] of phantom slices with a gate in the lungs of each."""
    found = []
    for i in range(PEOPLE):
        rng = np.random.default_rng(i)
        grey, lungs = drawn(2 * i, SIZE)  # even seeds have no opacity
        mask = lesion_masks.procedural(rng, lungs)
        noisy = np.clip(grey + NOISE * rng.standard_normal(grey.shape), 0, 255).astype(np.uint8)
        found.append((noisy, np.round(255 * lesion_masks.gate(mask)).astype(np.uint8)))
    return found


def made_anew(rng, before, gate, contrast, smooth):
    """A slice whose noise inside a gate is other, smoother by a scale, and brighter."""
    noise = ndimage.gaussian_filter(rng.standard_normal(before.shape), smooth)
    made = ndimage.gaussian_filter(before.astype(float), 1.0) + NOISE * noise / noise.std()
    mixed = before + gate / 255 * (made + contrast - before)
    return np.where(gate > 0, np.clip(np.round(mixed), 0, 255), before).astype(np.uint8)


def pairs_of(part, contrast, trace, draws=1):
    """Images of lesions and shams of a part (slice) of phantom slices, so many pairs of each."""
    greys, rows, found = [], [], []
    chosen = list(enumerate(slices()))[part]
    for draw, (i, (before, gate)) in itertools.product(range(draws), chosen):
        rng = np.random.default_rng([1, i, draw])
        make = functools.partial(made_anew, rng, before, gate)
        lesion, sham = make(contrast, 0.5 + trace), make(0.0, 0.5)
        for kind, grey in zip(('opacity', SHAM), (lesion, sham)):
            label = int(kind != SHAM)
            sha256 = hashlib.sha256(grey.tobytes()).hexdigest()
            greys.append(grey)
            name = f'{i}_{draw}'
            rows.append(Row(id=f'{name}_{kind}', group=f'{i}', label=label, sha256=sha256))
            found.append(Member(name, kind, gate, before))
    images, labels = np.stack(greys)[..., None], np.array([row.label for row in rows])
    return Images('pairs', images, labels, rows, list(zip(greys, rows)), found)


def subject_of(folder, contrast, trace):
    train, validation, test = (
        pairs_of(part, contrast, trace) for part in (slice(0, 40), slice(40, 48), slice(48, PEOPLE))
    )
    return Subject(
        folder=folder,
        score=lambda images: images.mean((1, 2, 3)) / 255,
        train=train,
        validation=validation,
        tests={'unseen pairs': test},
        real=train,
        origins={0: {'a'}, 1: {'a'}},
    )


PARTS = {'train': slice(0, 40), 'test': slice(40, PEOPLE)}
CASES = {  # contrast in grey levels, by how much more lesions are smoothed
    'nothing differs': (0.0, 0.0),
    'a lesion': (50.0, 0.0),
    'a trace': (0.0, 0.5),
}


@pytest.mark.parametrize('case', CASES)
def test_the_finest_texture_tells_a_trace_and_no_lesion(case, tmp_path):
    verdict = lesion_pairs.check(subject_of(tmp_path, *CASES[case]))
    assert verdict.flag is (case == 'a trace')
    assert ('finest texture' in verdict.finding) is verdict.flag
    assert [row[:4] for row in verdict.rows] == [
        ('unseen pairs', '12', '0', '0'),
        ('validation', '8', '0', '0'),
    ]
    assert (tmp_path / 'pairs.png').is_file()


def test_a_sham_that_is_the_untouched_slice_is_told_by_the_trace_of_the_lesion(tmp_path):
    subject = subject_of(tmp_path, 50.0, 0.0)
    untouched = lambda images: images._replace(
        native=[
            (member.before if member.kind == SHAM else grey, row)
            for (grey, row), member in zip(images.native, images.members)
        ]
    )
    subject = subject._replace(
        train=untouched(subject.train),
        tests={name: untouched(images) for name, images in subject.tests.items()},
    )
    verdict = lesion_pairs.check(subject)
    assert verdict.flag and 'made anew' in verdict.finding


def test_gates_that_differ_and_changes_outside_are_counted(tmp_path):
    subject = subject_of(tmp_path, 50.0, 0.0)
    test = subject.tests['unseen pairs']
    wider = test.members[0].gate.copy()
    wider[0, 0] = 255
    members = [test.members[0]._replace(gate=wider), *test.members[1:]]
    grey, row = test.native[4]
    outside = grey + (test.members[4].gate == 0).astype(np.uint8)
    native = [*test.native[:4], (outside, row), *test.native[5:]]
    tests = {'unseen pairs': test._replace(members=members, native=native)}
    verdict = lesion_pairs.check(subject._replace(tests=tests))
    assert verdict.flag and verdict.rows[0][1:4] == ('12', '1', '1')
    assert '1 pairs of unseen pairs have gates that differ' in verdict.finding


@pytest.mark.parametrize('part', ['train', 'tests'])
def test_without_pairs_there_is_no_answer(part, tmp_path):
    subject = subject_of(tmp_path, 50.0, 0.0)
    plain = lambda images: images._replace(members=[None] * len(images.rows))
    if part == 'train':
        subject = subject._replace(train=plain(subject.train))
    else:
        tests = {name: plain(images) for name, images in subject.tests.items()}
        subject = subject._replace(tests=tests, validation=plain(subject.validation))
    verdict = lesion_pairs.check(subject)
    assert verdict.flag is None and 'pairs' in verdict.finding


def test_contrast_does_not_count_in_what_regressions_see():
    rng = np.random.default_rng(0)
    texture, gate = rng.standard_normal((SIZE, SIZE)), np.ones((SIZE, SIZE), bool)
    low, high = (lesion_pairs.describe(100 + strength * texture, gate) for strength in (4, 12))
    np.testing.assert_allclose(low, high, rtol=1e-6, atol=1e-6)


def test_a_map_is_held_against_masks_of_lesions(tmp_path):
    subject = subject_of(tmp_path, 50.0, 0.0)
    test = subject.tests['unseen pairs']
    for inside in (True, False):
        heat = np.stack([((member.gate >= HALF) == inside) for member in test.members])
        attribute = lambda images, heat=heat: heat.astype(float)
        verdict = attribution.check(subject._replace(attribute=attribute))
        found = {row[1]: row for row in verdict.rows if row[0] == 'unseen pairs'}
        of_lesions = found['lesions']
        assert of_lesions[2] == '12 of 24'  # shams have none
        area = np.mean([(member.gate >= HALF).mean() for member in test.members])
        assert of_lesions[4] == f'{area:.3f}'
        assert float(of_lesions[3]) == pytest.approx(float(inside), abs=0.05)
        assert of_lesions[6].startswith('1.000' if inside else '0.000')


def around_gates(images, side=32):
    """Squares around the gates of images: at full size, so that the finest texture stays."""
    squares = []
    for grey, member in zip(images.images, images.members):
        centre = ndimage.center_of_mass(member.gate)
        top, left = (int(np.clip(place - side / 2, 0, SIZE - side)) for place in centre)
        squares.append(grey[top : top + side, left : left + side])
    return np.stack(squares)


def area_after_training(case, folder):
    """The area under the ROC curve that ResNet-18 reaches on unseen pairs of a case."""
    train, test = (
        datasets.Examples(around_gates(part), part.labels.astype(np.int32), part.rows, CLASSES)
        for part in (pairs_of(part, *CASES[case], draws=6) for part in PARTS.values())
    )
    config = classifier_file.get_config('resnet18')
    config.update({'image_size': 32, 'load_size': 32, 'batch_size': 16, 'steps': 100})
    config.update({'eval_every': 100, 'warmup_steps': 10, 'log_every': 50, 'best': ''})
    config.augment.update(augment.OFF)  # resampling would take the finest texture away
    loop.fit(classification.task_on(config, train, test), config, folder)
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    (reached,) = [line['val/auc'] for line in lines if 'val/auc' in line]
    return reached


@pytest.mark.slow
@pytest.mark.parametrize('case', ['nothing differs', 'a lesion'])
def test_resnet18_tells_lesions_from_shams_only_where_something_differs(case, tmp_path):
    """In a process of its own, whose programs are compiled with care: they run often."""
    reached = launching.call(area_after_training, (case, tmp_path), {'XLA_FLAGS': ''})
    assert 0.25 < reached < 0.75 if case == 'nothing differs' else reached > 0.85

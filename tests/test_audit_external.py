"""The audit of classifiers from elsewhere, and of data before there is any classifier."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT
from PIL import Image
from test_audit import black_level, corner_mark, draw, honest, sees_the_corner, unchanged

from configs import audit_external as config_file
from configs import look as look_config
from covjax import InputError, external_classifier
from covjax.audit import Known, audit, data_only, external, occlusion
from covjax.ct import lungs, picture
from covjax.data import datasets
from covjax.phantom import ct_scans
from covjax.runs import audit_external, look, prepare

PEOPLE = 40
TEXT = (ROOT / 'docs' / 'audit.md').read_text(encoding='utf-8')
SNIPPETS = dict(re.findall(r'^### (.+?)\n+```python\n(.*?)```', TEXT, re.MULTILINE | re.DOTALL))
HEAD = ['file', 'score', 'label', 'patient', 'document', 'source', 'split']


@pytest.fixture(scope='module')
def drawn():
    """(images uint8 [N, H, W], labels, patients); every second has a disc in a lung."""
    images = draw(PEOPLE, seed=2)
    return images, np.arange(PEOPLE) % 2, [f'p{i}' for i in range(PEOPLE)]


def flags_of(verdicts):
    return {verdict.name.partition(' (')[0]: verdict.flag for verdict in verdicts}


# ---- arrays


def test_scores_alone_are_asked_all_that_needs_no_network(drawn, tmp_path):
    images, labels, patients = drawn
    found = audit(images, labels, honest(images[..., None]), patients, folder=tmp_path)
    calibrated = flags_of(found.verdicts)['calibration']  # of a score that nothing has scaled
    expected = {'32x32 pixels': False, 'grey levels': False, 'calibration': calibrated}
    no_answer = ('file metadata', 'source of the images', 'overlap and near-duplicates')
    expected |= dict.fromkeys([*no_answer, 'regions of the image', 'attribution'])
    assert flags_of(found.verdicts) == expected and calibrated is not None
    assert found.page.read_text(encoding='utf-8').count('no answer') >= 5
    written = json.loads((tmp_path / 'audit.json').read_text())
    assert [verdict['flag'] for verdict in written['verdicts']] == [
        *flags_of(found.verdicts).values()
    ]


def test_an_honest_classifier_raises_no_flag(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(external, 'MOST_OCCLUDED', 10)  # this one is slow
    monkeypatch.setattr(occlusion, 'CELLS', 5)
    images, labels, patients = drawn
    train = Known(draw(PEOPLE, seed=0), labels, groups=[f'q{i}' for i in range(PEOPLE)])
    validation = Known(draw(PEOPLE, seed=1), labels, groups=[f'r{i}' for i in range(PEOPLE)])
    known = {'train': train, 'validation': validation}
    found = audit(images, labels, honest, patients, **known, folder=tmp_path)
    flags = flags_of(found.verdicts)
    assert not found.red_flags, flags
    asked = {name for name, flag in flags.items() if flag is False}
    assert {'regions of the image', 'attribution', 'overlap and near-duplicates'} <= asked


def test_a_planted_mark_is_caught_by_scores_and_by_the_classifier(drawn, tmp_path):
    images, labels, patients = drawn
    marked = corner_mark(images, labels)
    scores = np.clip(sees_the_corner(marked[..., None]), 0.02, 0.98)
    by_scores = audit(marked, labels, scores, patients, folder=tmp_path / 'scores')
    assert '32x32 pixels' in {v.name.partition(' (')[0] for v in by_scores.red_flags}
    asked = audit(marked, labels, sees_the_corner, patients, folder=tmp_path / 'asked')
    assert flags_of(asked.verdicts)['regions of the image'] is True


def test_training_images_among_the_tests_are_found(drawn, tmp_path):
    images, labels, patients = drawn
    scores = honest(images[..., None])
    others = [f'q{i}' for i in range(PEOPLE)]
    copied = Known(np.concatenate([draw(PEOPLE, seed=0)[1:], images[:1]]), 1 - labels, others)
    found = audit(images, labels, scores, patients, train=copied, folder=tmp_path / 'picture')
    (flag,) = [v for v in found.verdicts if v.name == 'overlap and near-duplicates']
    assert flag.flag and '1 image' in flag.finding
    same = Known(draw(PEOPLE, seed=0), labels, [*others[1:], 'p3'])
    found = audit(images, labels, scores, patients, train=same, folder=tmp_path / 'patient')
    (flag,) = [v for v in found.verdicts if v.name == 'overlap and near-duplicates']
    assert flag.flag and '1 group' in flag.finding


@pytest.mark.parametrize(
    'sources, flag, said',
    [
        (['A', 'B'], True, 'Nothing can tell source and disease apart'),
        (['A', 'A'], None, 'No sources were named'),
        (['A', 'B', 'B', 'A'], False, 'the same data sets'),
    ],
)
def test_sources_are_asked(sources, flag, said, drawn, tmp_path):
    images, labels, patients = drawn
    named = [sources[i % len(sources)] for i in range(PEOPLE)]
    scores = honest(images[..., None])
    found = audit(images, labels, scores, patients, sources=named, folder=tmp_path)
    (verdict,) = [v for v in found.verdicts if v.name == 'source of the images']
    assert verdict.flag is flag and said in verdict.finding


def test_a_source_with_another_black_level_is_recognised_within_a_class(drawn, tmp_path):
    """It is no flag while both classes come from both sources, and the page says so."""
    images, labels, patients = drawn
    second = np.arange(PEOPLE) % 4 < 2
    images = black_level(images, second.astype(int))
    named = np.where(second, 'B', 'A')
    scores = honest(images[..., None])
    found = audit(images, labels, scores, patients, sources=named, folder=tmp_path)
    (verdict,) = [v for v in found.verdicts if v.name == 'source of the images']
    assert verdict.flag is False and 'recognised at AUC' in verdict.finding
    assert {row[0] for row in verdict.rows} == {'A, positive', 'A, negative'}


def test_images_of_any_size_are_shown_at_one(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (30 + i, 40), np.uint8) for i in range(PEOPLE)]
    shapes = set()

    def score(shown):
        shapes.add(shown.shape[1:])
        return np.full(len(shown), 0.5)

    audit(images, np.arange(PEOPLE) % 2, score, folder=tmp_path, size=48)
    assert shapes == {(48, 48, 1)}


@pytest.mark.parametrize(
    'change, said',
    [
        ({'labels': np.full(PEOPLE, 2)}, 'labels are [2]'),
        ({'labels': np.ones(PEOPLE)}, 'needs images of both classes'),
        ({'labels': np.ones(3)}, 'labels are [3] for 40 images'),
        ({'score': np.full(PEOPLE, 1.5)}, 'no probabilities'),
        ({'score': np.full(PEOPLE, np.nan)}, 'NaN'),
        ({'score': np.full((PEOPLE, 2), 0.5)}, 'float64 [40, 2] for 40 images'),
        ({'score': lambda images: images[:, 0, 0, 0]}, 'uint8, which are classes'),
        ({'score': lambda images: images[:, 0, 0, 0] * 1.0}, 'no probabilities'),
        ({'train': (np.zeros((3, 8, 8), np.uint8), [0, 1, 0])}, 'train: is tuple'),
        ({'labels': ['covid'] * PEOPLE}, "labels are ['covid']"),
        ({'labels': np.full(PEOPLE, 0.7)}, 'labels are [0.7]'),
        ({'score': lambda images: 1 / 0}, 'fails with ZeroDivisionError'),
        ({'groups': ['a']}, 'groups are [1] for 40 images'),
        ({'images': np.zeros((PEOPLE, 8, 8, 3), np.uint8)}, 'image 0 is uint8 [8, 8, 3]'),
        ({'images': np.zeros((PEOPLE, 8, 8))}, 'image 0 is float64'),
    ],
)
def test_wrong_arrays_are_refused(change, said, drawn, tmp_path):
    images, labels, _ = drawn
    given = {'images': images, 'labels': labels, 'score': np.full(PEOPLE, 0.5)} | change
    with pytest.raises(InputError) as caught:
        audit(**given, folder=tmp_path / 'audit')
    assert said in caught.value.message and '\n' not in caught.value.message
    assert not (tmp_path / 'audit' / 'audit.html').exists()


# ---- occlusion


def test_occlusion_points_at_what_the_score_sees(drawn):
    images = corner_mark(drawn[0], drawn[1])[1::2][:6, ..., None]
    heat = occlusion.occlusion(lambda shown: 0.1 + 0.8 * sees_the_corner(shown))(images)
    assert heat.shape == (6, occlusion.CELLS, occlusion.CELLS) and (heat >= 0).all()
    rows, columns = np.nonzero(heat.sum(0))
    assert rows.max() <= 1 and columns.max() <= 1  # the mark is in the corner, pixels 2 to 7 of 64


@pytest.mark.parametrize('height, width', [(64, 64), (31, 50), (8, 9)])
def test_every_pixel_is_hidden_by_some_cell_and_nothing_else_changes(height, width):
    """Half of the image is black and half white, so that the mean is neither."""
    images = np.zeros((2, height, width, 1), np.uint8)
    images[:, height // 2 :] = 255
    before, times = images.copy(), np.zeros((height, width), int)
    for row, column in np.ndindex(occlusion.CELLS, occlusion.CELLS):
        times += occlusion.hidden(images, row, column)[0, ..., 0] != images[0, ..., 0]
    assert 1 <= times.min() and times.max() <= 9 and (images == before).all()


# ---- a table and a folder


def write_folder(folder, images, labels, names=('normal', 'covid')):
    """Pictures in a folder for each class -> their names below the folder."""
    files = []
    for i, (image, label) in enumerate(zip(images, labels)):
        files.append(f'{names[label]}/patient {i}/a.png')
        picture.save(folder / files[-1], image)
    return files


def write_table(path, files, **columns):
    """A CSV of files and further columns."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['file', *columns])
        writer.writerows(zip(files, *columns.values()))
    return path


def run(workdir, **keys):
    """Runs the audit -> {name of a check: its verdict in audit.json}."""
    config = config_file.get_config()
    config.update({key: str(v) if isinstance(v, os.PathLike) else v for key, v in keys.items()})
    workdir.mkdir(parents=True, exist_ok=True)
    audit_external.run(config, workdir)
    return verdicts_of(workdir)


def verdicts_of(workdir):
    written = json.loads((workdir / 'audit.json').read_text(encoding='utf-8'))
    return {verdict['name'].partition(' (')[0]: verdict for verdict in written['verdicts']}


@pytest.fixture(scope='module')
def folder(drawn, tmp_path_factory):
    """(folder of pictures in folders of their classes, their names, scores of an honest score)."""
    images, labels, _ = drawn
    folder = tmp_path_factory.mktemp('pictures')
    return folder, write_folder(folder, images, labels), honest(images[..., None])


def test_a_table_of_scores_of_a_folder_of_classes(folder, tmp_path):
    source, files, scores = folder
    table = write_table(tmp_path / 'scores.csv', files, score=scores)
    found = run(tmp_path / 'run', source=source, scores=table)
    flagged = {name for name, verdict in found.items() if verdict['flag']}
    assert flagged <= {'calibration'} and found['32x32 pixels']['flag'] is False


def test_a_table_may_say_everything_in_any_order(folder, drawn, tmp_path):
    """Labels 0 and 1, patients, splits, further columns, and no folder for each class."""
    _, files, scores = folder
    images, labels, _ = drawn
    source = tmp_path / 'flat'
    names = [f'{i}.png' for i in range(PEOPLE)]
    for name, image in zip(names, images):
        picture.save(source / name, image)
    splits = np.where(np.arange(PEOPLE) < 20, 'test', 'train')
    patients = [f'a/{i}' for i in range(PEOPLE)]
    table = write_table(
        tmp_path / 'scores.csv', names, age=[50] * PEOPLE, split=splits, label=labels,
        patient=patients, score=[score if s == 'test' else '' for score, s in zip(scores, splits)],
    )  # fmt: skip
    found = run(tmp_path / 'run', source=source, scores=table)
    written = json.loads((tmp_path / 'run/audit.json').read_text())
    assert written['positive_class'] == '1' and written['classes'] == ['0', '1']
    assert found['overlap and near-duplicates']['flag'] is False
    assert 'what the network was trained on' in str(found['32x32 pixels']['rows'])


def test_a_folder_gives_the_audit_of_the_builder_to_the_digit(raw, data_dir, tmp_path):
    sets = {split: f'covid_ct:{split}' for split in ('train', 'validation', 'test')}
    expected, found = both_ways(raw / 'covid_ct', sets, data_dir, tmp_path)
    assert expected.keys() == found.keys()
    for name, verdict in expected.items():
        assert_same(verdict, found[name])


@pytest.mark.slow
def test_real_pictures_give_the_audit_of_the_builder_to_the_digit(real, tmp_path):
    prepare.build('covid_ct/clean', real / 'covid_ct', str(tmp_path / 'data'))
    sets = {split: f'covid_ct/clean:{split}' for split in ('train', 'validation', 'test')}
    expected, found = both_ways(real / 'covid_ct', sets, str(tmp_path / 'data'), tmp_path)
    for name, verdict in expected.items():
        assert_same(verdict, found[name])
    assert '0.920 (0.855 to 0.969)' in found['file metadata']['finding']


def both_ways(source, sets, data_dir, tmp_path):
    """Verdicts of one score by the prepared data set, and by folder and table."""
    rows = {
        split: [row for _, row in datasets.read_native(spec, data_dir)]
        for split, spec in sets.items()
    }
    every = [(split, row) for split, of_split in rows.items() for row in of_split]
    scores = np.random.default_rng(0).beta(2, 2, len(every))
    by_id = write_table(tmp_path / 'ids.csv', [row.id for _, row in every], score=scores)
    by_id.write_text(by_id.read_text().replace('file', 'id', 1))
    named = {'tests': sets['test'], 'names': 'test'}
    named |= {'trained_on': sets['train'], 'chosen_by': sets['validation']}
    expected = run(tmp_path / 'builder', scores=by_id, data_dir=data_dir, **named)
    folders = {'covid': 'CT_COVID', 'noncovid': 'CT_NonCOVID'}
    files = [f'{folders[row.label_name]}/{row.id.split("/")[1]}' for _, row in every]
    table = write_table(
        tmp_path / 'files.csv', files, score=scores, label=[row.label_name for _, row in every],
        document=[row.group.partition('/')[0] for _, row in every],
        patient=[row.group.partition('/')[2] for _, row in every],
        split=[split for split, _ in every],
    )  # fmt: skip
    return expected, run(tmp_path / 'folder', scores=table, source=source)


def assert_same(expected, found):
    """Two verdicts of audit.json, numbers to the digits that anyone prints."""
    assert expected['finding'] == found['finding'] and expected['flag'] == found['flag']
    for first, second in zip(expected['rows'], found['rows'], strict=True):
        for one, other in zip(first[1:], second[1:], strict=True):  # the first names the set
            both = isinstance(one, float) and isinstance(other, float)
            assert abs(one - other) < 1e-6 if both else one == other


WRONG = {
    'a score above 1': ({'score': 3.2}, 'scores.csv: line 2 has the score 3.2'),
    'a word': ({'score': 'high'}, 'line 2 has the score high'),
    'no score': ({'score': ''}, 'has no column score'),
    'no test': ({'split': 'train'}, 'there are no test images'),
    'one label': ({'label': 'covid'}, 'an audit needs two classes'),
    'some splits': ({'split': lambda i: '' if i == 5 else 'test'}, '1 of 40 lines have no split'),
    'some sources': ({'source': lambda i: 'A' if i else ''}, '1 of 40 lines have no source'),
    'some without': ({'score': lambda i: '' if i == 7 else 0.5}, '1 of 40 test images have no'),
    'two lines': ({'file': lambda i: 'covid/patient 1/a.png'}, 'again; keep one line'),
    'a missing file': ({'file': lambda i: f'{i}.png'}, '40 of 40 lines name no image there'),
    'a wrong split': ({'split': 'dev'}, 'line 2 has the split dev'),
    'one class': (
        {'split': lambda i: 'test' if i % 2 else 'train'},
        'needs images of both classes',
    ),
    'an empty label': ({'label': lambda i: '' if i == 3 else str(i % 2)}, 'has no label'),
    'no name': ({'file': ''}, 'line 2 names no image'),
}


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_table_is_refused_in_one_line(name, folder, tmp_path):
    source, files, _ = folder
    change, said = WRONG[name]
    columns = {'file': lambda i: files[i], 'score': 0.5} | change
    cells = {
        key: [value(i) if callable(value) else value for i in range(PEOPLE)]
        for key, value in columns.items()
    }
    table = write_table(tmp_path / 'scores.csv', cells.pop('file'), **cells)
    with pytest.raises(InputError) as caught:
        run(tmp_path / 'run', source=source, scores=table)
    assert said in caught.value.message and '\n' not in caught.value.message
    assert not (tmp_path / 'run' / 'audit.html').exists()


def table_of(folder, path, **columns):
    """A table of the scores of a folder; further columns are values, or functions of the line."""
    _, files, scores = folder
    cells = {
        key: [value(i) if callable(value) else value for i in range(PEOPLE)]
        for key, value in columns.items()
    }
    return write_table(path, files, score=scores, **cells)


@pytest.mark.parametrize('labelled', [True, False])
def test_a_patient_in_two_splits_is_found_and_not_refused(labelled, folder, tmp_path):
    """The builder refuses that in scans.csv; here it is what is looked for."""
    half = {'split': lambda i: 'train' if i < 20 else 'test', 'patient': lambda i: f'p{i % 20}'}
    label = {'label': lambda i: ('normal', 'covid')[i % 2]} if labelled else {}
    table = table_of(folder, tmp_path / 'scores.csv', **half, **label)
    found = run(tmp_path / 'run', source=folder[0], scores=table)['overlap and near-duplicates']
    assert found['flag'] and '20 groups' in found['finding']


@pytest.mark.parametrize(
    'file, label, said',
    [
        ('nowhere.png', 'covid', 'scores.csv: line 2 names nowhere.png, which is not there'),
        (None, '?!', 'scores.csv: its lines have the label ?!, without letters'),
    ],
)
def test_faults_that_the_builder_finds_name_the_table_that_a_person_wrote(
    file, label, said, folder, tmp_path
):
    source, files, scores = folder
    labels = [label, *[('normal', 'covid')[i % 2] for i in range(1, PEOPLE)]]
    names = [file or files[0], *files[1:]]
    table = write_table(tmp_path / 'scores.csv', names, score=scores, label=labels)
    with pytest.raises(InputError) as caught:
        run(tmp_path / 'run', source=source, scores=table)
    assert said in caught.value.message and 'images.csv' not in caught.value.message


def test_documents_with_a_slash_are_whole(folder, tmp_path):
    columns = {
        'document': lambda i: f'10.1101/2020.{i}',
        'split': lambda i: 'train' if i < 20 else 'test',
    }
    table = table_of(folder, tmp_path / 'scores.csv', **columns)
    found = run(tmp_path / 'run', source=folder[0], scores=table)
    assert found['overlap and near-duplicates']['flag'] is False


def test_what_looks_alike_in_two_splits_is_no_patient_but_a_near_copy(drawn, tmp_path):
    """Where nobody knows the patients: a brighter copy of a test picture in training."""
    images, labels, _ = drawn
    copy = np.clip(images[30].astype(int) + 6, 0, 255).astype(np.uint8)
    images, labels = np.concatenate([images, copy[None]]), [*labels, labels[30]]
    files = []
    for i, (image, label) in enumerate(zip(images, labels)):
        files.append(f'{("normal", "covid")[label]}/{chr(97 + i)}.png')
        picture.save(tmp_path / 'own' / files[-1], image)
    splits = ['train' if i < 20 or i == PEOPLE else 'test' for i in range(len(files))]
    scores = [0.5] * len(files)
    table = write_table(tmp_path / 'scores.csv', files, score=scores, split=splits)
    found = run(tmp_path / 'run', source=tmp_path / 'own', scores=table)
    verdict = found['overlap and near-duplicates']
    assert verdict['flag'] and verdict['finding'].startswith('test: 1 near copy')


def test_validation_images_without_scores_are_known_to_overlap(folder, tmp_path):
    table = table_of(
        folder, tmp_path / 'scores.csv', patient=lambda i: f'p{i % 20}',
        split=lambda i: 'validation' if i < 20 else 'test',
    )  # fmt: skip
    text = table.read_text().splitlines()
    head = text[0].split(',').index('score')
    lines = [line.split(',') for line in text[1:]]
    for line in lines[:20]:
        line[head] = ''
    table.write_text('\n'.join([text[0], *map(','.join, lines)]))
    found = run(tmp_path / 'run', source=folder[0], scores=table)
    assert '20 validation' in found['overlap and near-duplicates']['finding']


def test_training_images_of_one_class_are_known_to_overlap(folder, tmp_path):
    table = table_of(
        folder, tmp_path / 'scores.csv', patient=lambda i: f'p{i}',
        split=lambda i: 'train' if i % 2 and i < 10 else 'test',
    )  # fmt: skip
    found = run(tmp_path / 'run', source=folder[0], scores=table)
    assert found['overlap and near-duplicates']['flag'] is False
    assert 'the other patients of the test set' in str(found['32x32 pixels']['rows'])


@pytest.mark.parametrize('groups', [['p'] * PEOPLE, ['p', 'q'] * (PEOPLE // 2)])
def test_without_several_patients_of_a_class_there_is_no_answer(groups, drawn, tmp_path):
    images, labels, _ = drawn
    marked = corner_mark(images, labels)
    found = audit(marked, labels, sees_the_corner, groups, folder=tmp_path)
    flags = flags_of(found.verdicts)
    flags.pop('attribution')
    assert set(flags.values()) == {None}


def test_a_classifier_may_change_what_it_is_shown(drawn, tmp_path):
    images, labels, patients = drawn
    before = images.copy()

    def score(shown):
        shown[...] = 255 - shown
        return shown.mean((1, 2, 3)) / 255.0

    found = audit(images, labels, score, patients, folder=tmp_path)
    rows = [v.rows for v in found.verdicts if v.name.startswith(('32x32', 'grey'))]
    assert len({row[2] for of_check in rows for row in of_check}) == 1
    assert (images == before).all()


def test_a_module_that_ends_the_program_is_refused(folder, tmp_path):
    (tmp_path / 'mine.py').write_text('import sys\nsys.exit(0)\n')
    with pytest.raises(InputError, match='ends the program when it is imported'):
        run(tmp_path / 'run', source=folder[0], model=f'{tmp_path / "mine.py"}:score')


def test_tables_as_other_programs_write_them(folder, tmp_path):
    """Excel's first line, labels as numbers with decimals, paths of Windows."""
    _, files, scores = folder
    lines = ['sep=;', 'file;score;label']
    for i, (file, score) in enumerate(zip(files, scores)):
        lines.append(f'{file.replace("/", chr(92))};{str(score).replace(".", ",")};{i % 2}.0')
    (tmp_path / 'scores.csv').write_text('\r\n'.join(lines))
    run(tmp_path / 'run', source=folder[0], scores=tmp_path / 'scores.csv')
    written = json.loads((tmp_path / 'run/audit.json').read_text())
    assert written['classes'] == ['0', '1'] and written['positive_class'] == '1'


def test_absolute_paths_through_a_link_name_the_same_files(folder, tmp_path):
    source, files, scores = folder
    link = tmp_path / 'link'
    link.symlink_to(source)
    table = write_table(tmp_path / 'scores.csv', [str(link / f) for f in files], score=scores)
    assert run(tmp_path / 'run', source=link, scores=table)['32x32 pixels']['flag'] is False


def test_scores_the_wrong_way_round_are_said(folder, tmp_path, capsys):
    source, files, scores = folder
    table = write_table(tmp_path / 'scores.csv', [*files], score=1 - scores)
    run(tmp_path / 'run', source=source, scores=table)
    assert 'are they those of another class' in capsys.readouterr().out


@pytest.mark.parametrize(
    'keys, said',
    [
        ({}, 'config.scores and config.model are empty'),
        ({'scores': 'x.csv'}, 'config.source and config.tests are empty'),
        ({'scores': 'x.csv', 'source': '.', 'tests': 'covid_ct:test'}, 'give the folder'),
        ({'scores': 'x.csv', 'source': '.'}, 'x.csv: no such table'),
        ({'model': 'nothing', 'source': '.'}, 'write module:function'),
        ({'model': 'no_such_module:f', 'source': '.'}, 'no module no_such_module'),
        ({'model': 'json:no_such', 'source': '.'}, 'json has no function no_such'),
        ({'model': 'no.py:f', 'source': '.'}, 'no such file no.py'),
        ({'model': 'no.onnx', 'source': '.'}, 'no such file'),
        ({'model': 'json:dumps', 'source': '.', 'input_range': '1..2'}, 'config.input_range=1..2'),
    ],
)
def test_wrong_keys_are_refused(keys, said, tmp_path):
    with pytest.raises(InputError) as caught:
        run(tmp_path / 'run', **keys)
    assert said in caught.value.message


def test_a_classifier_that_disagrees_with_its_table_is_refused(folder, tmp_path):
    source, files, _ = folder
    (tmp_path / 'mine.py').write_text('def half(images):\n    return [0.5] * len(images)\n')
    table = write_table(tmp_path / 'scores.csv', files, score=[0.9] * PEOPLE)
    with pytest.raises(InputError, match='0.500, where .* has 0.900'):
        run(
            tmp_path / 'run', source=source, scores=table, model=f'{tmp_path / "mine.py"}:half',
            image_size=64,
        )  # fmt: skip


# ---- the libraries that people train with


def train_keras(path, images, labels):
    keras = pytest.importorskip('keras')
    keras.utils.set_random_seed(0)
    layers = [keras.layers.AveragePooling2D(8), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((64, 64, 1)), *layers, keras.layers.Dense(1, 'sigmoid')])
    model.compile('adam', 'binary_crossentropy')
    model.fit(images[..., None] / 255, labels, epochs=2, verbose=0)
    model.save(path / 'model.keras')


def train_pytorch(path, images, labels):
    torch = pytest.importorskip('torch')
    torch.manual_seed(0)
    layers = torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(64, 1)
    model, shown = torch.nn.Sequential(*layers).eval(), torch.zeros(2, 1, 64, 64)
    program = torch.export.export(model, (shown,), dynamic_shapes=({0: torch.export.Dim('n')},))
    torch.export.save(program, path / 'model.pt2')


def train_scikit_learn(path, images, labels):
    import joblib
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e-3).fit(images.reshape(len(images), -1) / 255, labels)
    joblib.dump(model, path / 'model.joblib')


TRAIN = {'Keras': train_keras, 'PyTorch': train_pytorch, 'scikit-learn': train_scikit_learn}
SAY = """
import csv, numpy as np, mine
from PIL import Image
files = [line.strip() for line in open('files.txt')]
images = np.stack([np.asarray(Image.open(file)) for file in files])[..., None]
with open('scores.csv', 'w', newline='') as file:
    csv.writer(file).writerows([['file', 'score'], *zip(files, mine.score(images))])
"""


def test_every_library_of_the_docs_is_tried():
    assert set(SNIPPETS) == set(TRAIN)
    for code in SNIPPETS.values():
        assert len([line for line in code.splitlines() if line]) <= 10


@pytest.mark.parametrize('library', TRAIN)
def test_a_classifier_and_its_scores_agree_for_every_library(library, folder, drawn, tmp_path):
    """By the snippet of the docs: scores written by it, and the audit that asks it."""
    source, files, _ = folder
    with jax.numpy_rank_promotion('allow'):  # which Keras needs
        TRAIN[library](tmp_path, draw(20, seed=0), np.arange(20) % 2)
    (tmp_path / 'mine.py').write_text(SNIPPETS[library])
    (tmp_path / 'files.txt').write_text('\n'.join(str(source / file) for file in files))
    environment = os.environ | {'PYTHONPATH': str(tmp_path), 'KERAS_BACKEND': 'jax'}
    said = subprocess.run(
        [sys.executable, '-c', SAY], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    keys = {'source': source, 'scores': tmp_path / 'scores.csv'}
    alone = run(tmp_path / 'alone', **keys)
    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion('allow'):
        patch.chdir(tmp_path)
        patch.delitem(sys.modules, 'mine', raising=False)
        asked = run(tmp_path / 'asked', **keys, model='mine.py:score', image_size=64)
    for name in ('32x32 pixels', 'grey levels', 'calibration'):
        assert alone[name]['finding'] == asked[name]['finding']
    assert alone['regions of the image']['rows'] == []
    assert asked['regions of the image']['rows'] and asked['attribution']['rows']


# ---- ONNX


def onnx_file(path, shape, kind='float', two=False, logits=False):
    """An ONNX file that returns the mean of each image, or 1 - mean and mean, or another number."""
    onnx = pytest.importorskip('onnx')
    from onnx import TensorProto, helper

    dtype = {'float': TensorProto.FLOAT, 'uint8': TensorProto.UINT8, 'int64': TensorProto.INT64}
    nodes = [helper.make_node('Cast', ['images'], ['x'], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node('ReduceMean', ['x'], ['m'], axes=[1, 2, 3], keepdims=0))
    scale = 10.0 if logits else 1 / 255 if kind == 'uint8' else 1.0
    constant = helper.make_tensor('scale', TensorProto.FLOAT, [], [scale])
    nodes.append(helper.make_node('Mul', ['m', 'scale'], ['p' if not two else 'q']))
    initializers = [constant]
    if two:
        initializers += [helper.make_tensor('one', TensorProto.FLOAT, [], [1.0])]
        initializers += [helper.make_tensor('axes', TensorProto.INT64, [1], [1])]
        nodes += [
            helper.make_node('Sub', ['one', 'q'], ['r']),
            helper.make_node('Unsqueeze', ['r', 'axes'], ['r1']),
            helper.make_node('Unsqueeze', ['q', 'axes'], ['q1']),
            helper.make_node('Concat', ['r1', 'q1'], ['p'], axis=1),
        ]
    graph = helper.make_graph(
        nodes,
        'mean',
        [helper.make_tensor_value_info('images', dtype[kind], shape)],
        [helper.make_tensor_value_info('p', TensorProto.FLOAT, ['N', 2] if two else ['N'])],
        initializers,
    )
    opset = [helper.make_opsetid('', 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return str(path)


@pytest.mark.parametrize('two', [False, True])
@pytest.mark.parametrize(
    'shape, kind, size',
    [
        (['N', 1, 48, 48], 'float', 48),
        (['N', 3, 'H', 'W'], 'float', None),
        (['N', 32, 32, 3], 'float', 32),
        (['N', 'H', 'W', 1], 'float', None),
        (['N', 'H', 'W', 1], 'uint8', None),
        ([1, 3, 24, 24], 'float', 24),
        ([4, 24, 24, 1], 'uint8', 24),
    ],
)
def test_an_onnx_file_of_any_layout_is_fed_what_it_takes(shape, kind, size, two, tmp_path):
    pytest.importorskip('onnxruntime')
    loaded = external_classifier.load(onnx_file(tmp_path / 'm.onnx', shape, kind, two))
    assert loaded.size == size
    images = np.random.default_rng(0).integers(0, 256, (7, size or 20, size or 20, 1), np.uint8)
    expected = images.mean((1, 2, 3)) / 255
    np.testing.assert_allclose(loaded.score(images), expected, atol=1e-5)


@pytest.mark.parametrize('given, expected', [('0..1', 0.4), ('-1..1', -0.2), ('0..255', 102.0)])
def test_the_input_range_says_what_an_onnx_file_is_fed(given, expected, tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    path = onnx_file(tmp_path / 'm.onnx', ['N', 'H', 'W', 1])
    monkeypatch.setattr(external_classifier, 'probabilities', lambda found, count, name: found)
    loaded = external_classifier.load(path, input_range=given)
    images = np.full((2, 8, 8, 1), 102, np.uint8)
    np.testing.assert_allclose(loaded.score(images), [expected] * 2, rtol=1e-5)


@pytest.mark.parametrize(
    'shape, kind, options, said',
    [
        (['N', 2, 8, 8], 'float', {}, 'export it with one input'),
        (['N', 1, 8, 8], 'int64', {}, 'export it with one input'),
        (['N', 1, 8, 8], 'float', {'logits': True}, 'no probabilities'),
    ],
)
def test_an_onnx_file_that_takes_or_says_something_else_is_refused(
    shape, kind, options, said, tmp_path
):
    pytest.importorskip('onnxruntime')
    path = onnx_file(tmp_path / 'm.onnx', shape, kind, **options)
    with pytest.raises(InputError, match=re.escape(said)):
        external_classifier.load(path).score(np.full((2, 8, 8, 1), 200, np.uint8))


def test_a_damaged_onnx_file_is_refused(tmp_path):
    pytest.importorskip('onnxruntime')
    (tmp_path / 'm.onnx').write_bytes(b'no such thing')
    with pytest.raises(InputError, match='is no ONNX file'):
        external_classifier.load(str(tmp_path / 'm.onnx'))


# ---- data before there is a classifier


def look_at(workdir, **keys):
    """Runs `look` on a folder -> its page."""
    config = look_config.get_config()
    config.update({key: str(value) for key, value in keys.items()})
    workdir.mkdir()
    look.run(config, workdir)
    return (workdir / 'look.html').read_text(encoding='utf-8')


PLANTED = {
    'nothing': (unchanged, set()),
    'a mark in the corner': (corner_mark, {'border of the images'}),
    'another black level': (black_level, {'border of the images'}),
}


@pytest.mark.parametrize('name', PLANTED)
def test_look_says_what_gives_a_folder_away(name, drawn, tmp_path):
    images, labels, _ = drawn
    change, expected = PLANTED[name]
    write_folder(tmp_path / 'pictures', change(images, labels), labels)
    page = look_at(tmp_path / 'look', source=tmp_path / 'pictures')
    assert flagged_in(page) == expected
    said = 'The classes can be told apart without seeing a lung' if expected else 'No red flag:'
    assert said in page


def flagged_in(page):
    """The names of the checks with a red flag on the page of `look`."""
    return set(re.findall(r'>red flag</span></td><td[^>]*>([^<]*)<', page))


def test_look_says_that_files_differ(drawn, tmp_path):
    images, labels, _ = drawn
    for i, (image, label) in enumerate(zip(images, labels)):
        path = tmp_path / 'pictures' / f'{label}/{i}/a.{"jpg" if label else "png"}'
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    page = look_at(tmp_path / 'look', source=tmp_path / 'pictures')
    assert 'facts of the files' in flagged_in(page)


def test_look_takes_the_sources_of_a_table(drawn, folder, tmp_path):
    source, files, _ = folder
    hospitals = ['A' if label else 'B' for label in drawn[1]]
    table = write_table(tmp_path / 't.csv', files, label=drawn[1], source=hospitals)
    page = look_at(tmp_path / 'look', source=source, table=table)
    assert flagged_in(page) == {'source of the images'}


@pytest.mark.parametrize(
    'keys, said',
    [
        ({'table': 'x.csv'}, 'config.table=x.csv: is of a folder'),
        ({'hu': '1,0'}, 'config.hu=1,0: is of a folder'),
        ({'source': 'x', 'dataset': 'covid_ct'}, 'give a prepared data set, or a folder'),
        ({'source': 'no_such_folder'}, 'no such folder'),
    ],
)
def test_look_refuses_keys_that_do_not_go_together(keys, said, tmp_path):
    with pytest.raises(InputError, match=re.escape(said)):
        look_at(tmp_path / 'look', **keys)


def test_look_takes_volumes_that_are_not_in_hu(tmp_path):
    """What its message says to give is a key that it has."""
    folder = tmp_path / 'volumes'
    ct_scans.write_volumes(folder, people=(4, 2, 2), size=32, slices=4, most=1, healthy=True)
    shutil.rmtree(folder / 'masks', ignore_errors=True)
    rows = [line.split(',') for line in (folder / 'scans.csv').read_text().splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if name != 'mask']
    (folder / 'scans.csv').write_text('\n'.join(','.join(row[i] for i in kept) for row in rows))
    for file in folder.rglob('*.nii.gz'):
        image = sitk.ReadImage(str(file))
        sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16) + 1024, str(file))
    with pytest.raises(InputError, match='give config.hu=1,-1024'):
        look_at(tmp_path / 'refused', source=folder)
    page = look_at(tmp_path / 'look', source=folder, hu='1,-1024')
    assert 'covid' in page and 'normal' in page


def test_real_slices_of_two_data_sets_are_told_apart_by_their_files(real, tmp_path):
    """COVID-SemiSeg against LUNA16 is confounded on purpose."""
    sets = {
        'covid': sorted((real / 'covid_semiseg/train/Imgs').iterdir()),
        'normal': sorted((real / 'luna16_slices').glob('*.png'))[:60],
    }
    for label, files in sets.items():
        for file in files:
            (tmp_path / 'pictures' / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / 'pictures' / label / file.name).write_bytes(file.read_bytes())
    page = look_at(tmp_path / 'look', source=tmp_path / 'pictures')
    assert flagged_in(page) == {'facts of the files', 'border of the images'}


@pytest.mark.fast
def test_every_check_of_data_and_of_scores_keeps_the_contract():
    for checks in (external.CHECKS, data_only.CHECKS):
        assert len({check.NAME for check in checks}) == len(checks)
        for check in checks:
            assert check.RULE.startswith('Red flag ') and check.COLUMNS


def test_many_classes_are_each_asked_against_the_rest(drawn, tmp_path):
    images, _, _ = drawn
    labels = np.arange(PEOPLE) % 3
    marked = images.copy()
    marked[labels == 2, 2:8, 2:8] = 255
    write_folder(tmp_path / 'pictures', marked, labels, ('cap', 'covid', 'normal'))
    page = look_at(tmp_path / 'look', source=tmp_path / 'pictures')
    assert 'border of the images' in flagged_in(page)
    assert '(normal or others)' in page


def test_kept_images_are_as_small_as_need_be():
    rng = np.random.default_rng(0)
    large, small = rng.integers(0, 256, (512, 300), np.uint8), rng.integers(0, 256, (50, 40))
    assert data_only.kept(large).shape == (128, 75)
    assert (data_only.kept(small) == small).all()
    assert lungs.masks(data_only.kept(large)[None, ..., None]).shape == (1, 128, 75)

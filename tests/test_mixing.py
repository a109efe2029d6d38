"""Few real pictures and many synthetic slices: who is shown what, and what is compared."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import test_pairs
from studies import WRONG_KEYS, check_refused, write_generator, write_slices

from configs import mixing as study_file
from covjax import budgets, trained
from covjax.budgets import ALL, ALONE, MODES, NONE, REAL, TOGETHER, TUNED, Row
from covjax.data import datasets, lineage
from covjax.phantom import ct_scans as phantoms
from covjax.phantom import raw_files
from covjax.runs import mixing, pair_study, prepare


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A study of phantoms: one seed, an untrained generator, two steps for each classifier."""
    folder = tmp_path_factory.mktemp('mixing')
    data = str(folder / 'data')
    write_slices(folder / 'slices', data, 24)
    for layout in ('covid_semiseg', 'covid_ct_md'):
        phantoms.write_ct_scans(folder / layout, layout, seed=5)
    prepare.build('ct_scans/covid_semiseg_framed', folder / 'covid_semiseg', data)
    prepare.build('ct_scans/covid_semiseg_lesions32', folder / 'covid_semiseg', data)
    prepare.build('ct_scans/covid_ct_md_slices_framed', folder / 'covid_ct_md', data)
    raw_files.write_covid_ct(folder / 'covid_ct', seed=6, train=10, validation=6, test=8)
    prepare.build('covid_ct/clean_framed', folder / 'covid_ct', data)
    write_generator(folder / 'pairs', test_pairs.config_of(data))
    config = study_file.get_config()
    config.update({'generator': str(folder / 'pairs'), 'data_dir': data, 'seeds': (1,)})
    config.update({'budgets': (2,), 'cyclegan_budgets': (2,)})
    config.lesions = 'ct_scans/covid_semiseg_lesions32'
    config.synthesize.per_slice = 1
    config.train.update({'image_size': 32, 'load_size': 32, 'batch_size': 4})
    config.train.update({'eval_every': 2, 'warmup_steps': 0})
    config.steps.update(dict.fromkeys(config.steps, 2))
    return config


@pytest.fixture(scope='module')
def workdir(config, tmp_path_factory):
    """The finished study on the test split."""
    folder = tmp_path_factory.mktemp('studies')
    config = config.copy_and_resolve_references()
    config.update({'read': 'test', 'modes': (TUNED,)})
    mixing.run(config, folder)
    return folder


@pytest.mark.slow
def test_study_reads_every_test_of_its_split(workdir):
    found = json.loads((workdir / 'mixing.json').read_text())
    rows = [Row(row['source'], row['mode'], row['budget']) for row in found['rows']]
    assert rows == budgets.rows({'painted': False, 'made': False}, (TUNED,), (2,))
    for row in found['rows']:
        for test in ('lesions', 'figures'):
            assert len(row[test]['seeds']) == len(row['learned']) == 1
            assert ('better_than_real' in row[test]) is (row['mode'] == TUNED)
            assert ('better_than_painted' in row[test]) is (row['source'] == 'made')
        assert row['scans'] and row['by_source']
    page = (workdir / 'mixing.html').read_text()
    assert 'Not for diagnosis' in page and page.count('<img') == 2 and 'nan' not in page


@pytest.mark.slow
def test_a_row_has_learned_from_what_it_says(workdir):
    run = trained.open_run(workdir / 'made' / 'fine_tuned_2_1', 'classification', 'train')
    of_run = [record for record in run.lineage if not record['through']]
    covid = datasets.read_rows('covid_ct/clean_framed:train[2~1]@covid', run.data_dir)
    others = datasets.read_rows('covid_ct/clean_framed:train@noncovid', run.data_dir)
    (own,) = (record['images'] for record in of_run if record['role'] == 'train')
    assert [image[0] for image in own] == [row.sha256 for row in (*covid, *others)]
    assert {record['role'] for record in run.lineage if record['through'] == 'pretraining'} >= {
        'train',
        'pictures',
    }


def stage_of(config, row):
    return mixing.training(config, 'drawn', row, 3, pathlib.Path('study'), 'data')


def test_only_covid_pictures_are_scarce(config):
    real = 'covid_ct/clean_framed:train'
    stage = stage_of(config, Row('', REAL, '2'))
    assert stage.config.train == f'{real}[2~3]@covid+{real}@noncovid'
    assert stage_of(config, Row('', REAL, ALL)).config.train == f'{real}@covid+{real}@noncovid'
    assert stage.config.equal_parts and not stage.config.best and stage.config.data_dir == 'data'


@pytest.mark.parametrize('source', ['painted', 'made', 'cyclegan'])
def test_together_half_of_every_batch_is_real_and_half_is_covid(config, source):
    parts = stage_of(config, Row(source, TOGETHER, '2')).config.train.split('+')
    assert len(parts) == 4
    is_covid = ['@covid' in part or part == 'synthetic_covid_ct:train' for part in parts]
    assert is_covid == [True, False, True, False]
    assert all('covid_ct/clean_framed' in part for part in parts[2:])


def test_a_cyclegan_has_rows_at_its_own_budgets_alone(config):
    config = config.copy_and_resolve_references()
    config.update({'cyclegan': 'runs/cyclegan', 'budgets': (2, 3), 'cyclegan_budgets': (3,)})
    of_gan = [row for row in mixing.rows_of(config) if row.source == 'cyclegan']
    assert {(row.mode, row.budget) for row in of_gan} == {
        (ALONE, NONE),
        *((mode, '3') for mode in MODES),
    }
    images = mixing.images_of(config, 'cyclegan', 'data')
    assert (images.run, images.generator, images.stand_in) == (
        'synthesize',
        'runs/cyclegan',
        'translated',
    )


def test_what_can_be_resolved_is_printed_for_every_test(config, capsys):
    mixing.print_resolution(config, config.data_dir)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all('a difference in area of' in line for line in lines)


def test_a_difference_is_that_of_means_over_seeds():
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    groups = [str(i // 4) for i in range(40)]
    first, second = rng.random((3, 40)) + 0.6 * labels, rng.random((3, 40))
    first = first / first.max()
    found = mixing.better(labels, first, second, groups)
    assert found['low'] < found['mean'] < found['high'] and found['low'] > 0


@pytest.mark.parametrize(
    'key, value, words',
    [
        *WRONG_KEYS,
        ('real', 'covid_ct/none', 'covid_ct/none'),
        ('lesions', 'ct_scans/covid_semiseg_lesions96', 'lesions96'),
        ('scans', 'covid_ct/clean_framed', 'which slices show infection'),
        ('generator', 'nowhere', 'config.generator=nowhere'),
        ('steps.alone', 0, 'config.steps.alone=0: must be at least 1'),
        ('train.lungs', 'crop', 'config.train.lungs=crop'),
    ],
)
def test_wrong_keys_are_refused_before_anything_is_trained(config, key, value, words, tmp_path):
    check_refused(mixing.run, config, key, value, words, tmp_path)


def test_budgets_of_a_cyclegan_count_where_there_is_one(config, tmp_path):
    config.cyclegan = 'runs/cyclegan'
    words = 'config.cyclegan_budgets=.*: 7 is not among config.budgets'
    check_refused(mixing.run, config, 'cyclegan_budgets', (7,), words, tmp_path)


@pytest.mark.slow
def test_images_that_trained_any_seed_are_no_test_images(config, workdir, tmp_path):
    """Seeds draw other pictures, so the lineage of one says nothing about another."""
    (opened,) = [
        mixing.open_row(config, row, workdir, config.data_dir) for row in [Row('made', TUNED, '2')]
    ]
    drawn = {
        seed: datasets.read_rows(f'covid_ct/clean_framed:train[2~{seed}]@covid', config.data_dir)
        for seed in (0, 1)
    }
    images = [lineage.image(row) for row in drawn[0]]
    other = {'role': 'train', 'dataset': 'another seed', 'through': '', 'images': images}
    (tmp_path / 'lineage.json').write_text(json.dumps([other]))
    another = dataclasses.replace(opened.classifiers[0], folder=tmp_path)
    both = opened._replace(classifiers=[*opened.classifiers, another])
    tests = mixing._as_pair_study(config)
    with tests.unlocked():
        tests.figures = 'covid_ct/clean_framed:train+covid_ct/clean_framed'
    found, left_out = pair_study.read_tests(tests, [both], config.data_dir)
    left = {row.id for row in found['figures'].rows}
    assert left_out['figures'] and not left & {row.id for rows in drawn.values() for row in rows}

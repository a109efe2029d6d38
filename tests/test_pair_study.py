"""What pairs teach: scans compared at equal height, and the study from end to end on phantoms."""

import json

import numpy as np
import pytest
import test_pairs
from studies import check_refused, write_slices

from configs import pair_study as study_file
from covjax import InputError, trained
from covjax.audit import pair_tests
from covjax.data import datasets, lineage
from covjax.data.rows import Row
from covjax.metrics import matched
from covjax.metrics.intervals import auc_difference, bootstrap, ratio_interval
from covjax.phantom import ct_scans as phantoms
from covjax.phantom import raw_files
from covjax.runs import pair_study, prepare, train

# ---- scans at equal height


def test_equal_heights_remove_what_height_alone_explains():
    """Scores that rise with height differ in mean between scans that are cut at other heights."""
    low, high = np.linspace(0, 0.8, 50), np.linspace(0.2, 1, 30)
    score = lambda heights: heights**2
    assert abs(score(high).mean() - score(low).mean()) > 0.1
    found = matched.difference((score(high), high), (score(low), low))
    assert abs(found) < 0.02
    shifted = matched.difference((score(high) + 0.3, high), (score(low), low))
    assert shifted == pytest.approx(found + 0.3)


def test_scans_without_a_common_height_have_no_difference():
    assert np.isnan(matched.difference(([1.0], [0.05]), ([0.0], [0.95])))


def test_relative_heights_are_shares_of_the_way():
    np.testing.assert_allclose(matched.relative_height([30, 10, 20]), [1, 0, 0.5])
    np.testing.assert_array_equal(matched.relative_height([7]), [0])


def test_slices_of_unlike_height_or_area_are_not_compared():
    scores, positive = [0.9, 0.1, 0.95, 0.99], [True, False, False, False]
    heights, areas = [0.5, 0.52, 0.9, 0.5], [0.2, 0.19, 0.2, 0.05]
    assert matched.concordance(scores, positive, heights, areas) == (1.0, 1)
    share, count = matched.concordance(scores, [True, True, True, True], heights, areas)
    assert np.isnan(share) and count == 0


def test_where_all_slices_compare_concordance_is_the_area_under_the_curve():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    scores, positive = rng.random(60).round(1), rng.random(60) < 0.4
    share, count = matched.concordance(scores, positive, np.zeros(60), np.ones(60))
    assert share == pytest.approx(roc_auc_score(positive, scores))
    assert count == positive.sum() * (~positive).sum()


def row_of(scan, z, label, infected):
    return Row(
        f'{scan}/{z}', scan, f'{scan}{z}', label_name=label, z=z, others={'infected': infected}
    )


def test_scans_are_set_against_healthy_ones_and_compared_inside():
    rows = [row_of('sick', z, 'covid', int(z >= 10)) for z in range(20)]
    rows += [row_of('well', z, 'normal', -1) for z in range(20)]
    of_scan = np.array([row.group == 'sick' for row in rows])
    infected = np.array([row.others['infected'] == 1 for row in rows])
    scores = np.stack([0.2 + 0.1 * of_scan + 0.3 * infected, 0.2 + 0.0 * of_scan])
    found = pair_tests.over_scans(scores, rows, np.ones(40))
    assert list(found) == ['sick', 'well']
    np.testing.assert_allclose(found['sick']['above'], [0.25, 0.0], atol=1e-9)
    assert found['sick']['inside'] == [1.0, 0.5] and found['sick']['pairs'] == 1
    assert found['well'] == {'mean': [pytest.approx(0.2)] * 2}


def test_slices_of_which_infection_is_not_known_are_no_negatives():
    known = {0: 0, 13: -1, 14: 0, 15: 1, 29: 0}
    rows = [row_of('sick', z, 'covid', infected) for z, infected in known.items()]
    found = pair_tests.over_scans(np.array([[0.1, 0.95, 0.1, 0.9, 0.1]]), rows, np.ones(5))
    assert (found['sick']['inside'], found['sick']['pairs']) == ([1.0], 1)


def test_areas_of_lung_in_slices_of_different_frames_are_in_one_unit():
    framed = row_of('sick', 0, 'covid', 1)
    framed.others['frame'] = [0.25, 0.5, 0.75, 1.0]
    areas = pair_study.framed_areas([framed, row_of('sick', 1, 'covid', 1)])
    np.testing.assert_allclose(areas, [0.25, 1.0])


# ---- areas over seeds


def test_areas_are_those_of_each_seed_and_the_interval_is_that_of_their_mean():
    rng = np.random.default_rng(1)
    labels, groups = np.arange(40) % 2, [str(i // 4) for i in range(40)]
    scores = rng.random((3, 40))
    found = pair_tests.areas(scores, labels, groups)
    assert found['mean'] == pytest.approx(np.mean(found['seeds']))
    assert (found['low'], found['high']) == bootstrap(labels, scores, groups)['auc']
    assert found['deviation'] == pytest.approx(np.std(found['seeds'], ddof=1))


def test_difference_of_means_over_seeds_is_that_of_the_mean_of_their_draws():
    rng = np.random.default_rng(2)
    labels, groups = np.arange(60) % 2, [str(i // 3) for i in range(60)]
    one, other = rng.random(60) + labels, rng.random(60)
    single = auc_difference(labels, one, other, groups)
    again = auc_difference(labels, np.stack([one, one]), np.stack([other] * 3), groups)
    assert again == pytest.approx(single)
    low, high = auc_difference(labels, np.stack([one, other]), other, groups)
    assert low > 0 and high < single[1]


def test_figures_are_read_against_each_source_alone():
    groups = ['a/1', 'b/1', 'crawled_1', 'medpix_1']
    rows = [Row(f'{i}', group, f'{i}') for i, group in enumerate(groups)]
    scores = np.array([[0.9, 0.8, 0.1, 0.95]])
    found = pair_tests.by_source(scores, np.array([1, 1, 0, 0]), rows)
    assert {source: each['mean'] for source, each in found.items()} == {'crawled': 1, 'medpix': 0}


def test_the_interval_of_a_ratio_is_of_both_means_together():
    rng = np.random.default_rng(3)
    before, groups = rng.random(40) + 1, [str(i // 4) for i in range(40)]
    np.testing.assert_allclose(ratio_interval(before / 2, before, groups), (0.5, 0.5))
    low, high = ratio_interval(before / 2 + rng.normal(0, 0.2, 40), before, groups)
    assert low < 0.5 < high
    assert np.isnan(ratio_interval(before, before, ['one'] * 40)).all()


# ---- end to end


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """All data sets of a study, of phantoms."""
    folder = tmp_path_factory.mktemp('study')
    data = str(folder / 'data')
    write_slices(folder / 'slices', data, 30)
    for layout in ('covid_semiseg', 'covid_ct_md'):
        phantoms.write_ct_scans(folder / layout, layout, seed=5)
    prepare.build('ct_scans/covid_semiseg_framed', folder / 'covid_semiseg', data)
    for size in (32, 96):
        prepare.build(f'ct_scans/covid_semiseg_lesions{size}', folder / 'covid_semiseg', data)
    prepare.build('ct_scans/covid_ct_md_slices_framed', folder / 'covid_ct_md', data)
    raw_files.write_covid_ct(folder / 'covid_ct', seed=6, train=10, validation=6, test=8)
    prepare.build('covid_ct/clean_framed', folder / 'covid_ct', data)
    return data


@pytest.fixture(scope='module')
def config(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp('generator')
    pairs = test_pairs.config_of(data_dir)
    (folder / 'config.json').write_text(pairs.to_json())
    train.run(pairs, folder)
    config = study_file.get_config()
    config.update({'generator': str(folder), 'data_dir': data_dir, 'seeds': (0, 1)})
    config.update({'makers': ('made', 'painted'), 'parts': ('patches',)})
    config.lesions = 'ct_scans/covid_semiseg_lesions32'
    config.train.update({'image_size': 32, 'load_size': 32, 'batch_size': 4})
    config.steps.update({'patches': 2, 'slices': 2})
    config.train.update({'eval_every': 2, 'warmup_steps': 0})
    return config


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp('studies')


@pytest.mark.parametrize('read', ['validation', 'test'])
def test_study_reads_every_test_of_its_split(config, read, workdir, capsys):
    config = config.copy_and_resolve_references()
    config.read = read
    pair_study.run(config, workdir)
    found = json.loads((workdir / 'pair_study.json').read_text())
    assert [(row['maker'], row['part']) for row in found['rows']] == [
        ('made', 'patches'),
        ('painted', 'patches'),
    ]
    for row in found['rows']:
        assert len(row['unseen']['seeds']) == len(row['lesions']['seeds']) == 2
        assert ('better' in row) is (row['maker'] == 'made')
        assert ('scans' in row) is (read == 'test')
        assert row['figures'] and row['counts'] is False
    assert {*found['left_out']} == {'lesions', 'figures', *(['scans'] if read == 'test' else [])}
    assert {*found['effects']} == {'real', 'made', 'painted'}
    key = json.loads((workdir / 'blinded_key.json').read_text())
    assert {*key} == {'real', 'made'} and (workdir / 'images' / 'blinded.png').is_file()
    page = (workdir / 'pair_study.html').read_text()
    assert 'Not for diagnosis' in page and '<img' in page
    assert 'real lesions' in capsys.readouterr().out


def test_pictures_whose_masks_became_those_of_pairs_are_refused_as_a_test(
    config, workdir, data_dir
):
    if not (workdir / 'painted').is_dir():
        pair_study.run(config, workdir)
    for maker in config.makers:
        run = trained.open_run(workdir / maker / 'patches_0', 'classification', 'train')
        for spec in ('ct_scans/covid_semiseg_framed:train', f'{config.lesions}:train'):
            rows = datasets.read_rows(spec, data_dir)
            with pytest.raises(InputError, match='share a picture'):
                lineage.check(run.lineage, rows, spec, 'clean')


@pytest.mark.parametrize(
    'key, value, words',
    [
        ('read', 'train', 'config.read=train'),
        ('makers', ('drawn',), 'config.makers=drawn'),
        ('makers', (), 'config.makers is empty'),
        ('seeds', (), 'config.seeds is empty'),
        ('figures', 'covid_ct/none', 'covid_ct/none'),
        ('figures', 'ct_scans/covid_ct_md_slices_framed', 'the classes noncovid, covid are needed'),
        ('lesions', 'ct_scans/covid_semiseg_lesions96', 'pictures of 32 pixels'),
        ('lesions', 'covid_ct/clean_framed', 'pictures of 32 pixels'),
        ('scans', 'covid_ct/clean_framed', 'which slices show infection'),
        ('train.lungs', 'crop', 'config.train.lungs=crop'),
    ],
)
def test_wrong_keys_are_refused_before_anything_is_trained(config, key, value, words, tmp_path):
    check_refused(pair_study.run, config, key, value, words, tmp_path)


def test_a_cyclegan_has_rows_for_its_translations_and_for_the_slices_themselves(config):
    config = config.copy_and_resolve_references()
    config.update({'cyclegan': 'runs/cyclegan', 'parts': ('slices',), 'read': 'test'})
    found = {source.maker: source for source in pair_study.sources(config, 'drawn', 'data')}
    assert list(found) == ['made', 'painted', 'cyclegan', 'framed']
    for maker, stand_in in (('cyclegan', 'translated'), ('framed', 'nothing')):
        made = found[maker].images.config
        assert (made.run, made.stand_in, made.generator) == (
            'synthesize',
            stand_in,
            'runs/cyclegan',
        )
        assert found[maker].unseen == (
            'synthetic_covid_ct:test+covid_ct/clean_framed:test@noncovid'
        )
    config.read = 'validation'
    unseen = {source.unseen for source in pair_study.sources(config, 'drawn', 'data')}
    assert not any('clean_framed:test' in spec for spec in unseen)

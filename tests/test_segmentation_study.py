"""Segmenters from synthetic lesions and few real ones: who is shown what, and what is compared."""

import json
import pathlib

import numpy as np
import pytest
import test_pairs
from studies import WRONG_KEYS, check_refused, write_generator, write_slices

from configs import segmentation_study as study_file
from covjax import InputError, budgets, trained
from covjax.budgets import ALL, ALONE, NONE, REAL, TOGETHER, TUNED, Row
from covjax.metrics.intervals import mean_over_runs
from covjax.pages import by_budget, figures
from covjax.phantom import ct_scans as phantoms
from covjax.runs import prepare, segmentation_study

# ---- rows


@pytest.mark.fast
def test_every_budget_stands_alone_and_beside_every_source():
    rows = budgets.rows({'painted': False, 'drawn': True}, (TUNED,), (5, 10))
    assert [row for row in rows if not row.source] == [
        Row('', REAL, budget) for budget in ('5', '10', ALL)
    ]
    assert [row.budget for row in rows if row.source == 'painted'] == [NONE, '5', '10', ALL]
    # Its lesions were made with every real mask, so no row claims that it has seen fewer.
    assert [row.budget for row in rows if row.source == 'drawn'] == [NONE, ALL]
    assert len({row.folder(0) for row in rows}) == len(rows)


@pytest.mark.fast
def test_what_a_row_begins_with_comes_before_it():
    rows = budgets.rows({'a': False, 'b': False}, (TOGETHER, TUNED), (3,))
    for i, row in enumerate(rows):
        assert (row.pretrained is not None) is (row.mode == TUNED)
        assert row.pretrained is None or row.pretrained in rows[:i]


@pytest.mark.fast
@pytest.mark.parametrize(
    'mode, expected',
    [
        (REAL, 'r:train[5~2]@covid+r:train[5~2]@noncovid'),
        (TUNED, 'r:train[5~2]@covid+r:train[5~2]@noncovid'),
        (ALONE, 's:train'),
        (TOGETHER, 's:train+r:train[5~2]@covid+r:train[5~2]@noncovid'),
    ],
)
def test_what_a_row_is_shown(mode, expected):
    real = budgets.drawn('r:train@covid+r:train@noncovid', '5', 2)
    assert budgets.train_spec(Row('s', mode, '5'), 's:train', real) == expected
    assert budgets.drawn('r:train@covid', ALL, 2) == 'r:train@covid'


def drawn_of(row, low=0.1):
    found = {'mean': low + 0.2, 'low': low, 'high': low + 0.4, 'seeds': [low + 0.1, low + 0.3]}
    return by_budget.estimate(
        by_budget.name_of(row, {'a': 'made pairs'}, 'masks'), found, 'network'
    )


@pytest.mark.fast
def test_rows_of_one_budget_are_drawn_together_and_those_without_come_first():
    rows = [row._asdict() for row in budgets.rows({'a': False}, (TUNED,), (5,))]
    panels = by_budget.forest(rows, drawn_of, 'masks')
    assert {title: [line.label for line in lines] for title, lines in panels.items()} == {
        'no masks': ['made pairs'],
        '5 masks': ['masks', 'made pairs, then masks'],
        'all masks': ['masks', 'made pairs, then masks'],
    }


@pytest.mark.fast
def test_a_curve_begins_with_synthetic_lesions_alone():
    row = lambda source, mode, budget: {
        **{'source': source, 'mode': mode, 'budget': budget},
        'dice': {'mean': 0.5, 'low': 0.4, 'high': 0.6, 'seeds': [0.5]},
    }
    rows = [row('', REAL, '5'), row('', REAL, '10'), row('', REAL, ALL)]
    rows += [row('a', ALONE, NONE), row('b', ALONE, NONE), row('b', TOGETHER, ALL)]
    rows += [row('a', TOGETHER, budget) for budget in ('5', '10', ALL)]
    found = by_budget.curves(rows, 'dice', {'a': 'A', 'b': 'B'}, 'masks')
    assert {name: [*curve] for name, curve in found.items()} == {
        'masks': ['5', '10', ALL],
        'B': [NONE],
        'A and masks together': [NONE, '5', '10', ALL],
    }
    (ax,) = figures.draw_curves(found, 'masks', 'Dice', ('rule', 0.45)).axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ['0', '5', '10', 'all']
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [*found, 'rule']


@pytest.mark.fast
def test_a_forest_plot_without_limits_shows_every_interval():
    row = Row('a', ALONE, NONE)._asdict()
    panels = {str(low): [drawn_of(row, low)] for low in (-3.0, 0.2, 5.0, 0.1)}
    figure = figures.draw_forest(panels, 'x', limits=None)
    low, high = figure.axes[-1].get_xlim()
    assert low <= -3.0 and high >= 5.4


# ---- scores


def results_of(dice):
    """Results of masks.json with a Dice [S, N]; two slices a group."""
    return [
        {'scans': [{'id': str(i), 'group': str(i // 2), 'dice': d} for i, d in enumerate(of_seed)]}
        for of_seed in dice
    ]


@pytest.mark.fast
def test_means_are_over_slices_and_seeds_without_copies():
    dice = np.random.default_rng(0).random((3, 8))
    values, groups = segmentation_study.dice_table(results_of(dice), {'3', '6'})
    kept = np.delete(dice, [3, 6], 1)
    np.testing.assert_array_equal(values, kept)
    found = segmentation_study.summary(values, groups)
    np.testing.assert_allclose(found['seeds'], kept.mean(1))
    assert found['mean'] == pytest.approx(kept.mean())
    assert found['deviation'] == pytest.approx(kept.mean(1).std(ddof=1))
    assert (found['low'], found['high']) == mean_over_runs(kept, groups)
    assert found['slices'] == 6


@pytest.mark.fast
def test_rows_are_compared_slice_by_slice_and_seed_by_seed():
    rng, first, second = np.random.default_rng(0), Row('', REAL, '5'), Row('a', TUNED, '5')
    dice, groups = rng.random((3, 8)), [*'aabbccdd']
    table = {first: (dice, groups), second: (dice + 0.1, groups)}
    found = segmentation_study.better(table, second, first)
    np.testing.assert_allclose([found[end] for end in ('mean', 'low', 'high')], 0.1)
    assert segmentation_study.better(table, second, Row('', REAL, '10')) is None
    assert segmentation_study.better(table, first, first) is None


@pytest.mark.fast
def test_networks_are_held_against_the_rule_that_is_best_on_the_same_slices():
    dice = np.random.default_rng(0).random((3, 8))
    rules = [{'kind': 'rule', **of_rule} for of_rule in results_of(dice)]
    network = [{'kind': 'network', **of_seed} for of_seed in results_of(dice + 1)]
    values, groups = segmentation_study.best_rule(rules + network, {'2'})
    kept = np.delete(dice, 2, 1)
    np.testing.assert_array_equal(values, kept[[kept.mean(1).argmax()]])
    table = segmentation_study.dice_table(network, {'2'})
    found = segmentation_study.difference(table, (values, groups))
    assert found['mean'] == pytest.approx((kept + 1).mean() - kept.mean(1).max())
    assert found['low'] < found['mean'] < found['high']
    assert segmentation_study.best_rule(network, {'2'}) is None


# ---- end to end


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A study of phantoms: painted lesions, networks of two levels, two steps each."""
    folder = tmp_path_factory.mktemp('study')
    data = str(folder / 'data')
    write_slices(folder / 'slices', data, 24)
    phantoms.write_ct_scans(folder / 'pictures', 'covid_semiseg', seed=5)
    prepare.build('ct_scans/covid_semiseg_framed', folder / 'pictures', data)
    config = study_file.get_config()
    config.update({'data_dir': data, 'seeds': (0, 1), 'budgets': (2,), 'negatives': ''})
    config.modes = (TUNED,)
    config.synthesize.update({'per_slice': 1, 'least': 0.0})
    config.train.update({'image_size': 32, 'patch': (32, 32), 'widths': (2, 4), 'steps': 2})
    config.train.update({'eval_every': 2, 'batch_size': 2, 'warmup_steps': 0})
    config.fine_tuned.steps = 2
    return config


@pytest.fixture(scope='module')
def workdir(config, tmp_path_factory):
    """The finished study."""
    folder = tmp_path_factory.mktemp('studies')
    segmentation_study.run(config, folder)
    return folder


@pytest.mark.slow
def test_study_compares_every_row(config, workdir):
    found = json.loads((workdir / 'segmentation_study.json').read_text())
    rows = [Row(row['source'], row['mode'], row['budget']) for row in found['rows']]
    knows_all = {'painted': False, 'painted_drawn': True}
    assert rows == budgets.rows(knows_all, config.modes, config.budgets)
    for row in found['rows']:
        assert len(row['dice']['seeds']) == 2
        assert (row['better_than_real'] is None) is (row['mode'] in (REAL, ALONE))
        rules = [each['dice']['mean'] for each in found['others']]
        gain = row['every_slice']['mean'] - max(rules)
        copies = row['dice']['slices'] < row['every_slice']['slices']
        assert copies or row['better_than_rule']['mean'] == pytest.approx(gain)
    assert {each['kind'] for each in found['others']} == {'rule'}
    page = (workdir / 'segmentation_study.html').read_text()
    assert 'Not for diagnosis' in page and '<img' in page


def test_what_can_be_resolved_is_printed_before_anything_is_made(config, capsys):
    segmentation_study.print_resolution(config)
    assert 'a mean difference in Dice of' in capsys.readouterr().out


@pytest.mark.slow
def test_a_row_has_learned_from_what_it_says(config, workdir):
    def open_run(row):
        folder = workdir / segmentation_study.folder_of(config, row, 0)
        run = trained.open_run(folder, 'segmentation', 'segmenter')
        return run, {(record['role'], record['through']) for record in run.lineage}

    alone, images = open_run(Row('painted', ALONE, NONE))
    assert images == {('train', '')} and alone.config.start == ''
    tuned, images = open_run(Row('painted', TUNED, '2'))
    assert images == {('train', ''), ('train', 'pretraining')}
    assert [len(r['images']) for r in tuned.lineage if not r['through']] == [2]
    assert tuned.config.steps == config.fine_tuned.steps
    _, images = open_run(Row('painted_drawn', ALONE, NONE))
    assert ('pictures', 'generator') in images


def stage_of(config, row, read='validation'):
    config = config.copy_and_resolve_references()
    config.update({'read': read, 'drawn': 'runs/pairs'})
    sources = {name: segmentation_study.MASKS[name] for name in segmentation_study.makers(config)}
    return segmentation_study.training(config, sources, row, 3, pathlib.Path('study'))


def test_only_all_real_slices_depend_on_what_is_read(config):
    for row in budgets.rows({'painted': False, 'drawn': True}, (TUNED, TOGETHER), (2,)):
        validation, test = (stage_of(config, row, read) for read in segmentation_study.READ)
        assert (validation == test) is (row.budget != ALL)
        assert ('+ct_scans' in test.config.train or 'validation' in test.config.train) <= (
            row.budget == ALL or row.mode == TOGETHER
        )
        assert ':test' not in test.config.train and not test.config.val


def test_every_row_of_a_mode_is_recoloured_alike_and_moved_as_all_are(config):
    for row in budgets.rows({'painted': False, 'drawn': True}, (TUNED, TOGETHER), (2,)):
        found, usual = stage_of(config, row).config.augment, config.train.augment
        assert found.brightness == found.contrast == config.recoloured[row.mode]
        assert all(found[key] == usual[key] for key in ('scale', 'flip', 'rotate', 'crop'))


def test_together_half_of_every_batch_is_real(config):
    stage = stage_of(config, Row('painted', TOGETHER, '2'))
    assert stage.config.equal_parts and stage.config.train.endswith(':train[2~3]')
    assert stage.config.train.startswith('synthetic_pairs/slices_procedural:train@covid+')
    assert stage.needs == ('painted/images',)


@pytest.mark.parametrize('masks', segmentation_study.GENERATORS)
def test_every_generator_makes_lesions_and_has_its_data_set(config, masks):
    config = config.copy_and_resolve_references()
    config[masks] = 'runs/pairs'
    assert segmentation_study.makers(config) == ['painted', 'painted_drawn', masks]
    made = segmentation_study.images_of(config, masks, masks)
    assert (made.maker, made.generator) == ('made', 'runs/pairs')
    sources = {masks: segmentation_study.MASKS[masks]}
    row = Row(masks, ALONE, NONE)
    stage = segmentation_study.training(config, sources, row, 0, pathlib.Path('study'))
    name = 'slices' if masks == 'drawn' else f'slices_{masks}'
    assert stage.config.train == f'synthetic_pairs/{name}:train@covid'


def test_stand_ins_need_no_generator(config):
    for masks in ('drawn', 'procedural'):
        painted = segmentation_study.images_of(config, 'painted', masks)
        assert (painted.maker, painted.generator, painted.masks) == ('painted', '', masks)
        assert bool(painted.pictures) is (masks == 'drawn')


@pytest.mark.parametrize(
    'key, value, words',
    [
        *WRONG_KEYS,
        ('real', 'ct_scans/none', 'ct_scans/none: no such data set'),
        ('negatives', 'ct_scans/none:train', 'ct_scans/none: no such data set'),
        ('drawn', 'nowhere', 'config.drawn=nowhere'),
        ('makers', ('made',), 'config.makers=made'),
    ],
)
def test_wrong_keys_are_refused_before_anything_is_trained(config, key, value, words, tmp_path):
    check_refused(segmentation_study.run, config, key, value, words, tmp_path)


def test_a_generator_of_other_masks_is_refused(config, tmp_path):
    pairs = test_pairs.config_of(config.data_dir, val_pictures='')
    write_generator(tmp_path / 'pairs', pairs)
    config = config.copy_and_resolve_references()
    config.procedural = str(tmp_path / 'pairs')
    with pytest.raises(InputError, match='config.procedural=.*: has drawn masks, not procedural'):
        segmentation_study.run(config, tmp_path)

"""Pairs of slices that differ in a lesion alone: gaps, the generator, stand-ins, the data set."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import launching
import numpy as np
import pytest
from conftest import flags_of_devices
from PIL import Image
from segmenters import DARK, SHARPNESS, write_run
from test_lungs import drawn

from configs import pairs as config_file
from configs import synthesize_pairs as synthesis_file
from covjax import InputError, pair_generator, pair_makers, pair_pictures, trained
from covjax.ct import lungs, picture
from covjax.data import datasets, gaps, lineage, segmented
from covjax.data.lesion_masks import KINDS, LESIONS, SHAM
from covjax.data.synthetic import read_manifest
from covjax.models import cyclegan
from covjax.phantom import ct_scans as phantoms
from covjax.phantom import raw_files
from covjax.runs import prepare, synthesize_pairs, train
from covjax.training import devices as parallel
from covjax.training import likeness, loop, pairs

SIZE = 32
TINY = {
    'image_size': SIZE,
    'gen_widths': (4, 8),
    'disc_filters': 4,
    'steps': 2,
    'eval_every': 2,
    'batch_size': 2,
}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Framed phantom slices without lesions, and phantom pictures with lesions, or labels alone."""
    folder = tmp_path_factory.mktemp('pairs')
    slices = folder / 'slices'
    slices.mkdir()
    for i in range(24):
        grey, _ = drawn(2 * i, 96)  # even seeds have no opacity
        Image.fromarray(grey).save(slices / f'1.2.{i}.mhd_{i}.png')
    phantoms.write_ct_scans(folder / 'pictures', 'covid_semiseg', seed=3)
    prepare.build('luna16_patches/slices_framed', slices, str(folder / 'data'))
    prepare.build('ct_scans/covid_semiseg_framed', folder / 'pictures', str(folder / 'data'))
    raw_files.write_covid_ct(folder / 'covid_ct', seed=4, train=16, validation=4, test=4)
    prepare.build('covid_ct/clean_framed', folder / 'covid_ct', str(folder / 'data'))
    write_segmenter(folder / 'data', ('background', 'any_lesion'))
    return str(folder / 'data')


def write_segmenter(data_dir, classes, name='segmenter'):
    """The workdir of a segmenter whose region is bright pixels, "trained" on annotated pictures."""
    workdir, spec = data_dir / name, 'ct_scans/covid_semiseg_framed:train'
    images = [lineage.image(row) for row in datasets.read_rows(spec, str(data_dir))]
    records = [{'role': 'train', 'dataset': spec, 'through': '', 'images': images}]
    workdir.mkdir()
    write_run(workdir, classes, records, -SHARPNESS, image_size=SIZE, patch=(SIZE, SIZE))
    return workdir


def config_of(data_dir, masks='drawn', **fields):
    config = config_file.get_config('small' if masks == 'drawn' else f'small_{masks}')
    if masks == 'predicted':
        fields = {'lesion_segmenter': f'{data_dir}/segmenter'} | fields
    config.update(TINY | {'data_dir': data_dir} | fields)
    return config


@pytest.fixture(scope='module')
def workdirs(data_dir, tmp_path_factory):
    """{masks: the workdir of a finished training}."""
    folders = {masks: tmp_path_factory.mktemp(masks) for masks in LESIONS}
    for masks, folder in folders.items():
        config = config_of(data_dir, masks)
        (folder / 'config.json').write_text(config.to_json())
        train.run(config, folder)
    return folders


@pytest.fixture(scope='module')
def run(workdirs):
    return trained.open_run(workdirs['drawn'], 'pairs', 'generator')


@pytest.fixture(scope='module')
def pictures(data_dir):
    """{masks: gaps.Pictures}."""
    return {
        masks: pair_pictures.read(config_of(data_dir, masks), data_dir, 64) for masks in LESIONS
    }


@pytest.fixture(scope='module')
def made(workdirs, data_dir, tmp_path_factory):
    """made(maker, masks) -> the workdir of a synthesis."""

    @functools.cache
    def synthesize(maker, masks='drawn'):
        folder, config = tmp_path_factory.mktemp(maker), synthesis_file.get_config()
        fields = {'generator': str(workdirs[masks]), 'maker': maker, 'data_dir': data_dir}
        config.update({'slices': 'luna16_patches/slices_framed'} | fields)
        synthesize_pairs.run(config, folder)
        return folder

    return synthesize


# ---- gaps


def gaps_of(make, count, images):
    """Gaps of make(rng, index) of images."""
    found = [make(np.random.default_rng(seed), seed % len(images)) for seed in range(count)]
    return [gap for gap in found if gap is not None]


@pytest.mark.parametrize('masks', LESIONS)
def test_gaps_in_pictures_are_lesions_of_their_kind_or_healthy_lung(pictures, masks):
    found = pictures[masks]
    of_image = {image.tobytes(): i for i, image in enumerate(found.images)}
    seen = set()
    for gap in gaps_of(functools.partial(gaps.gap_in_picture, found), 60, found.images):
        inside = gap['gate'][..., 0] == 255
        index = of_image[gap['image'].tobytes()]
        target, kind = found.targets[index], int(gap['kind'])
        seen.add(KINDS[kind])
        if KINDS[kind] == SHAM:
            assert (target[inside] == 0).all()
            assert np.average(target > 0, weights=gap['gate'][..., 0]) < 0.1
        else:
            assert (target[inside] == kind).mean() > 0.95
    assert SHAM in seen and {*seen} <= {SHAM, *LESIONS[masks]} and len(seen) > 1


def test_pictures_with_labels_alone_are_opacities_in_covid_and_shams_elsewhere(pictures, data_dir):
    found = pictures['procedural']
    examples = datasets.read('covid_ct/clean_framed:train', data_dir, 64)
    labels = {row.id: label for row, label in zip(examples.rows, examples.labels)}
    for target, healthy, row in zip(found.targets, found.healthy, found.rows):
        of_covid = examples.classes[labels[row.id]] == 'covid'
        assert target.any() == of_covid and healthy.any() != of_covid
    assert found.bank is None


def test_predicted_lesions_are_what_the_segmenter_finds_in_lungs_of_covid(data_dir):
    found = pair_pictures.read(config_of(data_dir, 'predicted'), data_dir, SIZE)
    index = KINDS.index('opacity')
    examples = datasets.read('covid_ct/clean_framed:train@covid', data_dir, SIZE)
    grey = {row.id: image for row, image in zip(examples.rows, examples.images[..., 0])}
    assert {row.id for row in found.rows} <= {*grey} and {*found.bank.kinds} == {'opacity'}
    for target, healthy, row in zip(found.targets, found.healthy, found.rows):
        assert {*np.unique(target)} <= {0, index} and not (healthy & (target > 0)).any()
        hull = lungs.hull(lungs.mask_in_crop(grey[row.id]))
        np.testing.assert_array_equal(target > 0, (grey[row.id] >= DARK) & hull)


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'lesion_segmenter': ''}, 'config.masks=predicted: needs config.lesion_segmenter'),
        ({'lesion_segmenter': 'LUNGS'}, 'segments lung; give a segmenter of lesions'),
        ({'lesion_segmenter': 'nowhere'}, 'config.lesion_segmenter=nowhere'),
        ({'pictures': 'covid_ct/clean_framed:train@noncovid'}, 'finds no lesion in any picture'),
        ({'pictures': 'luna16_patches/slices_framed:train'}, 'the classes noncovid, covid'),
    ],
)
def test_lesions_that_cannot_be_predicted_are_refused(data_dir, tmp_path, fields, message):
    if fields.get('lesion_segmenter') == 'LUNGS':
        shutil.copytree(pathlib.Path(data_dir), tmp_path / 'data')
        where = write_segmenter(tmp_path / 'data', ('background', 'lung'), 'lungs')
        fields = {'lesion_segmenter': str(where)}
    with pytest.raises(InputError, match=message):
        pair_pictures.read(config_of(data_dir, 'predicted', **fields), data_dir, SIZE)


def test_a_generator_keeps_its_segmenter_and_its_lineage(workdirs, data_dir):
    """Its own pictures, those that trained the segmenter, and the search for near copies."""
    workdir = workdirs['predicted']
    assert (workdir / 'lesions.safetensors').is_file()
    records = {(each['role'], each['through']): each for each in lineage.read(workdir)}
    assert {*records} >= {
        *(('pictures', ''), ('train', 'lesion_segmenter'), ('pictures', 'near_copies')),
    }
    for spec in ('ct_scans/covid_semiseg_framed:train', 'covid_ct/clean_framed:train@covid'):
        rows = datasets.read_rows(spec, data_dir)
        with pytest.raises(InputError, match='share a picture, patient, document or series'):
            lineage.check(lineage.read(workdir), rows, spec, 'clean')


def test_near_copies_in_the_other_data_set_count_as_learned_from(data_dir, tmp_path):
    """A test picture of the one, brighter and recompressed, is a training picture of the other."""
    data, spec = tmp_path / 'data', 'ct_scans/covid_semiseg_framed:test'
    phantoms.write_ct_scans(tmp_path / 'pictures', 'covid_semiseg', seed=3)
    prepare.build('ct_scans/covid_semiseg_framed', tmp_path / 'pictures', str(data))
    raw_files.write_covid_ct(tmp_path / 'covid_ct', seed=4, train=16, validation=4, test=4)
    (grey, copied), *_ = datasets.read_native(spec, str(data))
    file = copied_over(tmp_path / 'covid_ct')
    Image.fromarray(np.clip(grey * 0.9 + 20, 0, 255).astype(np.uint8)).save(file)
    prepare.build('covid_ct/clean_framed', tmp_path / 'covid_ct', str(data))
    segmenter = write_segmenter(data, ('background', 'any_lesion'))
    config = config_of(str(data), 'predicted', lesion_segmenter=str(segmenter))
    (record,) = pair_pictures.lineage_of(config, tmp_path / 'new')
    assert copied.sha256 in {image[0] for image in record['images']}
    rows = datasets.read_rows(spec, str(data))
    with pytest.raises(InputError, match='share a picture'):
        lineage.check([record], rows, spec, 'clean')
    assert not pair_pictures.lineage_of(config_of(data_dir), tmp_path)


def copied_over(folder):
    """A training picture of COVID-CT that another one may take the place of."""
    name = (folder / 'Data-split' / 'COVID' / 'trainCT_COVID.txt').read_text().split()[0]
    (file,) = folder.rglob(name)
    return file


def test_pictures_of_one_class_are_refused_where_labels_are_all_that_is_known(data_dir):
    for spec in ('luna16_patches/slices_framed:train', 'covid_ct/clean_framed:train@covid'):
        with pytest.raises(InputError, match='config.pictures.*covid_ct/clean_framed:train'):
            pair_pictures.read({'masks': 'procedural', 'pictures': spec}, data_dir, 64)
    with pytest.raises(InputError, match='config.masks=found'):
        pair_pictures.read({'masks': 'found', 'pictures': spec}, data_dir, 64)


@pytest.mark.parametrize('masks', LESIONS)
def test_gaps_of_lesions_and_shams_in_slices_have_masks_of_one_distribution(
    data_dir, pictures, masks
):
    slices = gaps.read_slices('luna16_patches/slices_framed:train', data_dir, 64, 'slices')
    areas = {True: [], False: []}
    make = functools.partial(gaps.gap_in_slice, slices, pictures[masks])
    for gap in gaps_of(make, 200, slices.images):
        areas[int(gap['kind']) == 0].append((gap['gate'] == 255).mean())
    assert min(map(len, areas.values())) > 60
    assert abs(np.mean(areas[True]) - np.mean(areas[False])) < 0.5 * np.std(areas[True])


def test_a_batch_is_a_function_of_the_step(data_dir):
    task = pairs.make(config_of(data_dir))
    first, again, other = task.train_batch(3), task.train_batch(3), task.train_batch(4)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert any((first[name] != other[name]).any() for name in first)
    assert set(task.sources) == {'slices', 'pictures', 'val', 'val_pictures'}


# ---- the networks


def gap_of_noise(seed=0, batch=3):
    rng = np.random.default_rng(seed)
    gate = np.zeros((batch, SIZE, SIZE, 1), np.float32)
    gate[:, 8:20, 10:24] = 1
    gate[:, 7, 10:24] = 0.5
    return {
        'image': jnp.asarray(rng.uniform(-1, 1, gate.shape), jnp.float32),
        'gate': jnp.asarray(gate),
        'kind': jnp.arange(batch) % len(KINDS),
    }


@pytest.fixture(scope='module')
def nets(data_dir):
    nets = pairs.nets_of(config_of(data_dir))
    state = pairs.init(nets, pairs.optax.adam(1e-3), SIZE, jax.random.key(0), {})
    return nets, state


def test_the_generator_does_not_see_how_bright_what_it_makes_anew_is(nets):
    (networks, state), gap = nets, gap_of_noise()
    noise = jax.random.normal(jax.random.key(1), gap['image'].shape)
    brighter = gap | {'image': gap['image'] + 0.5 * (gap['gate'] > 0)}
    first, second = (
        pair_generator.fill(networks.generator, state.gen.params, g, noise) for g in (gap, brighter)
    )
    whole = gap['gate'] == 1
    np.testing.assert_allclose(first[whole], second[whole], atol=1e-5)
    other = gap | {'image': jnp.where(gap['gate'] > 0, gap['image'], -gap['image'])}
    third = pair_generator.fill(networks.generator, state.gen.params, other, noise)
    assert (third[whole] != first[whole]).any()


def test_the_generator_is_told_the_kind(nets):
    (networks, state), gap = nets, gap_of_noise()
    noise = jnp.zeros_like(gap['image'])
    images = [
        pair_generator.fill(
            networks.generator, state.gen.params, gap | {'kind': jnp.full(3, kind)}, noise
        )
        for kind in range(len(KINDS))
    ]
    inside = gap['gate'] == 1
    assert all((images[0][inside] != image[inside]).any() for image in images[1:])


def view(number=0):
    """What the discriminator's random view depends on."""
    return pairs.View(jax.random.key(3)).of(number)


class Checkered:
    """A generator whose lesions have a checkerboard, as upsampling leaves one, and no sham has."""

    @staticmethod
    def apply(variables, seen):
        board = 1.0 - 2.0 * (np.indices(seen.shape[1:3]).sum(0) % 2)
        of_lesion = seen[..., 2:].sum(-1, keepdims=True)
        return 3.0 * of_lesion * board[None, ..., None]


def test_the_finest_texture_is_that_of_the_slice_whatever_the_network_makes():
    rng, gate = np.random.default_rng(0), np.zeros((2, 96, 96, 1), np.float32)
    gate[:, 20:70, 20:70] = 1
    image = jnp.asarray(rng.normal(-0.5, 0.02, gate.shape), jnp.float32)
    gap = {'image': image, 'gate': jnp.asarray(gate), 'kind': jnp.array([0, 1])}
    sham, lesion = pair_generator.fill(Checkered, {}, gap, jnp.zeros_like(image))[..., 0]
    inside = (slice(25, 65), slice(25, 65))
    grain = np.asarray(image - pair_generator.smooth(image, gap['gate']))[..., 0]
    for made, of_slice in zip((sham, lesion), grain):
        off = np.asarray(made)[inside] - of_slice[inside]
        assert np.abs(off - off.mean()).max() < 0.05  # of a checkerboard of 1


def test_the_discriminator_sees_only_what_may_change(nets):
    (networks, state), gap = nets, gap_of_noise()
    outside = jnp.where(gap['gate'] > 0, gap['image'], -gap['image'])
    inside = jnp.where(gap['gate'] > 0, -gap['image'], gap['image'])
    judge = lambda image: networks.judge(state.disc.params, gap, image, view())[0]
    np.testing.assert_array_equal(judge(gap['image']), judge(outside))
    assert (judge(gap['image']) != judge(inside)).any()


def test_what_the_discriminator_sees_is_changed_with_its_gate_where_that_is_asked(nets):
    """Moved without a change of grey levels it says the same at the places that were moved to."""
    (networks, state), gap = nets, gap_of_noise()
    logits, gate = networks.judge(state.disc.params, gap, gap['image'], view())
    np.testing.assert_array_equal(gate, gap['gate'])
    for changes in (('shift',), ('cut',), ('shade', 'shift', 'cut')):
        changed = networks._replace(changes=changes)
        moved, of_moved = changed.judge(state.disc.params, gap, gap['image'], view())
        assert (moved != logits).any() and (of_moved != gate).any()
        again, _ = changed.judge(state.disc.params, gap, gap['image'], view())
        np.testing.assert_array_equal(moved, again)
        other, _ = changed.judge(state.disc.params, gap, gap['image'], view(1))
        assert (other != moved).any()


def test_unknown_changes_of_what_the_discriminator_sees_are_refused(data_dir):
    for named in ('blur', 'shift+shift', 'shift,cut'):
        with pytest.raises(
            InputError, match='config.disc_augment=.*: join some of shade, shift, cut'
        ):
            pairs.nets_of(config_of(data_dir, disc_augment=named))


def test_the_moving_average_is_that_of_all_steps_and_makes_the_lesions(data_dir, tmp_path):
    config = config_of(data_dir, ema=0.9, steps=4)
    task = pairs.make(config)
    init_rng, run_rng = jax.random.split(jax.random.key(config.seed))
    state = task.init(init_rng, {name: each[:1] for name, each in task.train_batch(0).items()})
    expected = state.gen.params
    train_step, _ = parallel.parallel(task)
    state = parallel.replicated(state)
    for step in range(4):
        state, _ = train_step(state, parallel.my_share(task.train_batch(step)), run_rng)
        newest = parallel.on_host(state).gen.params
        share = 1 - min(0.9, (1 + step) / (10 + step))
        both = jax.tree.map(lambda *leaves: np.stack(leaves), expected, newest)
        mean = functools.partial(np.average, axis=0, weights=(1 - share, share))
        expected = jax.tree.map(mean, both)
    found = parallel.on_host(state).ema['params']
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, expected)

    (tmp_path / 'config.json').write_text(config.to_json())
    train.run(config, tmp_path)
    run = trained.open_run(tmp_path, 'pairs', 'generator')
    before = run.variables['gen']['params']
    fill = lambda: pair_generator.of_run(run)(*inputs)
    inputs = (np.full((1, 32, 32, 1), 60, np.uint8), np.full((1, 32, 32, 1), 255, np.uint8))
    inputs += (np.array([1]), np.array([0]))
    averaged = fill()
    run.variables['gen']['params'] = jax.tree.map(np.zeros_like, before)
    np.testing.assert_array_equal(fill(), averaged)


def test_only_logits_that_see_the_gate_count():
    gate = jnp.zeros((1, 32, 32, 1)).at[0, :8, :8].set(1.0)
    plain = pairs.judged(jnp.zeros((1, 6, 6, 1)), gate, 1.0)
    np.testing.assert_allclose(plain, 1.0, rtol=1e-5)
    far, near = (jnp.zeros((1, 6, 6, 1)).at[0, i, i].set(5.0) for i in (3, 0))
    assert pairs.judged(far, gate, 1.0) == plain
    assert pairs.judged(near, gate, 1.0) > 10 * plain


def test_the_weight_of_a_logit_is_the_gate_in_the_middle_of_its_patch(monkeypatch):
    monkeypatch.setitem(cyclegan.NORMS, 'none', lambda name: lambda x: x)  # sees the whole image
    network = cyclegan.Discriminator(filters=2, depth=3, norm='none')
    image = jax.random.normal(jax.random.key(0), (1, 96, 96, 1))
    params = network.init(jax.random.key(1), image)['params']
    shape = network.apply({'params': params}, image).shape
    at = lambda function: jax.grad(lambda x: function(x)[0, 9, 11, 0])(image)[0, ..., 0]
    patch = np.argwhere(at(lambda x: network.apply({'params': params}, x)))
    cell = np.argwhere(at(lambda gate: pairs.at_patches(gate, shape)))
    assert (np.ptp(patch, axis=0) == 33).all() and (np.ptp(cell, axis=0) == 3).all()
    np.testing.assert_array_equal(np.median(patch, axis=0), np.median(cell, axis=0))


def test_what_is_made_of_an_image_depends_on_its_own_row_alone(run):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, SIZE, SIZE, 1), np.uint8)
    gates = np.asarray(255 * gap_of_noise(batch=4)['gate'], np.uint8)
    kinds, seeds = np.arange(4) % len(KINDS), np.arange(4) + 7
    fill = jax.jit(pair_generator.of_run(run))
    together = fill(images, gates, kinds, seeds)
    for i in range(4):
        alone = fill(*(np.repeat(a[i : i + 1], 4, 0) for a in (images, gates, kinds, seeds)))[0]
        assert np.abs(np.asarray(alone, int) - np.asarray(together[i], int)).max() <= 1


def losses_on(devices, data_dir):
    """The scalars of two steps on so many devices."""
    assert jax.device_count() == devices
    task = pairs.make(config_of(data_dir, batch_size=4))
    init_rng, run_rng = jax.random.split(jax.random.key(0))
    state = task.init(init_rng, {name: each[:1] for name, each in task.train_batch(0).items()})
    train_step, _ = parallel.parallel(task)
    state, found = parallel.replicated(state), []
    for step in range(2):
        batch = parallel.my_share(task.train_batch(step))
        state, scalars = train_step(state, batch, run_rng)
        found += [float(value[0]) for value in scalars.values()]
    return found


@pytest.mark.slow
def test_two_devices_equal_one(data_dir):
    alone, together = (
        launching.call(losses_on, (count, data_dir), {'XLA_FLAGS': flags_of_devices(count)})
        for count in (1, 2)
    )
    assert len(set(alone)) == len(alone)
    np.testing.assert_allclose(together, alone, rtol=1e-4)


# ---- which checkpoint is best


def outputs_of(greys, lungs_of, sham=50.0, count=6):
    """Outputs of validation with grey levels by kind and lungs by kind."""
    outputs = {f'grey_{kind}': np.full(count, sham + grey) for kind, grey in greys.items()}
    outputs[f'grey_{SHAM}'] = np.full(count, sham)
    return outputs | {f'lungs_{kind}': lungs_of(kind) for kind in greys}


def test_lesions_as_bright_as_real_ones_are_best():
    reference = likeness.Reference({'ground_glass': 30.0, 'consolidation': 80.0})
    error = lambda glass, solid: likeness.scalars(
        reference,
        LESIONS['drawn'],
        outputs_of({'ground_glass': glass, 'consolidation': solid}, lambda kind: None),
    )
    assert error(30.0, 80.0) == {'effect_error': 0.0, 'unlike': 0.0}
    assert error(15.0, 80.0)['unlike'] == pytest.approx(0.25)
    assert error(0.0, 0.0)['unlike'] == pytest.approx(1.0)  # what nobody can see


def test_lungs_with_lesions_are_compared_with_those_of_pictures():
    rng = np.random.default_rng(0)
    real = rng.random((30, 16)).astype(np.float32)
    reference = likeness.Reference({}, real, tuple(map(str, range(30))))
    far = lambda shift: likeness.scalars(
        reference, ('opacity',), outputs_of({'opacity': 1.0}, lambda _: rng.random((6, 16)) + shift)
    )
    assert [*far(0.0)] == ['kid', 'unlike']
    assert abs(far(0.0)['kid']) < 0.1 < far(0.5)['kid']


def test_what_is_compared_is_lungs_alone_in_one_window(data_dir):
    """A picture with another brightness and contrast is the same, and what is outside is black."""
    config = config_of(data_dir)
    pictures = pair_pictures.read(config, data_dir, SIZE)
    found = likeness.read('covid_ct/clean_framed:train@covid', pictures, data_dir, SIZE)
    assert {*found.effects} == {*LESIONS['drawn']}
    assert found.lungs.shape[1] == likeness.SIDE**2 and len(found.rows) == len(found.lungs)
    assert (found.lungs >= 0).all() and (found.lungs <= 1).all()
    share = (found.lungs == 0).mean()
    assert 0.2 < share < 0.9
    assert likeness.read('', pictures, data_dir, SIZE).lungs is None


def test_a_best_that_the_training_does_not_have_is_refused_at_once(data_dir):
    for fields in ({'val': ''}, {'masks': 'procedural', 'val_pictures': ''}):
        config = config_of(data_dir, **fields)
        with pytest.raises(InputError, match="config.best=-val/unlike: no such .*config.best=''"):
            loop.check(pairs.make(config), config)


def test_pictures_that_pick_a_checkpoint_are_no_test_images(run, data_dir):
    rows = datasets.read_rows('covid_ct/clean_framed:validation@covid', data_dir)
    counts, _ = lineage.overlap(run.lineage, rows)
    assert counts['validation'] > 0 and counts['images'] == 0


# ---- what is written


@pytest.mark.parametrize('maker', pair_makers.METHODS)
def test_outside_of_the_gate_members_are_the_slice_bit_for_bit(made, maker):
    folder = made(maker) / 'synthetic'
    rows = read_manifest(folder)
    assert len(rows) >= 20
    for row in rows:
        before, after = picture.read(folder / row.input), picture.read(folder / row.file)
        gate = picture.read(folder / row.gate)
        np.testing.assert_array_equal(before[gate == 0], after[gate == 0])
        assert (gate == 255).any()


def test_several_pairs_of_a_slice_have_masks_of_their_own(workdirs, data_dir, tmp_path):
    config = synthesis_file.get_config()
    fields = {'generator': str(workdirs['drawn']), 'maker': 'painted', 'data_dir': data_dir}
    config.update({'slices': 'luna16_patches/slices_framed:train', 'per_slice': 2} | fields)
    synthesize_pairs.run(config, tmp_path)
    gates = {}
    for row in read_manifest(tmp_path / 'synthetic'):
        gate = picture.read(tmp_path / 'synthetic' / row.gate)
        gates.setdefault(row.source_id, {})[row.pair] = gate.tobytes()
    counts = [len({*of_slice.values()}) for of_slice in gates.values()]
    assert counts == [len(of_slice) for of_slice in gates.values()] and max(counts) == 2


def painted(data_dir, folder, **fields):
    """The rows of a synthesis without a generator."""
    config = synthesis_file.get_config()
    shared = {'maker': 'painted', 'data_dir': data_dir, 'image_size': 64}
    config.update({'slices': 'luna16_patches/slices_framed'} | shared | fields)
    folder.mkdir(exist_ok=True)
    synthesize_pairs.run(config, folder)
    return read_manifest(folder / 'synthetic')


@pytest.mark.parametrize('masks', ['drawn', 'procedural'])
def test_a_stand_in_paints_without_a_generator(data_dir, tmp_path, masks):
    drawn = {'pictures': 'ct_scans/covid_semiseg_framed:train', 'masks': 'drawn'}
    rows = painted(data_dir, tmp_path, **(drawn if masks == 'drawn' else {}))
    assert {row.generator for row in rows} == {'painted'} and {row.masks for row in rows} == {masks}
    assert {row.lesion for row in rows} <= {*LESIONS[masks]}
    card = json.loads((tmp_path / 'synthetic' / 'meta.json').read_text())
    assert ('have no clear licence' in card['licence']) is (masks == 'drawn')
    places = f'{tmp_path / "data"},{data_dir}'
    part = 'slices' if masks == 'drawn' else 'slices_procedural'
    found = lineage.read_lineage(f'synthetic_pairs/{part}:train', places)
    assert [record['role'] for record in found] == (['pictures'] if masks == 'drawn' else [])


def test_what_is_made_needs_a_generator(data_dir, tmp_path):
    with pytest.raises(InputError, match='config.generator'):
        painted(data_dir, tmp_path, maker='made')


def test_a_stand_in_alone_has_no_segmenter(data_dir, tmp_path):
    with pytest.raises(InputError, match='config.masks=predicted: .* its workdir in config.gener'):
        painted(data_dir, tmp_path, masks='predicted', pictures='covid_ct/clean_framed:train')


@pytest.mark.parametrize('fields', [{'masks': 'drawn'}, {'maker': 'pasted'}])
def test_a_stand_in_that_needs_pictures_is_refused_without(data_dir, tmp_path, fields):
    with pytest.raises(InputError, match='config.pictures is empty; name pictures with lesions'):
        painted(data_dir, tmp_path, **fields)


def test_joined_masks_cover_more_and_stay_in_the_lungs(data_dir, tmp_path):
    covered = {}
    for joined in (1, 6):
        folder = tmp_path / str(joined)
        rows = painted(data_dir, folder, joined=joined)
        masks = [picture.read(folder / 'synthetic' / row.gate) >= 128 for row in rows]
        covered[joined] = np.mean([mask.mean() for mask in masks])
    assert covered[6] > 1.5 * covered[1]


@pytest.mark.parametrize('maker', pair_makers.METHODS)
def test_members_of_a_pair_share_slice_and_gate_and_differ_in_the_label(made, maker):
    rows = read_manifest(made(maker) / 'synthetic')
    for lesion, sham in zip(rows[::2], rows[1::2], strict=True):
        shared = ('pair', 'gate', 'input', 'lesion', 'split', 'group', 'source_sha256', 'masks')
        assert all(getattr(lesion, name) == getattr(sham, name) for name in shared)
        assert (lesion.label, sham.label) == ('covid', 'noncovid')
        assert lesion.kind == lesion.lesion and sham.kind == SHAM
    assert {row.lesion for row in rows} == set(LESIONS['drawn'])


def test_painted_lesions_are_brighter_than_the_slice_and_shams_are_the_slice(made):
    folder = made('painted') / 'synthetic'
    rows = read_manifest(folder)
    for lesion, sham in zip(rows[::2], rows[1::2]):
        slice_, gate = picture.read(folder / lesion.input), picture.read(folder / lesion.gate)
        np.testing.assert_array_equal(picture.read(folder / sham.file), slice_)
        change = picture.read(folder / lesion.file).astype(int) - slice_
        assert change.min() >= 0 and change[gate == 255].mean() > 20


def test_pasted_noise_has_the_moments_of_real_lesions(made, data_dir):
    found = pair_pictures.read(config_of(data_dir), data_dir, SIZE)
    real = [image[target == 1] for image, target in zip(found.images, found.targets)]
    folder = made('pasted') / 'synthetic'
    rows = [row for row in read_manifest(folder) if row.kind == KINDS[1]]
    inside = [
        picture.read(folder / row.file)[picture.read(folder / row.gate) == 255] for row in rows
    ]
    expected, found = np.concatenate(real), np.concatenate(inside)
    assert abs(found.mean() - expected.mean()) < 6
    assert abs(found.std() - expected.std()) < 8


@pytest.mark.parametrize('masks', LESIONS)
def test_the_data_set_trains_segmentation_and_classification(made, masks):
    spec = f'{synthesize_pairs.DATA_SETS[masks][0]}:train'
    data, kinds = str(made('made', masks) / 'data'), (SHAM, *LESIONS[masks])
    found = segmented.read(spec, data)
    assert found.classes == ('background', *LESIONS[masks])
    for target, row in zip(found.targets, found.rows):
        assert set(np.unique(target)) - {0} == {kinds.index(row.others['kind'])} - {0}
        assert row.others['masks'] == masks
    examples = datasets.read(spec, data, SIZE)
    assert set(examples.labels) == {0, 1} and examples.classes == ('noncovid', 'covid')
    for record in datasets.records(spec, data):
        assert (datasets.volume(record.gate) == 255).any()


def test_patches_are_squares_around_the_gate_of_every_member(made):
    data = str(made('made') / 'data')
    whole = {
        record.row.id: record for record in datasets.records('synthetic_pairs/slices:train', data)
    }
    patches = list(datasets.records('synthetic_pairs/patches:train', data))
    assert len(patches) == len(whole)
    for record in patches:
        image, gate = datasets.volume(record.image), datasets.volume(record.gate)
        assert image.shape == gate.shape and image.shape[0] == image.shape[1] <= SIZE
        places = np.lib.stride_tricks.sliding_window_view(
            datasets.volume(whole[record.row.id].image), image.shape
        )
        assert (places == image).all((2, 3)).any()
        assert (gate == 255).any()


def test_lineage_has_slices_and_the_pictures_that_masks_came_from(made, pictures):
    rows = datasets.read_rows('synthetic_pairs/slices:train', str(made('made') / 'data'))
    records = lineage.read(made('made'))
    assert {record['role'] for record in records} == {'slices', 'pictures', 'val', 'val_pictures'}
    counts, shared = lineage.overlap(records, [dataclasses.replace(rows[0])])
    assert counts['groups'] == 1
    counts, _ = lineage.overlap(records, pictures['drawn'].rows)
    assert counts['images'] == len(pictures['drawn'].rows)


def test_pairs_are_shown_side_by_side(made):
    assert (made('made') / 'images' / 'pairs.png').is_file()


def test_slices_that_are_named_twice_are_refused_and_what_was_made_before_stays(
    made, run, data_dir, tmp_path
):
    folder = made('painted')
    before = (folder / 'synthetic' / 'manifest.jsonl').read_bytes()
    config = synthesis_file.get_config()
    config.update({'generator': str(run.folder), 'data_dir': data_dir, 'maker': 'painted'})
    config.slices = 'luna16_patches/slices_framed:train+luna16_patches/slices_framed:train[:50%]'
    with pytest.raises(InputError, match='config.slices: names .* twice'):
        synthesize_pairs.run(config, folder)
    assert (folder / 'synthetic' / 'manifest.jsonl').read_bytes() == before


def test_a_stop_while_data_sets_are_built_leaves_none_of_what_was_there_before(
    made, run, data_dir, tmp_path, monkeypatch
):
    shutil.copytree(made('painted'), tmp_path / 'pairs')
    config = synthesis_file.get_config()
    config.update({'generator': str(run.folder), 'data_dir': data_dir, 'maker': 'pasted'})
    config.slices = 'luna16_patches/slices_framed'

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, 'build', stopped)
    with pytest.raises(KeyboardInterrupt):
        synthesize_pairs.run(config, tmp_path / 'pairs')
    assert not (tmp_path / 'pairs' / 'data').exists()


def test_slices_of_people_with_covid_are_refused(data_dir):
    config = config_of(data_dir)
    config.slices = 'covid_ct/clean_framed:train'
    with pytest.raises(InputError, match='slices without lesions are needed'):
        pairs.make(config)


@pytest.mark.parametrize(
    'key, value, words',
    [
        ('image_size', 24, 'config.image_size=24: too small'),
        ('gen_widths', (), 'config.gen_widths='),
        ('gen_widths', (8, 0), 'config.gen_widths='),
        ('dtype', 'float8', 'float8'),
    ],
)
def test_networks_that_cannot_be_are_refused(data_dir, key, value, words):
    config = config_of(data_dir)
    config.update({key: value})
    with pytest.raises(InputError, match=words):
        pairs.make(config)

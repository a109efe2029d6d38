"""The lungs in front of a classifier: one view in training, evaluation and audit."""

import json
import shutil

import labelled_sets
import numpy as np
import pytest
from ml_collections import ConfigDict
from segmenters import write_run
from studies import vouch

from configs import classifier as training
from configs import evaluate as evaluation
from configs import export as export_config
from covjax import InputError, classifier, features, lung_view, trained
from covjax.data import datasets, lineage
from covjax.runs import audit, evaluate, export, train

SIDE = 64
BOX = slice(14, 50), slice(8, 56)  # of the lungs of `slice_of`, and 5 % of its sides around it


def slice_of(lung=30, around=180):
    """uint8 [64, 64]: two lungs in a body."""
    grey = np.full((SIDE, SIDE), around, np.uint8)
    grey[16:48, 10:28] = grey[16:48, 36:54] = lung
    return grey


def config_of(**fields):
    return ConfigDict({'lungs': '', 'lung_segmenter': ''} | fields)


def write_lungs(workdir):
    """The workdir of a segmenter of dark pixels that was trained on one image."""
    workdir.mkdir()
    image = ['sha', 'someone', 'image']
    records = [{'role': 'train', 'dataset': 'a:b', 'through': '', 'images': [image]}]
    write_run(workdir, lineage=records, image_size=SIDE, patch=(SIDE, SIDE))
    return workdir


@pytest.fixture
def lung_run(tmp_path):
    return write_lungs(tmp_path / 'lungs')


# ---- what is shown


@pytest.mark.parametrize('by', ['otsu', 'segmenter'])
def test_images_are_cropped_to_the_lungs_or_show_them_alone(by, lung_run):
    fields = {'lung_segmenter': str(lung_run)} if by == 'segmenter' else {}
    grey = slice_of()
    crop = lung_view.of_config(config_of(lungs='crop', **fields))(grey)
    alone = lung_view.of_config(config_of(lungs='mask', **fields))(grey)
    np.testing.assert_array_equal(crop, grey[BOX])
    lung = crop == 30
    np.testing.assert_array_equal(alone[lung], 30)
    # The threshold closes gaps of lungs; the network of single pixels leaves none but lungs.
    assert (alone[~lung] > 0).mean() < (0.5 if by == 'otsu' else 1e-9)


def test_without_config_lungs_an_image_stays_whole():
    assert lung_view.of_config(config_of()) is None


def test_a_segmenter_without_a_view_is_refused(lung_run):
    with pytest.raises(InputError, match='config.lung_segmenter=.*: needs config.lungs'):
        lung_view.of_config(config_of(lung_segmenter=str(lung_run)))


@pytest.mark.parametrize('lungs', ['crop', 'mask'])
def test_an_image_without_lungs_stays_whole(lungs):
    grey = np.full((SIDE, SIDE), 180, np.uint8)
    assert lung_view.of_config({'lungs': lungs})(grey) is grey


def test_a_segmenter_without_lungs_cannot_crop_to_them(tmp_path):
    write_run(tmp_path, ('background', 'lesion'))
    with pytest.raises(InputError, match='config.lung_segmenter=.*: segments lesion'):
        lung_view.of_config(config_of(lungs='crop', lung_segmenter=str(tmp_path)))


# ---- from a training to everything that reads it


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    """Two data sets of the same classes; in half of the images of one class there are no lungs."""
    folder = tmp_path_factory.mktemp('data')

    def draw(rng, share, i):
        without = share == 1 and i % 2
        grey = slice_of(180 if without else round(20 + 50 * share))
        return grey + rng.integers(0, 20, grey.shape).astype(np.uint8)

    labelled_sets.write(folder, 'framed', ('noncovid', 'covid'), draw=draw)
    labelled_sets.write(folder, 'other', ('noncovid', 'covid'))
    return str(folder)


@pytest.fixture(scope='module')
def finished(data_dir, tmp_path_factory):
    """(workdir of a classifier of lungs alone, its config), by a segmenter that is then removed."""
    folder = tmp_path_factory.mktemp('training')
    lung_run, workdir = write_lungs(folder / 'lungs'), folder / 'run'
    config = training.get_config('resnet18')
    config.update(
        {
            'data_dir': data_dir,
            **{'train': 'framed:train', 'val': 'framed:validation'},
            **{'lungs': 'mask', 'lung_segmenter': str(lung_run)},
            **{'image_size': 32, 'load_size': 32, 'batch_size': 4, 'steps': 2, 'eval_every': 2},
            'warmup_steps': 0,
        }
    )
    workdir.mkdir()
    (workdir / 'config.json').write_text(config.to_json())
    train.run(config, workdir)
    shutil.rmtree(lung_run)
    return workdir, config


@pytest.fixture
def trained_run(finished, tmp_path):
    """A copy of it."""
    workdir, config = finished
    return shutil.copytree(workdir, tmp_path / 'run'), config


def evaluated(workdir, target, **fields):
    """results.json of the classifier on framed:test."""
    config = evaluation.get_config()
    named = {'classifier': str(workdir), 'tests': 'framed:test', 'baseline': '', 'batch_size': 4}
    config.update(named | fields)
    target.mkdir()
    evaluate.run(config, target)
    return json.loads((target / 'results.json').read_text())


def shown_of(data_dir, spec, view):
    """uint8 [N, 32, 32, 1] of a data set through a view."""
    return datasets.read(spec, data_dir, 32, view).images


def test_a_classifier_keeps_its_segmenter_through_training_evaluation_and_audit(
    trained_run, data_dir, tmp_path, capsys
):
    workdir, config = trained_run
    view = lung_view.of_run(trained.open_run(workdir, 'classification', 'classifier'))
    grey = slice_of()
    np.testing.assert_array_equal(view(grey), np.where(grey[BOX] < 100, grey[BOX], 0))

    found = evaluated(workdir, tmp_path / 'evaluate')['results'][0]
    score = classifier.score(classifier.load(workdir), 'covid')
    shown = score(shown_of(data_dir, 'framed:test', view))
    whole = score(shown_of(data_dir, 'framed:test', None))
    np.testing.assert_allclose([image['score'] for image in found['images']], shown, atol=1e-5)
    assert np.abs(shown - whole).max() > 1e-4
    assert 'framed:test: no lungs found, shown whole: 0 of 5' in capsys.readouterr().out
    network = trained.open_run(workdir, 'classification', 'classifier')
    images = audit.read_images('framed:test', data_dir, network)
    np.testing.assert_array_equal(images.images, shown_of(data_dir, 'framed:test', view))

    train.run(config, workdir)  # goes on without the segmenter
    printed = capsys.readouterr().out
    assert 'framed:train: no lungs found, shown whole: 0 of 6 noncovid, 3 of 6 covid' in printed
    assert 'going on after step 2' in printed


def test_what_trained_the_segmenter_counts_as_what_trained_the_classifier(
    trained_run, data_dir, tmp_path
):
    workdir, _ = trained_run
    records = lineage.read(workdir)
    assert [(record['role'], record['through']) for record in records] == [
        *(('train', ''), ('val', '')),
        ('train', 'lung_segmenter'),
    ]
    row = datasets.read_rows('framed:test', data_dir)[0]
    records[-1]['images'] = [[row.sha256, 'elsewhere', row.id]]
    (workdir / 'lineage.json').write_text(json.dumps(records))
    with pytest.raises(InputError, match='lineage.json there is not the one of its checkpoint'):
        evaluated(workdir, tmp_path / 'unknown', protocol='clean')
    vouch(workdir)
    with pytest.raises(InputError, match='1 of 10 images share'):
        evaluated(workdir, tmp_path / 'evaluate', protocol='clean')


def test_a_threshold_is_not_chosen_on_other_images_than_the_checkpoint(
    trained_run, tmp_path, data_dir
):
    workdir, config = trained_run
    stored = json.loads((workdir / 'config.json').read_text())
    (workdir / 'config.json').write_text(json.dumps(stored | {'val': 'other:validation'}))
    vouch(workdir)
    with pytest.raises(InputError, match='other:validation: does not hold the images'):
        evaluated(workdir, tmp_path / 'evaluate')


def test_an_exported_segmenter_does_not_say_what_it_was_trained_on(lung_run, data_dir, tmp_path):
    config = training.get_config('resnet18')
    file = tmp_path / 'unet.safetensors'
    config.update({'lungs': 'crop', 'lung_segmenter': str(file), 'data_dir': data_dir})
    with pytest.raises(InputError, match='does not say what it was trained on; give the workdir'):
        train.run(config, tmp_path)


def test_an_exported_classifier_says_that_it_saw_lungs_alone(trained_run, tmp_path, capsys):
    config = export_config.get_config()
    config.classifier = str(trained_run[0])
    target = tmp_path / 'export'
    target.mkdir()
    export.run(config, target)
    assert (
        'all but the lungs was made black: do so too (covjax.lung_view)' in capsys.readouterr().out
    )
    (file,) = target.glob('*.safetensors')
    assert classifier.load(file).lungs == 'mask'
    with pytest.raises(InputError, match='was trained on lungs alone'):
        features.extractor(str(file))

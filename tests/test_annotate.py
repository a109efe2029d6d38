"""A person in the loop, who is exact: what is drawn, taken back, told and trained on."""

import csv
import io
import json
import pathlib

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy.stats import entropy
from segmenters import write_run
from sklearn.metrics import f1_score

from configs import annotate as config_file
from covjax import InputError, rounds, trained
from covjax.ct import masks, windows
from covjax.data import segmented
from covjax.phantom import ct_scans
from covjax.runs import annotate
from covjax.workdir import claimed, read_json

NETWORKS = {
    'pictures': {'image_size': 64, 'patch': (64, 64)},
    'slices': {'image_size': 64, 'patch': (64, 64)},
    'volumes': {'model': 'vnet', 'patch': (8, 32, 32), 'spacing': 8.0},
}
ENDINGS = {'pictures': '.png', 'slices': '.nii.gz', 'volumes': '.nii.gz'}
COUNT, NUMBER = 5, 2


class Project:
    """Unlabelled images, their true lungs, and a segmenter of dark pixels."""

    def __init__(self, folder, kind):
        self.kind, self.raw, self.workdir = kind, folder / 'raw', folder / 'project'
        self.network, self.truth = folder / 'network', {}
        self.network.mkdir(parents=True)
        training = {'val': '', 'best': '', 'augment': {**STILL}, 'batch_size': 2}
        write_run(self.network, sharpness=0.4, **NETWORKS[kind], **training)
        rng = np.random.default_rng(5)
        for i in range(COUNT):
            drawn = ct_scans._draw(rng, 64, 6, opacities=i)
            name = f'P{i // 2}/scan{i}' if i % 2 else f'scan{i}'
            file = self.raw / f'{name}{ENDINGS[kind]}'
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == 'pictures':
                Image.fromarray(windows.to_grey(drawn.hu[3])).save(file)
                self.truth[name] = drawn.lung[3:4]
            else:
                ct_scans._write_volume(file, drawn.hu, drawn.spacing, 'RAI' if i % 2 else 'LPS')
                self.truth[name] = drawn.lung

    def run(self, step, **fields):
        """Does a step as the launcher would."""
        config = config_file.get_config()
        first = {'segmenter': str(self.network), 'input': str(self.raw)}
        again = (self.workdir / 'round_1' / 'network').is_dir()
        fields = (first if step == 'predict' and not again else {}) | fields
        config.update({'step': step, 'number': NUMBER, 'old_data': False, 'steps': 2} | fields)
        with claimed(config, self.workdir) as workdir:
            annotate.run(config, workdir)
        return rounds.read(self.workdir)[-1]

    def correct(self, one, names=None, minutes='', value=1):
        """Does what the exact person does: writes true masks, and marks them as done."""
        file = one.folder / 'worklist.csv'
        table = list(csv.DictReader(file.open(encoding='utf-8')))
        for row in table:
            if names is None or row['file'] in names:
                self.write(one.file('masks', row['file']), self.truth[row['file']] * value)
                row.update(done='x', minutes=minutes)
        with file.open('w', newline='', encoding='utf-8') as opened:
            writer = csv.DictWriter(opened, table[0])
            writer.writeheader()
            writer.writerows(table)
        return [row['file'] for row in table]

    def write(self, path, mask):
        """Writes a mask as an editor would, in the place and orientation of what was there."""
        mask = mask.astype(np.uint8)
        if self.kind == 'pictures':
            Image.fromarray(mask[0]).save(path)
            return
        draft = sitk.ReadImage(str(path))
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(draft.GetDirection())
        straight = sitk.DICOMOrient(draft, 'LPS')
        image = sitk.GetImageFromArray(mask)
        image.CopyInformation(straight)
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(path))


STILL = {'scale': 0.0, 'flip': False, 'rotate': 0.0, 'brightness': 0.0, 'contrast': 0.0}


@pytest.fixture(scope='module', params=NETWORKS)
def project(request, tmp_path_factory):
    return Project(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def pictures(tmp_path):
    return Project(tmp_path, 'pictures')


class Circle:
    """Two rounds of a project, and what was there after each step."""

    def __init__(self, project):
        self.project = project
        self.drawn = project.run('predict')
        self.first = project.correct(self.drawn, minutes='7,5')
        self.taken = project.run('take')
        with (project.workdir / 'rounds.csv').open(encoding='utf-8') as file:
            (self.told,) = csv.DictReader(file)
        self.data = self.read()
        self.trained = project.run('train')
        self.again = project.run('predict')
        self.second = project.correct(self.again)
        project.run('take')

    def read(self):
        """What was taken, as the data set has it."""
        dataset = self.taken.about['dataset']
        return segmented.read(f'{dataset}:train', str(self.project.workdir / 'data'))


@pytest.fixture(scope='module')
def circle(project):
    return Circle(project)


def test_drafts_come_with_the_least_certain_first(circle):
    with (circle.drawn.folder / 'worklist.csv').open(encoding='utf-8') as file:
        table = list(csv.DictReader(file))
    unsure = [float(row['uncertainty']) for row in table]
    assert [row['file'] for row in table] == circle.first and len(unsure) == NUMBER
    assert unsure == sorted(unsure, reverse=True) and 0 < unsure[-1] < 1
    for kind in ('scans', 'masks', 'drafts'):
        files = [path for path in (circle.drawn.folder / kind).rglob('*') if path.is_file()]
        assert len(files) == NUMBER


def test_what_was_edited_is_told(circle):
    truth = circle.project.truth
    assert {each['name'] for each in circle.taken.taken} == {*circle.first}
    for each in circle.taken.taken:
        name = each['name']
        draft, final = (rounds.read_mask(circle.taken, kind, name) for kind in ('drafts', 'masks'))
        np.testing.assert_array_equal(final, truth[name])
        either = (draft > 0) | (final > 0)
        assert each['edited'] == pytest.approx((draft != final).sum() / either.sum())
        assert each['dice'] == pytest.approx(f1_score(final.ravel() > 0, draft.ravel() > 0))
        assert 0.3 < each['dice'] < 1
    assert float(circle.told['minutes']) == 7.5 and int(circle.told['files']) == NUMBER
    means = {key: np.mean([each[key] for each in circle.taken.taken]) for key in ('edited', 'dice')}
    assert {key: float(circle.told[key]) for key in means} == pytest.approx(means)
    with (circle.project.workdir / 'rounds.csv').open(encoding='utf-8') as file:
        assert [row['minutes'] for row in csv.DictReader(file)] == ['7.5', '']
    assert (circle.project.workdir / 'annotate.html').stat().st_size > 1000


def test_what_was_taken_is_a_data_set_on_the_voxels_that_the_network_sees(circle):
    project, data = circle.project, circle.data
    assert data.classes == ('background', 'lung')
    if project.kind == 'volumes':
        assert {tuple(row.others['spacing']) for row in data.rows} == {(8.0, 8.0, 8.0)}
    else:
        whole = sum(target.sum(dtype=int) for target in data.targets)
        assert whole == sum(project.truth[name].sum() for name in circle.first)
    rows = circle.read().rows  # of both rounds
    assert len({row.others.get('scan') or row.id for row in rows}) == 2 * NUMBER
    for row in rows:
        for person in ('P0', 'P1'):
            if f'/{person}/' in row.id and project.kind != 'pictures':
                assert row.group == person


def test_training_goes_on_and_the_next_round_draws_with_it_what_is_left(circle):
    opened = trained.open_run(circle.trained.network, 'segmentation', 'segmenter')
    assert opened.config.start == str(circle.project.network) and opened.step == 2
    assert circle.again.number == 2 and circle.again.about['segmenter'] == 'round_1/network'
    assert not {*circle.first} & {*circle.second}


def test_a_random_pick_is_drawn_alone_and_another_one_by_another_seed(pictures, tmp_path):
    picks = []
    for seed in (0, 0, 1, 2):
        pictures.workdir = tmp_path / f'{len(picks)}'
        one = pictures.run('predict', order='random', seed=seed)
        picks.append([path.name for path in sorted((one.folder / 'drafts').rglob('*.png'))])
    assert picks[0] == picks[1] and all(len(pick) == NUMBER for pick in picks)
    assert len({*map(tuple, picks)}) > 1


def test_what_is_not_done_is_drawn_again(pictures):
    done, one = [], pictures.run('predict')
    pictures.correct(one, names=[rounds_first(one)])
    while len(done) < COUNT:
        done += [name for name, _ in rounds.read_done(one)]
        pictures.run('take')
        if len(done) < COUNT:
            one = pictures.run('predict')
            pictures.correct(one)
    assert sorted(done) == sorted(pictures.truth)
    with pytest.raises(InputError, match='config.input=.*: all of its images are taken'):
        pictures.run('predict')


def rounds_first(one):
    """The first file of the worklist of a round."""
    with (one.folder / 'worklist.csv').open(encoding='utf-8') as file:
        return next(csv.DictReader(file))['file']


def test_entropy_is_that_of_scipy():
    p = np.random.default_rng(0).dirichlet((1, 1, 1), (4, 5)).astype(np.float32)
    np.testing.assert_allclose(annotate.entropy(p), entropy(p, axis=-1, base=3), rtol=1e-5)
    assert annotate.entropy(np.array([1.0, 0.0])) == pytest.approx(0, abs=1e-9)


def test_joined_regions_stay_the_classes_of_the_network(tmp_path):
    about = {'classes': ['background', 'ground_glass+consolidation', 'lung'], 'ending': '.png'}
    one = rounds.Round(1, tmp_path / 'round_1', about, [{'name': 'a'}])
    rounds.write_tables(tmp_path, [one])
    lines = (tmp_path / 'regions.csv').read_text().split()
    assert lines == ['value,region', '1,ground_glass', '1101,consolidation', '2,lung']
    names = masks.classes({1: 'ground_glass', 1101: 'consolidation', 2: 'lung'})
    classes, table = segmented.classes_of('ground_glass+consolidation,lung', names)
    assert classes == tuple(about['classes'])
    assert table.tolist() == [0, 1, 1, 2]


# ---- what is refused


@pytest.mark.parametrize('step', ['take', 'train'])
def test_it_is_the_turn_of_another_step(pictures, step):
    with pytest.raises(InputError, match='has no round'):
        pictures.run(step)
    assert not pictures.workdir.exists()


@pytest.mark.parametrize('step', ['predict', 'train'])
def test_a_round_that_was_not_taken_is_never_replaced(pictures, step):
    one = pictures.run('predict')
    with pytest.raises(InputError, match='round_1: its masks have not been taken back; mark in'):
        pictures.run(step)
    assert one.file('masks', next(iter(pictures.correct(one)))).is_file()


def another_size(project, file):
    project.write(file, np.zeros((1, 9, 9)))


def another_value(project, file):
    project.write(file, 7 * np.ones((1, 64, 64)))


def another_place(project, file):
    name = file.relative_to(next(path for path in file.parents if path.name == 'masks'))
    name = name.with_suffix('').as_posix()
    project.write(file, np.roll(project.truth[name], 20, 1))


def in_colour(project, file):
    Image.new('RGB', (64, 64), (1, 2, 3)).save(file)


def cut_short(project, file):
    file.write_bytes(file.read_bytes()[:40])


@pytest.mark.parametrize(
    'spoil, message',
    [
        (another_size, 'is 9 x 9 x 1, its image 64 x 64 x 1'),
        (another_value, 'has the values 7 besides those listed'),
        (another_place, 'does not lie on the lungs of its images'),
        (in_colour, 'is a mask in colour'),
        (cut_short, 'masks.*png'),
        (lambda project, file: file.unlink(), 'masks.* is not there; save the mask under its old'),
    ],
    ids=['size', 'value', 'place', 'colour', 'cut', 'gone'],
)
def test_masks_that_cannot_be_meant_are_refused_and_nothing_is_taken(pictures, spoil, message):
    one = pictures.run('predict')
    for name in pictures.correct(one):
        spoil(pictures, one.file('masks', name))
    before = sorted(path for path in pictures.workdir.rglob('*') if path.is_file())
    with pytest.raises(InputError, match=message):
        pictures.run('take')
    after = sorted(path for path in pictures.workdir.rglob('*') if path.is_file())
    assert after == before and rounds.read(pictures.workdir)[-1].taken is None


TURNS = {
    'mirrored': lambda mask: mask[..., ::-1],
    'upside down': lambda mask: mask[:, ::-1],
    'on its side': lambda mask: mask.swapaxes(1, 2),
    'empty': np.zeros_like,
    'inverted': lambda mask: 1 - mask,
}


@pytest.mark.parametrize('how', [how for how in TURNS if how != 'mirrored'])
def test_one_wrong_mask_among_right_ones_is_refused_by_its_name(pictures, how):
    """Lungs are nearly their own mirror image, so that one cannot be told."""
    one = pictures.run('predict', number=COUNT)
    names = pictures.correct(one)
    for name in names:
        pictures.correct(one)
        wrong = TURNS[how](pictures.truth[name].astype(np.uint8))
        pictures.write(one.file('masks', name), wrong)
        with pytest.raises(InputError, match=f'masks/{name}.png: '):
            pictures.run('take')
    pictures.run('take', unchecked_masks=True)


def another_scan(project, one, first, second):
    one.file('scans', first).write_bytes(one.file('scans', second).read_bytes())


def the_mask(project, one, first, second):
    one.file('scans', first).write_bytes(one.file('masks', first).read_bytes())


def wider(project, one, first, second):
    for kind in ('scans', 'masks'):
        image = sitk.ReadImage(str(one.file(kind, first)))
        image.SetSpacing(tuple(2 * mm for mm in image.GetSpacing()))
        sitk.WriteImage(image, str(one.file(kind, first)))


@pytest.mark.parametrize('change', [another_scan, the_mask, wider])
def test_images_that_are_not_those_that_were_drawn_on_are_refused(tmp_path, change):
    project = Project(tmp_path, 'slices')
    one = project.run('predict')
    names = project.correct(one)
    change(project, one, *names)
    with pytest.raises(InputError, match=f'scans/{names[0]}.* is not the image that was drawn on'):
        project.run('take')


@pytest.mark.parametrize('word', [*rounds.DONE, *map(str.upper, rounds.DONE)])
def test_words_that_say_done(pictures, word):
    one = pictures.run('predict')
    pictures.correct(one)
    file = one.folder / 'worklist.csv'
    file.write_text(file.read_text().replace(',x,', f',{word},'))
    assert len(rounds.read_done(one)) == NUMBER


@pytest.mark.parametrize('word', ['nein', 'not yet', 'later', 'FALSCH', '0.0', 'skip', '?', '✗'])
def test_words_that_may_not_say_done_are_refused(pictures, word):
    one = pictures.run('predict')
    pictures.correct(one)
    file = one.folder / 'worklist.csv'
    file.write_text(file.read_text().replace(',x,', f',{word},', 1))
    with pytest.raises(InputError, match=r'worklist.csv: line 2 has .* in the column done; write'):
        pictures.run('take')


def test_names_that_tables_cannot_tell_apart_are_refused(pictures):
    content = (pictures.raw / 'scan0.png').read_bytes()
    (pictures.raw / 'scan0 .png').write_bytes(content)
    with pytest.raises(InputError, match='differ only in blanks or an apostrophe'):
        pictures.run('predict')


def test_an_image_that_is_there_twice_is_drawn_once(pictures, capsys):
    (pictures.raw / 'copy.png').write_bytes((pictures.raw / 'scan0.png').read_bytes())
    assert len(pictures.run('predict', number=99).about['images']) == COUNT
    assert 'scan0: the same image as copy, so it is left out' in capsys.readouterr().out


def test_names_with_line_breaks_are_taken(pictures):
    (pictures.raw / 'scan0.png').rename(pictures.raw / 'two\nlines.png')
    pictures.truth['two\nlines'] = pictures.truth.pop('scan0')
    one = pictures.run('predict', number=COUNT)
    pictures.correct(one)
    assert 'two\nlines' in {each['name'] for each in pictures.run('take').taken}


def test_files_of_the_system_beside_masks_do_not_matter(pictures):
    one = pictures.run('predict')
    pictures.correct(one)
    for name in ('Thumbs.db', 'desktop.ini', '.DS_Store'):
        (one.folder / 'masks' / name).write_bytes(b'x')
    assert len(rounds.read_done(one)) == NUMBER


def test_a_mask_that_is_not_packed_as_its_name_says(tmp_path):
    project = Project(tmp_path, 'slices')
    one = project.run('predict')
    name = project.correct(one)[0]
    file = one.file('masks', name)
    sitk.WriteImage(sitk.ReadImage(str(file)), str(tmp_path / 'a.nii'))
    file.write_bytes((tmp_path / 'a.nii').read_bytes())
    with pytest.raises(
        InputError, match='is no NIfTI packed with gzip, .*save it again as .nii.gz'
    ):
        project.run('take')


def marked(text):
    """A worklist whose every line is done."""
    return text.replace(',,', ',x,')


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda text: text, 'nothing is marked as done'),
        (lambda text: text.replace('done', 'ready'), 'has the columns file'),
        (lambda text: '', 'has the columns of nothing'),
        (
            lambda text: text.replace('scan', 'slice').replace(',,', ',x,'),
            'names .*slice.*no image',
        ),
        (
            lambda text: text.replace(',,', ',x,') + text.split('\n')[1].replace(',,', ',x,'),
            'again',
        ),
        (lambda text: text.replace(',,', ',no,'), 'nothing is marked as done'),
        (lambda text: marked(text.replace(',\n', ',long\n')), 'has long minutes'),
    ],
    ids=['untouched', 'columns', 'empty', 'names', 'twice', 'no', 'minutes'],
)
def test_worklists_that_say_nothing_are_refused(pictures, change, message):
    file = pictures.run('predict').folder / 'worklist.csv'
    file.write_text(change(file.read_text().replace('\r\n', '\n')))
    with pytest.raises(InputError, match=f'worklist.csv.*{message}'):
        pictures.run('take')


@pytest.mark.parametrize('delimiter', [';', '\t'])
def test_worklists_of_spreadsheets_are_read(pictures, delimiter):
    """With semicolons or tabs, a mark before the text, and a header in capitals."""
    one = pictures.run('predict')
    pictures.correct(one)
    file = one.folder / 'worklist.csv'
    text = file.read_text().replace(',', delimiter).replace('done', 'Done')
    file.write_text('\ufeff' + text, encoding='utf-8')
    assert len(rounds.read_done(one)) == NUMBER


def test_the_data_that_trained_the_network_are_shown_too_unless_told_otherwise(pictures):
    opened = trained.open_run(pictures.network, 'segmentation', 'segmenter')
    for train in ('a:train', 'a:train+ct_scans/annotated_1500um:train'):
        opened.config.train = train
        opened.config.data_dir = 'd,elsewhere/data' if '+' in train else 'd'
        config = config_file.get_config()
        asked = annotate.training_config(config, opened, pathlib.Path('p'), 'ct_scans/annotated')
        assert asked.train == 'a:train+ct_scans/annotated:train' and asked.equal_parts
        assert asked.data_dir == 'd,p/data' and asked.start == str(pictures.network)
    config.old_data = False
    asked = annotate.training_config(config, opened, pathlib.Path('p'), 'ct_scans/annotated')
    assert asked.train == 'ct_scans/annotated:train' and not asked.equal_parts


def test_a_round_says_what_drew_it(pictures):
    one = pictures.run('predict')
    about = read_json(one.folder / 'round.json')
    assert about['made_from']['segmenter']['content'] and about['covjax']
    assert json.loads((pictures.workdir / 'config.json').read_text())['step'] == 'predict'


def test_images_are_known_again_by_their_pixels(pictures, capsys):
    """Whatever they are called, and others by the same names are not taken for them."""
    pictures.correct(pictures.run('predict', number=COUNT))
    pictures.run('take')
    moved = pictures.raw.rename(pictures.raw.with_name('moved'))
    again = {'segmenter': str(pictures.network), 'input': str(moved.parent)}
    with pytest.raises(InputError, match='all of its images are taken'):
        pictures.run('predict', **again | {'input': str(moved)})
    Image.fromarray(255 - np.asarray(Image.open(moved / 'scan0.png'))).save(moved / 'scan0.png')
    one = pictures.run('predict', **again | {'input': str(moved)})
    assert list(one.about['images']) == ['scan0']
    assert f'{COUNT - 1} images were taken before' in capsys.readouterr().out


def test_rounds_of_other_regions_are_refused(pictures, tmp_path):
    pictures.correct(pictures.run('predict'))
    pictures.run('take')
    other = tmp_path / 'other'
    other.mkdir()
    write_run(other, ('background', 'lung', 'lesion'), val='', best='')
    with pytest.raises(InputError, match='has the classes .*lesion, and the rounds before have'):
        pictures.run('predict', segmenter=str(other), input=str(pictures.raw))


def test_a_project_may_be_moved(pictures, tmp_path):
    pictures.correct(pictures.run('predict'))
    pictures.run('take')
    pictures.run('train')
    pictures.run('predict')
    pictures.workdir = pictures.workdir.rename(tmp_path / 'moved project')
    pictures.correct(rounds.read(pictures.workdir)[-1])
    pictures.run('take')
    assert (pictures.run('train').network / 'environment.json').is_file()


def test_a_network_of_another_project_is_refused_unless_its_data_are_left_out(pictures, tmp_path):
    pictures.correct(pictures.run('predict'))
    pictures.run('take')
    network = pictures.run('train').network
    pictures.workdir = tmp_path / 'second'
    words = {'segmenter': str(network), 'input': str(pictures.raw)}
    with pytest.raises(InputError, match='was trained in another project of rounds'):
        pictures.run('predict', **words, old_data=True)
    pictures.correct(pictures.run('predict', **words))
    pictures.run('take')
    assert (pictures.run('train').network / 'environment.json').is_file()


def test_a_training_that_has_not_ended_draws_nothing(pictures):
    pictures.correct(pictures.run('predict'))
    pictures.run('take')
    one = pictures.run('train')
    (one.network / 'environment.json').unlink()
    with pytest.raises(InputError, match='network: its training has not ended; run --config.step'):
        pictures.run('predict')


def test_another_training_of_a_round_says_what_to_remove(pictures):
    pictures.correct(pictures.run('predict'))
    pictures.run('take')
    one = pictures.run('train')
    with pytest.raises(InputError, match=f'another config.steps; or remove {one.network}'):
        pictures.run('train', steps=3)


@pytest.mark.parametrize('name', ['scan0.nii.gz', 'scan0.seg.nrrd', 'P0/other.png'])
def test_masks_that_were_saved_beside_the_drafts_are_noticed(pictures, name):
    one = pictures.run('predict')
    pictures.correct(one)
    file = one.folder / 'masks' / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    (one.folder / 'masks' / '.DS_Store').touch()
    with pytest.raises(InputError, match=f'{name}: is no mask of this round; save it under the'):
        pictures.run('take')


def test_names_that_a_spreadsheet_would_calculate_are_read(pictures):
    for i, name in enumerate(('=1+1.png', '-b;c,d.png', "'quoted.png", 'a\u2028b.png')):
        source = sorted(pictures.raw.glob('*.png'))[0]
        grey = np.asarray(Image.open(source)).copy()
        grey[0, i] ^= 1
        Image.fromarray(grey).save(pictures.raw / name)
    one = pictures.run('predict', number=20)
    file = one.folder / 'worklist.csv'
    text = file.read_text(encoding='utf-8')
    table = list(csv.DictReader(io.StringIO(text, newline='')))
    for row in table:
        row['done'] = 'x'
    with file.open('w', newline='', encoding='utf-8') as opened:
        writer = csv.DictWriter(opened, table[0])
        writer.writeheader()
        writer.writerows(table)
    assert {name for name, _ in rounds.read_done(one)} == {*one.about['images']}
    assert len(one.about['images']) == COUNT + 4


def test_a_round_that_is_missing_before_another_is_refused(pictures):
    pictures.correct(pictures.run('predict'))
    pictures.run('take')
    one = pictures.run('predict', segmenter=str(pictures.network), input=str(pictures.raw))
    one.folder.rename(one.folder.with_name('round_3'))
    with pytest.raises(InputError, match='round_2: is missing before round_3'):
        pictures.run('take')


@pytest.mark.parametrize('lungs', ['', 'otsu'])
def test_without_lungs_nothing_is_a_percentage_of_them(tmp_path, lungs):
    """And the uncertainty is that of the whole image."""
    project = Project(tmp_path, 'pictures')
    (tmp_path / 'lesions').mkdir()
    write_run(tmp_path / 'lesions', ('background', 'lesion'), sharpness=0.4, val='', best='')
    one = project.run('predict', segmenter=str(tmp_path / 'lesions'), lungs=lungs)
    with (one.folder / 'worklist.csv').open(encoding='utf-8') as file:
        assert all(bool(row['percent of lungs']) == bool(lungs) for row in csv.DictReader(file))


def test_a_comma_in_the_name_of_a_project_is_refused(pictures, tmp_path):
    pictures.workdir = tmp_path / 'a, b'
    with pytest.raises(InputError, match='--workdir=.*: has a comma'):
        pictures.run('predict')

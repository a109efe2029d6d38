"""A classifier from elsewhere -> audit.html and audit.json: what its scores may rest on.

Images come from a folder, which is prepared inside the workdir, or from prepared data sets; scores
from a table, or from the classifier itself.
"""

import csv
import dataclasses
import pathlib
from functools import partial

import numpy as np

from covjax import InputError, counted, external_classifier, provenance
from covjax.audit import external, metadata_baseline, scan_metadata
from covjax.audit.verdict import Images, area, ask
from covjax.classes import check_same, is_usual, positive_class, titles
from covjax.data import csv_table, datasets, score_table, specs
from covjax.runs import prepare

TEST, TRAIN, VALIDATION = 'test', 'train', 'validation'
FOLDER = 'ct_scans/folder'
AGREE = 0.02  # within which the scores of a table and those of the classifier are the same
OF_DATA_SETS = ('tests', 'names', 'trained_on', 'chosen_by')


def run(config, workdir):
    """Asks every check that what is given allows.

    Writes audit.html, audit.json and pictures in images/; of a folder also data/, the prepared data
    set.

    Args:
        config: of configs/audit_external.py.
        workdir: pathlib.Path.

    Raises:
        InputError: a key, a table or a file is wrong, or the classifier fails.
    """
    _check(config)
    if config.model:
        _loaded(config)  # before anything is prepared
    reader = _of_folder(config, workdir) if config.source else _of_data_sets(config)
    if len(reader.classes) < 2:
        raise InputError(
            f'the images have {" and ".join(reader.classes) or "no labels"}; an audit needs two '
            'classes: give the table a column label, or put each class into a folder of its own'
        )
    positive = positive_class(config, reader.classes)
    model = _loaded(config, positive) if config.model else None
    sets = {
        name: _images(config, name, examples, reader, model)
        for name, examples in reader.sets.items()
    }
    sets = {name: images.against_rest(reader.classes, positive) for name, images in sets.items()}
    known = {name: sets.pop(name, None) for name in (TRAIN, VALIDATION)}
    subject = external.subject(
        workdir / 'images',
        sets,
        model and model.score,
        titles=titles(reader.classes, positive),
        **known,
    )
    _warn(subject)
    about = provenance.of(config) | _about(config, reader, positive)
    verdicts = ask(_checks(sets), subject)
    external.finish(workdir, config.title, about, verdicts)


def _loaded(config, positive=''):
    """The external_classifier.External of config.model."""
    keys = config.input_range, config.batch_size, positive
    return external_classifier.load(config.model, *keys)


def _warn(subject):
    """Says what the scores of a test set reach, and when they are the wrong way round."""
    for name, images in subject.tests.items():
        reached = area(subject.scores(images), images)
        positive, others = (int((images.labels == label).sum()) for label in (1, 0))
        counts = f'{positive} {subject.titles[0]}, {others} {subject.titles[1]}'
        print(f'{name}: {counts}, AUC {reached}', flush=True)
        if reached.high < 0.5:
            print(
                f'{name}: the scores are lower for {subject.titles[0]}; are they those of another '
                'class (config.positive_class)?',
                flush=True,
            )


def _check(config):
    """Refuses keys that do not go together, before anything is read."""
    if not config.scores and not config.model:
        raise InputError(
            'config.scores and config.model are empty; give a table of scores, or the classifier'
        )
    given = [key for key in OF_DATA_SETS if config[key]]
    if config.source and given:
        raise InputError(
            f'config.source={config.source} and config.{given[0]}={config[given[0]]}: give the '
            'folder, whose table says what is a test, or prepared data sets'
        )
    if not config.source and not config.tests:
        raise InputError(
            'config.source and config.tests are empty; give the folder of the pictures, or name '
            'prepared data sets'
        )


# ---- images and what is known of them


@dataclasses.dataclass(frozen=True)
class Known:
    """Images by the set that they are in, and what a table says of them."""

    classes: tuple[str, ...]
    sets: dict[str, list]  # {'test' and so on: [(uint8 [H, W] at stored size, Row)]}
    specs: dict[str, str]  # {the same: its data set in words}
    table: score_table.ScoreTable | None


def _of_folder(config, workdir):
    """The Known of config.source, which is prepared in the workdir."""
    source = pathlib.Path(config.source).expanduser().resolve()
    table = (
        score_table.read(pathlib.Path(config.scores).expanduser(), source)
        if config.scores
        else None
    )
    data_dir = str(workdir / 'data')
    _prepare(config, table, workdir / 'images.csv', data_dir)
    spec = '+'.join(f'{name}:{split}' for name, split in specs.splits(FOLDER, data_dir))
    sets, left_out, volumes = {}, 0, 0
    for grey, row in datasets.each_native(spec, data_dir):
        line = table and table.lines.get(row.id)
        if table is not None and line is None:
            left_out += 1
            continue
        volumes += 'slices' in row.others
        split = (line.split if line else '') or TEST
        sets.setdefault(split, []).append((grey, _of_split(row, line, split)))
    if left_out:
        without = f'{counted(left_out, "image")} of {config.source}'
        print(f'{without} without a line in {config.scores}: left out')
    if volumes:
        print(f'of {counted(volumes, "volume")} the middle slice is shown')
    _check_found(config, table, sets)
    in_words = {name: f'{name} images of {config.source}' for name in sets}
    return Known(datasets.classes(spec, data_dir), sets, in_words, table)


def _prepare(config, table, file, data_dir):
    """Builds the data set of config.source, with the labels and patients of a table that has them.

    Without labels in the table, scans.csv or the folders of the classes have them.

    Args:
        config: of this run.
        table: score_table.ScoreTable, or None.
        file: pathlib.Path where the builder's own table is written.
        data_dir: where to.
    """
    build = partial(prepare.build, FOLDER, config.source, data_dir, overwrite=True, hu=config.hu)
    if table is None or 'label' not in table.columns:
        build()
        return
    try:
        build(table=str(_as_scans(table, file)))
    except InputError as error:  # of what the person's own table says
        message = error.message.replace(str(file), str(config.scores))
        raise InputError(message, error.details) from None


def _as_scans(table, file):
    """Writes what the builder is to know of a table of scores -> its path.

    All lines are of one split: which is a test is no matter for the builder, and a patient in two
    splits, which it would refuse, is what an audit is to find.
    """
    rows = [(name, line.label, line.patient, TRAIN) for name, line in table.lines.items()]
    with file.open('w', newline='', encoding='utf-8') as opened:
        csv.writer(opened).writerows([('file', 'label', 'patient', 'split'), *rows])
    return file


def _of_split(row, line, split):
    """A Row completed by a line; where its patient is a guess, that is one of its split alone.

    What looks alike in two splits is then found as near copies, and not said of a patient.
    """
    completed = score_table.completed(row, line)
    if completed.group == row.group and not row.others.get('patient'):
        return dataclasses.replace(completed, group=f'{split}: {row.group}')
    return completed


def _of_data_sets(config):
    """The Known of prepared data sets."""
    table = score_table.read(pathlib.Path(config.scores).expanduser()) if config.scores else None
    named = {name: spec for spec, name in specs.test_names(config).items()}
    if taken := {TRAIN, VALIDATION} & set(named):
        raise InputError(
            f'config.names: {taken.pop()} is what the classifier is made with; '
            'give that test set another name'
        )
    before = {TRAIN: config.trained_on, VALIDATION: config.chosen_by}
    named |= {name: spec for name, spec in before.items() if spec}
    sets, classes = {}, ()
    for name, spec in named.items():
        found = datasets.classes(spec, config.data_dir)
        classes = classes or found
        check_same(f'{name}: {spec}', found, classes)
        lines = table.lines if table else {}
        sets[name] = [
            (grey, score_table.completed(row, lines.get(row.id)))
            for grey, row in datasets.each_native(spec, config.data_dir)
        ]
    _check_found(config, table, sets)
    return Known(classes, sets, named, table)


def _check_found(config, table, sets):
    """Refuses a table that names other images than there are, or has another label of one."""
    if table is None:
        return
    found = {row.id: row for examples in sets.values() for _, row in examples}
    if missing := [name for name in table.lines if name not in found]:
        example = f', such as {next(iter(found))}' if found else ''
        raise InputError(
            f'{config.scores}: {len(missing)} of {len(table.lines)} lines name no image there '
            f'(first: {missing[0]}); name them as they are called{example}'
        )
    for name, line in table.lines.items():
        if line.label and csv_table.word(line.label) != found[name].label_name:
            raise InputError(
                f'{config.scores}: calls {name} {line.label}, and the data set calls it '
                f'{found[name].label_name or "nothing"}; correct the table, or leave out the column'
            )


def _images(config, name, examples, reader, model):
    """The verdict.Images of a set, with the scores of the table where there is no classifier."""
    rows = [row for _, row in examples]
    if unlabelled := [row.id for row in rows if row.label < 0]:
        raise InputError(
            f'{name}: {unlabelled[0]} has no label; give the table a column label, or put the '
            f'images of each class into a folder of its own'
        )
    scores, images = _scores(config, name, rows, reader.table), np.empty((len(rows), 0, 0, 1))
    if model:
        size = model.size or config.image_size
        images = external.shown(external.squares([grey for grey, _ in examples], size), size)
        if scores is not None:
            _check_same_scores(config, rows, scores, model.score(images))
    labels = np.array([row.label for row in rows])
    spec = reader.specs[name]
    return Images(spec, images, labels, rows, examples, scores=None if model else scores)


def _scores(config, name, rows, table):
    """P(positive) float [N] of the table, or None where it has none for a set."""
    said = [table.lines[row.id].score if table and row.id in table.lines else None for row in rows]
    lacking = [row.id for row, score in zip(rows, said) if score is None]
    if not lacking:
        return np.array(said, float)
    if table and 'score' not in table.columns and not config.model:
        raise InputError(
            f'{config.scores}: has no column score; add it, or give the classifier as config.model'
        )
    if len(lacking) < len(rows) or (name not in (TRAIN, VALIDATION) and not config.model):
        raise InputError(
            f'{config.scores}: {len(lacking)} of {len(rows)} {name} images have no score (first: '
            f'{lacking[0]}); give each one'
        )
    return None


def _check_same_scores(config, rows, scores, said):
    """Refuses a classifier that says something else than the table that is given with it."""
    worst = int(np.argmax(np.abs(scores - said)))
    if abs(scores[worst] - said[worst]) > AGREE:
        raise InputError(
            f'config.model={config.model}: gives {rows[worst].id} {said[worst]:.3f}, where '
            f'{config.scores} has {scores[worst]:.3f}; show it images as it was shown '
            '(config.image_size, config.input_range), or leave out the column score'
        )


# ---- what is said of it


def _checks(sets):
    """The checks of external.CHECKS, of volumes with their own metadata."""
    volumes = all('slices' in row.others for images in sets.values() for row in images.rows)
    swap = {metadata_baseline: scan_metadata} if volumes else {}
    return [swap.get(check, check) for check in external.CHECKS]


def _about(config, reader, positive):
    """What audit.json and the page say of what was audited, a dict."""
    tests = {name: spec for name, spec in reader.specs.items() if name not in (TRAIN, VALIDATION)}
    asked = {'classes': list(reader.classes), 'positive_class': positive}
    return {
        'classifier': ', '.join(filter(None, [config.model, config.scores])),
        'model': config.model or 'The classifier',
        'train': reader.specs.get(TRAIN, ''),
        'tests': tests,
        **({} if is_usual(reader.classes, positive) else asked),
    }

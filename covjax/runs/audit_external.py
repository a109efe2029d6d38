"""A classifier from elsewhere -> audit.html and audit.json: what its scores may rest on.

Images come from a folder, which is prepared inside the workdir, or from prepared data sets; scores
from a table, or from the classifier itself.
"""

import dataclasses
import pathlib

import numpy as np
from PIL import Image

from covjax import InputError, external_classifier, provenance
from covjax.audit import external, metadata_baseline, scan_metadata
from covjax.audit.verdict import Images, ask
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
    model = None
    if config.model:
        range_, batch_size = config.input_range, config.batch_size
        model = external_classifier.load(config.model, range_, batch_size)
    reader = _of_folder(config, workdir) if config.source else _of_data_sets(config)
    positive = positive_class(config, reader.classes)
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
    about = provenance.of(config) | _about(config, reader, positive)
    verdicts = ask(_checks(sets), subject)
    external.finish(workdir, config.title, about, verdicts)


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
    table, named = None, ''
    if config.scores:
        file = score_table.path(config.scores)
        table = score_table.read(file, source)
        # Without labels in the table, scans.csv or the folders of the classes have them.
        named = str(file.resolve()) if 'label' in table.columns else ''
    data_dir = str(workdir / 'data')
    options = {'table': named} if named else {}
    prepare.build(FOLDER, config.source, data_dir, overwrite=True, **options)
    spec = '+'.join(f'{name}:{split}' for name, split in specs.splits(FOLDER, data_dir))
    sets = {}
    for grey, row in datasets.each_native(spec, data_dir):
        line = table and table.lines.get(row.id)
        if table is None or line:
            split = line.split if line else ''
            sets.setdefault(split or TEST, []).append((grey, score_table.completed(row, line)))
    _check_found(config, table, sets)
    in_words = {name: f'{name} images of {config.source}' for name in sets}
    return Known(datasets.classes(spec, data_dir), sets, in_words, table)


def _of_data_sets(config):
    """The Known of prepared data sets."""
    table = score_table.read(score_table.path(config.scores)) if config.scores else None
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
        images = _shown([grey for grey, _ in examples], model.size or config.image_size)
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
    if len(lacking) < len(rows) or (name not in (TRAIN, VALIDATION) and not config.model):
        raise InputError(
            f'{config.scores}: {len(lacking)} of {len(rows)} {name} images have no score (first: '
            f'{lacking[0]}); give each one'
        )
    return None


def _shown(greys, size):
    """Images uint8 [N, size, size, 1] as a classifier sees them, aspect not kept."""
    resize = lambda grey: Image.fromarray(grey).resize((size, size), Image.Resampling.BILINEAR)
    return np.stack([np.asarray(resize(grey)) for grey in greys])[..., None]


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

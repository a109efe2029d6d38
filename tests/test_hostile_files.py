"""Files that covjax reads, changed by somebody or something: one line, whatever is in them."""

import csv
import json
import re
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from covjax import InputError, workdir
from covjax.audit.verdict import AuditJson
from covjax.ct import luna16
from covjax.data import lineage, results, specs, synthetic
from covjax.pages import tables
from covjax.runs import printed_rates
from covjax.workdir import ConfigJson, Environment, read_json, write_csv
from tfds_builders.covid_ct.covid_ct_dataset_builder import read_patients

pytestmark = pytest.mark.fast

LINE = {
    'id': 'a',
    'file': 'images/a.png',
    'input': 'inputs/a.png',
    'split': 'train',
    'group': 's',
    'series': 's',
    'z': 3,
    'source_id': 's_0001',
    'source_sha256': 'f' * 64,
    'source_dataset': 'luna16_patches/nodules:train',
    'window': 'lung',
    'nodules': [{'diameter': 5.0, 'row': 1, 'malignancy': -1, 'box': [0.1, 0.2, 0.3, 0.4]}],
    'generator': 'abc',
    'generator_step': 5,
}
RESULT = {
    'model': 'vgg16',
    'train_set': 'covid_ct:train',
    'seed': 0,
    'step': 5,
    'checkpoint': 'best',
    'test_set': 'covid_ct:test',
    'overlap': {'images': 0},
    'metrics': {'auc': 0.5, 'precision': None},
    'intervals': {'auc': {'low': 0.4, 'high': None}},
    'images': [{'id': 'a', 'label': 1, 'score': 0.75}, {'id': 'b', 'label': 0, 'score': 0.5}],
}
FILES = {  # name: (a sound content, its type)
    'config.json': ({'run': 'look'}, ConfigJson),
    'environment.json': ({'seconds': 1.5}, Environment),
    'lineage.json': (
        [{'role': 'train', 'dataset': 'a:b', 'through': '', 'images': [['f', 'g', 'i']]}],
        list[lineage.Record],
    ),
    'results.json': (
        {'classifier': 'x', 'protocol': 'clean', 'results': [RESULT]},
        results.EvaluationJson,
    ),
    'audit.json': (
        {
            'model': 'vgg16',
            'seed': 0,
            'train': 'a:b',
            'verdicts': [{'name': 'n', 'flag': None, 'finding': 'f'}],
        },
        AuditJson,
    ),
    'dataset_info.json': ({'splits': [{'name': 'train'}]}, specs.DatasetInfo),
    'metadata.json': ({'default_config_name': 'official'}, specs.Metadata),
}
# What may lie where another value belongs.
OTHERS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
anything = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def places(content, path=()):
    """Yields the path of every value inside a content."""
    yield path
    inside = ()
    if isinstance(content, dict):
        inside = content.items()
    elif isinstance(content, list):
        inside = enumerate(content)
    for key, value in inside:
        yield from places(value, (*path, key))


def replaced(content, path, value):
    """A copy of a content with another value at a path."""
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replaced(content[path[0]], path[1:], value)
    return copy


def one_line(read):
    """Calls a reader, which may refuse what it reads in one line, and nothing else."""
    try:
        read()
    except InputError as error:
        assert '\n' not in str(error), error


@pytest.mark.parametrize('name', FILES)
def test_sound_files_are_read(tmp_path, name):
    content, kind = FILES[name]
    (tmp_path / name).write_text(json.dumps(content))
    assert read_json(tmp_path / name, kind) == content


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('text', ['', '{', 'null', '[[', 'NaN', '\x00', '9' * 5000, '[' * 10**5])
def test_what_is_no_json_of_the_kind(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(f'{name}: is damaged')) as caught:
        read_json(tmp_path / name, FILES[name][1])
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', FILES)
@anything
@given(data=st.data())
def test_any_value_may_be_another(tmp_path, name, data):
    content, kind = FILES[name]
    path = data.draw(st.sampled_from(list(places(content))))
    changed = replaced(content, path, data.draw(OTHERS))
    (tmp_path / name).write_text(json.dumps(changed))
    one_line(lambda: read_json(tmp_path / name, kind))
    if name == 'results.json':
        one_line(lambda: results.read(tmp_path))


@pytest.mark.parametrize('key', [key for key in LINE if key not in ('input', 'window')])
def test_a_manifest_without_a_key(tmp_path, key):
    line = {name: value for name, value in LINE.items() if name != key}
    (tmp_path / 'manifest.jsonl').write_text(json.dumps(line))
    with pytest.raises(InputError, match=f'manifest.jsonl: row 0.*{key}'):
        synthetic.read_manifest(tmp_path)


@anything
@given(data=st.data())
def test_any_value_of_a_manifest_may_be_another(tmp_path, data):
    path = data.draw(st.sampled_from(list(places(LINE))))
    changed = replaced(LINE, path, data.draw(OTHERS))
    text = json.dumps(LINE) + '\n' + json.dumps(changed)
    (tmp_path / 'manifest.jsonl').write_text(text[: data.draw(st.integers(1, len(text) * 2))])
    one_line(lambda: synthetic.read_manifest(tmp_path))


@pytest.mark.parametrize('key', ['file', 'input'])
@pytest.mark.parametrize('name', ['/etc/passwd', '../a.png', 'images/../../a.png', 'a\x00.png'])
def test_a_manifest_names_files_of_its_folder_only(tmp_path, key, name):
    (tmp_path / 'manifest.jsonl').write_text(json.dumps(LINE | {key: name}))
    with pytest.raises(InputError, match='outside its folder'):
        synthetic.read_manifest(tmp_path)


HEADER = 'seriesuid,coordX,coordY,coordZ,diameter_mm\n'
CELL = st.one_of(st.text(max_size=12), st.floats().map(str), st.integers().map(str))


@anything
@given(rows=st.lists(st.lists(CELL, max_size=7), max_size=3), header=st.booleans())
def test_any_annotation_table_is_read_or_refused(tmp_path, rows, header):
    with (tmp_path / 'annotations.csv').open(
        'w', newline='', encoding='utf-8', errors='replace'
    ) as file:
        file.write(HEADER if header else '')
        csv.writer(file).writerows(rows)
    one_line(lambda: luna16.read_nodules(tmp_path / 'annotations.csv'))


@anything
@given(content=st.binary(max_size=60))
def test_any_bytes_after_the_header_of_a_table(tmp_path, content):
    (tmp_path / 'annotations.csv').write_bytes(HEADER.encode() + content)
    one_line(lambda: luna16.read_nodules(tmp_path / 'annotations.csv'))


PRINTED = 'model,test,accuracy,recall,precision,f1\n'


@pytest.mark.parametrize('cell', ['nan', 'inf', '-1', '101', 'x', '', '"'])
def test_rates_that_are_none(tmp_path, cell):
    (tmp_path / 'a.csv').write_text(PRINTED + f'vgg16,real,{cell},90,90,90\n')
    with pytest.raises(InputError, match='config.table=.*a.csv'):
        printed_rates.read_table(tmp_path / 'a.csv')


@anything
@given(rows=st.lists(st.lists(CELL, max_size=7), max_size=3))
def test_any_table_of_rates_is_read_or_refused(tmp_path, rows):
    with (tmp_path / 'a.csv').open('w', newline='', encoding='utf-8', errors='replace') as file:
        file.write(PRINTED)
        csv.writer(file).writerows(rows)
    one_line(lambda: printed_rates.read_table(tmp_path / 'a.csv'))


def test_archives_are_not_unpacked_beyond_a_limit(tmp_path):
    """A member of zeros is some hundred kilobytes on the disk."""
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as whole:
        with whole.open('annotations.csv', 'w') as member:
            for _ in range(257):
                member.write(bytes(1 << 20))
    with pytest.raises(InputError, match='annotations.csv: has more than 256 MiB'):
        luna16.read_nodules(tmp_path / 'a.zip' / 'annotations.csv')


def test_a_sheet_is_not_unpacked_beyond_a_limit(tmp_path):
    with zipfile.ZipFile(tmp_path / 'COVID-CT-MetaInfo.xlsx', 'w', zipfile.ZIP_DEFLATED) as whole:
        whole.writestr('xl/sharedStrings.xml', b'<sst/>')
        whole.writestr('xl/worksheets/sheet1.xml', b' ' * (33 << 20))
    with pytest.raises(InputError, match='COVID-CT-MetaInfo.xlsx: cannot be read as a table'):
        read_patients(tmp_path)


# ---- what covjax writes and other programs run


@pytest.mark.parametrize(
    'text', ['=1+1', '+cmd', '-cmd', '@SUM(A1)', '\tx', '\r=1', '\n=1', ' =1', '\uff1d1']
)
def test_no_cell_is_a_formula(tmp_path, text):
    write_csv(tmp_path / 'a.csv', [['head', text], [text, 1]])
    with (tmp_path / 'a.csv').open(newline='', encoding='utf-8') as file:
        rows = list(csv.reader(file))
    assert rows == [['head', f"'{text}"], [f"'{text}", '1']]


@pytest.mark.parametrize(
    'cell', [-1, -0.5, '-0.25', '+3', 'a=b', '', None, 'nan', '-inf', '-', '=']
)
def test_other_cells_stay(tmp_path, cell):
    write_csv(tmp_path / 'a.csv', [[cell, 'x']])
    text = (tmp_path / 'a.csv').read_text()
    assert text == f'{"" if cell is None else cell},x\n'


LATEX = re.compile(r'\\[%_&#${}]|\\text\w+\{\}|[^\\%_&#${}~^<>\x00-\x1f\x7f\u2028\u2029]')


@anything
@given(text=st.text(max_size=30))
def test_latex_has_no_special_character_left(text):
    escaped = tables.escaped(text)
    assert LATEX.sub('', escaped) == '', escaped


def test_a_workdir_of_a_run_that_is_none(tmp_path):
    (tmp_path / 'config.json').write_text('[1]')
    with pytest.raises(InputError, match='config.json: is damaged'):
        workdir.read_config(tmp_path, 'train', 'generator')

"""Wrong raw data and wrong folders: one line, exit code 2, nothing left behind."""

import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from covjax import InputError
from covjax.ct import luna16
from covjax.data import datasets
from covjax.runs import prepare


def first(folder, pattern):
    return sorted(folder.rglob(pattern))[0]


def annotated_raw(folder):
    annotated = {
        nodule.series for nodule in luna16.read_nodules(folder / 'luna16' / 'annotations.csv')
    }
    return next(path for path in sorted(folder.rglob('*.raw')) if path.stem in annotated)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def spoil_zraw(folder):
    path = first(folder, '*.zraw')
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes(len(content) - 40))
    return path.stem


def flip_a_byte(folder):
    path = first(folder, '*.zraw')
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    return path.stem


def cut_raw(folder):
    path = annotated_raw(folder)
    cut(path)
    return path.name


def drop_raw(folder):
    path = annotated_raw(folder)
    path.unlink()
    return path.name


def drop_volume(folder):
    path = annotated_raw(folder)
    path.unlink()
    path.with_suffix('.mhd').unlink()
    return path.stem


def spoil_header(folder):
    path = annotated_raw(folder).with_suffix('.mhd')
    path.write_text(path.read_text().replace('DimSize', 'Size'))
    return 'DimSize'


def spoil_annotation(folder):
    path = folder / 'luna16' / 'annotations.csv'
    path.write_text(path.read_text().rstrip() + 'mm\n')
    return 'annotations.csv: row'


def no_column(folder):
    path = folder / 'luna16' / 'annotations.csv'
    path.write_text(path.read_text().replace('diameter_mm', 'd', 1))
    return 'diameter_mm'


def drop_annotations(folder):
    (folder / 'luna16' / 'annotations.csv').unlink()
    return 'config.annotations'


def drop_listed(folder):
    path = first(folder / 'covid_ct' / 'CT_COVID', '*')
    path.unlink()
    return path.name


def spoil_picture(folder):
    path = first(folder / 'covid_ct' / 'CT_NonCOVID', '*')
    cut(path)
    path.write_bytes(path.read_bytes()[:300])
    return path.name


def table_of(change):
    """A spoiler of the raw folder whose meta table of the COVID pictures is changed."""

    def spoil(folder):
        names = [path.name for path in sorted((folder / 'covid_ct' / 'CT_COVID').glob('*'))]
        rows = [['File name', 'Patient ID'], *([name, 'Patient 1'] for name in names)]
        text = change('\n'.join(','.join(row) for row in rows) + '\n')
        (folder / 'covid_ct' / 'COVID-CT-MetaInfo.csv').write_text(text)
        return 'COVID-CT-MetaInfo.csv'

    return spoil


table_with_semicolons = table_of(lambda text: text.replace(',', ';'))
table_with_tabs = table_of(lambda text: text.replace(',', '\t'))
table_with_a_title = table_of(lambda text: 'Table 1\n' + text)
table_with_other_headers = table_of(lambda text: text.replace('Patient ID', 'Person'))
table_without_rows = table_of(lambda text: text.splitlines()[0])
table_without_patients = table_of(lambda text: text.replace('Patient 1', ''))
table_of_other_names = table_of(
    lambda text: text.replace('\n', '\nImages/').removesuffix('Images/')
)
empty_table = table_of(lambda text: '')


def empty_split(folder):
    path = first(folder / 'covid_ct' / 'Data-split' / 'COVID', 'test*')
    path.write_text('\n')
    return path.name


def drop_split(folder):
    path = first(folder / 'covid_ct' / 'Data-split' / 'COVID', 'val*')
    path.unlink()
    return path.name


def twice(folder):
    lists = folder / 'covid_ct' / 'Data-split' / 'COVID'
    train, test = first(lists, 'train*'), first(lists, 'test*')
    test.write_text(test.read_text() + train.read_text().splitlines()[0] + '\n')
    return train.name


def no_folder(folder):
    shutil.rmtree(folder / 'covid_ct')
    return 'covid_ct: no such folder'


def number_type(name, named):
    """A spoiler that writes another ElementType into a header; `named` is what the message says."""

    def spoil(folder):
        path = annotated_raw(folder).with_suffix('.mhd')
        path.write_text(path.read_text().replace('MET_SHORT', name))
        return named

    return spoil


other_number_type = number_type('MET_STRING', 'MET_STRING')
wider_number_type = number_type('MET_FLOAT', 'truncated')
narrower_number_type = number_type('MET_UCHAR', 'MET_UCHAR')


def outside(folder):
    path = folder / 'luna16' / 'annotations.csv'
    series, _, *rest = path.read_text().splitlines()[1].split(',')
    path.write_text(path.read_text() + ','.join([series, '5000', *rest]))
    return 'lies outside the volume'


def table_with(change):
    """A spoiler of annotations.csv: change(header, first row, other rows) -> lines."""

    def spoil(folder):
        path = folder / 'luna16' / 'annotations.csv'
        header, first_row, *others = path.read_text().splitlines()
        path.write_text('\n'.join(change(header, first_row, others)))
        return 'annotations.csv'

    return spoil


def with_diameter(text):
    """A spoiler that writes a text in place of the diameter of the first row."""
    return table_with(lambda header, row, others: [header, f'{row.rpartition(",")[0]},{text}'])


nan_diameter = with_diameter('nan')
negative_diameter = with_diameter('-3')
huge_diameter = with_diameter('1e308')
infinite_place = table_with(
    lambda header, row, others: [header, row.replace(row.split(',')[2], 'inf', 1), *others]
)
semicolons = table_with(
    lambda header, row, others: [line.replace(',', ';') for line in (header, row, *others)]
)
no_rows = table_with(lambda header, row, others: [header])
short_row = table_with(lambda header, row, others: [header, row.partition(',')[0]])
stray_quote = table_with(lambda header, row, others: [header, '"' + row, *others, *[row] * 3000])


def not_text(folder):
    (folder / 'luna16' / 'annotations.csv').write_bytes(b'\xff\xfe\x00\x81')
    return 'is not UTF-8'


def same_series_twice(folder):
    path = annotated_raw(folder)
    (folder / 'luna16' / 'copy').mkdir()
    for part in (path, path.with_suffix('.mhd')):
        shutil.copy(part, folder / 'luna16' / 'copy')
    return 'series is also at'


def broken_archive(folder):
    (folder / 'luna16' / 'subset9.zip').write_bytes(b'PK\x03\x04' + bytes(50))
    return 'subset9.zip: is not a whole .zip'


def too_many_bytes(folder):
    path = annotated_raw(folder)
    path.write_bytes(path.read_bytes() + bytes(100))
    return 'announces'


def packed_volume(folder, compression):
    """The path of an archive that a volume was moved into."""
    path, archive = annotated_raw(folder), folder / 'luna16' / 'subset9.zip'
    with zipfile.ZipFile(archive, 'w', compression) as file:
        for part in (path, path.with_suffix('.mhd')):
            file.write(part, f'subset9/{part.name}')
            part.unlink()
    return archive


def damaged_member(folder):
    """One volume only in an archive, cut in the middle."""
    archive = packed_volume(folder, zipfile.ZIP_LZMA)
    content = bytearray(archive.read_bytes())
    content[200:260] = bytes(60)
    archive.write_bytes(content)
    return 'subset9.zip'


def unknown_packing(folder):
    """Deflate64, which some programs write and Python cannot read."""
    archive = packed_volume(folder, zipfile.ZIP_DEFLATED)
    content = bytearray(archive.read_bytes())
    for mark, offset in ((b'PK\x03\x04', 8), (b'PK\x01\x02', 10)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] = 9
            at = content.find(mark, at + 1)
    archive.write_bytes(content)
    return 'unpack subset9.zip yourself'


def picture_as(save):
    def spoil(folder):
        path = first(folder / 'covid_ct' / 'CT_COVID', '*')
        save(path)
        return path.name

    return spoil


def save_animation(path):
    frames = [Image.new('L', (9, 9), grey) for grey in (0, 9)]
    frames[0].save(path, 'GIF', save_all=True, append_images=frames[1:])


def save_sixteen_bits(path):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(path, 'PNG')


empty_picture = picture_as(lambda path: path.write_bytes(b''))
sixteen_bits = picture_as(save_sixteen_bits)
animated = picture_as(save_animation)
text_picture = picture_as(lambda path: path.write_text('<html>404</html>'))

LUNA = (
    *(cut_raw, drop_raw, drop_volume, spoil_zraw, flip_a_byte, spoil_header, spoil_annotation),
    *(no_column, drop_annotations, other_number_type, wider_number_type, narrower_number_type),
    *(outside, nan_diameter, negative_diameter, infinite_place, semicolons, no_rows, short_row),
    *(not_text, same_series_twice, broken_archive, too_many_bytes, stray_quote, huge_diameter),
    *(damaged_member, unknown_packing),
)
COVID = (
    *(drop_listed, spoil_picture, empty_split, drop_split, twice, no_folder, empty_picture),
    *(sixteen_bits, animated, text_picture, table_with_semicolons, table_with_tabs, empty_table),
    *(table_with_a_title, table_with_other_headers, table_without_rows, table_without_patients),
    *(table_of_other_names,),
)


def name_of(spoil):
    return next(name for name, value in globals().items() if value is spoil)


def data_set(spoil):
    """(data set, raw folder) that a spoiler is about."""
    return ('luna16_patches/nodules', 'luna16') if spoil in LUNA else ('covid_ct', 'covid_ct')


@pytest.mark.parametrize('spoil', LUNA + COVID, ids=name_of)
def test_prepare_refuses_it_in_one_line(raw, tmp_path, spoil):
    folder = shutil.copytree(raw, tmp_path / 'raw')
    named = spoil(folder)
    dataset, source = data_set(spoil)
    with pytest.raises(InputError) as caught:
        prepare.build(dataset, folder / source, str(tmp_path / 'data'))
    message = str(caught.value)
    assert named in message and '\n' not in message
    assert {path.name for path in tmp_path.iterdir()} == {'raw'}


@pytest.mark.parametrize('spoil', [drop_volume, twice], ids=name_of)
def test_launch_reports_it_in_one_line(launch, raw, tmp_path, spoil):
    folder = shutil.copytree(raw, tmp_path / 'raw')
    named = spoil(folder)
    dataset, source = data_set(spoil)
    result = launch(
        '--config=configs/prepare.py',
        f'--config.dataset={dataset}',
        f'--config.source={folder / source}',
        f'--config.data_dir={tmp_path / "data"}',
        f'--workdir={tmp_path / "run"}',
    )
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith('covjax: ')]
    assert named in message
    assert {path.name for path in tmp_path.iterdir()} == {'raw'}


def with_byte_order_mark(folder):
    path = folder / 'luna16' / 'annotations.csv'
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes().replace(b'\n', b'\r\n'))


def palette(folder):
    path = first(folder / 'covid_ct' / 'CT_COVID', '*')
    Image.open(path).convert('L').convert('P').save(path, 'PNG')


@pytest.mark.parametrize(
    'harmless, dataset', [(with_byte_order_mark, 'luna16_patches/nodules'), (palette, 'covid_ct')]
)
def test_what_is_only_unusual_is_read(raw, data_dir, tmp_path, harmless, dataset):
    folder = shutil.copytree(raw, tmp_path / 'raw')
    harmless(folder)
    prepare.build(dataset, folder / dataset.partition('_patches')[0], str(tmp_path / 'data'))
    ids = lambda place: [row.id for row in datasets.read_rows(f'{dataset}:train', place)]
    assert ids(str(tmp_path / 'data')) == ids(data_dir)


@pytest.mark.parametrize(
    'words, named',
    [
        ('prepare.py --config.dataset=covid', 'luna16_patches/nodules'),
        ('prepare.py --config.dataset=luna16_patches/nodules', 'config.source'),
        ('prepare.py --config.dataset=covid_ct {source} --config.workers=-1', 'at least 0'),
        ('look.py', 'config.dataset and config.source are empty'),
        ('look.py --config.dataset=covid_ct:train@covid {data}', 'name one data set'),
        ('prepare.py --config.dataset=luna16_patches/ {source}', 'no such data set'),
        ('prepare.py --config.dataset=covid_ct {source} {nowhere}/a[1]', 'patterns'),
        ('look.py --config.dataset=covid_ct {nowhere}', 'configs/prepare.py'),
        ('prepare.py --config.dataset=covid_ct --config.annotations=x', 'config.annotations'),
        ('cyclegan.py:small {data} --config.cancer=luna16_patches/nodules:nope', 'train'),
        ('cyclegan.py:small {nowhere}', 'configs/prepare.py'),
        ('cyclegan.py:small {data} --config.loss=hinge', 'lsgan, bce'),
        ('cyclegan.py:small {data} --config.norm=batch', 'instance, affine'),
        ('classifier.py {data}', 'synthesize'),
        ('classifier.py {data} --config.train=covid_ct:train@covid', 'both classes'),
        ('classifier.py {train} --config.pretrained={empty}/a.h5', 'a.h5: no such file'),
        ('classifier.py:vgg16 {train} --config.image_size=16', 'at least 32x32'),
        ('classifier.py {train} --config.schedule=linear', 'cosine, step'),
        ('export.py', 'config.classifier'),
        ('synthesize.py', 'config.generator'),
        ('synthesize.py --config.stand_in=magic', 'histogram'),
        ('synthesize.py --config.generator={empty}', 'config.generator'),
        ('evaluate.py --config.classifier={empty}/none', 'config.classifier'),
        ('report.py --config.evaluations={empty}', 'config.evaluations'),
    ],
)
def test_stages_refuse_wrong_keys(launch, data_dir, tmp_path, words, named):
    empty = tmp_path / 'empty'
    empty.mkdir()
    data = f'--config.data_dir={data_dir}'
    places = {
        'empty': empty,
        'source': f'--config.source={empty}',
        'nowhere': f'--config.data_dir={empty}',
        'data': data,
        'train': f'{data} --config.train=covid_ct:train',
    }
    config, *keys = words.format(**places).split()
    result = launch(f'--config=configs/{config}', *keys, f'--workdir={tmp_path / "run"}')
    assert result.returncode == 2 and 'Traceback' not in result.stderr, result.stderr
    assert named in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {'empty'}

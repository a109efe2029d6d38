"""Wrong raw data and wrong folders: one line that names the file or key, exit code 2, nothing left behind."""
import shutil

import pytest

from covjax import annotations


def first(folder, pattern):
    return sorted(folder.rglob(pattern))[0]


def annotated_raw(folder):
    annotated = {nodule.series for nodule in annotations.read_nodules(folder / 'luna16' / 'annotations.csv')}
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


LUNA = (cut_raw, drop_raw, drop_volume, spoil_zraw, flip_a_byte, spoil_header, spoil_annotation, no_column, drop_annotations)
COVID = (drop_listed, spoil_picture, empty_split, drop_split, twice, no_folder)


@pytest.mark.parametrize('spoil', LUNA + COVID)
def test_prepare(launch, raw, tmp_path, spoil):
    folder = shutil.copytree(raw, tmp_path / 'raw')
    named = spoil(folder)
    dataset, source = ('luna16_patches/nodules', 'luna16') if spoil in LUNA else ('covid_ct', 'covid_ct')
    result = launch('--config=configs/prepare.py', f'--config.dataset={dataset}', f'--config.source={folder / source}',
                    f'--config.data_dir={tmp_path / "data"}', f'--workdir={tmp_path / "run"}')
    told = [line for line in result.stderr.splitlines() if line.startswith('covjax: ')]
    assert result.returncode == 2 and len(told) == 1 and named in told[0] and 'Traceback' not in result.stderr, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {'raw'}


@pytest.mark.parametrize('arguments, named', [
    (['prepare.py', '--config.dataset=covid'], 'luna16_patches/nodules'),
    (['prepare.py', '--config.dataset=covid_ct'], 'config.source'),
    (['prepare.py', '--config.dataset=covid_ct', '--config.annotations=x'], 'config.annotations'),
    (['cyclegan.py:small', '--config.data_dir={data}', '--config.cancer=luna16_patches/nodules:nope'], 'train'),
    (['cyclegan.py:small', '--config.data_dir={empty}'], 'configs/prepare.py'),
    (['classifier.py', '--config.data_dir={data}'], 'synthesize'),
    (['classifier.py', '--config.data_dir={data}', '--config.train=covid_ct:train@covid'], 'both classes'),
    (['classifier.py', '--config.data_dir={data}', '--config.train=covid_ct:train', '--config.pretrained={empty}/a.h5'], 'a.h5: no such file'),
    (['classifier.py:vgg16', '--config.data_dir={data}', '--config.train=covid_ct:train', '--config.image_size=16'], 'at least 32x32'),
    (['export.py'], 'config.classifier'),
    (['synthesize.py'], 'config.generator'),
    (['synthesize.py', '--config.generator={empty}'], 'config.generator'),
    (['evaluate.py', '--config.classifier={empty}/none'], 'config.classifier'),
    (['report.py', '--config.evaluations={empty}'], 'config.evaluations')])
def test_stages(launch, data_dir, tmp_path, arguments, named):
    (tmp_path / 'empty').mkdir()
    config, *keys = [argument.format(data=data_dir, empty=tmp_path / 'empty') for argument in arguments]
    result = launch(f'--config=configs/{config}', *keys, f'--workdir={tmp_path / "run"}')
    assert result.returncode == 2 and 'Traceback' not in result.stderr and named in result.stderr, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {'empty'}

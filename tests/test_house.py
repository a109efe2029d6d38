"""The layout of the package: every import points down, and rooms stay what they are for."""

import ast
import itertools
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT

# From the roof down. A room may import rooms of lower floors and files of its own, never a room of
# its own floor; the room of a module is the longest entry that its name starts with.
pytestmark = pytest.mark.fast
FLOORS = [
    ['launch', 'covjax.__main__'],
    ['covjax.launcher'],
    ['covjax.command_line'],
    ['covjax.runs'],
    ['configs', 'covjax.choices'],
    ['covjax.training', 'covjax.audit'],
    ['covjax.scorer'],
    ['covjax.scan_classifier'],
    [
        *('covjax.stand_ins', 'covjax.pair_makers', 'covjax.features', 'covjax.lung_view'),
        'covjax.pretraining',
    ],
    ['covjax.pair_pictures'],
    ['covjax.kept_segmenter', 'covjax.scan_segmenter', 'covjax.external_classifier'],
    [
        *('covjax.classifier', 'covjax.generator', 'covjax.pair_generator', 'covjax.segmenter'),
        'covjax.pages',
    ],
    ['covjax.trained', 'tfds_builders'],
    ['covjax.budgets'],
    ['covjax.weights', 'covjax.data', 'covjax.phantom', 'covjax.pipeline', 'covjax.rounds'],
    ['covjax.provenance'],
    ['covjax.models', 'covjax.ct', 'covjax.workdir'],
    [
        *('covjax.metrics', 'covjax.lock', 'covjax.drafts', 'covjax.hashes', 'covjax.processes'),
        'covjax.memory',
    ],
    ['covjax'],
]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
# Libraries that only some rooms may import, at the top of a file or inside a function.
ONLY_IN = {
    'SimpleITK': {'covjax.ct', 'covjax.phantom'},
    'pydicom': {'covjax.ct'},
    'nibabel': {'covjax.ct'},
    'tensorflow_datasets': {'covjax.data', 'covjax.runs', 'tfds_builders'},
    'matplotlib': {'covjax.pages'},
    'h5py': {'covjax.weights'},
    'safetensors': {'covjax.weights'},
    'torch': {'covjax.weights'},
    'orbax': {'covjax.weights', 'covjax.processes'},  # the latter takes its barrier
    'tensorboardX': {'covjax.training'},
    'onnxruntime': {'covjax.external_classifier'},
}
DRAWERS = {'utils', 'helpers', 'common', 'misc', 'tools'}


def files():
    """{module name: path} of the library, the builders, the configs and launch.py."""
    paths = [ROOT / 'launch.py']
    for folder in ('covjax', 'tfds_builders', 'configs'):
        paths += sorted((ROOT / folder).rglob('*.py'))
    dotted = lambda path: '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    return {dotted(path).removesuffix('.__init__'): path for path in paths}


FILES = files()
TREES = {name: ast.parse(path.read_text(encoding='utf-8')) for name, path in FILES.items()}


def room_of(module):
    """The entry of FLOORS that a module belongs to, or None where it is not ours."""
    parts = module.split('.')
    names = ['.'.join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in FLOOR), None)


def imported(tree):
    """Yields every module that a file imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f'{node.module}.{alias.name}'
                yield full if full in FILES else node.module


@pytest.mark.parametrize('module', FILES)
def test_imports_point_down(module):
    room = room_of(module)
    for target in imported(TREES[module]):
        other = room_of(target)
        if other and other != room:
            assert FLOOR[other] > FLOOR[room], f'{module} imports {target}, which is not below it'


def test_no_circle_within_a_room():
    arrows = {
        name: {target for target in imported(tree) if target in FILES and target != name}
        for name, tree in TREES.items()
    }
    left = dict(arrows)
    while free := [name for name, targets in left.items() if targets.isdisjoint(left)]:
        for name in free:
            del left[name]
    assert not left, f'these import one another: {sorted(left)}'


@pytest.mark.parametrize('library', ONLY_IN)
def test_a_library_is_imported_by_the_rooms_that_use_it(library):
    rooms = {
        room_of(name)
        for name, tree in TREES.items()
        if any(target.split('.')[0] == library for target in imported(tree))
    }
    assert rooms <= ONLY_IN[library]


def test_models_need_jax_and_flax_only():
    outside = set()
    for name, tree in TREES.items():
        if room_of(name) == 'covjax.models':
            outside |= {target.split('.')[0] for target in imported(tree)}
    allowed = {'covjax', 'jax', 'flax', 'numpy', *sys.stdlib_module_names}
    assert outside <= allowed


def test_no_drawer_files():
    assert not DRAWERS & {name.rpartition('.')[2] for name in FILES}


def test_flags_and_environment_are_read_at_the_door_only():
    for name, tree in TREES.items():
        words = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        doors = 'covjax.launcher', 'launch', 'covjax.__main__', 'covjax.memory'  # the C library's
        if name not in doors:
            assert not words & {'environ', 'getenv', 'argv'}, f'{name} reads the environment'


def test_every_public_function_of_a_run_is_a_command():
    for name, tree in TREES.items():
        if re.fullmatch(r'covjax\.runs\.\w+', name):
            functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert [a.arg for a in functions['run'].args.args] == ['config', 'workdir'], name


def test_importing_covjax_leaves_the_path_alone():
    code = 'import sys; before = list(sys.path); import covjax.launcher; assert sys.path == before'
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_other_frameworks_are_not_loaded():
    """Not by way of what covjax imports either: it takes seconds and memory of every run."""
    modules = [name for name in FILES if name.split('.')[0] == 'covjax']
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
assert not {{'torch', 'keras', 'tensorflow'}} & set(sys.modules)
if importlib.util.find_spec('torch'):
    import torch
"""
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_prose_is_free_of_tools_and_places():
    words = re.compile('|'.join(['/' + 'root/', '/' + 'work/', 'pyp' + 'i\\.org']))
    texts = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *FILES.values()]
    for path in itertools.chain(texts, pathlib.Path(ROOT / 'tests').glob('*.py')):
        assert not words.search(path.read_text(encoding='utf-8')), path


PAGES = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('tfds_builders/*/README.md')]
LINK = re.compile(r'\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)')


def anchors(page):
    """What the headings of a page are called in links."""
    headings = re.findall(r'^#+ (.+)$', page.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', heading).lower().replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for name, anchor in LINK.findall(page.read_text(encoding='utf-8')):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f'{name}#{anchor}'


def test_every_page_is_reached_from_the_readme():
    linked = {name for name, _ in LINK.findall((ROOT / 'README.md').read_text(encoding='utf-8'))}
    of_site = {'index.md', 'CONTRIBUTING.md'}  # which include pages of the checkout
    pages = {page.name for page in ROOT.glob('docs/*.md')} - of_site
    assert {f'docs/{name}' for name in pages} <= linked


def test_the_readme_is_short():
    assert (ROOT / 'README.md').stat().st_size <= 8192


API = re.findall(
    r'automodule:: (\S+)\n(?:   :members: (.*)\n)?',
    (ROOT / 'docs' / 'api.md').read_text(encoding='utf-8'),
)


def functions_of(module, members):
    """Yields the public functions and methods of a module that the reference shows."""
    named = {name.strip() for name in members.split(',')} - {''}
    for node in TREES[module].body:
        if node_is_shown(node, named) and isinstance(node, ast.FunctionDef):
            yield node
        elif node_is_shown(node, named) and isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name[0] != '_':
                    yield inner


def node_is_shown(node, named):
    name = getattr(node, 'name', '_')
    return name in named if named else not name.startswith('_')


@pytest.mark.parametrize('module, members', API)
def test_the_public_interface_is_annotated(module, members):
    """Everything that docs/api.md shows; `self` and `cls` need nothing."""
    shown = {node.name for node in TREES[module].body if hasattr(node, 'name')}
    named = {name.strip() for name in members.split(',')} - {''}
    for name in named - shown:
        assert any(name in ast.dump(node) for node in TREES[module].body), f'{module} has no {name}'
    for function in functions_of(module, members):
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [each for each in (arguments.vararg, arguments.kwarg) if each]
        bare = [each.arg for each in every if each.annotation is None]
        assert not set(bare) - {'self', 'cls'}, f'{module}.{function.name}: {bare}'
        assert function.returns is not None, f'{module}.{function.name} returns what?'


def test_the_reference_lists_the_rooms_that_people_import():
    rooms = {module for module, _ in API}
    assert {'covjax.models', 'covjax.classifier', 'covjax.audit', 'covjax.metrics.roc'} <= rooms
    assert (ROOT / 'covjax' / 'py.typed').is_file()

"""The notebook of docs/ runs from its first cell to its last, on smaller numbers."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

FOLDER = ROOT / 'docs' / 'notebooks'
# Numbers of the notebook, and what the test sets instead.
SMALLER = {
    'PICTURES, STEPS, LESSONS = 48, 400, 300': 'PICTURES, STEPS, LESSONS = 8, 4, 4',
    'series=12, slices=4, size=256': 'series=10, slices=2, size=128',
    'validation=16, test=32': 'validation=6, test=12',
    'gen_filters=16': 'gen_filters=8',
    'gen_blocks=3': 'gen_blocks=1',
    'disc_filters=16': 'disc_filters=8',
}


def cells(path):
    """[(type, source)] of a notebook."""
    content = json.loads(path.read_text(encoding='utf-8'))
    return [(cell['cell_type'], ''.join(cell['source'])) for cell in content['cells']]


@pytest.mark.fast
@pytest.mark.parametrize('path', sorted(FOLDER.glob('*.ipynb')), ids=lambda path: path.stem)
def test_a_notebook_has_ten_cells_without_paths_of_a_machine(path):
    found = cells(path)
    assert len(found) == 10 and found[0][0] == 'markdown'
    assert 'drawn' in found[0][1] and 'no patients' in found[0][1]
    whole = path.read_text(encoding='utf-8')
    assert not re.search(r'/(home|root|work|Users)/', whole) and len(whole) < 1_500_000


@pytest.mark.slow
@pytest.mark.parametrize('path', sorted(FOLDER.glob('*.ipynb')), ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path, tmp_path):
    program = '\n'.join(source for kind, source in cells(path) if kind == 'code')
    for numbers, smaller in SMALLER.items():
        assert numbers in program
        program = program.replace(numbers, smaller)
    program = f'import tempfile\ntempfile.tempdir = {str(tmp_path)!r}\n{program}'
    result = subprocess.run(
        [sys.executable, '-c', program], cwd=FOLDER, text=True, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob('*/audit/images/areas.png'))
    assert ' red flag' in result.stdout and 'audit.html' in result.stdout

"""Coverage-guided fuzzing of what covjax reads: no crash, no hang, bounded memory.

pip install atheris    (Python 3.11)
python benchmarks/fuzz.py TARGET SECONDS

TARGET is one of the functions of TARGETS. Anything but an InputError of one line is a finding: the
input is written to crash-*, and what went wrong becomes a test. Memory is limited to 1 GiB above
what the libraries take, a single input to 10 seconds.
"""

import json
import pathlib
import sys
import tempfile

import atheris
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import save_file

with atheris.instrument_imports(include=['covjax']):
    from covjax import InputError, generator
    from covjax.ct import dicom, luna16, nifti, nrrd, volume

MEGABYTES, SECONDS = 2048, 10
FOLDER = pathlib.Path(tempfile.mkdtemp(prefix='covjax_fuzz_'))
VOXELS = np.full((2, 4, 4), -900, '<i2').tobytes()
MHD = """ObjectType = Image
NDims = 3
BinaryData = True
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1 1 1
DimSize = 4 4 2
ElementType = MET_SHORT
ElementDataFile = a.raw
"""
TABLE = 'seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1.0,2.0,3.0,4.0\n'
ABOUT = {
    'kind': 'generator',
    'gen_filters': 4,
    'gen_blocks': 1,
    'norm': 'instance',
    'upsample': 'transposed',
    'dtype': 'float32',
    'direction': 'to_covid',
}


ARRAY = {'a': {'dtype': 'F32', 'shape': [16], 'data_offsets': [0, 64]}}
MODEL = generator.network(ConfigDict(ABOUT))
ARRAYS = {
    name: np.ones(leaf.shape, np.float32)
    for name, leaf in flatten_dict(
        jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1))), sep='/'
    ).items()
}


def metaimage(data):
    """The header of an .mhd whose voxels are sound."""
    (FOLDER / 'a.raw').write_bytes(VOXELS)
    (FOLDER / 'a.mhd').write_bytes(data)
    volume.load_volume(volume.open_volume(FOLDER / 'a.mhd'))


def annotations(data):
    """annotations.csv of LUNA16."""
    (FOLDER / 'annotations.csv').write_bytes(data)
    luna16.read_nodules(FOLDER / 'annotations.csv')


def safetensors(data):
    """An exported generator: what its header says of it, or after a zero the header itself.

    A file has eight bytes of length, a JSON header and the arrays.
    """
    path = FOLDER / 'a.safetensors'
    if data[:1] == b'0':
        path.write_bytes(len(data[1:]).to_bytes(8, 'little') + data[1:] + bytes(64))
    else:
        save_file(ARRAYS, path, metadata={'covjax': data.decode('utf-8', 'replace')})
    generator.load(path, 'to_covid')


def nrrd_header(data):
    """An .nrrd."""
    (FOLDER / 'a.nrrd').write_bytes(data)
    nrrd.read(nrrd.open_file(FOLDER / 'a.nrrd'))


def nifti_header(data):
    """A .nii."""
    (FOLDER / 'a.nii').write_bytes(data)
    nifti.read(nifti.open_file(FOLDER / 'a.nii'))


def dicom_file(data):
    """One DICOM file."""
    (FOLDER / 'a.dcm').write_bytes(data)
    dicom.read(dicom.open_series(FOLDER, [FOLDER / 'a.dcm']))


TARGETS = {  # name: (function of bytes, inputs to begin with)
    'metaimage': (metaimage, [MHD.encode()]),
    'annotations': (annotations, [TABLE.encode()]),
    'safetensors': (
        safetensors,
        [
            json.dumps(ABOUT).encode(),
            b'0' + json.dumps({'__metadata__': {'covjax': json.dumps(ABOUT)}, **ARRAY}).encode(),
        ],
    ),
    'nrrd': (
        nrrd_header,
        [
            b'NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 2\nspacings: 1 1 1\n'
            b'encoding: raw\nendian: little\n\n' + VOXELS
        ],
    ),
    'nifti': (nifti_header, []),
    'dicom': (dicom_file, [bytes(128) + b'DICM']),
}


def one_line(function):
    """The function of bytes that raises only for what is a finding."""

    def test(data):
        try:
            function(data)
        except InputError as error:
            assert '\n' not in str(error), error

    return test


def main():
    """Runs one target for some seconds."""
    name, seconds = sys.argv[1], sys.argv[2]
    function, seeds = TARGETS[name]
    corpus = FOLDER / 'corpus'
    corpus.mkdir()
    for i, seed in enumerate(seeds):
        (corpus / str(i)).write_bytes(seed)
    limits = [f'-rss_limit_mb={MEGABYTES}', f'-timeout={SECONDS}', f'-max_total_time={seconds}']
    options = ['-max_len=4096', '-print_final_stats=1', str(corpus)]
    atheris.Setup([sys.argv[0], *limits, *options], one_line(function))
    atheris.Fuzz()


if __name__ == '__main__':
    main()

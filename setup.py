"""Installs covjax, its TFDS builders and its configs.

Floors stand where older versions are known to lack something.
"""

from setuptools import find_packages, setup

setup(
    name='covjax',
    version='1.0.0',
    description='Synthetic CT, networks trained on it, and audits of what scores rest on, in JAX',
    long_description=open('README.md', encoding='utf-8').read(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    classifiers=[
        'Development Status :: 5 - Production/Stable',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Medical Science Apps.',
        'Typing :: Typed',
    ],
    keywords='CT, COVID-19, CycleGAN, shortcut learning, audit, JAX, Flax',
    # The configs lie beside the package in a checkout, and inside it in a wheel.
    packages=[*find_packages(include=['covjax*', 'tfds_builders*']), 'covjax.shipped.configs'],
    package_dir={'covjax.shipped.configs': 'configs'},
    package_data={'': ['*.md', '*.bib', '*.txt', '*.html', '*.css', '*.toml', '*.png', 'py.typed']},
    install_requires=[
        'jax>=0.10.2',
        'flax>=0.12.8',
        'optax>=0.2.5',
        'orbax-checkpoint>=0.12.8',
        'tensorflow-datasets>=4.9.10,<5',
        'importlib_resources',  # used by tensorflow-datasets 4.9.10, not declared by it
        'array_record',  # the record format that TFDS reads and writes without TensorFlow
        'ml_collections>=1.1.0',
        'h5py',  # weights that Keras wrote
        'safetensors',  # weights for other programs
        'SimpleITK>=2.4',  # MetaImage, NRRD, geometry
        'pydicom>=3.0.1',  # DICOM
        'python-gdcm>=3.0.24',  # its compressed pixels
        'nibabel>=5.3',  # NIfTI
        'msgspec',  # JSON files checked against their types
        'numpy',
        'packaging',  # whether what is installed is new enough
        'scipy',
        'scikit-learn',
        'pillow',
        'matplotlib',
        'tensorboardX>=2.6.5',
        'tqdm',
    ],
    extras_require={
        'cuda13': ['jax[cuda13]'],
        'tf': ['tensorflow-cpu'],  # only for tfds.load
        'beam': ['apache-beam'],  # luna16_patches on a cluster
        'onnx': ['onnx', 'onnxruntime'],  # classifiers from elsewhere, models for elsewhere
        'docs': ['sphinx', 'myst-nb', 'furo'],  # python -m sphinx docs site
        'torch': ['torch', 'monai'],  # .pth generators; peers of the tests and of the benchmark
        'test': [
            *('pytest', 'pytest-xdist', 'hypothesis', 'keras>=3.10', 'ruff==0.17.6'),
            *('onnx', 'onnxruntime'),
            'pycocotools',  # the peer of what is written as COCO
            'setuptools>=77',
        ],
    },
)

"""What the three builders share: array_record files, four common features, a fingerprint of the source folder.

Every example has `image` (uint8 grey PNG, or int16 HU in one config), `id` (unique in the data set), `group` (what must not straddle train and test: a source document
and patient as 'document/patient', or a CT series) and `sha256` (of the decoded pixels, what lineage compares).
"""
import abc
import hashlib
import io
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import file_adapters

from covjax import pictures

LABELS = ['noncovid', 'covid']
COMMON = {
    'image': tfds.features.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format='png'),
    'id': tfds.features.Text(),
    'group': tfds.features.Text(),
    'sha256': tfds.features.Text(),
}


class ArrayRecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds array_record by default, which needs no TensorFlow. Sub-classes say which files they read."""

    def __init__(self, *, file_format=None, **kwargs):
        super().__init__(file_format=file_format, **kwargs)
        if file_format is None and not self.is_prepared():            # prepared data keep their own format
            self.info.set_file_format('array_record', override=True)

    @abc.abstractmethod
    def source_files(self, folder):
        """The raw files that a build from `folder` reads; checks that the folder has the expected layout."""

    def fingerprint(self, folder):
        """A hash of the names and sizes of the source files, and of the bytes of its tables."""
        folder, digest = pathlib.Path(folder), hashlib.sha256()
        for path in sorted(self.source_files(folder)):
            name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
            digest.update(f'{name} {path.stat().st_size}\n'.encode())
            if path.suffix in ('.txt', '.csv', '.jsonl', '.mhd'):
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def as_dataset(self, *args, **kwargs):
        """tf.data, for those who have TensorFlow; TFDS itself has no tf.data reader for array_record."""
        file_adapters.ArrayRecordFileAdapter.make_tf_data = classmethod(_records_as_tf_data)
        return super().as_dataset(*args, **kwargs)


def _records_as_tf_data(cls, filename, buffer_size=None):
    import tensorflow as tf
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    def records(name):
        source = ArrayRecordDataSource([name.decode()])
        for start in range(0, len(source), 32):
            yield from source.__getitems__(range(start, min(start + 32, len(source))))

    return tf.data.Dataset.from_generator(records, args=(filename,), output_signature=tf.TensorSpec((), tf.string))


def read_grey(path):
    """An 8-bit picture file of any container -> (uint8 grey [H, W], its file facts)."""
    image, facts = pictures.open_file(path)
    return np.asarray(image), facts


def encode_grey(grey):
    """uint8 [H, W] -> the `image` and `sha256` features: PNG bytes, so that no reader and no container can differ, and a hash of the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format='PNG')
    return {'image': buffer.getvalue(), 'sha256': _hash(grey)}


def keep_hu(hu):
    """int16 [H, W] -> the same features, without loss."""
    return {'image': hu[..., None], 'sha256': _hash(hu)}


def _hash(pixels):
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()

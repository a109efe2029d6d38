"""What the three builders share: array_record files, four common features, a fingerprint of the source folder.

Every example has `image` (uint8 grey PNG, or int16 HU in one config), `id` (unique in the data set), `group` (what must not straddle train and test: a source document
and patient as 'document/patient', or a CT series) and `sha256` (of the decoded pixels, what lineage compares).
"""

import abc
import collections
import concurrent.futures
import functools
import hashlib
import io
import json
import multiprocessing
import pathlib
import shutil

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import file_adapters
from tqdm import tqdm

from covjax import CLASSES, InputError
from covjax.ct import archive, picture

LABELS = list(CLASSES)  # of label 0 and 1
COMMON = {
    'image': tfds.features.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format='png'),
    'id': tfds.features.Text(),
    'group': tfds.features.Text(),
    'sha256': tfds.features.Text(),
}


class ArrayRecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds array_record by default, which needs no TensorFlow. Sub-classes say which files they read.

    workers    processes that read and encode; 0: this one
    beam       leave that to Apache Beam, with the runner that TFDS is told (DownloadConfig)
    """

    DOWNLOAD = ''  # URL of the raw files, where they may be had without signing up

    def __init__(self, *, file_format=None, workers=0, beam=False, **kwargs):
        self.workers, self.beam = workers, beam
        super().__init__(file_format=file_format, **kwargs)
        if file_format is None and not self.is_prepared():  # prepared data keep their own format
            self.info.set_file_format('array_record', override=True)

    @classmethod
    def described(cls, name):
        """A BuilderConfig that is not in the list but that its name describes, or None."""
        return None

    def _create_builder_config(self, builder_config, version):
        made = (
            self.described(builder_config)
            if isinstance(builder_config, str) and builder_config not in self.builder_configs
            else None
        )
        return made or super()._create_builder_config(builder_config, version)

    @abc.abstractmethod
    def source_files(self, folder):
        """The raw files that a build from `folder` reads; checks that the folder has the expected layout."""

    def remark(self, folder):
        """What a person should know of this source, or ''."""
        return ''

    def companions(self, folder):
        """{name: text} of files that lie beside the prepared data."""
        return {}

    def source_folder(self, dl_manager):
        """The raw folder of a build."""
        return pathlib.Path(dl_manager.manual_dir)

    def _download_and_prepare(self, dl_manager, *args, **kwargs):
        super()._download_and_prepare(dl_manager, *args, **kwargs)
        # Still in the draft that TFDS renames when all is there, so that no data set is without them.
        folder = self.source_folder(dl_manager)
        stamp = {
            'source.json': json.dumps(
                {'fingerprint': self.fingerprint(folder), 'source': str(folder)}
            )
            + '\n'
        }
        for name, text in (stamp | self.companions(folder)).items():
            (pathlib.Path(self.data_path) / name).write_text(text)

    def fingerprint(self, folder):
        """A hash of the names and sizes of the source files, and of the bytes of its tables."""
        folder, digest = pathlib.Path(folder), hashlib.sha256()
        for path in sorted(self.source_files(folder)):
            name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
            digest.update(f'{name} {archive.size(path)}\n'.encode())
            if path.suffix in ('.txt', '.csv', '.jsonl', '.mhd'):
                digest.update(archive.read(path))
        return digest.hexdigest()

    def download(self, dl_manager):
        """The folder of the raw files, downloaded and unpacked by the first call (TFDS itself unpacks only with TensorFlow)."""
        file = pathlib.Path(dl_manager.download(self.DOWNLOAD))
        folder = file.with_name(file.name + '.unpacked')
        if folder.is_dir():
            return folder
        draft = folder.with_name(folder.name + '.part')
        try:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.unpack_archive(file, draft, 'zip')
            self.source_files(draft)  # checks the layout
            return draft.rename(folder)
        except BaseException:  # or TFDS would go on with what it has kept
            shutil.rmtree(draft, ignore_errors=True)
            for kept in (file, file.with_name(file.name + '.INFO')):
                kept.unlink(missing_ok=True)
            raise

    def _generate_examples(self, function, jobs, name):
        """The examples of a split: function(job) yields (key, example), here, in other processes or in Beam. TFDS orders them by key, so all three give the same examples."""
        if self.beam:
            import apache_beam

            return apache_beam.Create(jobs) | apache_beam.FlatMap(function)
        return (
            _in_processes(function, jobs, self.workers, name)
            if self.workers
            else _here(function, jobs, name)
        )

    def as_dataset(self, *args, **kwargs):
        """tf.data, for those who have TensorFlow; TFDS itself has no tf.data reader for array_record."""
        file_adapters.ArrayRecordFileAdapter.make_tf_data = classmethod(_records_as_tf_data)
        return super().as_dataset(*args, **kwargs)


def _here(function, jobs, name):
    for job in tqdm(jobs, name, disable=None, leave=False):
        yield from function(job)


def _in_processes(function, jobs, workers, name):
    """The same, a few jobs ahead of the one that is written, so that examples do not pile up."""
    whole = functools.partial(_listed, function)
    with (
        concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context('spawn')
        ) as pool,
        tqdm(total=len(jobs), desc=name, disable=None, leave=False) as bar,
    ):
        waiting = collections.deque()
        try:
            for job in jobs + [None] * 2 * workers:
                if len(waiting) == 2 * workers or (job is None and waiting):
                    yield from _result(waiting.popleft())
                    bar.update()
                if job is not None:
                    waiting.append(pool.submit(whole, job))
        finally:
            pool.shutdown(cancel_futures=True)


def _result(future):
    try:
        return future.result()
    except concurrent.futures.process.BrokenProcessPool:
        raise InputError(
            'a worker process died, which out of memory they do; choose fewer config.workers'
        ) from None


def _listed(function, job):
    return list(function(job))


def _records_as_tf_data(cls, filename, buffer_size=None):
    import tensorflow as tf
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    def records(name):
        source = ArrayRecordDataSource([name.decode()])
        for start in range(0, len(source), 32):
            yield from source.__getitems__(range(start, min(start + 32, len(source))))

    return tf.data.Dataset.from_generator(
        records, args=(filename,), output_signature=tf.TensorSpec((), tf.string)
    )


def read_grey(path):
    """An 8-bit picture file of any container -> (uint8 grey [H, W], its file facts)."""
    image, facts = picture.open_file(path)
    return np.asarray(image), facts


def stored(pixels, as_array=False):
    """uint8 or int16 [H, W], or [D, H, W] as an array -> the `image` and `sha256` features: PNG bytes, so that no reader and no container can differ, and a hash of the pixels."""
    if as_array:
        return {'image': pixels[..., None], 'sha256': _hash(pixels)}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format='PNG')
    return {'image': buffer.getvalue(), 'sha256': _hash(pixels)}


def _hash(pixels):
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()

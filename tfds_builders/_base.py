"""What the builders share: array_record files, common features, a fingerprint of the source.

Every example has

image     uint8 grey PNG; an array where it is three-dimensional or int16 HU
id        unique in the data set
group     what must not straddle train and test: 'document/patient', or a CT series
sha256    of the decoded pixels, what lineage compares
"""

import abc
import collections
import concurrent.futures
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import file_adapters
from tqdm import tqdm

from covjax import CLASSES, InputError
from covjax.ct import archive, picture

LABELS = list(CLASSES)  # of label 0 and 1
HASHED = (
    '.txt',
    '.csv',
    '.jsonl',
    '.mhd',
    '.npy',
)  # source files whose bytes count, not the size alone
COMMON = {
    'image': tfds.features.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format='png'),
    'id': tfds.features.Text(),
    'group': tfds.features.Text(),
    'sha256': tfds.features.Text(),
}

# Facts of the file that a picture was in, for audits only.
FILE = {
    'container': tfds.features.Text(),
    'mode': tfds.features.Text(),
    'width': np.int32,
    'height': np.int32,
}


class ArrayRecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds array_record by default, which needs no TensorFlow.

    Sub-classes say which files they read.

    Args:
        file_format: of TFDS; None is array_record, or that of data that are prepared already.
        workers: processes that read and encode; 0 is this one.
        beam: whether to leave that to Apache Beam, with the runner of the DownloadConfig.
    """

    OPTIONS = ()  # arguments of its own, which prepare passes on
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'give the folder of the raw files'
    DOWNLOAD = ''  # URL of the raw files, where they are free without signing up
    remarks = ()  # lines on what the last build has found

    def __init__(self, *, file_format=None, workers=0, beam=False, **kwargs):
        self.workers, self.beam = workers, beam
        super().__init__(file_format=file_format, **kwargs)
        if file_format is None and not self.is_prepared():  # prepared data keep their own format
            self.info.set_file_format('array_record', override=True)

    @classmethod
    def described(cls, name):
        """Returns a BuilderConfig that is not in the list but is described by its name, or None."""
        return None

    def _create_builder_config(self, builder_config, version):
        if isinstance(builder_config, str) and builder_config not in self.builder_configs:
            described = self.described(builder_config)
            if described:
                return described
        return super()._create_builder_config(builder_config, version)

    @abc.abstractmethod
    def source_files(self, folder):
        """Lists the raw files that a build from a folder reads.

        Raises:
            InputError: the folder does not have the expected layout.
        """

    def remark(self, folder):
        """Returns what a person should know about this source, or ''."""
        return ''

    def companions(self, folder):
        """Returns {name: text} of files to write beside the prepared data."""
        return {}

    def source_folder(self, dl_manager):
        """Returns the raw folder of a build."""
        return pathlib.Path(dl_manager.manual_dir)

    def _download_and_prepare(self, dl_manager, *args, **kwargs):
        super()._download_and_prepare(dl_manager, *args, **kwargs)
        # Still in the draft that TFDS renames when all is there: no data set is without them.
        folder = self.source_folder(dl_manager)
        stamp = {'fingerprint': self.fingerprint(folder), 'source': str(folder)}
        files = {'source.json': json.dumps(stamp) + '\n'} | self.companions(folder)
        for name, text in files.items():
            (pathlib.Path(self.data_path) / name).write_text(text, encoding='utf-8')

    def fingerprint(self, folder):
        """Hashes the names and sizes of the source files, and the bytes of `hashed_files`."""
        folder, digest = pathlib.Path(folder), hashlib.sha256()
        hashed = self.hashed_files(folder)
        for path in sorted(self.source_files(folder)):
            name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
            digest.update(f'{name} {archive.size(path)}\n'.encode())
            if path in hashed:
                digest.update(archive.read(path))
        return digest.hexdigest()

    def hashed_files(self, folder):
        """The set of source files whose bytes count, not only their size: tables and headers."""
        return {path for path in self.source_files(folder) if path.suffix in HASHED}

    def download(self, dl_manager):
        """Downloads and unpacks the raw files, the first time only -> their folder.

        TFDS itself unpacks only with TensorFlow.
        """
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
        """The examples of a split, made here, in other processes, or in Beam.

        TFDS orders them by key, so all three give the same data set.

        Args:
            function: function(job) yields (key, example).
            jobs: a list.
            name: of the split, for the progress bar.
        """
        if self.beam:
            import apache_beam

            return apache_beam.Create(jobs) | apache_beam.FlatMap(function)
        if self.workers:
            return _in_processes(function, jobs, self.workers, name)
        return _here(function, jobs, name)

    def as_dataset(self, *args, **kwargs):
        """Reads the data set as tf.data, with TensorFlow.

        TFDS itself has no tf.data reader for array_record.
        """
        file_adapters.ArrayRecordFileAdapter.make_tf_data = classmethod(_records_as_tf_data)
        return super().as_dataset(*args, **kwargs)


def _here(function, jobs, name):
    """Yields the examples of all jobs, made in this process."""
    for job in tqdm(jobs, name, disable=None, leave=False):
        yield from function(job)


def _in_processes(function, jobs, workers, name):
    """Yields the examples of all jobs, made by several processes.

    They stay a few jobs ahead of the one that is written, so that examples do not pile up.
    """
    whole = functools.partial(_listed, function)
    context = multiprocessing.get_context('spawn')
    with (
        concurrent.futures.ProcessPoolExecutor(workers, context) as pool,
        tqdm(total=len(jobs), desc=name, disable=None, leave=False) as bar,
    ):
        submitted = (pool.submit(whole, job) for job in jobs)
        waiting = collections.deque(itertools.islice(submitted, 2 * workers))
        try:
            while waiting:
                yield from _result(waiting.popleft())
                bar.update()
                waiting.extend(itertools.islice(submitted, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _result(future):
    try:
        return future.result()
    except concurrent.futures.process.BrokenProcessPool:
        raise InputError(
            'a worker process died, probably out of memory; choose fewer config.workers'
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


def without_empty(splits, folder):
    """Leaves out splits that have no example, which TFDS cannot write.

    For builders that may leave examples out. What Beam makes cannot be looked at and stays.

    Args:
        splits: {split: iterable of (key, example), or a Beam collection}.
        folder: the raw folder, for the message.

    Returns:
        {split: as before}.

    Raises:
        InputError: no split has any.
    """
    kept = {}
    for split, examples in splits.items():
        if isinstance(examples, Iterator):
            first = list(itertools.islice(examples, 1))
            if not first:
                continue
            examples = itertools.chain(first, examples)
        kept[split] = examples
    if not kept:
        raise InputError(
            f'{folder}: no slice shows plausible lungs, or no lesion has healthy lung opposite; '
            'choose the config without ending'
        )
    return kept


def read_grey(path):
    """Reads an 8-bit picture file of any container.

    Returns:
        (uint8 grey [H, W], {'container', 'mode', 'width', 'height'} of the file).

    Raises:
        InputError: it is no such picture.
    """
    image, facts = picture.open_file(path)
    return np.asarray(image), facts


def stored(pixels, as_array=False):
    """Makes the features `image` and `sha256` of an example.

    Images are PNG bytes, so that no reader and no container can differ, or arrays.

    Args:
        pixels: uint8 [H, W] for PNG; uint8 or int16 [H, W] or [D, H, W] for an array.
        as_array: whether the data set keeps arrays.
    """
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return {'image': pixels[..., None] if as_array else png(pixels), 'sha256': digest}


def png(pixels):
    """The bytes of a PNG of uint8 [H, W]."""
    buffer = io.BytesIO()
    # Much faster than Pillow's default of 6, for little more space.
    Image.fromarray(pixels).save(buffer, format='PNG', compress_level=3)
    return buffer.getvalue()

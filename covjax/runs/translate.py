"""Pictures or a CT volume, translated by a trained generator: the same names in translated/."""

import pathlib

import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from covjax import InputError, choice, counted, drafts, generator, require
from covjax.ct import contents, picture, volume, windows
from covjax.data import batches
from covjax.pages import pictures

SHOWN = 8  # columns of the side-by-side picture
CHUNK = 64  # pictures in memory at a time
WRITTEN = {'.nhdr': '.nrrd'}  # endings that become others
GIVE = {
    'generator': 'give a CycleGAN workdir, or a .safetensors or .pth file',
    'input': 'give a folder of pictures or a CT volume',
}


def run(config, workdir):
    """Translates config.input with config.generator in config.direction.

    Writes translated/ whole or not at all, and side_by_side.png if config.side_by_side says so.

    Raises:
        InputError: a key is missing or wrong, or a file cannot be read.
    """
    require(config, GIVE)
    source = pathlib.Path(config.input)
    choice(config, 'window', windows.WINDOWS)
    translator = generator.load(config.generator, config.direction)
    files, ct, remarks = contents.inputs(source, config.hu, workdir)
    for remark in remarks:
        print(remark, flush=True)
    if ct and config.image_size:
        raise InputError(
            f'config.image_size={config.image_size}: volumes keep their voxels; leave it out'
        )
    final = workdir / 'translated'
    with drafts.folder(final) as draft:
        if files:
            folder = source if source.is_dir() else source.parent
            pairs = translate_pictures(config, translator, files, folder, draft)
        else:
            pairs = translate_volume(config, translator, ct, draft)
        if config.side_by_side:
            picture.save(workdir / 'side_by_side.png', side_by_side(pairs))
    what = counted(len(files), 'picture') if files else '1 volume'
    print(f'{what} translated {config.direction} in {final}')


def translate_pictures(config, translator, files, folder, target):
    """Translates pictures, each to a file of its name. Those of one size share their batches.

    Args:
        config: of the run.
        translator: generator.Translator.
        files: [pathlib.Path].
        folder: that the files lie in.
        target: folder that gets the translations under the same relative paths.

    Returns:
        The first SHOWN as [(input, output)], uint8 [H, W, C].

    Raises:
        InputError: a file is no picture. Then none is translated.
    """
    read = lambda path: read_picture(path, translator.channels, config.image_size)
    by_size = {}
    for path in files:
        by_size.setdefault(read(path).shape, []).append(path)
    apply, pairs = generator.apply_uint8(translator), []
    with tqdm(total=len(files), desc='translating', unit='picture', disable=None) as bar:
        for chunk in _chunks(by_size.values()):
            images = np.stack([read(path) for path in chunk])
            outputs = batches.predict(apply, images, config.batch_size)
            for path, output in zip(chunk, outputs):
                _save(target / path.relative_to(folder), output)
            pairs += list(zip(images, outputs))[: SHOWN - len(pairs)]
            bar.update(len(chunk))
    return pairs


def _chunks(groups):
    """Yields lists of at most CHUNK, each of one group."""
    for group in groups:
        for start in range(0, len(group), CHUNK):
            yield group[start : start + CHUNK]


def _save(file, pixels):
    """Writes uint8 [H, W, 1 or 3] in the format that the name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    options = {} if file.suffix.lower() == '.png' else {'quality': 95}
    _as_picture(pixels).save(file, **options)


def _as_picture(pixels):
    """uint8 [H, W], [H, W, 1] or [H, W, 3] -> PIL image, grey or RGB."""
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def read_picture(path, channels, size):
    """Reads a picture as a generator takes it.

    Args:
        path: of the file.
        channels: 1 or 3.
        size: pixels of the square that it is resized to, as training does; None keeps it.

    Returns:
        uint8 [H, W, channels].

    Raises:
        InputError: it is no picture with 8 bits a channel.
    """
    image, _ = picture.open_file(path, 'L' if channels == 1 else 'RGB')
    image = image.resize((size, size), Image.Resampling.BILINEAR) if size else image
    return np.asarray(image).reshape(image.height, image.width, channels)


def translate_volume(config, translator, ct, target):
    """Translates one volume, slice by slice, to a volume of the same geometry in HU.

    HU beyond config.window come back as its ends.

    Args:
        config: of the run.
        translator: generator.Translator.
        ct: volume.Volume.
        target: folder that gets the translation; DICOM becomes a .nii.gz.

    Returns:
        Up to SHOWN slices as [(input, output)], uint8 [H, W, 1].

    Raises:
        InputError: the volume is damaged, or no HU.
    """
    hu, grid, code = volume.lps(ct)
    window, slices = windows.WINDOWS[config.window], hu[..., None]
    outputs = batches.predict(_on_hu(translator, window), slices, config.batch_size, 'slices')
    # In lower case, by which SimpleITK knows the format.
    end = WRITTEN.get(volume.suffix(ct.path), volume.suffix(ct.path)) or '.nii.gz'
    volume.write(target / f'{ct.name}{end}', outputs[..., 0], grid, code)
    shown = np.unique(np.linspace(0, len(slices) - 1, SHOWN).round().astype(int))
    grey = lambda hu: windows.to_grey(hu, window)
    return [(grey(slices[z]), grey(outputs[z])) for z in shown]


def _on_hu(translator, window):
    """The generator as a function of int16 HU [B, H, W, 1] through a window, and back to HU."""
    apply, width = generator.apply(translator), window.high - window.low

    def translated(hu):
        share = (jnp.clip(hu.astype(jnp.float32), *window) - window.low) / width
        return jnp.round(window.low + (apply(2 * share - 1) + 1) / 2 * width).astype(jnp.int16)

    return translated


def side_by_side(pairs):
    """Draws inputs above their translations, 256 pixels each.

    Args:
        pairs: [(input, output)], uint8 [H, W, 1 or 3].

    Returns:
        uint8 RGB [512, 256 * len(pairs), 3].
    """
    tile = lambda pixels: np.asarray(_as_picture(pixels).convert('RGB').resize((256, 256)))
    inputs, outputs = zip(*pairs)
    return pictures.contact_sheet([tile(image) for image in inputs + outputs], len(pairs))

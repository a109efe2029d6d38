"""Pictures or a CT volume through a trained generator: files of the same names in <workdir>/translated."""

import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from covjax import InputError, generator
from covjax.ct import picture, scan, windows
from covjax.data import batches
from covjax.pages import pictures

PICTURES = ('.png', '.jpg', '.jpeg')
SHOWN = 8  # columns of the side-by-side picture
CHUNK = 64  # pictures in memory at a time


def run(config, workdir):
    """config.input through config.generator in config.direction."""
    if not config.generator or not config.input:
        key = 'input' if config.generator else 'generator'
        raise InputError(
            f'config.{key} is empty; '
            + (
                'give a folder of pictures or a CT volume'
                if key == 'input'
                else 'give a CycleGAN workdir, or a .safetensors or .pth file'
            )
        )
    source = pathlib.Path(config.input)
    if not source.exists():
        raise InputError(f'config.input={source}: no such file or folder')
    if config.window not in windows.WINDOWS:
        raise InputError(
            f'config.window={config.window}: no such window; choose one of {", ".join(windows.WINDOWS)}'
        )
    translator = generator.load(config.generator, config.direction)
    files = find_pictures(source)
    draft, final = workdir / 'translated.part', workdir / 'translated'
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        if files:
            pairs = translate_pictures(
                config, translator, files, source if source.is_dir() else source.parent, draft
            )
        else:
            pairs = translate_volume(config, translator, source, draft)
    except BaseException:
        shutil.rmtree(draft)
        raise
    if config.side_by_side:
        picture.save(workdir / 'side_by_side.png', sheet(pairs))
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    print(
        f'{len(files) or 1} {"pictures" if files else "volume"} translated {config.direction} in {final}'
    )


def find_pictures(source):
    """The pictures of a folder and its sub-folders, or the one file; none for a volume. A folder with both is refused: what is meant is not to be guessed."""
    if not source.is_dir():
        return [source] * (source.suffix.lower() in PICTURES)
    files = sorted(path for path in source.rglob('*') if path.is_file())
    found = [path for path in files if path.suffix.lower() in PICTURES]
    scans = [path for path in files if scan.suffix(path) or path.suffix.lower() == '.dcm']
    if found and scans:
        raise InputError(
            f'config.input={source}: holds pictures ({found[0].name}) and CT data ({scans[0].name}); give the volume or a folder of one kind'
        )
    return found


def translate_pictures(config, translator, files, folder, target):
    """Writes every picture under its own name -> the first few as [(input, output)] uint8 [H, W, C]. Pictures of one size share their batches."""
    by_size, apply, pairs = {}, generator.apply_uint8(translator), []
    for path in files:  # all are looked at before the first is translated
        by_size.setdefault(
            read_picture(path, translator.channels, config.image_size).shape, []
        ).append(path)
    with tqdm(total=len(files), desc='translating', unit='picture', disable=None) as bar:
        for paths in by_size.values():
            for start in range(0, len(paths), CHUNK):
                chunk = paths[start : start + CHUNK]
                images = np.stack(
                    [read_picture(path, translator.channels, config.image_size) for path in chunk]
                )
                outputs = batches.predict(apply, images, config.batch_size)
                for path, output in zip(chunk, outputs):
                    file = target / path.relative_to(folder)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(output.squeeze(-1) if output.shape[-1] == 1 else output).save(
                        file, **{} if file.suffix.lower() == '.png' else {'quality': 95}
                    )
                pairs += list(zip(images, outputs))[: SHOWN - len(pairs)]
                bar.update(len(chunk))
    return pairs


def read_picture(path, channels, size):
    """uint8 [H, W, 1 or 3]; with a size, resized to a square of it as training does."""
    image, _ = picture.open_file(path, 'L' if channels == 1 else 'RGB')
    image = image.resize((size, size), Image.Resampling.BILINEAR) if size else image
    return np.asarray(image).reshape(image.height, image.width, channels)


def translate_volume(config, translator, source, target):
    """Writes one volume of the same geometry in HU -> slices as above. HU beyond config.window come back as its ends."""
    if config.image_size:
        raise InputError(
            f'config.image_size={config.image_size}: volumes keep their voxels; leave it out'
        )
    image, code = scan.read(source)
    window, apply = windows.WINDOWS[config.window], generator.apply(translator)

    def through(hu):
        share = (jnp.clip(hu.astype(jnp.float32), *window) - window.low) / (
            window.high - window.low
        )
        return jnp.round(
            window.low + (apply(2 * share - 1) + 1) / 2 * (window.high - window.low)
        ).astype(jnp.int16)

    slices = scan.hu(image)[..., None]
    outputs = batches.predict(through, slices, config.batch_size, 'slices')
    end = scan.suffix(source)  # of the input, in small letters, by which SimpleITK knows the format
    name = source.name[: -len(end)] + end if end else f'{source.name}.nii.gz'
    scan.write(target / name, outputs[..., 0], image, code)
    shown = np.unique(np.linspace(0, len(slices) - 1, SHOWN).round().astype(int))
    return [
        (windows.to_grey(slices[z], window), windows.to_grey(outputs[z], window)) for z in shown
    ]


def sheet(pairs):
    """Inputs above their translations, 256 pixels each."""
    tile = lambda pixels: np.asarray(
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        .convert('RGB')
        .resize((256, 256))
    )
    return pictures.contact_sheet([tile(pair[row]) for row in (0, 1) for pair in pairs], len(pairs))

"""What a training run tells while it runs: a progress line, metrics.jsonl, TensorBoard files (without TensorFlow), image grids."""

import json
import pathlib
import time

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from covjax import workdir


class Log:
    """Use as a context manager. Taking a run up again at `start` drops the lines that were written after it.

    Of several processes that train together one `writes`; the others keep quiet.
    """

    def __init__(self, workdir, start, steps, writes=True):
        self.folder, self.steps, self.writes = pathlib.Path(workdir), steps, writes
        self.began, self.compiled = (time.monotonic(), start), False
        if not writes:
            return
        path = self.folder / 'metrics.jsonl'
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        path.write_text(
            ''.join(
                line for line in lines if line.endswith('}\n') and json.loads(line)['step'] <= start
            )
        )  # a killed run leaves half a line
        self.file = path.open('a')
        self.board = SummaryWriter(
            str(self.folder / 'tensorboard'), purge_step=start + 1 if start else None
        )
        (self.folder / 'images').mkdir(exist_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.writes:
            self.file.close()
            self.board.close()

    def scalars(self, step, values):
        """Writes {name: number} and prints them with the rate and the time left."""
        if not self.writes:
            return
        self.file.write(json.dumps({'step': step, **values}) + '\n')
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        began, start = self.began
        rate = (step - start) / max(time.monotonic() - began, 1e-9)
        left = (
            f'{rate:.2g} steps/s, {workdir.duration((self.steps - step) / rate)} left'
            if rate
            else ''
        )
        print(
            f'step {step}/{self.steps}  '
            + '  '.join(f'{name} {value:.4g}' for name, value in values.items())
            + f'  {left}',
            flush=True,
        )
        if (
            not self.compiled
        ):  # the first steps waited for the compiler: later lines do not count them
            self.began, self.compiled = (time.monotonic(), step), True

    def images(self, step, name, images):
        """Writes uint8 [N, H, W, C] one above the other as images/<name>_<step>.png."""
        if not self.writes:
            return
        grid = np.concatenate(list(images))
        self.board.add_image(name, grid, step, dataformats='HWC')
        Image.fromarray(grid.squeeze(-1) if grid.shape[-1] == 1 else grid).save(
            self.folder / 'images' / f'{name.replace("/", "_")}_{step:06d}.png'
        )

"""What a training run reports while it runs: printed lines, metrics.jsonl, TensorBoard, images.

metrics.jsonl has one JSON object a line, {'step': int, name: number}. TensorBoard files are written
without TensorFlow.
"""

import json
import pathlib
import sys
import time

import numpy as np
from PIL import Image

from covjax import InputError, drafts, workdir

# tensorboardX imports PyTorch where it is installed, which takes time and memory and is of no use
# here. A module that is None in sys.modules counts as not installed.
UNSEEN = 'torch' not in sys.modules
if UNSEEN:
    sys.modules['torch'] = None
from tensorboardX import summary  # noqa: E402
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402

if UNSEEN:
    del sys.modules['torch']


class Log:
    """The log of a run, for use as a context manager.

    Args:
        workdir: the folder of the run.
        start: the step that the run goes on from, 0 for a new one; what metrics.jsonl has of later
            steps is dropped.
        steps: number of steps of the whole training.
        writes: whether this process writes and prints; of several that train one model only one
            does.
    """

    def __init__(self, workdir, start, steps, writes=True):
        self.folder = pathlib.Path(workdir)
        self.steps = steps
        self.writes = writes
        self.clock = time.monotonic(), start  # from where steps a second are counted
        if writes:
            path = self.folder / 'metrics.jsonl'
            _drop_after(path, start)
            self.file = path.open('a')
            self.board = Board(self.folder / 'tensorboard', start)
            (self.folder / 'images').mkdir(exist_ok=True)

    def __enter__(self):
        if self.writes and self.clock[1] < self.steps:
            print('compiling the step', flush=True)
        return self

    def __exit__(self, *_):
        if self.writes:
            self.file.close()
            self.board.close()

    def first_step(self, step):
        """Says how long the first step took, which waited for the compiler; no rate counts it."""
        began, _ = self.clock
        self.clock = time.monotonic(), step
        if self.writes:
            seconds = workdir.duration(self.clock[0] - began)
            print(f'first step after {seconds}', flush=True)

    def scalars(self, step, values):
        """Writes {name: number} and prints them with the rate and the time left."""
        if not self.writes:
            return
        self.file.write(json.dumps({'step': step, **values}) + '\n')
        self.file.flush()
        self.board.write(step, [summary.scalar(name, value) for name, value in values.items()])
        numbers = '  '.join(f'{name} {value:.4g}' for name, value in values.items())
        print(f'step {step}/{self.steps}  {numbers}  {self._pace(step)}'.rstrip(), flush=True)

    def _pace(self, step):
        """'N steps/s, T left', or '' where no step was timed."""
        began, start = self.clock
        rate = (step - start) / max(time.monotonic() - began, 1e-9)
        if not rate:
            return ''
        return f'{rate:.2g} steps/s, {workdir.duration((self.steps - step) / rate)} left'

    def images(self, step, name, images):
        """Writes uint8 images [N, H, W, C] one above the other as images/<name>_<step>.png."""
        if not self.writes:
            return
        grid = np.concatenate(list(images))
        self.board.write(step, [summary.image(name, grid, dataformats='HWC')])
        if grid.shape[-1] == 1:
            grid = grid.squeeze(-1)
        file = f'{name.replace("/", "_")}_{step:06d}.png'
        with drafts.file(self.folder / 'images' / file) as draft:
            Image.fromarray(grid).save(draft)


class Board:
    """The event file of a run for TensorBoard.

    tensorboardX's own writer has a thread that dies of a full disk, and then every caller waits for
    it; this one writes at once and raises.

    Args:
        folder: pathlib.Path; made where there is none.
        start: the step that the run goes on from; TensorBoard hides what earlier files have of
            later steps.
    """

    def __init__(self, folder, start):
        folder.mkdir(exist_ok=True)
        # Names of two files that were begun in one second differ by the step.
        self.events = EventsWriter(str(folder / 'events'), f'.{start}')
        if start:
            session = SessionLog(status=SessionLog.START)
            self.events.write_event(
                Event(step=start + 1, wall_time=time.time(), session_log=session)
            )

    def write(self, step, summaries):
        """Writes summaries of tensorboardX for a step."""
        for each in summaries:
            event = Event(step=step, wall_time=time.time(), summary=each)
            self.events.write_event(event)
        self.events.flush()

    def close(self):
        """Ends the file."""
        self.events.close()


def _drop_after(path, start):
    """Keeps the lines of a metrics.jsonl up to a step; a run that was killed leaves half a line."""
    lines = path.read_text(encoding='utf-8').splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith('}\n')]
    try:
        steps = [json.loads(line)['step'] for line in whole]
        kept = [line for line, step in zip(whole, steps) if step <= start]
    except (KeyError, TypeError, ValueError):
        raise InputError(f'{path}: is damaged; remove it, or choose another --workdir') from None
    if kept != lines:
        drafts.write_text(path, ''.join(kept))

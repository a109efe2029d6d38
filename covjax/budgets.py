"""Few real images and many synthetic ones: which training of a study is shown what.

A budget is a number of real images, drawn anew for every seed, those of a smaller budget among
those of a larger one; '0' is none of them and ALL every one. Training uses them alone, together
with synthetic ones (half of every batch), or after them: a network that synthetic images have
trained goes on with real ones.
"""

from typing import NamedTuple

from covjax import InputError, choice
from covjax.data import datasets, specs

ALL, NONE = 'all', '0'
REAL, ALONE, TOGETHER, TUNED = 'real', 'alone', 'together', 'fine_tuned'
MODES = (TOGETHER, TUNED)  # in which synthetic images join real ones


class Row(NamedTuple):
    """One kind of training of a study, of which every seed makes one."""

    source: str  # of synthetic images; '' for real images alone
    mode: str  # REAL, ALONE or one of MODES
    budget: str  # number of real images, NONE or ALL

    def folder(self, seed):
        """Where the training of a seed lies in the folder of the study."""
        return f'{self.source or REAL}/{self.mode}_{self.budget}_{seed}'

    @property
    def pretrained(self):
        """The Row whose training this one begins with, or None."""
        return Row(self.source, ALONE, NONE) if self.mode == TUNED else None


def check(config, spec, data_dir):
    """Refuses a study that cannot be: no seed, another mode, or budgets that cannot be drawn.

    Args:
        config: with `seeds`, `modes` and `budgets`.
        spec: of the real images that budgets are drawn from.
        data_dir: where these lie.

    Raises:
        InputError: one of these keys has no valid value, or there are fewer images.
    """
    check_seeds(config)
    if len({*config.budgets}) < len(config.budgets):
        raise InputError(f'config.budgets={config.budgets}: names one twice; name each once')
    for mode in config.modes:
        choice({'modes': mode}, 'modes', MODES)
    if not all(type(budget) is int and budget > 0 for budget in config.budgets):
        raise InputError(f'config.budgets={config.budgets}: write whole numbers above 0')
    images = len(datasets.read_rows(spec, data_dir))
    if max(config.budgets, default=0) > images:
        raise InputError(
            f'config.budgets={config.budgets}: {spec} has {images} images; choose fewer'
        )


def check_seeds(config):
    """Refuses seeds of which there is none, or one twice, which would count as two.

    Raises:
        InputError: so it is.
    """
    if not config.seeds:
        raise InputError('config.seeds is empty; name at least one seed')
    if len({*config.seeds}) < len(config.seeds):
        raise InputError(f'config.seeds={config.seeds}: names one twice; name each once')


def rows(sources, modes, budgets):
    """Every Row of a study, each after the one that it begins with.

    Args:
        sources: {maker of synthetic images: whether it has learned from all real ones, so that no
            smaller budget is one}.
        modes: some of MODES.
        budgets: numbers of real images; ALL is one in any case.

    Returns:
        [Row].
    """
    budgets = (*map(str, budgets), ALL)
    found = [Row('', REAL, budget) for budget in budgets]
    for source, knows_all in sources.items():
        found.append(Row(source, ALONE, NONE))
        honest = (ALL,) if knows_all else budgets
        found += [Row(source, mode, budget) for mode in modes for budget in honest]
    return found


def drawn(spec, budget, seed):
    """The spec of a budget of real images.

    Args:
        spec: of all real images; a number is drawn from each of its parts.
        budget: number of images, or ALL.
        seed: of the draw.
    """
    if budget == ALL:
        return spec
    parts = [
        specs.part(dataset, f'{split}[{budget}~{seed}]', label)
        for dataset, split, label in specs.parse(spec)
    ]
    return '+'.join(parts)


def train_spec(row, synthetic, real):
    """What a training of a Row is shown, as config.train.

    Args:
        row: Row.
        synthetic: spec of the images of its source.
        real: spec of its budget.
    """
    if row.mode == ALONE:
        return synthetic
    return f'{synthetic}+{real}' if row.mode == TOGETHER else real

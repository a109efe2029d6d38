"""Pairs of a lesion and a sham: whether anything but what was made there tells the two apart.

Both members of a pair are one slice, made anew in one gate by one network. What a network leaves in
an image, its trace, is on both then, and must tell nothing. Two regressions ask for it, on the
finest texture inside the gate, whose strength they are not told: one is fitted to tell lesions from
shams, the other to tell what was made anew from the untouched slice, and is then asked about
lesions and shams as well.
"""

import numpy as np
from scipy import ndimage

from covjax.audit import probe
from covjax.audit.verdict import Verdict, area
from covjax.ct import picture
from covjax.data.lesion_masks import SHAM
from covjax.pages import pictures
from covjax.pages.html import Figure

NAME = 'lesions and shams'
FINE, COARSE = 0.7, 1.4  # pixels, the scales between which texture is looked at
WHOLE = 255  # a gate where nothing is left of the slice
LEAST = 12  # pixels of a gate in which texture is described
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
RULE = (
    'Red flag when gates of members differ, when an image differs from its slice outside the '
    f'gate, or when either regression on the finest texture reaches AUC {probe.RED} with an '
    'interval above 0.5. Real lesions hide vessels and may have another texture too: look at the '
    'pairs then.'
)
COLUMNS = (
    *('test', 'pairs', 'gates that differ', 'images changed outside'),
    *('AUC of texture', 'AUC of "made anew"'),
)
NOTHING_ELSE = 'Only what was made tells lesions from shams.'
CAPTION = 'Pairs: the slice, the gate, the lesion, the sham'
SHOWN, TILE = 4, 144


def describe(grey, gate):
    """What the regressions see of an image inside a gate.

    Every number is relative to the strength of the texture, and what is outside the gate does
    not count, so that brightness and contrast do not either.

    Args:
        grey: uint8 [H, W].
        gate: bool [H, W], of at least LEAST pixels.

    Returns:
        float [5]: the logarithm of fine over coarser texture, and the correlation of fine texture
        with that of each of NEIGHBOURS. How heavy its tails are does not count: vessels have heavy
        ones, and lesions hide vessels.
    """
    smooth, smoother = (_smooth(grey, gate, scale) for scale in (FINE, COARSE))
    fine, coarse = (np.where(gate, each, 0) for each in (grey - smooth, smooth - smoother))
    strength = fine[gate].std() + 1e-6
    beside = [
        (fine * np.roll(fine, step, (0, 1)))[gate].mean() / strength**2 for step in NEIGHBOURS
    ]
    return [np.log(strength / (coarse[gate].std() + 1e-6)), *beside]


def _smooth(grey, gate, scale):
    """Gaussian mean of what lies inside a gate, float [H, W]."""
    total = ndimage.gaussian_filter(np.where(gate, grey, 0.0), scale)
    return total / (ndimage.gaussian_filter(gate.astype(float), scale) + 1e-6)


def check(subject):
    """The Verdict of what tells lesions from shams, in the test sets and the validation set."""
    train = members_of(subject.train)
    if not train:
        finding = 'The classifier was not trained on pairs.'
        return Verdict(name=NAME, flag=None, finding=finding)
    by_texture, by_trace = fit(train)
    rows, wrong, shown = [], [], []
    for test, images in subject.tests_and_validation.items():
        members = members_of(images)
        if not members:
            continue
        seen = images.chosen([index for index, _, _ in members])
        texture = np.array([describe(grey, member.gate == WHOLE) for _, grey, member in members])
        areas = [area(model.predict_proba(texture)[:, 1], seen) for model in (by_texture, by_trace)]
        gates, outside = unlike(members), changed_outside(members)
        rows.append((test, str(len(members) // 2), str(gates), str(outside), *map(str, areas)))
        wrong += _wrong(test, gates, outside, areas)
        shown += _shown(members)
    if not rows:
        finding = 'Neither a test set nor the validation set has pairs.'
        return Verdict(name=NAME, flag=None, finding=finding)
    path = subject.folder / 'pairs.png'
    picture.save(path, pictures.pair_sheet(shown, TILE))
    return Verdict(
        name=NAME,
        flag=bool(wrong),
        finding='; '.join(wrong).capitalize() + '.' if wrong else NOTHING_ELSE,
        rule=RULE,
        columns=COLUMNS,
        rows=tuple(rows),
        figures=(Figure(path, CAPTION),),
    )


def members_of(images):
    """Members of whole pairs whose gate is large enough.

    Args:
        images: verdict.Images.

    Returns:
        [(index, uint8 [H, W] at stored size, verdict.Member)].
    """
    found = {}
    for index, ((grey, _), member) in enumerate(zip(images.native, images.members)):
        if member is not None and (member.gate == WHOLE).sum() >= LEAST:
            found.setdefault(member.pair, []).append((index, grey, member))
    return [each for pair in found.values() if len(pair) == 2 for each in pair]


def fit(members):
    """The two regressions.

    Args:
        members: of `members_of`.

    Returns:
        (of lesions against shams, of what was made anew against untouched slices), fitted.
    """
    texture = [describe(grey, member.gate == WHOLE) for _, grey, member in members]
    untouched = [describe(member.before, member.gate == WHOLE) for _, _, member in members]
    is_lesion = [member.kind != SHAM for _, _, member in members]
    return (
        probe.fitted(texture, is_lesion),
        probe.fitted(texture + untouched, [True] * len(texture) + [False] * len(untouched)),
    )


def unlike(members):
    """Number of pairs whose members have different gates."""
    gates = {}
    for _, _, member in members:
        gates.setdefault(member.pair, set()).add(member.gate.tobytes())
    return sum(len(each) > 1 for each in gates.values())


def changed_outside(members):
    """Number of images that differ from their slice where the gate is 0."""
    return sum(
        (grey != member.before)[member.gate == 0].any().item() for _, grey, member in members
    )


def _wrong(test, gates, outside, areas):
    found = []
    if gates:
        found.append(f'{gates} pairs of {test} have gates that differ')
    if outside:
        found.append(f'{outside} images of {test} are changed outside their gate')
    for what, reached in zip(('the finest texture', 'a trace of being made anew'), areas):
        if reached.tells():
            found.append(f'{what} tells lesions from shams of {test} with AUC {reached}')
    return found


def _shown(members):
    """The first SHOWN pairs, as pictures.pair_sheet takes them."""
    pairs = {}
    for _, grey, member in members:
        pair = pairs.setdefault(member.pair, {'slice': member.before, 'gate': member.gate})
        pair['sham' if member.kind == SHAM else 'lesion'] = grey
    whole = [pair for pair in pairs.values() if len(pair) == len(pictures.OF_PAIR)]
    return [[pair[name] for name in pictures.OF_PAIR] for pair in whole[:SHOWN]]

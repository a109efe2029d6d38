"""What synthetic images are worth beside real ones: classifiers trained on as many COVID-19 images, of which a growing share is synthetic."""

from covjax.audit.stand_ins import difference, test_results
from covjax.audit.verdict import Verdict
from covjax.pages import figures
from covjax.pages.tables import interval

NAME = 'synthetic in place of real images'
FOLDER = 'mixing'


def check(subject):
    """The area on real tests by share of synthetic images; the flag is about the ends of the curve."""
    shares = sorted(
        int(name.partition('/')[2]) for name in subject.experiments if name.startswith(FOLDER + '/')
    )
    if len(shares) < 2 or shares[0] != 0 or shares[-1] != 100:
        return Verdict(
            NAME,
            None,
            'No mixtures were trained: name a synthesize run (config.synthetic) and a test set of real images, and 0 and 100 in config.shares.',
        )
    curve = {share: test_results(subject, f'{FOLDER}/{share}') for share in shares}
    if not all(curve.values()):
        return Verdict(
            NAME,
            None,
            'The classifiers, or the generator, have learned from images of every test set.',
        )
    rows, worse, told = [], [], []
    figure, ax = figures.subplots(figsize=(6, 4.5))
    for test, (real, real_ends, real_images) in (
        (test, found)
        for test, found in curve[0].items()
        if all(test in part for part in curve.values())
    ):
        values, ends = zip(*(curve[share][test][:2] for share in shares))
        ax.errorbar(
            shares,
            values,
            [
                [max(value - low, 0) for value, (low, _) in zip(values, ends)],
                [max(high - value, 0) for value, (_, high) in zip(values, ends)],
            ],
            marker='o',
            capsize=3,
            label=test,
        )
        for share in shares:
            gain = difference(curve[share][test][2], real_images)
            rows.append(
                (
                    test,
                    f'{share} %',
                    interval(curve[share][test][0], *curve[share][test][1]),
                    f'{gain[0]:+.3f} to {gain[1]:+.3f}' if share else '',
                )
            )
            if share == 100:
                told.append(
                    f'{interval(curve[100][test][0], *curve[100][test][1])} on {test} with synthetic ones alone, {interval(real, *real_ends)} with real ones'
                )
                worse += [test] * (gain[1] < 0)
    ax.axhline(0.5, color='grey', lw=0.8, ls=':')
    ax.set(xlabel='share of synthetic among COVID-19 training images, %', ylabel='AUC', ylim=(0, 1))
    ax.legend()
    figures.save(figure, subject.folder / 'mixing.png')
    return Verdict(
        NAME,
        bool(worse),
        f'{"Synthetic images do not stand in for real ones" if worse else "Synthetic images are not shown to be worse than real ones"}: AUC {"; ".join(told)}.',
        'Red flag when synthetic images alone give a worse classifier of real images than as many real ones (whole interval of the difference below 0).',
        ('test', 'synthetic', 'AUC', 'better than real ones alone by'),
        tuple(rows),
        ((subject.folder / 'mixing.png', 'AUC by the share of synthetic images, with intervals'),),
    )

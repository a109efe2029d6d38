"""Groups of images that may show one patient, and splits that never divide one."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from covjax.data import grouping, near_duplicates

pytestmark = pytest.mark.fast

KEYS = st.lists(st.integers(0, 6), max_size=40)


def images(n, seed=0):
    """Pictures of noise, none like another: uint8 [n, 32, 32, 1]."""
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 1), np.uint8)


def same_partition(first, second):
    """Whether two groupings put the same images together."""
    together = lambda keys: np.equal.outer(np.asarray(keys), np.asarray(keys))
    return np.array_equal(together(first), together(second))


def chained(pairs, n):
    """The reference: sets are joined one pair at a time."""
    sets = [{i} for i in range(n)]
    for i, j in pairs:
        union = sets[i] | sets[j]
        for member in union:
            sets[member] = union
    return [min(members) for members in sets]


def test_images_of_which_each_is_like_the_next_hang_together():
    noise = images(6).astype(float)
    chain = [noise[0], 0.7 * noise[0] + 0.3 * noise[1], 0.4 * noise[0] + 0.6 * noise[1]]
    stack = np.stack([*chain, *noise[2:]]).astype(np.uint8)
    pairs = [(i, j) for _, i, j in near_duplicates.near_duplicates(stack, 0.7)]
    assert (0, 1) in pairs and (1, 2) in pairs and (0, 2) not in pairs
    assert same_partition(grouping.alike(stack, 0.7), [0, 0, 0, 1, 2, 3, 4])


def test_brightness_and_contrast_do_not_part_images():
    first = images(1)
    assert same_partition(grouping.alike(np.concatenate([first, first // 2 + 40])), [0, 0])


@pytest.mark.parametrize('n', [1, 2, 600])
def test_groups_of_many_images_are_those_of_the_pairs_found_one_by_one(n):
    """Also beyond the rows that are compared at a time."""
    stack = images(n)
    stack[n // 2 :] = stack[: n - n // 2]
    pairs = [(i, j) for _, i, j in near_duplicates.near_duplicates(stack, 0.9)]
    assert len(pairs) >= n // 2
    assert same_partition(grouping.alike(stack, 0.9), chained(pairs, n))


@given(KEYS)
def test_joined_with_itself_nothing_changes(keys):
    assert same_partition(grouping.joined(keys, keys), keys)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_joined_groupings_are_the_closure_of_both(both):
    first, second = [a for a, _ in both], [b for _, b in both]
    every = range(len(both))
    pairs = [
        (i, j)
        for i, j in itertools.combinations(every, 2)
        if first[i] == first[j] or second[i] == second[j]
    ]
    assert same_partition(grouping.joined(first, second), chained(pairs, len(both)))


@pytest.mark.parametrize(
    'first, second, together',
    [
        ('Covid (10)', 'Covid (19)', True),
        ('Covid (9)', 'Covid (10)', False),
        ('a/slice_0003', 'a/slice_0007', True),
        ('a/slice_0003', 'b/slice_0003', False),
        ('slice_12x', 'slice_15x', True),
        ('left', 'right', False),
        ('p1_02', 'p11_02', False),
    ],
)
def test_files_in_runs_of_ten_stay_together(first, second, together):
    keys = grouping.in_runs([first, second])
    assert (keys[0] == keys[1]) == together


GROUPS = st.lists(st.integers(0, 30).map(str), min_size=1, max_size=120)


@given(GROUPS)
@example(['large'] * 154 + ['a', 'b', 'b', 'c', 'c', 'd'])
def test_every_split_has_some_of_three_groups_and_more(groups):
    splits = grouping.splits_of(groups)
    assert set(splits) == set(groups)
    expected = {'train', 'validation', 'test'} if len(set(groups)) > 2 else {'train'}
    assert set(splits.values()) == expected


@given(GROUPS)
def test_splits_do_not_depend_on_the_order_of_the_images(groups):
    assert grouping.splits_of(groups) == grouping.splits_of(sorted(groups))


def test_a_tenth_of_the_images_is_for_each_of_validation_and_test():
    groups = [str(i) for i in range(200)]
    splits = list(grouping.splits_of(groups).values())
    assert splits.count('validation') == splits.count('test') == 20


@pytest.mark.parametrize('name', ['large', 'x', 'giant'])
def test_a_group_that_holds_most_images_trains(name):
    """Wherever it is in the random order."""
    groups = [name] * 500 + [str(i) for i in range(100)]
    splits = grouping.splits_of(groups)
    assert splits[name] == 'train'
    sizes = {split: sum(splits[group] == split for group in groups) for split in grouping.SHARES}
    assert sizes == {'validation': 60, 'test': 40}  # all small groups that are left


def test_only_the_named_splits_get_groups():
    groups = [str(i) for i in range(30)]
    splits = grouping.splits_of(groups, {'test': 0.2})
    assert list(splits.values()).count('test') == 6 and 'validation' not in splits.values()


@given(GROUPS, st.integers(0, 40))
def test_what_is_held_out_is_whole_groups_of_no_more_images(groups, count):
    chosen = grouping.held_out(groups, count)
    held = [group for group in groups if group in chosen]
    assert chosen <= set(groups) and len(held) <= count
    smallest_left = min((groups.count(group) for group in set(groups) - chosen), default=count + 1)
    assert len(held) + smallest_left > count  # no other group would have fitted


def test_single_images_are_held_out_exactly():
    assert len(grouping.held_out([str(i) for i in range(50)], 10)) == 10

"""Which units stay, under constraints."""

import pytest

from edgeprune.errors import PlanError
from edgeprune.network.groups import EqualCounts, Group, Slice
from edgeprune.network.selection import allowed_counts, select_units

FREE = Group("free", 5, ())
HALVES = Group("halves", 6, (), (EqualCounts(((0, 1, 2), (3, 4, 5)), "two halves"),))
SOME = Group("some", 6, (), (EqualCounts(((0, 1), (2, 3)), "two pairs"),))


def test_the_best_units_stay_in_ascending_order():
    assert select_units(FREE, [0.1, 5.0, 2.0, 9.0, 3.0], 3) == (1, 3, 4)


def test_equal_scores_keep_the_first_units():
    assert select_units(FREE, [1.0] * 5, 2) == (0, 1)


def test_each_block_keeps_equally_many():
    assert select_units(HALVES, [9, 8, 7, 1, 2, 3], 4) == (0, 1, 4, 5)


def test_units_outside_the_blocks_are_free():
    assert select_units(SOME, [9, 8, 1, 2, 0, 0], 4) == (0, 1, 2, 3)
    assert select_units(SOME, [1, 1, 1, 1, 5, 5], 2) == (4, 5)


def test_allowed_counts_follow_the_blocks():
    assert allowed_counts(FREE) == (1, 2, 3, 4, 5)
    assert allowed_counts(HALVES) == (2, 4, 6)
    assert allowed_counts(SOME) == (1, 2, 3, 4, 5, 6)


def test_a_tensor_keeps_one_of_its_units():
    index = ((0,), (1,), (), (), (), ())
    other = ((), (), (0,), (1,), (2,), (3,))
    slices = (Slice("a", 0, "writer", index), Slice("b", 0, "writer", other))
    bound = Group("bound", 6, slices, (EqualCounts(((2, 3), (4, 5)), "pairs"),))
    assert 0 in select_units(bound, [1, 0, 9, 9, 9, 9], 3)


@pytest.mark.parametrize(
    ("group", "scores", "kept", "message"),
    [
        (FREE, [1.0], 2, "has 5 units but 1 scores"),
        (FREE, [1.0] * 5, 0, "can keep 1 to 5 units, not 0"),
        (FREE, [1.0] * 5, 6, "can keep 1 to 5 units, not 6"),
        (HALVES, [1.0] * 6, 3, r"cannot keep 3 units \(two halves\). The nearest count is 4"),
    ],
)
def test_a_wrong_request_says_what_is_possible(group, scores, kept, message):
    with pytest.raises(PlanError, match=message):
        select_units(group, scores, kept)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alfish.experience_replayers.sum_tree import SumTree

BELOW_ONE = np.nextafter(1.0, 0.0)


def tree_of(leaves: list[float]) -> SumTree:
    tree = SumTree(len(leaves))
    tree.set_all(np.array(leaves, np.float64))
    return tree


def drawn_by_definition(leaves: np.ndarray, number: np.ndarray) -> list[int]:
    """For each number the first leaf whose end lies behind it, the leaves lying one behind the other."""
    ends = np.cumsum(leaves)
    return [int(np.argmax(ends > (i + x) / len(number) * ends[-1])) for i, x in enumerate(number)]


def test_each_share_is_drawn_from_in_turn():
    # Leaves end at 1, 3, 3, 6, 8; the shares begin at 0, 2, 4, 6.
    tree = tree_of([1, 2, 0, 3, 2])
    assert tree.total == 8
    assert tree.draw(np.zeros(4)).tolist() == [0, 1, 3, 4]
    assert tree.draw(np.array([0.5, 0.5, 0.5, 0.5])).tolist() == [1, 3, 3, 4]
    assert tree.draw(np.array([0.25, 0.75, 0.99, 0.99])).tolist() == [0, 3, 3, 4]


@given(
    leaves=st.lists(st.integers(0, 5), min_size=1, max_size=700).filter(any),
    eighths=st.lists(st.integers(0, 7), min_size=16, max_size=16),
)
@settings(max_examples=60, deadline=None)
def test_draws_as_defined(leaves: list[int], eighths: list[int]):
    number = np.array(eighths) / 8  # so that nothing is rounded
    assert tree_of(leaves).draw(number).tolist() == drawn_by_definition(np.array(leaves), number)


@given(
    leaves=st.lists(st.sampled_from([0.0, 5e-324, 1e-30, 0.1, 1 / 3, 1.0, 7e15, 3e38]), min_size=1, max_size=70),
    number=st.lists(st.sampled_from([0.0, 1e-17, 0.5, BELOW_ONE]), min_size=1, max_size=9),
)
@settings(max_examples=100, deadline=None)
def test_rounding_never_draws_a_leaf_of_0(leaves: list[float], number: list[float]):
    tree = tree_of(leaves)
    if not any(leaves):
        with pytest.raises(ValueError, match="all leaves are 0"):
            tree.draw(np.array(number))
        return
    drawn = tree.draw(np.array(number))
    assert ((drawn >= 0) & (drawn < len(leaves))).all()
    assert (tree.leaves[drawn] > 0).all()


def test_what_is_rounded_up_to_the_total_is_the_last_leaf_that_is_not_0():
    # (2 + the number) / 3 is rounded to 1, and the total lies behind all leaves.
    assert (2 + BELOW_ONE) / 3 == 1
    for last in (3, 11, 200):
        tree = tree_of([1.0] * last + [0.1] + [0.0] * 400)
        assert tree.draw(np.full(3, BELOW_ONE))[2] == last


@given(
    capacity=st.sampled_from([1, 7, 8, 9, 63, 64, 65, 520]),
    changes=st.lists(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1e6)), max_size=20), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_changes_leave_what_setting_all_would(capacity: int, changes: list[list[tuple[int, float]]]):
    tree, leaves = SumTree(capacity), np.zeros(capacity)
    for change in changes:
        index = np.array([place % capacity for place, _ in change], np.int64)
        for place, (_, value) in zip(index, change, strict=True):
            leaves[place] = value
        tree.set(index, np.array([value for _, value in change]))
    np.testing.assert_array_equal(tree.leaves, leaves)
    afresh = SumTree(capacity)
    afresh.set_all(leaves)
    assert tree.total == afresh.total
    assert tree.total == pytest.approx(leaves.sum(), rel=1e-12, abs=0)
    if leaves.any():
        number = np.linspace(0, BELOW_ONE, 50)
        np.testing.assert_array_equal(tree.draw(number), afresh.draw(number))


@pytest.mark.parametrize("capacity", [1, 7, 8, 9, 64, 65, 512, 513, 4096, 4097])
def test_a_single_leaf_is_found_in_a_tree_of_any_height(capacity: int):
    tree = SumTree(capacity)
    for place in {0, capacity // 2, capacity - 1}:
        tree.set(np.array([place]), np.array([2.5]))
        assert tree.total == 2.5
        assert tree.draw(np.array([0.0, 0.5, BELOW_ONE])).tolist() == [place] * 3
        tree.set(np.array([place]), np.array([0.0]))
        assert tree.total == 0


def test_the_last_of_equal_indices_counts():
    tree = SumTree(20)
    index = np.array([3, 12, 3])
    tree.set(index, np.array([5.0, 1.0, 2.0]))
    assert tree.leaves[[3, 12]].tolist() == [2, 1]
    assert tree.total == 3
    assert index.tolist() == [3, 12, 3]


def test_nothing_is_left_of_large_numbers_that_were_there():
    tree = SumTree(100)
    tree.set(np.arange(100), np.full(100, 1e30))
    tree.set(np.arange(100), np.full(100, 1e-30))
    assert tree.total == pytest.approx(1e-28)


def test_predicted_bytes_are_the_bytes_taken():
    for capacity in (1, 8, 9, 5000):
        tree = SumTree(capacity)
        assert tree._nodes.base is not None
        assert SumTree.predicted_bytes(capacity) == tree._nodes.base.nbytes + tree._starts.nbytes
        assert tree.leaves.ctypes.data % 64 == 0
    assert SumTree.predicted_bytes(10**6) < 1.15 * 8 * 10**6

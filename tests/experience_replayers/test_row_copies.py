import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alfish.experience_replayers.row_copies import RowCopies

NUM_ROWS = 30
SHAPES = [
    ((), np.uint8),
    ((), np.int64),
    ((3,), np.int32),
    ((1000,), np.uint8),
    ((9, 70), np.complex128),
    ((0,), np.int16),
]


@pytest.fixture(scope="module")
def arrays() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(100, size=(NUM_ROWS, *shape)).astype(dtype) for shape, dtype in SHAPES]


@given(
    runs=st.lists(st.tuples(st.integers(0, NUM_ROWS - 1), st.integers(1, 8)), max_size=6),
    numbers=st.lists(st.integers(0, len(SHAPES) - 1), max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_as_numpy_takes(arrays: list[np.ndarray], runs: list[tuple[int, int]], numbers: list[int]):
    slots = np.array([min(start + k, NUM_ROWS - 1) for start, size in runs for k in range(size)], np.int64)
    taken = RowCopies(arrays, NUM_ROWS).take(slots, numbers)
    assert len(taken) == len(numbers)
    for number, array in zip(numbers, taken, strict=True):
        assert array.dtype == arrays[number].dtype
        np.testing.assert_array_equal(array, arrays[number][slots])


def test_slots_of_any_shape(arrays: list[np.ndarray]):
    slots = np.arange(24).reshape(2, 3, 4)
    for chosen in (slots, slots[:, :, 1:3], slots.T):
        (taken,) = RowCopies(arrays, NUM_ROWS).take(chosen, [2])
        np.testing.assert_array_equal(taken, arrays[2][chosen])


@pytest.mark.parametrize("slot", [-1, NUM_ROWS, 2**62])
def test_a_row_that_is_not_there_is_refused(arrays: list[np.ndarray], slot: int):
    with pytest.raises(IndexError, match=f"{slot}.*; there are 0 to {NUM_ROWS - 1}"):
        RowCopies(arrays, NUM_ROWS).take(np.array([3, slot, 5]), [0])

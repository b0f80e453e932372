"""compile_cached: what is compiled, and what happens where its machine code cannot be stored."""

import numba
import numpy as np
import pytest

from alfish.ops import compilation


@pytest.mark.parametrize("parallel", [False, True])
def test_a_compiled_loop_does_what_the_loop_does(parallel):
    def doubled(numbers, out):
        for i in numba.prange(len(numbers)):
            out[i] = 2 * numbers[i]

    numbers = np.arange(5)
    expected, found = np.zeros(5, np.int64), np.zeros(5, np.int64)
    doubled(numbers, expected)
    compilation.compile_cached(doubled, parallel)(numbers, found)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, [0, 2, 4, 6, 8])


def test_where_nothing_can_be_written_there_is_no_store(monkeypatch):
    calls = []

    def njit(function, **options):
        calls.append(options)
        if options.get("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return function

    def function(number):
        return number

    monkeypatch.setattr(compilation.numba, "njit", njit)
    assert compilation.compile_cached(function, parallel=True) is function
    stored, not_stored = calls
    assert stored == {**not_stored, "cache": True}
    assert not_stored == {**compilation.OPTIONS, "parallel": True}

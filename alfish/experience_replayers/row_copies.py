"""Copies of rows out of several arrays at once, in runs of rows that lie one behind the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alfish.ops.compilation import compile_cached

_LINE_BYTES = 64
_AHEAD_BYTES = 1024
"""So much of the next run is asked for while one is copied; behind that the processor sees by itself what comes."""


class RowCopies:
    """Arrays of the same number of rows, to be copied out.

    The same as `numpy.take(array, slots, axis=0)` of each array, in half the time for blocks of ten rows: one memory
    copy for each run of consecutive rows, and one call for all arrays.

    Args:
        arrays: `[N, ...]` each, contiguous. They are kept.
        num_rows: N, at least 1.
    """

    def __init__(self, arrays: Sequence[np.ndarray], num_rows: int):
        assert all(len(array) == num_rows and array.flags.c_contiguous for array in arrays)
        self._arrays = list(arrays)
        self._num_rows = num_rows
        sources = [(array.ctypes.data, array.nbytes // num_rows) for array in arrays]
        self._sources = np.array(sources, np.int64).reshape(-1, 2)

    def take(self, slots: np.ndarray, numbers: Sequence[int]) -> list[np.ndarray]:
        """Copies rows.

        Args:
            slots: int64 of any shape, in `[0, N)`.
            numbers: of the arrays.

        Returns:
            For each number a new array of shape `slots.shape + array.shape[1:]`.

        Raises:
            IndexError: a slot is not in the range.
        """
        taken = [np.empty(slots.shape + self._arrays[n].shape[1:], self._arrays[n].dtype) for n in numbers]
        targets = np.array([array.__array_interface__["data"][0] for array in taken], np.int64)
        chosen = np.array(numbers, np.int64)
        wanted = np.ascontiguousarray(slots).reshape(-1)
        if not _copy_runs(self._sources, chosen, targets, wanted, np.empty_like(wanted), self._num_rows):
            raise IndexError(
                f"slots {slots.min()} to {slots.max()} were asked for; there are 0 to {self._num_rows - 1}"
            )
        return taken


@intrinsic
def _fetch(typing_context: Any, address: Any) -> Any:
    """Asks for the line at an address, and does not wait for it."""
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        # To read it (0), into all caches (3), as data (1).
        builder.call(function, [builder.inttoptr(arguments[0], pointer), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def _copy(typing_context: Any, target: Any, source: Any, num_bytes: Any) -> Any:
    """Copies memory from address to address."""
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        pointer = ir.IntType(8).as_pointer()
        to, since = (builder.inttoptr(address, pointer) for address in arguments[:2])
        cgutils.raw_memcpy(builder, to, since, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


_fetch_line: Any = _fetch
_copy_memory: Any = _copy


@compile_cached
def _copy_runs(
    sources: np.ndarray, chosen: np.ndarray, targets: np.ndarray, slots: np.ndarray, starts: np.ndarray, num_rows: int
) -> bool:
    """Writes to `targets`, addresses; `starts` has room for as many numbers as `slots`."""
    num_runs = 0
    for i in range(len(slots)):
        if slots[i] < 0 or slots[i] >= num_rows:
            return False
        if i == 0 or slots[i] != slots[i - 1] + 1:
            starts[num_runs] = i
            num_runs += 1
    for n in range(len(chosen)):
        source, row_bytes = sources[chosen[n], 0], sources[chosen[n], 1]
        for run in range(num_runs):
            start, stop = starts[run], starts[run + 1] if run + 1 < num_runs else len(slots)
            if run + 1 < num_runs:
                next_stop = starts[run + 2] if run + 2 < num_runs else len(slots)
                begin, size = source + slots[stop] * row_bytes, (next_stop - stop) * row_bytes
                for place in range(0, min(size, _AHEAD_BYTES), _LINE_BYTES):
                    _fetch_line(begin + place)
            _copy_memory(targets[n] + start * row_bytes, source + slots[start] * row_bytes, (stop - start) * row_bytes)
    return True

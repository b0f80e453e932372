"""Compilation of scalar loops over arrays, for what neither torch nor NumPy does in one call."""

from collections.abc import Callable
from typing import Any

import numba

OPTIONS: dict[str, Any] = {"nogil": True, "_nrt": False, "error_model": "numpy"}
"""Of every compiled function: others may run meanwhile, it takes no memory, and it divides as NumPy does."""


def compile_cached(function: Callable[..., Any], parallel: bool = False) -> Any:
    """A version of `function` that is compiled by numba on its first call.

    The machine code is stored for later processes, beside the function's file or in the user's cache folder, if a
    folder can be written. It is renewed when that file changes, not when another does whose functions are called: call
    those of the same file only, or close over a hash of the other files, as `mcts/host.py` does.

    Args:
        function: of numbers and arrays.
        parallel: whether its loops over `numba.prange` run in several threads.
    """
    try:
        return numba.njit(function, cache=True, parallel=parallel, **OPTIONS)
    except RuntimeError:  # numba found no folder for its store.
        return numba.njit(function, parallel=parallel, **OPTIONS)

"""Compiles the kernels when they are first needed, and decides which version a search runs."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import torch
from numba.core import event

from alfish.mcts import kernels
from alfish.mcts.kernels import Rule
from alfish.mcts.tree import new_tree

PARALLEL_EDGES = 8192
"""From this many edges per level (B * A) on, several threads are faster than one, also beside torch's own threads."""

_logger = logging.getLogger(__name__)
_import_process = os.getpid()
_parallel_lock = threading.Lock()


def compile_cached(function: Callable[..., None], parallel: bool) -> Any:
    """A version of `function` that is compiled on its first call.

    The machine code is stored for later processes, if a folder can be written.
    """
    options: dict[str, Any] = {"parallel": parallel, "nogil": True, "_nrt": False, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # numba found no folder for its store.
        return numba.njit(function, **options)


_advance_serial = compile_cached(kernels.advance_serial, parallel=False)
_advance_parallel = compile_cached(kernels.advance_parallel, parallel=True)


@contextlib.contextmanager
def compiled_advance(num_trees: int, num_actions: int) -> Iterator[Callable[..., None]]:
    """The function `advance(tree, rule, answers, edges, node)` for the duration of one search.

    A large search runs in as many threads as torch does, a small one in the caller's. Two searches at once never share
    the threads, because not every threading layer of numba survives that, and a forked process never uses them, because
    OpenMP ends a process that does.
    """
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    large = num_trees > 1 and threads > 1 and num_trees * num_actions >= PARALLEL_EDGES
    if not (large and os.getpid() == _import_process and _parallel_lock.acquire(blocking=False)):
        yield _ready(_advance_serial)
        return
    try:
        numba.set_num_threads(threads)
        yield _ready(_advance_parallel)
    finally:
        _parallel_lock.release()


def _ready(advance: Any) -> Callable[..., None]:
    """Compiles `advance`, or loads its stored machine code, unless that was done before in this process."""
    if not advance.signatures:
        rule = Rule(np.ones(2, np.float32), np.float32(1.0), np.float32(0.0), 0, 1)
        with event.install_listener("numba:compile", _LogCompilation()):
            advance(new_tree(1, 1, 1), rule, np.zeros((1, 4), np.float32), np.zeros((2, 1), np.int64), 0)
    return advance


class _LogCompilation(event.Listener):
    """Says once why the first search after an installation is slow; silent when stored machine code is loaded."""

    def __init__(self) -> None:
        self._logged = False

    def on_start(self, event: event.Event) -> None:
        del event
        if not self._logged:
            self._logged = True
            _logger.warning("compiling the search kernels, once; this takes some seconds")

    def on_end(self, event: event.Event) -> None:
        del event

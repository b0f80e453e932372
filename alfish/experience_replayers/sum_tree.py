"""Sums of numbers that change, by which one of them is drawn with a probability in proportion to it."""

import numpy as np

from alfish.ops.compilation import compile_cached

_FANOUT_BITS = 3
_FANOUT = 1 << _FANOUT_BITS
"""Children of a node: as many numbers as one line of a processor's cache holds, so that a level costs one access."""
_LINE_BYTES = 64


class SumTree:
    """A tree over `capacity` leaves, each a float64 that is finite and at least 0; all are 0 at first.

    A node is the sum of its 8 children. Whenever a leaf changes, the nodes above it are summed anew, so that no
    rounding accumulates, and a node is positive exactly if one of its leaves is. Changing or drawing n leaves costs
    O(n log capacity).

    Args:
        capacity: number of leaves, at least 1.

    Attributes:
        leaves: float64 `[capacity]`, a view: change them by `set` or `set_all` only.
    """

    def __init__(self, capacity: int):
        self._starts = _level_starts(capacity)
        # Zeroed by the system: memory is taken only as it is written.
        memory = np.zeros(self._starts[-1] + _FANOUT, np.float64)
        begin = -memory.ctypes.data % _LINE_BYTES // memory.itemsize
        self._nodes = memory[begin : begin + self._starts[-1]]
        self.leaves = self._nodes[:capacity]

    @staticmethod
    def predicted_bytes(capacity: int) -> int:
        """Bytes that the tree takes."""
        starts = _level_starts(capacity)
        return int(starts[-1] + _FANOUT) * 8 + starts.nbytes

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(_total(self._nodes, self._starts))

    def set(self, index: np.ndarray, value: np.ndarray) -> None:
        """Changes leaves.

        Args:
            index: int64 `[n]`, in `[0, capacity)`. Where one occurs twice, its last value counts.
            value: float64 `[n]`, finite, at least 0.
        """
        assert index.shape == value.shape
        self.leaves[index] = value
        _sum_above(self._nodes, self._starts, index.copy())

    def set_all(self, value: np.ndarray) -> None:
        """Changes all leaves: float64 `[capacity]`, finite, at least 0."""
        self.leaves[:] = value
        _sum_all(self._nodes, self._starts)

    def draw(self, number: np.ndarray) -> np.ndarray:
        """Draws a leaf by each number, from the n equal shares of the total in turn (stratified).

        The i-th leaf is the one at `(i + number[i]) / n` of the total, where the leaves lie one behind the other. A
        leaf that is 0 is never drawn, however numbers are rounded.

        Args:
            number: float64 `[n]`, in [0, 1).

        Returns:
            int64 `[n]`.

        Raises:
            ValueError: all leaves are 0.
        """
        index = np.empty(len(number), np.int64)
        if not _draw(self._nodes, self._starts, number, index, np.empty(len(number))):
            raise ValueError("SumTree.draw: all leaves are 0; set one that is positive first")
        return index


def _level_starts(capacity: int) -> np.ndarray:
    """Where each level begins in the array of all nodes, from the leaves up, and where the last one ends; int64.

    A level is filled up to whole families of siblings. The last one is a single family, without a node above it.
    """
    starts, families = [0], -(-capacity // _FANOUT)
    while True:
        starts.append(starts[-1] + families * _FANOUT)
        if families == 1:
            return np.array(starts, np.int64)
        families = -(-families // _FANOUT)


@compile_cached
def _sum_of_family(nodes: np.ndarray, first: int) -> float:
    total = 0.0
    for child in range(first, first + _FANOUT):
        total += nodes[child]
    return total


@compile_cached
def _total(nodes: np.ndarray, starts: np.ndarray) -> float:
    return _sum_of_family(nodes, starts[-2])


@compile_cached
def _sum_above(nodes: np.ndarray, starts: np.ndarray, changed: np.ndarray) -> None:
    """Sums anew what is above the leaves `changed`, which is overwritten with their ancestors."""
    count = len(changed)
    for level in range(len(starts) - 2):
        kept, previous = 0, -1
        for i in range(count):
            parent = changed[i] >> _FANOUT_BITS
            if parent != previous:
                nodes[starts[level + 1] + parent] = _sum_of_family(nodes, starts[level] + (parent << _FANOUT_BITS))
                changed[kept] = parent
                kept, previous = kept + 1, parent
        count = kept


@compile_cached
def _sum_all(nodes: np.ndarray, starts: np.ndarray) -> None:
    for level in range(len(starts) - 2):
        for parent in range((starts[level + 1] - starts[level]) >> _FANOUT_BITS):
            nodes[starts[level + 1] + parent] = _sum_of_family(nodes, starts[level] + (parent << _FANOUT_BITS))


@compile_cached
def _draw(nodes: np.ndarray, starts: np.ndarray, number: np.ndarray, node: np.ndarray, rest: np.ndarray) -> bool:
    """Writes the leaves that are drawn to `node`, `[n]`; `rest`, `[n]`, is for interim results."""
    total = _sum_of_family(nodes, starts[-2])
    if not total > 0.0:
        return False
    for i in range(len(number)):
        node[i], rest[i] = 0, (i + number[i]) / len(number) * total
    # All go down together, and without a branch that depends on a number: so the memory accesses of a level overlap.
    # It takes a third of the time of one descent after the other.
    for level in range(len(starts) - 2, -1, -1):
        for i in range(len(number)):
            first = starts[level] + (node[i] << _FANOUT_BITS)
            child, end, begin = 0, 0.0, 0.0
            for sibling in range(first, first + _FANOUT):
                end += nodes[sibling]
                is_before = end <= rest[i]
                child += is_before
                begin = end if is_before else begin
            if child < _FANOUT:
                rest[i] -= begin
            else:  # Rounding led behind the last child: the very end of the last one that is positive is meant.
                child -= 1
                while nodes[first + child] == 0.0:
                    child -= 1
                rest[i] = nodes[first + child]
            node[i] = (node[i] << _FANOUT_BITS) + child
    return True

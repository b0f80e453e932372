"""Which worker fills which window, and where it lies."""

from typing import NamedTuple


class Turns(NamedTuple):
    """Who fills which window, and where.

    Workers are divided into groups of n, and the groups take turns: window k is that of group k modulo their number. A
    window's memory is written again only when its group has finished another one after it: a worker that replaces a
    lost one goes on from there.

    Attributes:
        num_workers: W.
        workers_per_batch: n.
        max_staleness: windows that are collected ahead of the one that is handed out.
    """

    num_workers: int
    workers_per_batch: int
    max_staleness: int

    @property
    def num_groups(self) -> int:
        """Groups of workers."""
        return self.num_workers // self.workers_per_batch

    @property
    def num_slots(self) -> int:
        """Windows in memory."""
        return self.num_groups * self._slots_of_group

    @property
    def _slots_of_group(self) -> int:
        return -(-(self.max_staleness + 1) // self.num_groups) + 1

    def group(self, window: int) -> int:
        """The group that fills a window."""
        return window % self.num_groups

    def workers(self, window: int) -> range:
        """The workers that fill a window."""
        first = self.group(window) * self.workers_per_batch
        return range(first, first + self.workers_per_batch)

    def slot(self, window: int) -> int:
        """The memory of a window."""
        return self.group(window) * self._slots_of_group + window // self.num_groups % self._slots_of_group

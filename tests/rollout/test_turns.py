"""Which worker fills which window, and where."""

import pytest

from alfish.rollout.turns import Turns


def test_all_together():
    turns = Turns(num_workers=3, workers_per_batch=3, max_staleness=1)
    assert [list(turns.workers(window)) for window in range(2)] == [[0, 1, 2], [0, 1, 2]]
    assert [turns.slot(window) for window in range(5)] == [0, 1, 2, 0, 1]
    assert turns.num_slots == 3


def test_groups_take_turns():
    turns = Turns(num_workers=4, workers_per_batch=2, max_staleness=2)
    assert [list(turns.workers(window)) for window in range(3)] == [[0, 1], [2, 3], [0, 1]]
    assert [turns.group(window) for window in range(4)] == [0, 1, 0, 1]
    # Of three windows handed out or ordered, a group may have two; and one that it finished before.
    assert [turns.slot(window) for window in range(0, 8, 2)] == [0, 1, 2, 0]
    assert [turns.slot(window) for window in range(1, 9, 2)] == [3, 4, 5, 3]
    assert turns.num_slots == 6


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("max_staleness", range(6))
def test_no_window_is_written_over_that_is_needed(groups, max_staleness):
    """Whoever is fast: the one handed out, those ordered, and the last finished one of each group lie apart."""
    turns = Turns(groups, 1, max_staleness)
    for handed_out in range(12):
        alive = set(range(handed_out, handed_out + max_staleness + 1))
        for group in range(groups):
            own = [window for window in alive if turns.group(window) == group]
            earlier = min(own, default=handed_out + groups) - groups
            alive |= {earlier} if own and earlier >= 0 else set()
        slots = [turns.slot(window) for window in alive]
        assert len(set(slots)) == len(slots)
        assert max(slots) < turns.num_slots

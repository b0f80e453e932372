"""Timing several functions beside one another, in turns, so that noise of the machine meets all of them alike."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Ratio(NamedTuple):
    """How many times as long one contestant took as another one, taken round by round.

    Attributes:
        median: over the rounds.
        low: of the round in which it was smallest.
        high: of the round in which it was largest.
    """

    median: float
    low: float
    high: float


class Times:
    """Seconds of one call, by contestant and round."""

    def __init__(self, rounds: dict[str, list[float]]):
        self.rounds = rounds

    def median(self, name: str) -> float | None:
        """Seconds of a call, the median over the rounds; None for a contestant that did not take part."""
        return statistics.median(self.rounds[name]) if name in self.rounds else None

    def ratio(self, numerator: str, denominator: str) -> Ratio | None:
        """The time of one over the time of the other; None if one of them did not take part."""
        if numerator not in self.rounds or denominator not in self.rounds:
            return None
        pairs = zip(self.rounds[numerator], self.rounds[denominator], strict=True)
        ratios = [above / below for above, below in pairs]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def time_in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, seconds: float, works_ahead: bool = False
) -> Times:
    """Times each function in each round; the order turns, so that none always follows the same one.

    Each is called once before the first round, which does not count (it compiles), and each turn begins with a call
    that does not count (it brings the memory back into the caches and lets the threads of others fall asleep), unless
    one call takes longer than the turn.

    Args:
        calls: what to time, by name.
        rounds: at least 1.
        seconds: of one turn; at least one call is timed whatever it takes.
        works_ahead: a call may leave work to others that goes on while it is not its turn: each turn begins with a call
            that does not count, however long it takes.
    """
    last = {name: _seconds(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    # What was prepared so far is not looked at again by the garbage collector while others are measured.
    gc.collect()
    gc.freeze()
    names = list(calls)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if works_ahead or last[name] < seconds:
                calls[name]()
            turn_times: list[float] = []
            while not turn_times or sum(turn_times) < seconds:
                turn_times.append(_seconds(calls[name]))
            last[name] = statistics.median(turn_times)
            times[name].append(last[name])
    gc.unfreeze()
    return Times(times)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start

"""How the time of a run divides into phases."""

import time
from types import TracebackType

OUTSIDE = "other"
"""The name under which the time outside any phase is reported."""


class Phase:
    """A reusable context object, made by `Timers.phase`."""

    __slots__ = ("_timers", "name", "seconds")

    def __init__(self, timers: "Timers", name: str):
        self._timers = timers
        self.name = name
        self.seconds = 0.0

    def __enter__(self) -> None:
        now = time.perf_counter()
        timers = self._timers
        timers.stack[-1].seconds += now - timers.mark
        timers.mark = now
        timers.stack.append(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        now = time.perf_counter()
        timers = self._timers
        self.seconds += now - timers.mark
        timers.mark = now
        timers.stack.pop()


class Timers:
    """Sums up wall time by phase: `with timers.phase("env"): ...`.

    Every moment counts for exactly one phase: the innermost that is open, or `"other"` if none is. Work that runs on
    an accelerator counts for the phase that waits for it, not for the one that launched it. One object serves one
    thread.
    """

    def __init__(self) -> None:
        outside = Phase(self, OUTSIDE)
        self._phases = {OUTSIDE: outside}
        # The open phases, outermost first, and the moment up to which time has been credited. Written by Phase.
        self.stack = [outside]
        self.mark = time.perf_counter()

    def phase(self, name: str) -> Phase:
        """The context object of the phase `name`, always the same one; it may be kept, and nested in itself."""
        phase = self._phases.get(name)
        if phase is None:
            phase = self._phases[name] = Phase(self, name)
        return phase

    def totals(self) -> dict[str, float]:
        """Seconds by phase since the last `reset`, `"other"` last; they sum up to the time that has passed."""
        self._credit()
        totals = {name: phase.seconds for name, phase in self._phases.items()}
        totals[OUTSIDE] = totals.pop(OUTSIDE)
        return totals

    def shares(self) -> dict[str, float]:
        """Like `totals`, as fractions of the whole; they sum up to 1."""
        totals = self.totals()
        whole = sum(totals.values()) or 1.0
        return {name: seconds / whole for name, seconds in totals.items()}

    def reset(self) -> None:
        """Starts all sums at zero. Phases that are open stay open."""
        self._credit()
        for phase in self._phases.values():
            phase.seconds = 0.0

    def _credit(self) -> None:
        now = time.perf_counter()
        self.stack[-1].seconds += now - self.mark
        self.mark = now

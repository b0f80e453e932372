"""How old the weights were that windows were collected with."""

from typing import Any


class Staleness:
    """The mean and the largest of the windows' staleness since the last summary, in updates."""

    def __init__(self) -> None:
        self._sum = self._count = self._max = 0

    def add(self, updates: int) -> None:
        """Notes a window: its weights were so many updates old."""
        self._sum += updates
        self._count += 1
        self._max = max(self._max, updates)

    def result_and_reset(self) -> dict[str, float]:
        """The metrics `staleness` and `staleness_max`; none before the first window."""
        metrics = {"staleness": self._sum / self._count, "staleness_max": float(self._max)} if self._count else {}
        self._sum = self._count = self._max = 0
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """What was noted since the last summary."""
        return {"sum": self._sum, "count": self._count, "max": self._max}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._sum, self._count, self._max = int(state["sum"]), int(state["count"]), int(state["max"])

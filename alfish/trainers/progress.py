"""Counters of a run, and when something that happens every so many environment steps is due."""

from typing import Any

from alfish.data_structures import Progress


class Counters:
    """Counts iterations and environment steps. Updates are counted by who takes them.

    Args:
        total_env_steps: the length of the run, for `Progress.fraction`.
    """

    def __init__(self, total_env_steps: int):
        self._total_env_steps = total_env_steps
        self._iteration = 0
        self._env_steps = 0
        self._finished_at = -1

    @property
    def finished(self) -> bool:
        """True once `finish` was called at or after the run's last environment step."""
        return self._finished_at >= self._total_env_steps

    def finish(self) -> None:
        """Notes that everything that belongs to the steps so far has been done, the last evaluation included."""
        self._finished_at = self._env_steps

    def progress(self) -> Progress:
        """The counters as they are now, without updates."""
        fraction = min(1.0, self._env_steps / self._total_env_steps)
        return Progress(self._iteration, self._env_steps, 0, fraction)

    def add(self, iterations: int = 0, env_steps: int = 0) -> None:
        """Counts on."""
        self._iteration += iterations
        self._env_steps += env_steps

    def state_dict(self) -> dict[str, Any]:
        """The counters."""
        return {"iteration": self._iteration, "env_steps": self._env_steps, "finished_at": self._finished_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._iteration, self._env_steps = int(state["iteration"]), int(state["env_steps"])
        self._finished_at = int(state["finished_at"])


def crossed(interval: int | None, before: int, after: int) -> bool:
    """True if a multiple of `interval` lies in `(before, after]`; never for None.

    It depends on the counts alone, so a resumed run does the same things at the same steps.
    """
    return interval is not None and after // interval > before // interval

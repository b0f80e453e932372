"""Returns and lengths of the episodes that the environments finish."""

import collections
from typing import Any

import numpy as np
import torch

from alfish.checks import check_at_least
from alfish.data_structures import StepType, TimeStep

RECENT_EPISODES = 100


class EpisodeMetrics:
    """Undiscounted return and length of every finished episode, with statistics of the last `RECENT_EPISODES`.

    An episode is finished by its LAST row, terminated or truncated. One that a checkpoint cuts is not: `cut()` drops
    what is open, and the LAST row that the cut makes is row 0 of the next window, which is not counted.

    Args:
        num_envs: B.

    Raises:
        ValueError: `num_envs` is not positive.
    """

    def __init__(self, num_envs: int):
        check_at_least("EpisodeMetrics.num_envs", num_envs, 1)
        self._num_envs = num_envs
        # float64, so that the return of a long episode does not depend on how many rewards came before.
        self._open_returns = np.zeros(num_envs, np.float64)
        self._open_lengths = np.zeros(num_envs, np.int64)
        self._returns: collections.deque[float] = collections.deque(maxlen=RECENT_EPISODES)
        self._lengths: collections.deque[int] = collections.deque(maxlen=RECENT_EPISODES)
        self._num_episodes = 0

    def update(self, time_step_window: TimeStep) -> None:
        """Counts the rows 1, …, T of a window; row 0 was row T of the window before, or begins the run.

        Args:
            time_step_window: `[T+1, B]` CPU tensors; only `step_type` and `reward` are read.

        Raises:
            ValueError: the window is not of `num_envs` environments.
        """
        step_types = time_step_window.step_type.numpy()
        if step_types.ndim != 2 or step_types.shape[1] != self._num_envs:
            raise ValueError(
                f"EpisodeMetrics.update: step_type has the shape {step_types.shape}; expected [T+1, {self._num_envs}], "
                "a window of the environments that it was built for"
            )
        rewards = time_step_window.reward.numpy().astype(np.float64)
        is_first = step_types == StepType.FIRST
        is_last = step_types == StepType.LAST
        any_first, any_last = is_first.any(axis=1), is_last.any(axis=1)
        for row in range(1, len(step_types)):
            self._open_returns += rewards[row]
            self._open_lengths += 1
            if any_first[row]:
                self._drop_open(is_first[row])
            if any_last[row]:
                self._finish(is_last[row])

    def cut(self) -> None:
        """Drops the open episodes. Call it when a checkpoint closes them, after `update` saw the window before."""
        self._drop_open(slice(None))

    def result(self) -> dict[str, float]:
        """The metrics: the number of finished episodes, and once there is one, statistics of the recent ones.

        Returns:
            `episode/count`; `episode/return_mean`, `episode/return_min`, `episode/return_max` in units of reward, and
            `episode/length_mean` in actions, over the last 100 finished episodes of all environments.
        """
        metrics = {"episode/count": float(self._num_episodes)}
        if self._returns:
            returns = np.array(self._returns)
            metrics["episode/return_mean"] = float(returns.mean())
            metrics["episode/return_min"] = float(returns.min())
            metrics["episode/return_max"] = float(returns.max())
            metrics["episode/length_mean"] = float(np.mean(self._lengths))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The finished episodes. Open ones are left out: environments begin anew when a run is resumed."""
        return {
            "returns": torch.tensor(list(self._returns), dtype=torch.float64),
            "lengths": torch.tensor(list(self._lengths), dtype=torch.int64),
            "num_episodes": self._num_episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the finished episodes from `state_dict()`, and drops the open ones."""
        self._returns = collections.deque(state["returns"].tolist(), maxlen=RECENT_EPISODES)
        self._lengths = collections.deque(state["lengths"].tolist(), maxlen=RECENT_EPISODES)
        self._num_episodes = int(state["num_episodes"])
        self.cut()

    def _drop_open(self, which: np.ndarray | slice) -> None:
        self._open_returns[which] = 0.0
        self._open_lengths[which] = 0

    def _finish(self, which: np.ndarray) -> None:
        self._returns.extend(self._open_returns[which].tolist())
        self._lengths.extend(self._open_lengths[which].tolist())
        self._num_episodes += int(which.sum())
        self._drop_open(which)

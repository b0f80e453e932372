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

    An episode is finished by its LAST row, terminated or truncated. One that a checkpoint or a lost worker cuts is not:
    its LAST row is row 0 of a window, which is not counted, and the FIRST row after it drops what was open.

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

    def update(self, time_step_window: TimeStep, first_env: int = 0) -> int:
        """Counts the rows 1, …, T of a window; row 0 was row T of the window before, or begins the run.

        Args:
            time_step_window: `[T+1, E]` CPU tensors; only `step_type` and `reward` are read.
            first_env: its rows are those of the environments `first_env … first_env + E − 1`.

        Returns:
            The environment steps in it: rows that answered an action, which FIRST rows do not, nor LAST rows after a
            LAST row (of an environment that is frozen).

        Raises:
            ValueError: these are not environments that it was built for.
        """
        step_types = time_step_window.step_type.numpy()
        if step_types.ndim != 2 or not 0 < step_types.shape[1] <= self._num_envs - first_env:
            raise ValueError(
                f"EpisodeMetrics.update: step_type has the shape {step_types.shape} from environment {first_env} on; "
                f"expected [T+1, E], a window of the {self._num_envs} environments that it was built for"
            )
        rewards = time_step_window.reward.numpy().astype(np.float64)
        is_last = step_types == StepType.LAST
        frozen = is_last[1:] & is_last[:-1]
        answered = (step_types[1:] != StepType.FIRST) & ~frozen
        ends = is_last[1:] & ~frozen
        returns = self._open_returns[first_env : first_env + step_types.shape[1]]
        lengths = self._open_lengths[first_env : first_env + step_types.shape[1]]
        begins = step_types[1:] == StepType.FIRST
        any_begins, any_ends = begins.any(axis=1), ends.any(axis=1)
        for row in range(len(answered)):
            returns += rewards[row + 1]  # 0 where frozen
            lengths += answered[row]
            if any_begins[row]:
                returns[begins[row]], lengths[begins[row]] = 0.0, 0
            if any_ends[row]:
                self._finish(returns, lengths, ends[row])
        return int(answered.sum())

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
        """The finished episodes, and what is open: windows that are in flight at a checkpoint go on with it."""
        return {
            "open_returns": torch.from_numpy(self._open_returns.copy()),
            "open_lengths": torch.from_numpy(self._open_lengths.copy()),
            "returns": torch.tensor(list(self._returns), dtype=torch.float64),
            "lengths": torch.tensor(list(self._lengths), dtype=torch.int64),
            "num_episodes": self._num_episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._returns = collections.deque(state["returns"].tolist(), maxlen=RECENT_EPISODES)
        self._lengths = collections.deque(state["lengths"].tolist(), maxlen=RECENT_EPISODES)
        self._num_episodes = int(state["num_episodes"])
        np.copyto(self._open_returns, state["open_returns"].numpy())
        np.copyto(self._open_lengths, state["open_lengths"].numpy())

    def _finish(self, returns: np.ndarray, lengths: np.ndarray, which: np.ndarray) -> None:
        self._returns.extend(returns[which].tolist())
        self._lengths.extend(lengths[which].tolist())
        self._num_episodes += int(which.sum())
        returns[which], lengths[which] = 0.0, 0

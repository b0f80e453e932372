"""Where the episode of a stored row begins and ends."""

from typing import Any

import numpy as np
import torch

from alfish.data_structures import StepType
from alfish.experience_replayers.checks import check_count, check_keys, check_stored, check_tensors

_OPEN = np.iinfo(np.int64).max


class EpisodeIndex:
    """Begin and end positions of the episodes of the rows in a ring of the same length.

    An episode begins at a FIRST row and at a row that follows a LAST row (a cut may leave an episode with its LAST row
    only). It ends at its LAST row; while it is open, at the newest row.

    Every stored row knows its episode's number, modulo L + 1: L stored rows belong to at most L episodes, and one more
    is the one before them that an append may close. A table by that number holds begin and end. So an append costs
    O(T B), however long the episode is that it closes.

    Args:
        num_envs: B.
        length: L, rows per environment.
    """

    def __init__(self, num_envs: int, length: int):
        self._num_envs = num_envs
        self._length = length
        self._num_added = 0
        # np.zeros takes memory only as it is written, as np.empty does, and leaves no garbage in a checkpoint.
        self._entry = np.zeros((length, num_envs), np.int64)
        self._begin = np.zeros((length + 1, num_envs), np.int64)
        self._end = np.zeros((length + 1, num_envs), np.int64)
        self._number = np.zeros(num_envs, np.int64)
        self._after_last = np.ones(num_envs, np.bool_)

    @staticmethod
    def predicted_bytes(num_envs: int, length: int) -> int:
        """Bytes that the index takes when every row is an episode of its own."""
        return (3 * length + 2) * num_envs * 8

    def append(self, step_type: np.ndarray) -> None:
        """Adds T rows of every environment.

        Args:
            step_type: uint8 `[T, B]`, T at most L.
        """
        num_rows = len(step_type)
        assert step_type.shape == (num_rows, self._num_envs)
        assert num_rows <= self._length
        is_last = step_type == StepType.LAST
        follows_last = np.concatenate([self._after_last[None], is_last[:-1]])
        begins = (step_type == StepType.FIRST) | follows_last
        number = self._number + np.cumsum(begins, axis=0)
        entry = number % (self._length + 1)
        position = self._num_added + np.arange(num_rows)
        self._entry[position % self._length] = entry

        # All begins before all ends: a window may open, and close, an episode whose predecessor it closes too.
        row, env_id = np.nonzero(begins)
        self._begin[entry[row, env_id], env_id] = position[row]
        self._end[entry[row, env_id], env_id] = _OPEN
        self._end[(number[row, env_id] - 1) % (self._length + 1), env_id] = position[row] - 1
        row, env_id = np.nonzero(is_last)
        self._end[entry[row, env_id], env_id] = position[row]

        self._number = number[-1]
        self._after_last = is_last[-1]
        self._num_added += num_rows

    def begin(self, position: np.ndarray, env_id: np.ndarray) -> np.ndarray:
        """The position at which the episode of each row began, even if that row has been overwritten.

        Args:
            position: int64 array of stored rows.
            env_id: int64 array of the same shape.

        Raises:
            ValueError: a row is not stored.
        """
        return self._begin[self._entries(position, env_id), env_id]

    def end(self, position: np.ndarray, env_id: np.ndarray) -> np.ndarray:
        """The position of the last row of each row's episode; the newest row's if the episode is open.

        Args:
            position: int64 array of stored rows.
            env_id: int64 array of the same shape.

        Raises:
            ValueError: a row is not stored.
        """
        return np.minimum(self._end[self._entries(position, env_id), env_id], self._num_added - 1)

    def _entries(self, position: np.ndarray, env_id: np.ndarray) -> np.ndarray:
        oldest = max(0, self._num_added - self._length)
        check_stored(position, env_id, oldest, self._num_added - 1, self._num_envs)
        return self._entry[position % self._length, env_id]

    def state_dict(self) -> dict[str, Any]:
        """The index. Tensors are views of the arrays: write them before the next append."""
        return {"num_added": self._num_added, "arrays": self._filled(self._num_added, self._number)}

    def _filled(self, num_added: int, number: np.ndarray) -> list[torch.Tensor]:
        num_episodes = min(self._length, int(number.max())) + 1
        table = [self._begin[:num_episodes], self._end[:num_episodes]]
        arrays = [number, self._after_last, self._entry[: min(num_added, self._length)], *table]
        return [torch.from_numpy(array) for array in arrays]

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that `load_state_dict` would accept `state`.

        Raises:
            ValueError: it is of another number of environments or length, or it is damaged.
        """
        check_keys(state, self.state_dict(), "EpisodeIndex")
        check_count(state["num_added"], "EpisodeIndex")
        check_tensors(state["arrays"][:1], [torch.from_numpy(self._number)], "EpisodeIndex")
        number = state["arrays"][0].numpy()
        if number.min() < 0 or number.max() > state["num_added"]:
            raise ValueError(f"EpisodeIndex: {number.max()} episodes in {state['num_added']} rows; it is damaged")
        check_tensors(state["arrays"], self._filled(state["num_added"], number), "EpisodeIndex")
        entry = state["arrays"][2]
        if entry.numel() and not 0 <= int(entry.min()) <= int(entry.max()) <= self._length:
            raise ValueError(f"EpisodeIndex: an entry is not in [0, {self._length}]; the state is damaged")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned; copies into the own arrays.

        Raises:
            ValueError: see `check_state_dict`. Nothing has been changed then.
        """
        self.check_state_dict(state)
        number, after_last, entry, begin, end = (tensor.numpy() for tensor in state["arrays"])
        self._number = number.copy()
        self._after_last = after_last.copy()
        self._entry[: len(entry)] = entry
        for table, saved in ((self._begin, begin), (self._end, end)):
            table[: len(saved)] = saved
            table[len(saved) :] = 0
        self._num_added = state["num_added"]

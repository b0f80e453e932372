"""Where the episode of a stored row begins and ends."""

from typing import Any

import numpy as np
import torch

from alfish.data_structures import StepType
from alfish.experience_replayers.checks import check_keys, check_num_added, check_stored, check_tensors
from alfish.ops.compilation import compile_cached

_OPEN = np.iinfo(np.int64).max


class EpisodeIndex:
    """Begin and end positions of the episodes of the rows in a ring of the same length.

    An episode begins at a FIRST row and at a row that follows a LAST row (a cut may leave an episode with its LAST row
    only). It ends at its LAST row; while it is open, at the newest row of its environment.

    Every stored row knows its episode's number, modulo L + 1: L stored rows belong to at most L episodes, and one more
    is the one before them that an append may close. A table by that number holds begin and end. So an append costs
    O(T E), however long the episodes are that it closes.

    Args:
        num_envs: B.
        length: L, rows per environment.
    """

    def __init__(self, num_envs: int, length: int):
        self._num_envs = num_envs
        self._length = length
        self._num_added = np.zeros(num_envs, np.int64)
        # np.zeros takes memory only as it is written, as np.empty does, and leaves no garbage in a checkpoint.
        self._entry = np.zeros((length, num_envs), np.int64)
        self._begin = np.zeros((length + 1, num_envs), np.int64)
        self._end = np.zeros((length + 1, num_envs), np.int64)
        self._number = np.zeros(num_envs, np.int64)
        self._after_last = np.ones(num_envs, np.bool_)

    @staticmethod
    def predicted_bytes(num_envs: int, length: int) -> int:
        """Bytes that the index takes when every row is an episode of its own."""
        return ((3 * length + 4) * 8 + 1) * num_envs

    @property
    def num_added(self) -> np.ndarray:
        """Rows ever added of each environment, int64 `[B]`."""
        return self._num_added.copy()

    def append(self, step_type: np.ndarray, first_env: int = 0) -> None:
        """Adds T rows of each of the environments `first_env, …, first_env + E - 1`.

        Args:
            step_type: uint8 `[T, E]`, T at most L.
            first_env: the first of them.
        """
        num_rows, num_envs = step_type.shape
        envs = slice(first_env, first_env + num_envs)
        assert 1 <= num_rows <= self._length and 0 <= first_env <= self._num_envs - num_envs
        is_last = step_type == StepType.LAST
        follows_last = np.concatenate([self._after_last[None, envs], is_last[:-1]])
        begins = (step_type == StepType.FIRST) | follows_last
        number = self._number[envs] + np.cumsum(begins, axis=0)
        entry = number % (self._length + 1)
        position = self._num_added[envs] + np.arange(num_rows)[:, None]
        self._entry[position % self._length, np.arange(first_env, first_env + num_envs)] = entry

        # All begins before all ends: a window may open, and close, an episode whose predecessor it closes too.
        row, env = np.nonzero(begins)
        self._begin[entry[row, env], first_env + env] = position[row, env]
        self._end[entry[row, env], first_env + env] = _OPEN
        self._end[(number[row, env] - 1) % (self._length + 1), first_env + env] = position[row, env] - 1
        row, env = np.nonzero(is_last)
        self._end[entry[row, env], first_env + env] = position[row, env]

        self._number[envs] = number[-1]
        self._after_last[envs] = is_last[-1]
        self._num_added[envs] += num_rows

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
        """The position of the last row of each row's episode; the environment's newest row's if the episode is open.

        Args:
            position: int64 array of stored rows.
            env_id: int64 array of the same shape.

        Raises:
            ValueError: a row is not stored.
        """
        return np.minimum(self._end[self._entries(position, env_id), env_id], self._num_added[env_id] - 1)

    def blocks(
        self, position: np.ndarray, env_id: np.ndarray, past: int, segment_length: int, future: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of blocks: T rows from each position on, those before and those after, capped at episode ends.

        Args:
            position: int64 `[n]`, first rows of segments; the segments are stored.
            env_id: int64 `[n]`.
            past: rows before a segment; before the begin of the first row's episode that begin is repeated.
            segment_length: T.
            future: rows after it; after the end of the last row's episode that end is repeated.

        Returns:
            The positions of the rows, int64 `[n, past + T + future]`, and of the ends, `[n]`; see `end`.

        Raises:
            ValueError: a segment is not stored.
        """
        block = np.empty((len(position), past + segment_length + future), np.int64)
        end = np.empty(len(position), np.int64)
        tables = self._entry, self._begin, self._end, self._num_added
        if not _write_blocks(position, env_id, *tables, past, segment_length, block, end):
            self._entries(position, env_id)
            self._entries(position + segment_length - 1, env_id)
        return block, end

    def steps_to_end(self, position: np.ndarray, env_id: np.ndarray) -> np.ndarray:
        """How many rows lie between each row and the end of its episode; see `end`. 0 for a LAST row.

        Args:
            position: int64 array of stored rows.
            env_id: int64 array of the same shape.

        Raises:
            ValueError: a row is not stored.
        """
        return self.end(position, env_id) - position

    def _entries(self, position: np.ndarray, env_id: np.ndarray) -> np.ndarray:
        check_stored(position, env_id, np.maximum(self._num_added - self._length, 0), self._num_added - 1)
        return self._entry[position % self._length, env_id]

    def state_dict(self) -> dict[str, Any]:
        """The index. Tensors are views of the arrays: write them before the next append."""
        return {"num_added": torch.from_numpy(self._num_added), "arrays": self._filled(self._num_added, self._number)}

    def _filled(self, num_added: np.ndarray, number: np.ndarray) -> list[torch.Tensor]:
        num_episodes = min(self._length, int(number.max())) + 1
        table = [self._begin[:num_episodes], self._end[:num_episodes]]
        arrays = [number, self._after_last, self._entry[: min(int(num_added.max()), self._length)], *table]
        return [torch.from_numpy(array) for array in arrays]

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that `load_state_dict` would accept `state`.

        Raises:
            ValueError: it is of another number of environments or length, or it is damaged.
        """
        check_keys(state, self.state_dict(), "EpisodeIndex")
        check_num_added(state["num_added"], self._num_envs, "EpisodeIndex")
        num_added = state["num_added"].numpy()
        arrays = state["arrays"]
        check_tensors(
            arrays[:1] if isinstance(arrays, list) else arrays, [torch.from_numpy(self._number)], "EpisodeIndex"
        )
        number = arrays[0].numpy()
        wrong = np.flatnonzero((number < 0) | (number > num_added))
        if len(wrong):
            raise ValueError(
                f"EpisodeIndex: {number[wrong[0]]} episodes in {num_added[wrong[0]]} rows of environment {wrong[0]}; "
                "the state is damaged"
            )
        check_tensors(arrays, self._filled(num_added, number), "EpisodeIndex")
        entry = arrays[2]
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
        for table, saved in ((self._entry, entry), (self._begin, begin), (self._end, end)):
            table[: len(saved)] = saved
        self._num_added = state["num_added"].numpy().copy()


@compile_cached
def _write_blocks(
    position: np.ndarray,
    env_id: np.ndarray,
    entry: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    num_added: np.ndarray,
    past: int,
    segment_length: int,
    block: np.ndarray,
    block_end: np.ndarray,
) -> bool:
    length, num_envs = entry.shape
    for i in range(len(position)):
        env, first, last = env_id[i], position[i], position[i] + segment_length - 1
        if env < 0 or env >= num_envs or first < max(0, num_added[env] - length) or last >= num_added[env]:
            return False
        lowest = begin[entry[first % length, env], env]
        highest = min(end[entry[last % length, env], env], num_added[env] - 1)
        for k in range(block.shape[1]):
            block[i, k] = min(max(first - past + k, lowest), highest)
        block_end[i] = highest
    return True

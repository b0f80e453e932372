"""Where the episode of a stored row begins and ends."""

from typing import Any

import numpy as np
import torch

from alfish.data_structures import StepType
from alfish.experience_replayers.checks import check_keys, check_num_added, check_stored, check_tensors
from alfish.ops.compilation import compile_cached

_MODULUS = 1 << 32
"""Of positions in the table: four bytes each, and the rows that ask are far nearer to them than that."""


class EpisodeIndex:
    """Where the episodes of the rows in a ring of the same length begin and end.

    An episode begins at a FIRST row and at a row that follows a LAST row (a cut may leave an episode with its LAST row
    only). It ends at its LAST row; while it is open, at the newest row of its environment.

    Every stored row knows its episode's number, modulo L, since L stored rows belong to at most L episodes. A table by
    that number holds where each begins; it ends before the next one does. So an append costs O(T E), however long the
    episodes are that it closes.

    Args:
        num_envs: B.
        length: L, rows per environment; below 2^31.

    Raises:
        ValueError: `length` is not.
    """

    def __init__(self, num_envs: int, length: int):
        if length > np.iinfo(np.int32).max:
            raise ValueError(f"EpisodeIndex.length is {length} rows per environment; it must be below 2^31")
        self._num_envs = num_envs
        self._length = length
        self._num_added = np.zeros(num_envs, np.int64)
        # np.zeros takes memory only as it is written, as np.empty does, and leaves no garbage in a checkpoint.
        self._entry = np.zeros((length, num_envs), np.int32)
        self._begin = np.zeros((length, num_envs), np.uint32)  # modulo 2^32
        self._number = np.zeros(num_envs, np.int64)
        self._after_last = np.ones(num_envs, np.bool_)

    @staticmethod
    def predicted_bytes(num_envs: int, length: int) -> int:
        """Bytes that the index takes when every row is an episode of its own."""
        return (8 * length + 2 * 8 + 1) * num_envs

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
        entry = number % self._length
        position = self._num_added[envs] + np.arange(num_rows)[:, None]
        self._entry[position % self._length, np.arange(first_env, first_env + num_envs)] = entry
        row, env = np.nonzero(begins)
        self._begin[entry[row, env], first_env + env] = position[row, env] % _MODULUS
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
        begin = self._begin[self._entries(position, env_id), env_id]
        return position - (position - begin) % _MODULUS

    def end(self, position: np.ndarray, env_id: np.ndarray) -> np.ndarray:
        """The position of the last row of each row's episode; the environment's newest row's if the episode is open.

        Args:
            position: int64 array of stored rows.
            env_id: int64 array of the same shape.

        Raises:
            ValueError: a row is not stored.
        """
        entry = self._entries(position, env_id)
        next_begin = self._begin[(entry + 1) % self._length, env_id]
        is_newest = entry == self._number[env_id] % self._length
        return np.where(is_newest, self._num_added[env_id] - 1, position + (next_begin - position) % _MODULUS - 1)

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
        tables = self._entry, self._begin, self._number, self._num_added
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
        num_rows, num_episodes = min(int(num_added.max()), self._length), min(int(number.max()) + 1, self._length)
        arrays = [number, self._after_last, self._entry[:num_rows], self._begin[:num_episodes].view(np.int32)]
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
        if entry.numel() and not 0 <= int(entry.min()) <= int(entry.max()) < self._length:
            raise ValueError(f"EpisodeIndex: an entry is not in [0, {self._length}); the state is damaged")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned; copies into the own arrays.

        Raises:
            ValueError: see `check_state_dict`. Nothing has been changed then.
        """
        self.check_state_dict(state)
        number, after_last, entry, begin = (tensor.numpy() for tensor in state["arrays"])
        self._number = number.copy()
        self._after_last = after_last.copy()
        self._entry[: len(entry)] = entry
        self._begin[: len(begin)] = begin.view(np.uint32)
        self._num_added = state["num_added"].numpy().copy()


@compile_cached
def _write_blocks(
    position: np.ndarray,
    env_id: np.ndarray,
    entry: np.ndarray,
    begin: np.ndarray,
    number: np.ndarray,
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
        lowest = first - (first - np.int64(begin[entry[first % length, env], env])) % _MODULUS
        episode, highest = entry[last % length, env], num_added[env] - 1
        if episode != number[env] % length:
            highest = last + (np.int64(begin[(episode + 1) % length, env]) - last) % _MODULUS - 1
        for k in range(block.shape[1]):
            block[i, k] = min(max(first - past + k, lowest), highest)
        block_end[i] = highest
    return True

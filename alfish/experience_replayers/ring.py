"""A ring of rows: preallocated host storage, one block copy per leaf in, one gather per leaf out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.experience_replayers.checks import check_keys, check_num_added, check_stored, check_tensors
from alfish.experience_replayers.row_copies import RowCopies
from alfish.experience_replayers.storage import MemoryStorage, Storage, spec_line, words_of
from alfish.ops.compilation import compile_cached


class Ring:
    """The newest L rows of each of B environments.

    A row has a *position*: how many rows its environment had added before it. Stored are, of each environment, the
    positions `oldest, …, newest`; a new row overwrites the oldest. The environments need not step in lockstep: their
    rows arrive in windows of any block of neighbouring environments.

    Memory is reserved at once, but the operating system provides it only as rows arrive. The rows of one environment
    lie one behind the other, since that is how they are read: as blocks. Measured for 256 blocks of 10 frames of 84x84:
    0.7 ms, and 1.1 ms where each step's rows of all environments lie together.

    Args:
        spec: nest of TensorSpec, one row of one environment.
        num_envs: B.
        length: L, rows per environment.
        storage: where the rows lie; in memory by default. Of this ring alone.

    Attributes:
        num_added: int64 `[B]`, rows ever added of each environment; the position of its next row. A new array after
            each append.
    """

    def __init__(self, spec: nest.Nest, num_envs: int, length: int, storage: Storage | None = None):
        check_at_least("Ring.num_envs", num_envs, 1)
        check_at_least("Ring.length", length, 1)
        self.spec = spec
        self.num_envs = num_envs
        self.length = length
        self.num_added = np.zeros(num_envs, np.int64)
        self._named_specs = nest.leaves_with_paths(spec)
        self._storage = MemoryStorage() if storage is None else storage
        self._words = self._storage.allocate(self._named_specs, num_envs, length)
        self._copies = RowCopies(
            [words.reshape(num_envs * length, *words.shape[2:]) for words in self._words], num_envs * length
        )
        self._dtypes = [leaf.dtype for _, leaf in self._named_specs]
        self._numbers = nest.unflatten(nest.structure(spec), list(range(len(self._words))))

    @property
    def oldest(self) -> np.ndarray:
        """Position of the oldest stored row of each environment, int64 `[B]`."""
        return np.maximum(self.num_added - self.length, 0)

    @property
    def newest(self) -> np.ndarray:
        """Position of the newest stored row of each environment, int64 `[B]`; -1 if there is none."""
        return self.num_added - 1

    @property
    def num_stored(self) -> np.ndarray:
        """Rows stored of each environment, int64 `[B]`."""
        return np.minimum(self.num_added, self.length)

    def check_window(self, window: nest.Nest, first_env: int = 0) -> tuple[int, int]:
        """Checks that `append` would accept `window`.

        Returns:
            (T, E), its rows and its environments.

        Raises:
            ValueError: names the leaf whose structure, shape, dtype or device is wrong, or a T or E that does not fit.
        """
        nest.check_same_structure(self.spec, window, "Ring.append: window")
        leaves = nest.leaves(window)
        num_rows, num_envs = leaves[0].shape[:2] if leaves and leaves[0].dim() > 1 else (0, 0)
        for (path, spec), leaf in zip(self._named_specs, leaves, strict=True):
            expected = (num_rows, num_envs, *spec.shape)
            if leaf.shape != expected or leaf.dtype != spec.dtype or leaf.device.type != "cpu":
                raise ValueError(
                    f"Ring.append: window leaf '{path}' has shape {tuple(leaf.shape)}, {leaf.dtype}, on {leaf.device}; "
                    f"expected shape [T, E, ...] = {expected}, {spec.dtype}, on cpu, with the same T and E everywhere"
                )
        if not 1 <= num_rows <= self.length:
            raise ValueError(
                f"Ring.append: the window has T={num_rows} rows per environment; expected 1 to {self.length}, the rows "
                "that are kept per environment. Raise the replay's capacity or collect shorter windows"
            )
        if not (num_envs and 0 <= first_env <= self.num_envs - num_envs):
            raise ValueError(
                f"Ring.append: the window has rows of E={num_envs} environments from environment {first_env} on; "
                f"expected some of the environments 0 to {self.num_envs - 1}"
            )
        return num_rows, num_envs

    def append(self, window: nest.Nest, first_env: int = 0) -> None:
        """Adds T rows of each of the environments `first_env, …, first_env + E - 1`.

        Args:
            window: nest of CPU tensors `[T, E, ...]`, T at most L. Copied.
            first_env: the first of them.

        Raises:
            ValueError: see `check_window`. Nothing has been added then.
            OSError: the storage has no room. Nothing has been added then.
        """
        num_rows, num_envs = self.check_window(window, first_env)
        envs = slice(first_env, first_env + num_envs)
        num_added = self.num_added.copy()
        num_added[envs] += num_rows
        self._storage.take_space(np.minimum(num_added, self.length))
        slots = (self.num_added[envs] + np.arange(num_rows)[:, None]) % self.length
        in_lockstep = (slots == slots[:, :1]).all()
        start = int(slots[0, 0])
        before_wrap = min(num_rows, self.length - start)
        for stored, leaf in zip(self._words, nest.leaves(window), strict=True):
            words = words_of(leaf)
            if in_lockstep:
                stored[envs, start : start + before_wrap] = words[:before_wrap].swapaxes(0, 1)
                stored[envs, : num_rows - before_wrap] = words[before_wrap:].swapaxes(0, 1)
            else:
                stored[np.arange(first_env, first_env + num_envs), slots] = words
        self.num_added = num_added

    def slots(self, position: np.ndarray, env_id: np.ndarray) -> np.ndarray:
        """Where rows lie, until they are overwritten; for `take`.

        Args:
            position: int64 `[n, ...]`, contiguous.
            env_id: int64 `[n]`.

        Returns:
            int64, of the shape of `position`.

        Raises:
            ValueError: a row is not stored.
        """
        slots = np.empty_like(position)
        if not _write_slots(position.reshape(-1), env_id, self.num_added, self.length, slots.reshape(-1)):
            env_id = env_id.reshape(-1, *[1] * (position.ndim - 1))
            check_stored(position, env_id, self.oldest, self.newest)
        return slots

    def take(self, slots: np.ndarray, part: Callable[[nest.Nest], nest.Nest] | None = None) -> nest.Nest:
        """Copies rows out.

        Args:
            slots: as `slots` returned them.
            part: picks the leaves to take: gets a nest like `spec`, returns any nest of its leaves. All by default.

        Returns:
            A nest of new tensors of shape `slots.shape + leaf shape`.
        """
        wanted = self._numbers if part is None else part(self._numbers)
        numbers = nest.leaves(wanted)
        taken = self._copies.take(slots, numbers)
        tensors = [torch.from_numpy(t).view(self._dtypes[n]) for t, n in zip(taken, numbers, strict=True)]
        return nest.unflatten(nest.structure(wanted), tensors)

    def gather(
        self, position: np.ndarray, env_id: np.ndarray, part: Callable[[nest.Nest], nest.Nest] | None = None
    ) -> nest.Nest:
        """Copies rows out; `env_id` broadcasts with `position`. See `slots` and `take`."""
        position, env_id = (np.ascontiguousarray(array) for array in np.broadcast_arrays(position, env_id))
        slots = self.slots(position.reshape(-1), env_id.reshape(-1))
        return self.take(slots.reshape(position.shape), part)

    def state_dict(self) -> dict[str, Any]:
        """The stored rows and the write heads. Tensors are views of the storage: write them before the next append.

        Of each leaf it is one, `[B, M, ...]`, where M is the most rows that are stored of an environment. Those that
        another one lacks are zeros.
        """
        return {
            "num_added": torch.from_numpy(self.num_added),
            "num_envs": self.num_envs,
            "length": self.length,
            "spec": [spec_line(named) for named in self._named_specs],
            "rows": self._filled(self.num_stored),
        }

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that `load_state_dict` would accept `state`.

        Raises:
            ValueError: it is of another spec, number of environments or length, or it is damaged.
        """
        own = self.state_dict()
        check_keys(state, own, "Ring")
        for key in ("num_envs", "length"):
            if state[key] != own[key]:
                raise ValueError(f"Ring: the state has {key}={state[key]}, this ring has {own[key]}; they must agree")
        if state["spec"] != own["spec"]:
            raise ValueError(
                f"Ring: the state's rows are other than this ring's: only in the state "
                f"{[line for line in state['spec'] if line not in own['spec']]}, only in the ring "
                f"{[line for line in own['spec'] if line not in state['spec']]}. Load into a run with the same "
                "environment and algorithm"
            )
        check_num_added(state["num_added"], self.num_envs, "Ring")
        num_stored = np.minimum(state["num_added"].numpy(), self.length)
        check_tensors(state["rows"], self._filled(num_stored), "Ring")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned; copies into the own storage.

        Raises:
            ValueError: see `check_state_dict`. Nothing has been changed then.
            OSError: the storage has no room. Nothing has been changed then.
        """
        self.check_state_dict(state)
        num_added = state["num_added"].numpy().copy()
        num_stored = np.minimum(num_added, self.length)
        self._storage.take_space(num_stored)
        stored_before = self.num_stored
        for stored, leaf in zip(self._words, state["rows"], strict=True):
            words = words_of(leaf)
            for env_id, num_rows in enumerate(num_stored):
                stored[env_id, :num_rows] = words[env_id, :num_rows]
                stored[env_id, num_rows : stored_before[env_id]] = 0
        self.num_added = num_added

    def _filled(self, num_stored: np.ndarray) -> list[torch.Tensor]:
        """Views of what is stored, one of each leaf."""
        # Not one for each environment: those may be too small for the checkpoint to write them without a copy.
        return [
            torch.from_numpy(words[:, : num_stored.max()]).view(spec.dtype)
            for words, (_, spec) in zip(self._words, self._named_specs, strict=True)
        ]


@compile_cached
def _write_slots(
    position: np.ndarray, env_id: np.ndarray, num_added: np.ndarray, length: int, slots: np.ndarray
) -> bool:
    width = len(position) // max(len(env_id), 1)
    for i in range(len(position)):
        env, row = env_id[i // width], position[i]
        if env < 0 or env >= len(num_added) or row < max(0, num_added[env] - length) or row >= num_added[env]:
            return False
        slots[i] = env * length + row % length
    return True

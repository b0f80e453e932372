"""The replay buffer: windows `[T, E]` in, blocks of rows `[B, past + T + future]` out."""

import threading
from typing import Any, NamedTuple

import gin
import numpy as np
import numpy.typing as npt
import torch

from alfish.checks import check_at_least
from alfish.data_structures import BatchInfo, Experience, RowsNeeded, TimeStep
from alfish.experience_replayers.blocks import Blocks
from alfish.experience_replayers.checks import check_keys, check_part
from alfish.experience_replayers.episode_index import EpisodeIndex
from alfish.experience_replayers.ring import Ring
from alfish.experience_replayers.samplers import SampledRows, Sampler, UniformSampler
from alfish.experience_replayers.sizes import ReplayBytes, check_size, predicted_bytes
from alfish.experience_replayers.storage import Disk, MemoryStorage, Storage


class ReplayBatch(NamedTuple):
    """A sampled batch.

    Attributes:
        experience: leaves `[B, past + T + future, ...]`; those of the observation
            `[B, past + T + future_observations, ...]`. Without `state`.
        batch_info: leaves `[B, past + T + future, ...]`; those of `importance_weight`, `tail` and `state` `[B, ...]`.
            Its action is the very tensor in `experience`, its state that of the first row of the segment.
        rows: the first row of each segment, `[B]`, for `ReplayBuffer.update_priorities`.
    """

    experience: Experience
    batch_info: BatchInfo
    rows: SampledRows


@gin.configurable
class ReplayBuffer:
    """Keeps the newest rows of each of B environments and samples blocks of them.

    A block is a segment of T consecutive rows as stored (it may run into the next episode), the `past` rows before it
    and the `future` rows after it. Rows before the beginning of the episode of the segment's first row repeat that
    beginning. Rows after the end of the episode of the segment's last row repeat that end; where the episode is open,
    its newest row. So a block reaches neither into an episode before or after the segment nor over the write head.

    The segment and the `past` rows must be stored, also where an episode's beginning makes the latter unnecessary: the
    `past` oldest rows are not sampled as the first of a segment. A uniform batch costs the same however full the buffer
    is; see the samplers for others.

    Environments need not step in lockstep: windows of several engines arrive in any order, each of a block of
    neighbouring environments. All methods may be called from any thread at any time; they wait for each other, so that
    a batch never holds half of a window.

    Args:
        spec: Experience of nests of TensorSpec, one row of one environment.
        num_envs: B.
        capacity: rows that are kept, over all environments; rounded down to a multiple of B. Memory is reserved at once
            but taken only as rows arrive.
        rows_needed: the rows around the segment.
        segment_length: T of a sampled segment.
        sampler: chooses the segments; `UniformSampler()` by default. Of this buffer alone.
        storage: where the rows lie; `MemoryStorage()` by default. Of this buffer alone.
        max_bytes: the most that the buffer may take, in memory and on the disk together; None for what the machine has.

    Attributes:
        capacity: rows that are kept, as rounded.
        size: bytes that the buffer takes when it is full.
        draws_by_priority: whether the sampler needs priorities.

    Raises:
        ValueError: an argument is out of range or of another kind, the capacity does not hold one block per
            environment, or the buffer takes more than `max_bytes`, than this machine's memory or than is free on the
            disk.
    """

    def __init__(
        self,
        spec: Experience,
        num_envs: int,
        capacity: int,
        rows_needed: RowsNeeded,
        segment_length: int = 1,
        sampler: Sampler | None = None,
        storage: Storage | None = None,
        max_bytes: int | None = None,
    ):
        _check_arguments(spec, num_envs, capacity, rows_needed, segment_length, max_bytes)
        length = capacity // num_envs
        self.capacity = length * num_envs
        self._num_envs = num_envs
        self._rows_needed = rows_needed
        self._segment_length = segment_length
        self._sampler = UniformSampler() if sampler is None else sampler
        self._storage = MemoryStorage() if storage is None else storage
        check_part("ReplayBuffer.sampler", self._sampler, Sampler)
        check_part("ReplayBuffer.storage", self._storage, Storage)
        self.draws_by_priority = self._sampler.draws_by_priority

        def predict(length: int) -> ReplayBytes:
            return predicted_bytes(spec, num_envs, length, self._sampler, self._storage)

        block_length = rows_needed.past + segment_length + rows_needed.future
        check_size(predict, num_envs, length, block_length, self._storage, max_bytes)
        self.size = predict(length)
        self._sampler.reserve(num_envs, length)
        self._ring = Ring(spec, num_envs, length, self._storage)
        self._episodes = EpisodeIndex(num_envs, length)
        self._blocks = Blocks(self._ring, self._episodes, rows_needed, segment_length)
        self._lock = threading.Lock()
        self._allow()

    @property
    def num_rows(self) -> int:
        """Rows stored, over all environments."""
        return int(self._ring.num_stored.sum())

    @property
    def total_rows(self) -> int:
        """Rows ever added, over all environments."""
        return int(self._ring.num_added.sum())

    @property
    def num_bytes(self) -> int:
        """Bytes that the buffer takes when it is full, in memory and on the disk together."""
        return self.size.total

    @property
    def disk(self) -> Disk | None:
        """The disk that the rows lie on; see `Storage.disk`."""
        return self._storage.disk()

    def discard(self) -> None:
        """Removes what lies on a disk, for a buffer that is not used any more."""
        with self._lock:
            self._storage.discard()

    @property
    def can_sample(self) -> bool:
        """Whether enough rows of some environment are stored for `sample`."""
        return bool((self._ring.num_stored >= self._rows_before_sampling).any())

    @property
    def _rows_before_sampling(self) -> int:
        return self._rows_needed.past + self._segment_length

    def append(self, window: Experience, first_env: int = 0) -> None:
        """Adds T rows of each of the environments `first_env, …, first_env + E - 1`; their oldest rows make place.

        Args:
            window: CPU tensors `[T, E, ...]` that follow the rows of these environments' last window without a gap.
                Copied.
            first_env: the first of them; E is B for rows of all environments.

        Raises:
            ValueError: names the leaf that is not as in the spec, or the environments that there are not. Nothing has
                been added then.
            OSError: the disk is full. Nothing has been added then.
        """
        with self._lock:
            self._ring.append(window, first_env)
            self._episodes.append(window.time_step.step_type.numpy(), first_env)
            self._allow()

    def _allow(self) -> None:
        first = self._ring.oldest + self._rows_needed.past
        last = np.maximum(self._ring.num_added - self._segment_length, -1)
        self._sampler.allow(first, last)

    def sample(self, batch_size: int, generator: np.random.Generator, fraction: float = 0.0) -> ReplayBatch:
        """Samples blocks.

        Args:
            batch_size: B of the batch.
            generator: the only source of randomness.
            fraction: of the run that is done, in [0, 1], for the sampler's schedules.

        Returns:
            New CPU tensors.

        Raises:
            ValueError: `batch_size` is not positive, `generator` is not one of numpy's, or too few rows are stored.
        """
        check_at_least("the batch_size of ReplayBuffer.sample", batch_size, 1)
        if not isinstance(generator, np.random.Generator):
            raise ValueError(
                f"the generator of ReplayBuffer.sample is {generator!r}; expected one of numpy's, such as "
                "numpy.random.default_rng(0)"
            )
        with self._lock:
            self._check_enough()
            rows, weight = self._sampler.sample(batch_size, generator, fraction)
            experience, batch_info = self._blocks.gather(rows)
        if weight is not None:
            batch_info = batch_info._replace(importance_weight=torch.from_numpy(weight))
        return ReplayBatch(experience, batch_info, rows)

    def _check_enough(self) -> None:
        if self.can_sample:
            return
        needed, stored = self._rows_before_sampling, self._ring.num_stored
        raise ValueError(
            f"ReplayBuffer.sample: {stored.sum()} rows are stored, at most {stored.max()} of one of the "
            f"{self._num_envs} environments; at least {needed} of one are needed (past {self._rows_needed.past} + "
            f"segment {self._segment_length}). Collect more before the first update"
        )

    def update_priorities(self, rows: SampledRows, priority: npt.ArrayLike) -> None:
        """Says how much is to be learned from segments; see `Sampler.update_priorities`.

        Args:
            rows: `ReplayBatch.rows` of a batch. Rows that have been overwritten since are ignored; where one occurs
                twice, its last priority counts.
            priority: `[B]`, finite, at least 0; all that numpy makes an array of.

        Raises:
            ValueError: a priority is NaN, infinite, negative or no number, or rows and priorities do not fit. Nothing
                has been changed then.
        """
        position, env_id = _as_array("position", rows[0], np.int64), _as_array("env_id", rows[1], np.int64)
        priority = _as_array("priority", priority, np.float64)
        if not position.shape == env_id.shape == priority.shape == (len(position),):
            raise ValueError(
                f"ReplayBuffer.update_priorities: position {position.shape}, env_id {env_id.shape} and priority "
                f"{priority.shape}; expected one axis of the same size, as in ReplayBatch.rows"
            )
        if env_id.size and (env_id.min() < 0 or env_id.max() >= self._num_envs):
            raise ValueError(
                f"ReplayBuffer.update_priorities: env_id from {env_id.min()} to {env_id.max()}; expected 0 to "
                f"{self._num_envs - 1}, as in ReplayBatch.rows"
            )
        with self._lock:
            self._sampler.update_priorities(SampledRows(position, env_id), priority)

    def state_dict(self) -> dict[str, Any]:
        """The stored rows, counters, episodes and priorities, exactly.

        Tensors are views of the storage, so that saving takes no second copy: write them before the next `append`,
        `update_priorities` or `load_state_dict`, in any thread.
        """
        with self._lock:
            return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            "num_envs": self._num_envs,
            "capacity": self.capacity,
            "ring": self._ring.state_dict(),
            "episodes": self._episodes.state_dict(),
            "sampler": self._sampler.state_dict(),
        }

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that `load_state_dict` can take over a state.

        Raises:
            ValueError: the state is of another capacity, spec, sampler or number of environments, or it is damaged.
        """
        with self._lock:
            self._check_state(state)

    def _check_state(self, state: dict[str, Any]) -> None:
        own = self._state()
        if isinstance(state, dict) and "sampler" not in state:
            raise ValueError(
                "ReplayBuffer: the sampler's part (the priorities) is missing from the checkpoint's replay. Continue "
                "without its replay, or start a new run"
            )
        check_keys(state, own, "ReplayBuffer")
        for key in ("num_envs", "capacity"):
            if state[key] != own[key]:
                raise ValueError(
                    f"ReplayBuffer: the checkpoint has {key}={state[key]}, this run has {key}={own[key]}. "
                    f"Continue with the checkpoint's {key}, or start a new run"
                )
        self._ring.check_state_dict(state["ring"])
        self._episodes.check_state_dict(state["episodes"])
        self._sampler.check_state_dict(state["sampler"])
        rows, episodes = (state[part]["num_added"].tolist() for part in ("ring", "episodes"))
        if rows != episodes:
            raise ValueError(
                f"ReplayBuffer: the checkpoint's rows end at {rows} and its episodes at {episodes}; it is damaged"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned; copies into the own storage.

        Raises:
            ValueError: see `check_state_dict`. Nothing has been changed then.
            OSError: the disk is full. Nothing has been changed then.
        """
        with self._lock:
            self._check_state(state)
            self._ring.load_state_dict(state["ring"])
            self._episodes.load_state_dict(state["episodes"])
            self._sampler.load_state_dict(state["sampler"])
            self._allow()


def _as_array(name: str, given: npt.ArrayLike, dtype: type[np.number[Any]]) -> np.ndarray:
    try:
        return np.asarray(given).astype(dtype, casting="same_kind", copy=False)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor with a gradient
        raise ValueError(
            f"ReplayBuffer.update_priorities: {name} is a {type(given).__name__} that is no array of "
            f"{dtype.__name__}: {error}"
        ) from error


def _check_arguments(
    spec: Experience,
    num_envs: int,
    capacity: int,
    rows_needed: RowsNeeded,
    segment_length: int,
    max_bytes: int | None,
) -> None:
    if not isinstance(spec, Experience) or not isinstance(spec.time_step, TimeStep):
        raise ValueError(f"ReplayBuffer: spec={spec}: expected an Experience with a TimeStep, of TensorSpecs")
    for name, value in (("num_envs", num_envs), ("capacity", capacity), ("segment_length", segment_length)):
        check_at_least(f"ReplayBuffer.{name}", value, 1)
    if max_bytes is not None:
        check_at_least("ReplayBuffer.max_bytes", max_bytes, 1)
    past, future, future_observations, tail = rows_needed
    if min(past, future, future_observations) < 0 or future_observations > future:
        raise ValueError(f"ReplayBuffer: {rows_needed}: expected 0 <= future_observations <= future and 0 <= past")
    if tail is not None and not 0.0 <= tail.gamma <= 1.0:
        raise ValueError(f"ReplayBuffer: {rows_needed}: gamma={tail.gamma}, expected a number in [0, 1]")
    block = past + segment_length + future
    if capacity < block * num_envs:
        raise ValueError(
            f"ReplayBuffer: capacity={capacity} is less than one block for each environment: {block} rows "
            f"(past {past} + segment {segment_length} + future {future}) x {num_envs} environments = "
            f"{block * num_envs}. Raise ReplayBuffer.capacity"
        )

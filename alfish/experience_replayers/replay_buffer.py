"""The replay buffer: windows `[T, B]` in, blocks of rows `[B, past + T + future]` out."""

import os
import pathlib
from typing import Any, NamedTuple

import gin
import numpy as np
import torch

from alfish import nest, specs
from alfish.checks import check_at_least
from alfish.data_structures import BatchInfo, Experience, RowsNeeded, TimeStep
from alfish.experience_replayers.checks import check_keys
from alfish.experience_replayers.episode_index import EpisodeIndex
from alfish.experience_replayers.ring import Ring
from alfish.experience_replayers.samplers import Sampler, UniformSampler

_CONTAINER_MEMORY_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


class ReplayBatch(NamedTuple):
    """A sampled batch.

    Attributes:
        experience: leaves `[B, past + T + future, ...]`; those of the observation
            `[B, past + T + future_observations, ...]`.
        batch_info: leaves `[B, past + T + future, ...]`. Its action is the very tensor in `experience`.
    """

    experience: Experience
    batch_info: BatchInfo


@gin.configurable
class ReplayBuffer:
    """Keeps the newest rows of B environments and samples blocks of them.

    A block is a segment of T consecutive rows as stored (it may run into the next episode), the `past` rows before it
    and the `future` rows after it. Rows before the beginning of the episode of the segment's first row repeat that
    beginning. Rows after the end of the episode of the segment's last row repeat that end; where the episode is open,
    its newest row. So a block reaches neither into an episode before or after the segment nor over the write head.

    The segment and the `past` rows must be stored, also where an episode's beginning makes the latter unnecessary: the
    `past` oldest rows are not sampled as the first of a segment. A batch costs the same however full the buffer is.

    For one thread at a time: an `append` during a `sample` would mix rows.

    Args:
        spec: Experience of nests of TensorSpec, one row of one environment.
        num_envs: B.
        capacity: rows that are kept, over all environments; rounded down to a multiple of B. Memory is reserved at once
            but taken only as rows arrive.
        rows_needed: the rows around the segment.
        segment_length: T of a sampled segment.
        sampler: chooses the segments; `UniformSampler()` by default.

    Attributes:
        capacity: rows that are kept, as rounded.

    Raises:
        ValueError: an argument is out of range, the capacity does not hold one block per environment, or the rows do
            not fit into this machine's memory.
    """

    def __init__(
        self,
        spec: Experience,
        num_envs: int,
        capacity: int,
        rows_needed: RowsNeeded,
        segment_length: int = 1,
        sampler: Sampler | None = None,
    ):
        _check_arguments(spec, num_envs, capacity, rows_needed, segment_length)
        _check_memory(predicted_bytes(spec, num_envs, capacity), capacity)
        length = capacity // num_envs
        self.capacity = length * num_envs
        self._num_envs = num_envs
        self._rows_needed = rows_needed
        self._segment_length = segment_length
        self._sampler = UniformSampler() if sampler is None else sampler
        self._ring = Ring(spec, num_envs, length)
        self._episodes = EpisodeIndex(num_envs, length)
        self._num_bytes = predicted_bytes(spec, num_envs, capacity)
        self._offsets = np.arange(-rows_needed.past, segment_length + rows_needed.future)

    @property
    def num_rows(self) -> int:
        """Rows stored, over all environments."""
        return self._ring.num_stored * self._num_envs

    @property
    def total_rows(self) -> int:
        """Rows ever added, over all environments."""
        return self._ring.num_added * self._num_envs

    @property
    def num_bytes(self) -> int:
        """Bytes that the buffer takes when it is full."""
        return self._num_bytes

    def append(self, window: Experience) -> None:
        """Adds T rows of every environment; the oldest rows make place.

        Args:
            window: CPU tensors `[T, B, ...]` that follow the rows of the last window without a gap. Copied.

        Raises:
            ValueError: names the leaf that is not as in the spec. Nothing has been added then.
        """
        self._ring.append(window)
        self._episodes.append(window.time_step.step_type.numpy())

    def sample(self, batch_size: int, generator: np.random.Generator) -> ReplayBatch:
        """Samples blocks.

        Args:
            batch_size: B of the batch.
            generator: the only source of randomness.

        Returns:
            New CPU tensors.

        Raises:
            ValueError: `batch_size` is not positive, or too few rows are stored.
        """
        check_at_least("the batch_size of ReplayBuffer.sample", batch_size, 1)
        first = self._ring.oldest + self._rows_needed.past
        last = self._ring.newest - self._segment_length + 1
        if last < first:
            needed = self._rows_needed.past + self._segment_length
            raise ValueError(
                f"ReplayBuffer.sample: {self.num_rows} rows are stored ({self._ring.num_stored} of each of "
                f"{self._num_envs} environments), at least {needed * self._num_envs} are needed ({needed} of each). "
                "Collect more before the first update"
            )
        position, env_id = self._sampler.sample(batch_size, first, last, self._num_envs, generator)
        return self._gather(position, env_id)

    def _gather(self, position: np.ndarray, env_id: np.ndarray) -> ReplayBatch:
        begin = self._episodes.begin(position, env_id)
        end = self._episodes.end(position + self._segment_length - 1, env_id)
        block = np.clip(position[:, None] + self._offsets, begin[:, None], end[:, None])
        num_observations = self._rows_needed.past + self._segment_length + self._rows_needed.future_observations
        observation = self._ring.gather(block[:, :num_observations], env_id[:, None], _observation)
        rows = self._ring.gather(block, env_id[:, None], _all_but_observation)
        experience = rows._replace(time_step=rows.time_step._replace(observation=observation))
        return ReplayBatch(experience, BatchInfo(action=experience.action, position=torch.from_numpy(block)))

    def state_dict(self) -> dict[str, Any]:
        """The stored rows, counters and episodes, exactly.

        Tensors are views of the storage, so that saving takes no second copy: write them before the next `append`.
        """
        return {
            "num_envs": self._num_envs,
            "capacity": self.capacity,
            "ring": self._ring.state_dict(),
            "episodes": self._episodes.state_dict(),
        }

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that `load_state_dict` can take over a state.

        Raises:
            ValueError: the state is of another capacity, spec or number of environments, or it is damaged.
        """
        own = self.state_dict()
        check_keys(state, own, "ReplayBuffer")
        for key in ("num_envs", "capacity"):
            if state[key] != own[key]:
                raise ValueError(
                    f"ReplayBuffer: the checkpoint has {key}={state[key]}, this run has {key}={own[key]}. "
                    f"Continue with the checkpoint's {key}, or start a new run"
                )
        self._ring.check_state_dict(state["ring"])
        self._episodes.check_state_dict(state["episodes"])
        if state["ring"]["num_added"] != state["episodes"]["num_added"]:
            raise ValueError(
                f"ReplayBuffer: the checkpoint's rows end at {state['ring']['num_added']} and its episodes at "
                f"{state['episodes']['num_added']}; it is damaged"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned; copies into the own storage.

        Raises:
            ValueError: see `check_state_dict`. Nothing has been changed then.
        """
        self.check_state_dict(state)
        self._ring.load_state_dict(state["ring"])
        self._episodes.load_state_dict(state["episodes"])


def predicted_bytes(spec: nest.Nest, num_envs: int, capacity: int) -> int:
    """Bytes that a full ReplayBuffer takes; reckoned, not allocated.

    Args:
        spec: nest of TensorSpec, one row of one environment.
        num_envs: B.
        capacity: rows over all environments.
    """
    length = capacity // num_envs
    return length * num_envs * specs.num_bytes(spec) + EpisodeIndex.predicted_bytes(num_envs, length)


def physical_memory() -> int | None:
    """Bytes of memory that this machine, or the container that we run in, has; None where it cannot be known."""
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(physical, int(_CONTAINER_MEMORY_LIMIT.read_text()))
    except (OSError, ValueError):  # there is no such file, or it says "max"
        return physical


def _observation(rows: Experience) -> nest.Nest:
    return rows.time_step.observation


def _all_but_observation(rows: Experience) -> Experience:
    return rows._replace(time_step=rows.time_step._replace(observation=()))


def _check_arguments(
    spec: Experience, num_envs: int, capacity: int, rows_needed: RowsNeeded, segment_length: int
) -> None:
    if not isinstance(spec, Experience) or not isinstance(spec.time_step, TimeStep):
        raise ValueError(f"ReplayBuffer: spec={spec}: expected an Experience with a TimeStep, of TensorSpecs")
    for name, value in (("num_envs", num_envs), ("capacity", capacity), ("segment_length", segment_length)):
        check_at_least(f"ReplayBuffer.{name}", value, 1)
    if min(rows_needed) < 0 or rows_needed.future_observations > rows_needed.future:
        raise ValueError(f"ReplayBuffer: {rows_needed}: expected 0 <= future_observations <= future and 0 <= past")
    block = rows_needed.past + segment_length + rows_needed.future
    if capacity < block * num_envs:
        raise ValueError(
            f"ReplayBuffer: capacity={capacity} is less than one block for each environment: {block} rows "
            f"(past {rows_needed.past} + segment {segment_length} + future {rows_needed.future}) x {num_envs} "
            f"environments = {block * num_envs}. Raise ReplayBuffer.capacity"
        )


def _check_memory(needed: int, capacity: int) -> None:
    available = physical_memory()
    if available is not None and needed > available:
        raise ValueError(
            f"ReplayBuffer: capacity={capacity} rows take {needed / 2**30:.1f} GiB, this machine has "
            f"{available / 2**30:.1f} GiB of memory. Lower ReplayBuffer.capacity to at most "
            f"{int(capacity * available / needed)}, and leave room for the rest of the program"
        )

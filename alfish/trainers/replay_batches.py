"""Batches out of a replay buffer: off-policy training."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import gin
import torch

from alfish import gin_config, nest, specs
from alfish.checks import check_at_least
from alfish.data_structures import BatchInfo, Experience, Progress, Tail
from alfish.experience_replayers.replay_buffer import ReplayBuffer
from alfish.experience_replayers.samplers import SampledRows
from alfish.experience_replayers.sizes import ReplayBytes
from alfish.experience_replayers.storage import Disk
from alfish.trainers.batch_source import BatchSource, SourceContext, TrainBatch, example_observation


@gin.configurable
class ReplayBatches(BatchSource):
    """Samples of a replay buffer, at a fixed number of gradient steps per environment step.

    The number of updates follows from the environment steps alone, never from how fast the machine is. The sampler must
    draw by priority if, and only if, the algorithm gives priorities.

    Args:
        context: see SourceContext.
        batch_size: B of a sampled block, at least 1.
        updates_per_env_step: gradient steps per environment step after `initial_env_steps`; larger than 0.
        initial_env_steps: environment steps before the first gradient step, and after a checkpoint's rows were dropped.
        segment_length: T of a sampled block. A recurrent algorithm learns from it as a sequence, which begins with the
            state as it was stored with the first row.
        replay_buffer: makes the buffer; its capacity is bound there.

    Raises:
        ValueError: a size is out of range, the algorithm is on-policy, its burn-in takes up the whole segment, or it
            and the sampler do not go together.
    """

    copies_on_load = True  # so the checkpoint store need not read the rows into memory first
    way_out = "to go on without the stored rows, give --drop_replay"

    def __init__(
        self,
        context: SourceContext,
        batch_size: int = gin.REQUIRED,
        updates_per_env_step: float = gin.REQUIRED,
        initial_env_steps: int = gin.REQUIRED,
        segment_length: int = 1,
        replay_buffer: Callable[..., ReplayBuffer] = ReplayBuffer,
    ):
        super().__init__(context)
        name = f"{context.prefix}ReplayBatches"
        check_at_least(f"{name}.batch_size", batch_size, 1)
        check_at_least(f"{name}.segment_length", segment_length, 1)
        check_at_least(f"{name}.initial_env_steps", initial_env_steps, 0)
        if not updates_per_env_step > 0:
            raise ValueError(f"{name}.updates_per_env_step is {updates_per_env_step}; it must be larger than 0")
        if context.algorithm.on_policy:
            raise ValueError(
                f"{type(context.algorithm).__name__} is on-policy: it cannot learn from a replay buffer; "
                f"bind {context.choice('OnPolicyBatches')}"
            )
        rows_needed = context.algorithm.rows_needed()
        rows_needed = rows_needed._replace(past=context.transform.past_rows)
        # States are stored only for whom they are: those of the acting algorithm mean nothing to a part trained apart.
        self._row_specs = context.row_specs if context.is_recurrent else context.row_specs._replace(state=())
        with _settings_named_in_scope(context.prefix):
            self._buffer = replay_buffer(
                spec=self._row_specs,
                num_envs=context.num_envs,
                rows_needed=rows_needed,
                segment_length=segment_length,
            )
        try:
            _check_priorities(context, self._buffer.draws_by_priority)
            _check_burn_in(context, segment_length)
            _check_window(context, self._buffer.capacity // context.num_envs)
        except ValueError:
            self._buffer.discard()
            raise
        self._rows_needed = rows_needed
        self._segment_length = segment_length
        self._batch_size = batch_size
        self._updates_per_env_step = updates_per_env_step
        self._initial_env_steps = initial_env_steps
        self._begun = Progress()

    @property
    def size(self) -> ReplayBytes:
        return self._buffer.size

    @property
    def disk(self) -> Disk | None:
        return self._buffer.disk

    def updates_after(self, env_steps: int) -> int:
        paid_for = env_steps - self._begun.env_steps - self._initial_env_steps
        return self._begun.updates + max(0, int(paid_for * self._updates_per_env_step))

    def example(self) -> TrainBatch:
        past, future, future_observations, tail_needed = self._rows_needed
        row_specs, num_rows = self._row_specs, self._batch_size
        outer = (num_rows, past + self._segment_length + future)
        outer_seen = (num_rows, outer[1] - future + future_observations)
        observation = example_observation(row_specs.time_step.observation, outer_seen)
        without = row_specs._replace(time_step=row_specs.time_step._replace(observation=()), state=())
        rows = specs.zeros(without, outer)
        rows = rows._replace(time_step=rows.time_step._replace(observation=observation))
        tail: nest.Nest = ()
        if tail_needed is not None:
            tail = Tail(torch.zeros(num_rows), torch.zeros(num_rows), specs.zeros(row_specs.rollout_info, (num_rows,)))
        position = torch.arange(outer[1]).expand(outer)
        state = specs.zeros(row_specs.state, (num_rows,))
        info = BatchInfo(rows.action, position, torch.ones(num_rows), position.flip(1), tail, state)
        return self._prepare_sample(rows, info)

    def add(self, window: Experience, first_env: int = 0) -> None:
        past, length = self._context.transform.past_rows, self._context.window_length
        rows = nest.map_structure(lambda leaf: leaf[past : past + length], window.time_step)
        state = window.state if nest.leaves(self._row_specs.state) else ()
        self._buffer.append(window._replace(time_step=rows, state=state), first_env)

    def batches(self, progress: Progress) -> Iterator[TrainBatch]:
        due = self.updates_after(progress.env_steps) - progress.updates
        if not self._buffer.can_sample:
            return
        for _ in range(due):
            with self._context.timers.phase(f"{self._context.prefix}sample"):
                sampled = self._buffer.sample(self._batch_size, self._context.generator, progress.fraction)
            yield self._prepare_sample(sampled.experience, sampled.batch_info)._replace(rows=sampled.rows)

    def _prepare_sample(self, experience: Experience, batch_info: BatchInfo) -> TrainBatch:
        past = self._rows_needed.past
        if past:
            later = (experience.rollout_info, batch_info.action, batch_info.position, batch_info.age)
            info, action, position, age = nest.map_structure(lambda leaf: leaf[:, past:], later)
            batch_info = batch_info._replace(action=action, position=position, age=age)
            return self._prepare(experience.time_step, info, batch_info)
        return self._prepare(experience.time_step, experience.rollout_info, batch_info)

    def update_priorities(self, batch: TrainBatch, priority: torch.Tensor) -> None:
        assert isinstance(batch.rows, SampledRows)
        self._buffer.update_priorities(batch.rows, priority.detach().cpu().numpy())

    def restart(self, progress: Progress) -> None:
        self._begun = progress

    def discard(self) -> None:
        self._buffer.discard()

    def state_dict(self) -> dict[str, Any]:
        begun = {"env_steps": self._begun.env_steps, "updates": self._begun.updates}
        return {"begun": begun, "buffer": self._buffer.state_dict()}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raises a ValueError if the state does not fit the buffer."""
        if state.keys() != {"begun", "buffer"}:
            raise ValueError(f"the checkpoint holds no stored rows, but {sorted(state) or 'nothing'}")
        begun = state["begun"]
        if begun.keys() != {"env_steps", "updates"} or not all(isinstance(count, int) for count in begun.values()):
            raise ValueError(f"the checkpoint's replay began at {begun}; expected counts of env_steps and updates")
        self._buffer.check_state_dict(state["buffer"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._begun = Progress(**state["begun"])
        self._buffer.load_state_dict(state["buffer"])


@contextlib.contextmanager
def _settings_named_in_scope(scope: str) -> Iterator[None]:
    """Puts a gin scope before the settings of the replay that a ValueError names: without it they are others."""
    try:
        yield
    except ValueError as error:
        told = gin_config.translate_error(error)
        told.args = (re.sub(r"(?<![\w/])(ReplayBuffer|ReplayBatches)\b", rf"{scope}\1", str(told)),)
        raise told from error.__cause__


def _check_burn_in(context: SourceContext, segment_length: int) -> None:
    name, burn_in = type(context.algorithm).__name__, context.algorithm.burn_in
    if segment_length <= burn_in:
        raise ValueError(
            f"{context.prefix}ReplayBatches.segment_length is {segment_length} and the burn_in of {name} {burn_in}, "
            "which leaves no row to train on; expected a segment that is longer than its burn-in"
        )


def _check_window(context: SourceContext, length: int) -> None:
    if context.window_length > length:
        raise ValueError(
            f"{context.prefix}ReplayBuffer.capacity holds {length} rows of each environment, Trainer.window_length is "
            f"{context.window_length}; the buffer must hold at least one window"
        )


def _check_priorities(context: SourceContext, draws_by_priority: bool) -> None:
    name, sampler = type(context.algorithm).__name__, f"{context.prefix}ReplayBuffer.sampler"
    settings = context.algorithm.priority_settings
    if draws_by_priority and not context.algorithm.gives_priorities:
        or_set = "" if settings is None else f", or set {settings[0]}"
        raise ValueError(
            f"{name} gives no priorities, but its replay draws by priority, and would keep the first ones for ever: "
            f"bind {sampler} = @UniformSampler(){or_set}"
        )
    if context.algorithm.gives_priorities and not draws_by_priority:
        or_set = "" if settings is None else f", or set {settings[1]}"
        raise ValueError(
            f"{name} gives priorities, but its replay does not draw by them: bind {sampler} = @PrioritizedSampler()"
            f"{or_set}"
        )

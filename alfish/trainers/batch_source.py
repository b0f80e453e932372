"""Where training batches come from: the fresh window, or the replay buffer.

This is the one place that turns time-major windows `[T, B]` into batch-major blocks `[B, T]`, and the only difference
between on-policy and off-policy training.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gin
import numpy as np
import torch

from alfish import nest, specs
from alfish.algorithms.algorithm import Algorithm
from alfish.checks import check_at_least
from alfish.data_structures import BatchInfo, Experience, Progress, Tail, TimeStep
from alfish.experience_replayers.replay_buffer import ReplayBuffer
from alfish.experience_replayers.samplers import SampledRows
from alfish.experience_replayers.sizes import ReplayBytes
from alfish.experience_replayers.storage import Disk
from alfish.networks.preprocessing import ObservationTransform, episode_begins
from alfish.summary.timers import Timers


class TrainBatch(NamedTuple):
    """What one gradient step sees.

    Attributes:
        inputs: `[B, T]` rows.
        rollout_info: `[B, T]`, from `preprocess_experience`.
        importance_weight: `[B]`, or `()`.
        rows: which rows of a replay the segments begin with, `[B]`; `()` of a fresh window.
    """

    inputs: TimeStep
    rollout_info: nest.Nest
    importance_weight: nest.Nest = ()
    rows: SampledRows | tuple[()] = ()


class SourceContext(NamedTuple):
    """What every batch source is built from.

    Attributes:
        algorithm: whose `preprocess_experience` makes the targets.
        transform: from stored to seen observations.
        row_specs: Experience of the specs of one stored row.
        num_envs: B of a window.
        window_length: T of a window.
        generator: draws samples and permutations.
        device: where the algorithm is.
        timers: gets the phases "sample" and "targets".
        prefix: before the names of the phases; the scope of the settings.
        setting: what chose the batch source.
    """

    algorithm: Algorithm
    transform: ObservationTransform
    row_specs: Experience
    num_envs: int
    window_length: int
    generator: np.random.Generator
    device: torch.device
    timers: Timers
    prefix: str = ""
    setting: str = "Trainer.batch_source"

    def choice(self, source: str) -> str:
        """What a user binds to get another batch source."""
        return f"{self.setting} = @{self.prefix}{source}"


class BatchSource:
    """The interface of a batch source.

    Args:
        context: what it is built from.

    Raises:
        ValueError: the algorithm has a recurrent state, which no source of this version keeps in order, asks for
            rows before the segment, or needs more than what is stored with a row.
    """

    def __init__(self, context: SourceContext):
        self._context = context
        if context.algorithm.rows_needed().past:
            raise ValueError(
                f"{type(context.algorithm).__name__}.rows_needed() asks for {context.algorithm.rows_needed().past} "
                "rows before the segment; only an observation transform (FrameStack) can have those"
            )
        if nest.leaves(context.algorithm.initial_state(1)):
            raise ValueError(
                f"{type(context.algorithm).__name__} has a recurrent state; {type(self).__name__} hands out rows "
                "without their order. Use a network without recurrence, for example with FrameStack"
            )
        context.algorithm.check_experience(context.row_specs)

    @property
    def size(self) -> ReplayBytes:
        """Predicted bytes of what is stored, once it is full."""
        return ReplayBytes(0, 0)

    @property
    def disk(self) -> Disk | None:
        """The disk that it lies on; None if it is in memory."""
        return None

    @property
    def updates_per_block(self) -> int:
        """How many gradient steps share the targets of one block."""
        return 1

    def updates_after(self, env_steps: int) -> int:
        """How many gradient steps are due after so many environment steps of the run (to be told beforehand)."""
        raise NotImplementedError(f"{type(self).__name__} must define updates_after(env_steps)")

    def example(self) -> TrainBatch:
        """A batch made of rows of zeros, as large as the ones that `batches` yields."""
        raise NotImplementedError(f"{type(self).__name__} must define example()")

    def add(self, window: Experience) -> None:
        """Takes a collected window; `window` is valid only during this call and the `batches` after it."""
        raise NotImplementedError(f"{type(self).__name__} must define add(window)")

    def batches(self, progress: Progress) -> Iterator[TrainBatch]:
        """The batches of this iteration."""
        raise NotImplementedError(f"{type(self).__name__} must define batches(progress)")

    def update_priorities(self, batch: TrainBatch, priority: torch.Tensor) -> None:
        """Takes the new priorities `[B]` of a batch's rows; without effect where rows are not drawn by priority."""
        del batch, priority

    def restart(self, progress: Progress) -> None:
        """Begins anew, without rows, in a run that has come as far as `progress` (its updates: those of this task)."""
        del progress

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        del state

    def _prepare(self, time_step: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo) -> TrainBatch:
        """Moves a block to the device, transforms its observations, and makes the targets.

        Args:
            time_step: `[B, past + T + future]`; the past rows are dropped.
            rollout_info: without the past rows.
            batch_info: without the past rows.
        """
        context = self._context
        past = context.transform.past_rows
        with context.timers.phase(f"{context.prefix}targets"), torch.no_grad():
            if context.device.type != "cpu":
                time_step, rollout_info, batch_info = nest.map_structure(
                    lambda leaf: leaf.to(context.device, non_blocking=True), (time_step, rollout_info, batch_info)
                )
            observation = time_step.observation
            if past:
                begins = episode_begins(time_step.is_first(), time_step.is_last())
                num_rows = nest.leaves(observation)[0].shape[1]
                observation = context.transform.unroll(observation, begins[:, :num_rows])
                time_step = nest.map_structure(lambda leaf: leaf[:, past:], time_step._replace(observation=()))
            # As when acting: batch normalisation and dropout must not tell targets from what was acted on.
            training = context.algorithm.training
            context.algorithm.eval()
            inputs, info = context.algorithm.preprocess_experience(
                time_step._replace(observation=observation), rollout_info, batch_info
            )
            context.algorithm.train(training)
        return TrainBatch(inputs, info, batch_info.importance_weight)


@gin.configurable
class OnPolicyBatches(BatchSource):
    """Epochs of shuffled mini-batches over the fresh window, which is then dropped.

    The rows of the window are mixed over environments and time: `[B, 1]` batches.

    Args:
        context: see SourceContext.
        mini_batch_size: rows of one gradient step, at least 1. The last one of an epoch holds what is left.
        num_epochs: passes over the window, at least 1.

    Raises:
        ValueError: a size is smaller than 1, or the algorithm needs rows that a window does not have.
    """

    def __init__(self, context: SourceContext, mini_batch_size: int = gin.REQUIRED, num_epochs: int = gin.REQUIRED):
        super().__init__(context)
        check_at_least("OnPolicyBatches.mini_batch_size", mini_batch_size, 1)
        check_at_least("OnPolicyBatches.num_epochs", num_epochs, 1)
        if context.algorithm.rows_needed().future > 1:
            raise ValueError(
                f"{type(context.algorithm).__name__} needs {context.algorithm.rows_needed().future} rows after a row; "
                f"a fresh window has 1: bind {context.choice('ReplayBatches')}"
            )
        if context.algorithm.rows_needed().tail is not None:
            raise ValueError(
                f"{type(context.algorithm).__name__} needs what lies between a row and the end of its episode, which a "
                f"fresh window does not hold: bind {context.choice('ReplayBatches')}"
            )
        self._mini_batch_size = mini_batch_size
        self._num_epochs = num_epochs
        self._rows_of_window = context.num_envs * context.window_length
        self._window: Experience | None = None

    @property
    def updates_per_block(self) -> int:
        return self._num_epochs * -(-self._rows_of_window // self._mini_batch_size)

    def updates_after(self, env_steps: int) -> int:
        return (env_steps // self._rows_of_window) * self.updates_per_block

    def example(self) -> TrainBatch:
        context = self._context
        num_envs, length, past = context.num_envs, context.window_length, context.transform.past_rows
        time_step = specs.zeros(context.row_specs.time_step, (num_envs, past + length + 1))
        answers = [specs.zeros(field, (num_envs, length)) for field in context.row_specs[1:]]
        inputs, info = self._mixed_rows(Experience(time_step, *answers))
        return self._pick(inputs, info, torch.arange(min(self._mini_batch_size, num_envs * length)))

    def add(self, window: Experience) -> None:
        self._window = window

    def batches(self, progress: Progress) -> Iterator[TrainBatch]:
        if self._window is None:
            return
        inputs, info = self._mixed_rows(nest.map_structure(lambda leaf: leaf.transpose(0, 1), self._window))
        self._window = None
        for _ in range(self._num_epochs):
            order = torch.from_numpy(self._context.generator.permutation(inputs.reward.shape[0]))
            for chosen in order.to(inputs.reward.device).split(self._mini_batch_size):
                yield self._pick(inputs, info, chosen)

    def _mixed_rows(self, window: Experience) -> tuple[TimeStep, nest.Nest]:
        position = torch.arange(self._context.window_length).expand(self._context.num_envs, -1)
        prepared = self._prepare(window.time_step, window.rollout_info, BatchInfo(window.action, position))
        return nest.map_structure(lambda leaf: leaf.flatten(0, 1), (prepared.inputs, prepared.rollout_info))

    def _pick(self, inputs: TimeStep, info: nest.Nest, rows: torch.Tensor) -> TrainBatch:
        inputs, info = nest.map_structure(lambda leaf: leaf[rows].unsqueeze(1), (inputs, info))
        return TrainBatch(inputs, info)


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
        segment_length: T of a sampled block.
        replay_buffer: makes the buffer; its capacity is bound there.

    Raises:
        ValueError: a size is out of range, the algorithm is on-policy, or it and the sampler do not go together.
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
        check_at_least("ReplayBatches.batch_size", batch_size, 1)
        check_at_least("ReplayBatches.initial_env_steps", initial_env_steps, 0)
        if not updates_per_env_step > 0:
            raise ValueError(f"ReplayBatches.updates_per_env_step is {updates_per_env_step}; it must be larger than 0")
        if context.algorithm.on_policy:
            raise ValueError(
                f"{type(context.algorithm).__name__} is on-policy: it cannot learn from a replay buffer; "
                f"bind {context.choice('OnPolicyBatches')}"
            )
        rows_needed = context.algorithm.rows_needed()
        rows_needed = rows_needed._replace(past=context.transform.past_rows)
        self._buffer = replay_buffer(
            spec=context.row_specs,
            num_envs=context.num_envs,
            rows_needed=rows_needed,
            segment_length=segment_length,
        )
        _check_priorities(context, self._buffer.draws_by_priority)
        if context.window_length > self._buffer.capacity // context.num_envs:
            raise ValueError(
                f"ReplayBuffer.capacity holds {self._buffer.capacity // context.num_envs} rows of each environment, "
                f"Trainer.window_length is {context.window_length}; the buffer must hold at least one window"
            )
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
        row_specs, num_rows = self._context.row_specs, self._batch_size
        outer = (num_rows, past + self._segment_length + future)
        observation = specs.zeros(row_specs.time_step.observation, (num_rows, outer[1] - future + future_observations))
        rows = specs.zeros(row_specs._replace(time_step=row_specs.time_step._replace(observation=())), outer)
        rows = rows._replace(time_step=rows.time_step._replace(observation=observation))
        tail: nest.Nest = ()
        if tail_needed is not None:
            tail = Tail(torch.zeros(num_rows), torch.zeros(num_rows), specs.zeros(row_specs.rollout_info, (num_rows,)))
        position = torch.arange(outer[1]).expand(outer)
        info = BatchInfo(rows.action, position, torch.ones(num_rows), position.flip(1), tail)
        return self._prepare_sample(rows, info)

    def add(self, window: Experience) -> None:
        past, length = self._context.transform.past_rows, self._context.window_length
        rows = nest.map_structure(lambda leaf: leaf[past : past + length], window.time_step)
        self._buffer.append(window._replace(time_step=rows))

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


def _check_priorities(context: SourceContext, draws_by_priority: bool) -> None:
    name, sampler = type(context.algorithm).__name__, f"{context.prefix}ReplayBuffer.sampler"
    if draws_by_priority and not context.algorithm.gives_priorities:
        raise ValueError(
            f"{name} gives no priorities, but its replay draws by priority, and would keep the first ones for ever: "
            f"bind {sampler} = @UniformSampler(), or let calc_loss give LossInfo.priority and gives_priorities be True "
            "(of MuZero: bind MuzeroRepresentationImpl.priority_function = 'value_error')"
        )
    if context.algorithm.gives_priorities and not draws_by_priority:
        raise ValueError(
            f"{name} gives priorities, but its replay does not draw by them: bind {sampler} = @PrioritizedSampler(), "
            "or let it give none (of MuZero: bind MuzeroRepresentationImpl.priority_function = None)"
        )

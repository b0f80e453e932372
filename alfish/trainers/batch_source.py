"""Where training batches come from: the fresh window, or the replay buffer.

This is the one place that turns time-major windows `[T, B]` into batch-major blocks `[B, T]`, and the only difference
between on-policy and off-policy training.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from alfish import nest, specs
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import BatchInfo, Experience, Progress, TimeStep
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
        state: `[B, ...]`, the recurrent state before the first of these rows, as stored; `()` of an algorithm without.
    """

    inputs: TimeStep
    rollout_info: nest.Nest
    importance_weight: nest.Nest = ()
    rows: SampledRows | tuple[()] = ()
    state: nest.Nest = ()


class SourceContext(NamedTuple):
    """What every batch source is built from.

    Attributes:
        algorithm: whose `preprocess_experience` makes the targets.
        transform: from stored to seen observations.
        row_specs: Experience of the specs of one stored row.
        num_envs: B, all environments of the run.
        window_length: T of a window.
        generator: draws samples and permutations.
        device: where the algorithm is.
        timers: gets the phases "sample" and "targets".
        prefix: before the names of the phases; the scope of the settings.
        setting: what chose the batch source.
        envs_per_window: E, environments of one window; None for all of them.
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
    envs_per_window: int | None = None

    @property
    def window_envs(self) -> int:
        """E of a window."""
        return self.num_envs if self.envs_per_window is None else self.envs_per_window

    @property
    def is_recurrent(self) -> bool:
        """Whether the algorithm has a recurrent state."""
        return bool(nest.leaves(self.algorithm.initial_state(1)))

    def choice(self, source: str) -> str:
        """What a user binds to get another batch source."""
        return f"{self.setting} = @{self.prefix}{source}"


class BatchSource:
    """The interface of a batch source.

    Args:
        context: what it is built from.

    Raises:
        ValueError: the algorithm has a recurrent state that is not stored with the rows, asks for rows before the
            segment, or needs more than what is stored with a row; or the transform remembers rows that a block lacks.
    """

    def __init__(self, context: SourceContext):
        self._context = context
        if context.algorithm.rows_needed().past:
            raise ValueError(
                f"{type(context.algorithm).__name__}.rows_needed() asks for {context.algorithm.rows_needed().past} "
                "rows before the segment; only an observation transform (FrameStack) can have those"
            )
        _check_memory(context.transform)
        if context.is_recurrent:
            _check_stored_state(context)
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
        """A batch made of rows of zeros, in which all actions are legal, as large as the ones that `batches` yields."""
        raise NotImplementedError(f"{type(self).__name__} must define example()")

    def add(self, window: Experience, first_env: int = 0) -> None:
        """Takes a collected window.

        Args:
            window: of E environments; valid only during this call and the `batches` after it.
            first_env: the first of these environments; E is B for rows of all environments.
        """
        raise NotImplementedError(f"{type(self).__name__} must define add(window, first_env)")

    def batches(self, progress: Progress) -> Iterator[TrainBatch]:
        """The batches of this iteration."""
        raise NotImplementedError(f"{type(self).__name__} must define batches(progress)")

    def update_priorities(self, batch: TrainBatch, priority: torch.Tensor) -> None:
        """Takes the new priorities `[B]` of a batch's rows; without effect where rows are not drawn by priority."""
        del batch, priority

    def restart(self, progress: Progress) -> None:
        """Begins anew, without rows, in a run that has come as far as `progress` (its updates: those of this task)."""
        del progress

    def discard(self) -> None:
        """Removes what lies on a disk, at the end of a run that nothing is kept of."""

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
            if not context.transform.is_identity:
                begins = episode_begins(time_step.is_first(), time_step.is_last())
                num_rows = nest.leaves(observation)[0].shape[1]
                observation = context.transform.unroll(observation, begins[:, :num_rows])
                time_step = nest.map_structure(lambda leaf: leaf[:, past:], time_step._replace(observation=()))
            # As when acting: batch normalisation and dropout must not tell targets from what was acted on.
            training = context.algorithm.training
            if training:
                context.algorithm.eval()
            inputs, info = context.algorithm.preprocess_experience(
                time_step._replace(observation=observation), rollout_info, batch_info
            )
            if training:
                context.algorithm.train()
        return TrainBatch(inputs, info, batch_info.importance_weight, state=batch_info.state)


def example_observation(observation_spec: nest.Nest, outer_dims: tuple[int, ...]) -> nest.Nest:
    """An observation of zeros, but of ones in entries of numbers in [0, 1]: a mask of legal actions allows them all."""

    def example(spec: specs.TensorSpec) -> torch.Tensor:
        may_be_mask = isinstance(spec, specs.BoundedTensorSpec) and (spec.minimum, spec.maximum) == (0, 1)
        return spec.zeros(outer_dims).fill_(1 if may_be_mask else 0)

    return nest.map_structure(example, observation_spec)


def _check_memory(transform: ObservationTransform) -> None:
    if nest.leaves(transform.initial_state(1, "cpu")) and not transform.past_rows:
        name = type(transform).__name__
        raise ValueError(
            f"{name} has a state, but {name}.past_rows is 0: acting would see what it remembers, training on stored "
            "rows would not; set past_rows to how many rows before a row its observation is made of, at least 1"
        )


def _check_stored_state(context: SourceContext) -> None:
    expected = specs.spec_of(context.algorithm.initial_state(1), outer_dims=1)
    if nest.structure(expected) == nest.structure(context.row_specs.state) and all(
        (wanted.shape, wanted.dtype) == (stored.shape, stored.dtype)
        for wanted, stored in zip(nest.leaves(expected), nest.leaves(context.row_specs.state), strict=True)
    ):
        return
    raise ValueError(
        f"{type(context.algorithm).__name__} is recurrent and learns from sequences of rows, which need the state "
        f"before their first row, {expected}, but what is stored with a row is {context.row_specs.state or 'no state'}:"
        " collect with this algorithm (the engines store its states), or use a network without memory, for example "
        "with FrameStack"
    )

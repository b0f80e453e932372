"""The words of the house: TimeStep, AlgStep, Experience, BatchInfo, LossInfo and the rows that an algorithm needs.

All are named tuples of tensors. The shapes below leave out the leading axes: `[B]` for one row of every environment,
`[T, B]` for a collected window, `[B, T]` for a sampled block (docs/shapes.md). An absent field is `()`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from alfish import nest, specs


class StepType:
    """Values of `TimeStep.step_type`."""

    FIRST = 0
    MID = 1
    LAST = 2


class TimeStep(NamedTuple):
    """One row from an environment.

    The row after LAST is FIRST, its reward is 0, its discount 1, and the action given on a LAST row is ignored. So the
    last observation of every episode is in the data. A checkpoint may close an episode before its second row: its only
    row is then LAST, and follows the LAST row of the episode before. An environment that freezes after an episode's end
    repeats its LAST row, with reward 0.

    Attributes:
        step_type: uint8, one of StepType.
        reward: float32, received on arriving at this row.
        discount: float32. 0 where there is no future value (the episode terminated; as an option of Atari also where a
            life was lost), 1 elsewhere. A time limit or a cut gives LAST with discount 1.
        observation: a nest.
        prev_action: the action that led to this row; zeros on FIRST.
        env_id: int32, which of the parallel environments.
    """

    step_type: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    observation: nest.Nest
    prev_action: nest.Nest
    env_id: torch.Tensor

    def is_first(self) -> torch.Tensor:
        """Bool, True where an episode begins."""
        return self.step_type == StepType.FIRST

    def is_last(self) -> torch.Tensor:
        """Bool, True where an episode ends, for whatever reason."""
        return self.step_type == StepType.LAST


class AlgStep(NamedTuple):
    """What an algorithm's step returns.

    Attributes:
        output: the action, or a representation.
        state: the recurrent state after this step.
        info: what training, or the loss, needs.
    """

    output: nest.Nest
    state: nest.Nest = ()
    info: nest.Nest = ()


class Experience(NamedTuple):
    """Collected rows.

    Attributes:
        time_step: the rows.
        action: the action answered to each row.
        rollout_info: `AlgStep.info` of the `rollout_step` that answered it.
        state: the recurrent state before that step, if the algorithm stores it.
    """

    time_step: TimeStep
    action: nest.Nest = ()
    rollout_info: nest.Nest = ()
    state: nest.Nest = ()


class Tail(NamedTuple):
    """What lies between the last row l of a block and the row E(l) at which its episode ends, m = E(l) - l rows on.

    Attributes:
        reward: `[B]` float32, sum_{j=1..m} gamma^{j-1} (prod_{i=l+1..l+j-1} discount[i]) reward[l+j], of rewards as the
            algorithm's `TailNeeded.reward_transform` changes them; 0 if m = 0.
        discount: `[B]` float32, gamma^m prod_{i=l+1..l+m} discount[i]; 1 if m = 0.
        rollout_info: `[B, ...]`, what was stored with row E(l).
    """

    reward: torch.Tensor
    discount: torch.Tensor
    rollout_info: nest.Nest


class BatchInfo(NamedTuple):
    """Where a block of rows comes from.

    Attributes:
        action: `[B, T + future, ...]`, the action answered to each row; of a fresh window `[B, T, ...]`.
        position: `[B, T + future]` int64. The row's number since the start of the run, among those of its environment.
            Beyond the end of an episode, or the newest stored row, it repeats. Of a fresh window `[B, T]`, the number
            within the window.
        importance_weight: `[B]` float32, correction for sampling that is not uniform; `()` if it is.
        age: `[B, T + future]` int64, environment steps of the run, over all environments, that were stored after the
            row; `()` for a fresh window.
        tail: what lies beyond the block, for an algorithm whose `RowsNeeded.tail` asks for it; else `()`.
        state: `[B, ...]`, the recurrent state before the block's first row, as it was when that row was answered; `()`
            if the algorithm has none.
    """

    action: nest.Nest
    position: torch.Tensor
    importance_weight: nest.Nest = ()
    age: nest.Nest = ()
    tail: nest.Nest = ()
    state: nest.Nest = ()


class LossInfo(NamedTuple):
    """A loss before its mean.

    Attributes:
        loss: `[B, T]`.
        extra: a dict of scalars or `[B, T]` tensors to report.
        priority: `[B]`, new replay priorities, or `()`.
    """

    loss: torch.Tensor
    extra: dict[str, Any]
    priority: nest.Nest = ()


class TailNeeded(NamedTuple):
    """How the rewards beyond a block are summed up for `BatchInfo.tail`.

    Attributes:
        gamma: the discount factor per step, in [0, 1].
        reward_transform: changes stored rewards, a tensor of any shape, elementwise; None leaves them.
    """

    gamma: float
    reward_transform: Callable[[torch.Tensor], torch.Tensor] | None = None


class RowsNeeded(NamedTuple):
    """The rows around a sampled segment `[B, T]` that are gathered with it.

    Attributes:
        past: rows before it, observations only (frame stacking).
        future: rows after it.
        future_observations: how many of the `future` rows need their observation; frames are most of the bytes.
        tail: asks for what lies between the last of these rows and the end of its episode; None for nothing.
    """

    past: int = 0
    future: int = 0
    future_observations: int = 0
    tail: TailNeeded | None = None


def time_step_spec(observation_spec: nest.Nest, action_spec: nest.Nest) -> TimeStep:
    """The specs of a TimeStep's fields."""
    fields: dict[str, Any] = {
        "step_type": specs.TensorSpec((), torch.uint8),
        "reward": specs.TensorSpec((), torch.float32),
        "discount": specs.TensorSpec((), torch.float32),
        "observation": observation_spec,
        "prev_action": action_spec,
        "env_id": specs.TensorSpec((), torch.int32),
    }
    return TimeStep(**fields)


class Progress(NamedTuple):
    """How far a run has come. Plain numbers on the host.

    Attributes:
        iteration: training iterations done.
        env_steps: environment steps done (rows that answered an action; resets do not count).
        updates: gradient steps done.
        fraction: env_steps over the run's total, in [0, 1].
    """

    iteration: int = 0
    env_steps: int = 0
    updates: int = 0
    fraction: float = 0.0

"""The base class of all algorithms: the hooks, in the order in which a row of data meets them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.data_structures import AlgStep, BatchInfo, Experience, LossInfo, Progress, RowsNeeded, TimeStep


class Algorithm(torch.nn.Module):
    """An algorithm answers rows with actions and turns blocks of rows into a loss.

    A subclass overrides the hooks that it needs and nothing else: collecting, storing, sampling, stepping the
    optimiser, checkpoints and metrics are done for it. Hooks write nothing to disk and draw random numbers from torch's
    global generator only, which the run seeds, saves and restores.

    Args:
        observation_spec: nest of TensorSpec, as the algorithm sees the observation (after frame stacking).
        action_spec: nest of BoundedTensorSpec.

    Attributes:
        on_policy: True if it must be trained on the fresh window only.
        needs_replay: True if it must not be trained on the fresh window, but on blocks of a replay only.
        trains_on_last_rows: False leaves LAST rows, whose action is ignored, out of the loss.
        gives_priorities: True if `calc_loss` gives `LossInfo.priority`, by which a replay may draw.
        priority_settings: for messages, what a user sets so that it gives priorities, and so that it gives none; None
            if that cannot be set.
        acting_phase: what `rollout_step` is called in the time split of the summary.
        may_stop_early: True if `stops_early` is to be asked after every update.
        burn_in: how many rows at the start of each segment of a replay are not trained on.
    """

    on_policy: bool = False
    needs_replay: bool = False
    trains_on_last_rows: bool = False
    gives_priorities: bool = False
    priority_settings: tuple[str, str] | None = None
    acting_phase: str = "act"
    may_stop_early: bool = False
    burn_in: int = 0

    def __init__(self, observation_spec: nest.Nest, action_spec: nest.Nest):
        super().__init__()
        self.observation_spec = observation_spec
        self.action_spec = action_spec

    def training_tasks(self) -> list["TrainingTask"]:
        """The parts that are trained apart, each on batches and by an optimiser of its own; none by default.

        Their parameters are left out of what the algorithm itself is trained by.
        """
        return []

    def check_experience(self, row_specs: Experience) -> None:
        """Raises a ValueError if stored rows do not hold what `preprocess_experience` reads; asked before a run.

        Args:
            row_specs: Experience of the specs of one stored row.
        """
        del row_specs

    def rows_needed(self) -> RowsNeeded:
        """The rows after the segment `[B, T]` that `preprocess_experience` reads; `past` must be 0."""
        return RowsNeeded()

    def initial_state(self, batch_size: int) -> nest.Nest:
        """The recurrent state of `batch_size` rows at the start of an episode; `()` for none."""
        del batch_size
        return ()

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Acts for evaluation and play: `[B]` rows in, `AlgStep.output` the actions. No gradient, no exploration."""
        raise NotImplementedError(f"{type(self).__name__} must define predict_step(time_step, state) -> AlgStep")

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Acts while collecting: `[B]` rows in, `output` the actions, `info` what is stored for training.

        Called in inference mode. The state is already zeroed where the row is FIRST.
        """
        raise NotImplementedError(f"{type(self).__name__} must define rollout_step(time_step, state) -> AlgStep")

    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
    ) -> tuple[TimeStep, nest.Nest]:
        """Computes advantages, returns and targets, without gradient.

        Args:
            root_inputs: `[B, T + future]` rows (`[B, T + future_observations]` of the observation). A fresh window
                always has one row after its T.
            rollout_info: `[B, T + future]` as stored; without the bootstrap row of an on-policy window, `[B, T]`.
            batch_info: the actions and positions of the rows.

        Returns:
            The same pair, `[B, T]`; the second goes to `train_step` as `rollout_info`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define preprocess_experience(root_inputs, rollout_info, batch_info)"
        )

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: nest.Nest) -> AlgStep:
        """The forward pass with gradient.

        Args:
            inputs: rows `[B * T]`; of an algorithm with a recurrent state, sequences `[B, T]`.
            state: `[B, ...]`, before the first row of each sequence, as when that row was answered; `()` without.
            rollout_info: what `preprocess_experience` returned for these rows.

        Returns:
            AlgStep whose `info` is what `calc_loss` needs, with the leading axes of `inputs`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define train_step(inputs, state, rollout_info)")

    def calc_loss(self, info: nest.Nest) -> LossInfo:
        """The loss `[B, T]` from the `info` of `train_step`, also `[B, T]`."""
        raise NotImplementedError(f"{type(self).__name__} must define calc_loss(info) -> LossInfo")

    def stops_early(self, metrics: Mapping[str, torch.Tensor | float]) -> bool:
        """Whether the rest of this iteration's batches are left out: of an on-policy algorithm, for good.

        Args:
            metrics: of the last update: what `calc_loss` reports, as scalars, and those of the updater.
        """
        del metrics
        return False

    def after_update(self, progress: Progress) -> None:
        """Called after every gradient step: target networks."""

    def after_train_iter(self, progress: Progress) -> None:
        """Called before the first and after every training iteration, and again when a run is resumed: schedules.

        What it sets must follow from `progress` alone, so that a resumed run goes on as it would have.
        """


class TrainingOptions:
    """How a part is trained.

    Args:
        batch_source: makes the source of its batches, such as `@ReplayBatches`.
        updater: makes what steps its parameters, such as `@Updater`.
        interval: it is trained in every so manieth iteration of the run, at least 1, with all the updates that have
            become due since, and in the last one.

    Raises:
        ValueError: `interval` is smaller than 1.
    """

    def __init__(self, batch_source: Callable[..., Any], updater: Callable[..., Any], interval: int = 1):
        check_at_least(f"{type(self).__name__}.interval", interval, 1)
        self.batch_source = batch_source
        self.updater = updater
        self.interval = interval


class TrainingTask(NamedTuple):
    """Something that is trained, on its own: the whole algorithm, or a part of it that says so.

    Attributes:
        name: goes before the names of its metrics; different for each part of an algorithm.
        algorithm: whose hooks from `preprocess_experience` to `after_train_iter` are called with the task's own batches
            and counts. The algorithm that it is a part of passes none of these on to it.
        options: how.
    """

    name: str
    algorithm: Algorithm
    options: TrainingOptions

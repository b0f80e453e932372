"""Batches of the fresh window: on-policy training."""

from collections.abc import Iterator

import gin
import torch

from alfish import nest, specs
from alfish.checks import check_at_least
from alfish.data_structures import BatchInfo, Experience, Progress
from alfish.trainers.batch_source import BatchSource, SourceContext, TrainBatch, example_observation


@gin.configurable
class OnPolicyBatches(BatchSource):
    """Epochs of shuffled mini-batches over the fresh window, which is then dropped.

    The rows of the window are mixed over environments and time: `[B, 1]` batches. Of a recurrent algorithm, sequences
    of `sequence_length` rows are mixed instead, `[B, T]`, each with the state before its first row as it was stored.

    Args:
        context: see SourceContext.
        mini_batch_size: rows of one gradient step, at least 1; whole sequences. The last one of an epoch holds what is
            left.
        num_epochs: passes over the window, at least 1.
        sequence_length: rows of a sequence of a recurrent algorithm, and the most through which its gradient goes back;
            a divisor of the window's length. None for the whole window.

    Raises:
        ValueError: a size is out of range, the algorithm needs rows that a window does not have, or sequences are asked
            for that it does not learn from.
    """

    def __init__(
        self,
        context: SourceContext,
        mini_batch_size: int = gin.REQUIRED,
        num_epochs: int = gin.REQUIRED,
        sequence_length: int | None = None,
    ):
        super().__init__(context)
        check_at_least("OnPolicyBatches.mini_batch_size", mini_batch_size, 1)
        check_at_least("OnPolicyBatches.num_epochs", num_epochs, 1)
        _check_rows_needed(context)
        self._is_recurrent = context.is_recurrent
        self._sequence_length = _checked_sequence_length(context, sequence_length)
        if mini_batch_size % self._sequence_length:
            raise ValueError(
                f"OnPolicyBatches.mini_batch_size is {mini_batch_size}; of a recurrent algorithm it holds whole "
                f"sequences: give a multiple of {self._sequence_length} rows, or set OnPolicyBatches.sequence_length "
                "to a divisor of it"
            )
        self._sequences_per_batch = mini_batch_size // self._sequence_length
        self._sequences_of_window = context.window_envs * context.window_length // self._sequence_length
        self._num_epochs = num_epochs
        self._window: Experience | None = None

    @property
    def updates_per_block(self) -> int:
        return self._num_epochs * -(-self._sequences_of_window // self._sequences_per_batch)

    def updates_after(self, env_steps: int) -> int:
        context = self._context
        return (env_steps // (context.window_envs * context.window_length)) * self.updates_per_block

    def example(self) -> TrainBatch:
        context = self._context
        num_envs, length, past = context.window_envs, context.window_length, context.transform.past_rows
        row_specs, outer = context.row_specs.time_step, (num_envs, past + length + 1)
        time_step = specs.zeros(row_specs, outer)._replace(
            observation=example_observation(row_specs.observation, outer)
        )
        answers = [specs.zeros(field, (num_envs, length)) for field in context.row_specs[1:]]
        sequences = self._sequences(Experience(time_step, *answers))
        return _pick(sequences, torch.arange(min(self._sequences_per_batch, self._sequences_of_window)))

    def add(self, window: Experience, first_env: int = 0) -> None:
        del first_env
        self._window = window

    def batches(self, progress: Progress) -> Iterator[TrainBatch]:
        if self._window is None:
            return
        sequences = self._sequences(nest.map_structure(lambda leaf: leaf.transpose(0, 1), self._window))
        self._window = None
        reward = sequences.inputs.reward
        for _ in range(self._num_epochs):
            if reward.shape[0] <= self._sequences_per_batch:
                yield sequences  # as one batch, whose order changes nothing; no hook writes to its inputs
                continue
            order = torch.from_numpy(self._context.generator.permutation(reward.shape[0]))
            for chosen in order.to(reward.device).split(self._sequences_per_batch):
                yield _pick(sequences, chosen)

    def _sequences(self, window: Experience) -> TrainBatch:
        """All sequences of a window `[E, T]`: `[E * T / sequence_length, sequence_length]`, and their states."""
        length = self._sequence_length
        position = torch.arange(self._context.window_length).expand(len(window.time_step.reward), -1)
        stored: nest.Nest = window.state if self._is_recurrent else ()
        first = nest.map_structure(lambda leaf: leaf[:, 0], stored)
        batch_info = BatchInfo(window.action, position, state=first)
        prepared = self._prepare(window.time_step, window.rollout_info, batch_info)
        inputs, info = nest.map_structure(
            lambda leaf: leaf.unflatten(1, (-1, length)).flatten(0, 1), (prepared.inputs, prepared.rollout_info)
        )
        before = nest.map_structure(
            lambda leaf: leaf[:, ::length].flatten(0, 1).to(self._context.device, non_blocking=True), stored
        )
        return TrainBatch(inputs, info, state=before)


def _pick(sequences: TrainBatch, chosen: torch.Tensor) -> TrainBatch:
    picked = (sequences.inputs, sequences.rollout_info, sequences.state)
    inputs, info, state = nest.map_structure(lambda leaf: leaf[chosen], picked)
    return TrainBatch(inputs, info, state=state)


def _check_rows_needed(context: SourceContext) -> None:
    needed, name = context.algorithm.rows_needed(), type(context.algorithm).__name__
    if context.algorithm.needs_replay:
        raise ValueError(
            f"{name} learns from blocks of a replay, not from the fresh window: bind {context.choice('ReplayBatches')}"
        )
    if needed.future > 1:
        raise ValueError(
            f"{name} needs {needed.future} rows after a row; a fresh window has 1: bind "
            f"{context.choice('ReplayBatches')}"
        )
    if needed.tail is not None:
        raise ValueError(
            f"{name} needs what lies between a row and the end of its episode, which a fresh window does not hold: "
            f"bind {context.choice('ReplayBatches')}"
        )


def _checked_sequence_length(context: SourceContext, sequence_length: int | None) -> int:
    """Rows that stay together: 1 of an algorithm without memory."""
    if not context.is_recurrent:
        if sequence_length is not None:
            raise ValueError(
                f"OnPolicyBatches.sequence_length is {sequence_length}, but {type(context.algorithm).__name__} has no "
                "recurrent state, so its rows are mixed one by one; set sequence_length = None, or give it an encoder "
                "with memory (@RecurrentEncoder)"
            )
        return 1
    if sequence_length is None:
        return context.window_length
    check_at_least("OnPolicyBatches.sequence_length", sequence_length, 1)
    if context.window_length % sequence_length:
        raise ValueError(
            f"OnPolicyBatches.sequence_length is {sequence_length}; expected a divisor of Trainer.window_length, "
            f"{context.window_length}"
        )
    return sequence_length

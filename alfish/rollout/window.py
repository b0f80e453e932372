"""A preallocated window of rows: what an engine fills and hands on."""

from typing import NamedTuple

import torch

from alfish import nest, specs
from alfish.data_structures import Experience, StepType, TimeStep


class Window:
    """Host memory for `past + T + 1` rows of B environments.

    Rows `0 … past−1` are the last rows of the window before (frame stacking needs them), rows `past … past+T−1` are
    answered with an action, row `past+T` has only its TimeStep: it is the first answered row of the next window.
    Before the run's first row there are LAST rows of zeros, so that nothing reaches behind it.

    Args:
        time_step_specs: specs of a TimeStep.
        window_length: T.
        num_envs: B.
        past_rows: how many rows before the window are kept.
    """

    def __init__(self, time_step_specs: TimeStep, window_length: int, num_envs: int, past_rows: int):
        self.window_length = window_length
        self.past_rows = past_rows
        self.time_step: TimeStep = specs.zeros(time_step_specs, (past_rows + window_length + 1, num_envs))
        self.time_step.step_type.fill_(StepType.LAST)
        # Row views are made once: making them costs as much as a cheap environment's step.
        self.rows = [
            nest.map_structure(lambda leaf, t=t: leaf[t], self.time_step)
            for t in range(past_rows, past_rows + window_length + 1)
        ]
        self.answers: Answers | None = None

    def write_answer(self, t: int, answer: "Answers") -> None:
        """Stores the answer to row t; the first one decides the shapes."""
        if self.answers is None:
            self.answers = nest.map_structure(
                lambda leaf: torch.zeros((self.window_length, *leaf.shape), dtype=leaf.dtype), answer
            )
            self._answer_leaves = nest.leaves(self.answers)
        for stored, leaf in zip(self._answer_leaves, nest.leaves(answer), strict=True):
            stored[t].copy_(leaf)

    def carry_over(self) -> None:
        """Moves the last `past + 1` rows to the front: they open the next window."""
        keep = self.past_rows + 1
        for leaf in nest.leaves(self.time_step):
            leaf[:keep] = leaf[-keep:].clone()

    def experience(self) -> Experience:
        """The filled window: `time_step` `[past+T+1, B]`, the rest `[T, B]`. Valid until the next one is collected."""
        assert self.answers is not None, "a window is read before its first answer"
        return Experience(self.time_step, *self.answers)


class Answers(NamedTuple):
    """What is stored for an answered row; the fields of Experience after `time_step`."""

    action: nest.Nest
    rollout_info: nest.Nest
    state: nest.Nest

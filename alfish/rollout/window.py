"""A window of rows: what the act-step loop fills and an engine hands on."""

from typing import NamedTuple

import torch

from alfish import nest, specs
from alfish.data_structures import Experience, TimeStep


class Window:
    """`past + T + 1` rows of E environments, in memory that is given.

    Rows `0 … past−1` are the last rows of the window before (frame stacking needs them), rows `past … past+T−1` are
    answered with an action, row `past+T` has only its TimeStep: it is the first answered row of the next window.

    Args:
        experience: CPU tensors, `time_step` `[past+T+1, E, ...]`, the rest `[T, E, ...]`: memory of this window's own
            (`allocate`), or some columns of a larger one (`columns`).
        past_rows: how many rows before the window are kept.
    """

    def __init__(self, experience: Experience, past_rows: int):
        self.experience = experience
        self.past_rows = past_rows
        num_rows, self.num_envs = experience.time_step.step_type.shape
        self.window_length = num_rows - past_rows - 1
        # Row views are made once: making them costs as much as a cheap environment's step.
        self.rows: list[TimeStep] = [_row(experience.time_step, t) for t in range(past_rows, num_rows)]
        answers = nest.leaves(tuple(experience[1:]))
        self._answers = [[leaf[t] for leaf in answers] for t in range(self.window_length)]

    @property
    def time_step(self) -> TimeStep:
        """All rows, `[past+T+1, E]`."""
        return self.experience.time_step

    def write_answer(self, t: int, answer: "Answers") -> None:
        """Stores the answer to row t."""
        for stored, leaf in zip(self._answers[t], nest.leaves(answer), strict=True):
            stored.copy_(leaf)


class Answers(NamedTuple):
    """What is stored for an answered row; the fields of Experience after `time_step`."""

    action: nest.Nest
    rollout_info: nest.Nest
    state: nest.Nest


def allocate(
    stored_specs: Experience, window_length: int, num_envs: int, past_rows: int, pin_memory: bool = False
) -> Experience:
    """Host memory of zeros for a window.

    Args:
        stored_specs: the specs of one stored row.
        window_length: T.
        num_envs: E.
        past_rows: how many rows before the window are kept.
        pin_memory: makes copies to a GPU faster, and needs one.

    Returns:
        `time_step` `[past+T+1, E, ...]`, the rest `[T, E, ...]`.
    """
    time_step = specs.zeros(stored_specs.time_step, (past_rows + window_length + 1, num_envs))
    experience = Experience(time_step, *(specs.zeros(field, (window_length, num_envs)) for field in stored_specs[1:]))
    return nest.map_structure(torch.Tensor.pin_memory, experience) if pin_memory else experience


def columns(experience: Experience, first_env: int, num_envs: int) -> Experience:
    """The rows of the environments `first_env … first_env + num_envs − 1`: a view, nothing is copied."""
    return nest.map_structure(lambda leaf: leaf[:, first_env : first_env + num_envs], experience)


def _row(time_step: TimeStep, t: int) -> TimeStep:
    return nest.map_structure(lambda leaf: leaf[t], time_step)

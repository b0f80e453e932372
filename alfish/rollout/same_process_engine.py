"""Collects in the process that trains."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.checks import check_at_least
from alfish.data_structures import Experience, StepType, TimeStep, time_step_spec
from alfish.environments.environment import VectorEnvironment
from alfish.networks.preprocessing import ObservationTransform
from alfish.rollout.acting import Actor
from alfish.rollout.window import Window
from alfish.summary.timers import Timers


class SameProcessEngine:
    """Steps the environments and the algorithm in turn.

    Timeline of one window, T = 3; row 3 becomes row 0 of the next one::

        row 0 ── act ── env ── row 1 ── act ── env ── row 2 ── act ── env ── row 3

    The engine owns the one window; what `collect` returns is valid until the next call.

    Args:
        environment: B environments.
        algorithm: answers the rows; must be on `device`.
        transform: from stored to seen observations.
        window_length: T, at least 1.
        generator: draws the environments' seeds.
        device: where the algorithm is.
        timers: gets the phases "env" and `algorithm.acting_phase`.

    Raises:
        ValueError: `window_length` is smaller than 1.
    """

    def __init__(
        self,
        environment: VectorEnvironment,
        algorithm: Algorithm,
        transform: ObservationTransform,
        window_length: int,
        generator: np.random.Generator,
        device: torch.device,
        timers: Timers,
    ):
        check_at_least("window_length", window_length, 1)
        self._environment = environment
        self._actor = Actor(algorithm, transform, environment.num_envs, device)
        self._generator = generator
        self._timers = timers
        self._acting_phase = algorithm.acting_phase
        self._algorithm = algorithm
        row_specs = time_step_spec(environment.observation_spec, environment.action_spec)
        self._window = Window(row_specs, window_length, environment.num_envs, transform.past_rows)
        self._started = False
        self._carry_due = False
        self._reset_due = True

    def collect(self) -> Experience:
        """Collects a window: `time_step` `[past + T + 1, B]`, the rest `[T, B]`."""
        window = self._window
        if not self._started:
            self._reset(window.rows[0])
            self._started = True
        if self._carry_due:
            window.carry_over()
        self._carry_due = True
        self._algorithm.eval()
        with torch.inference_mode():
            for t in range(window.window_length):
                with self._timers.phase(self._acting_phase):
                    answer = self._actor.rollout(window.rows[t])
                    window.write_answer(t, answer)
                    action = self._actor.to_host(answer.action)
                with self._timers.phase("env"):
                    if self._reset_due:
                        self._reset(window.rows[t + 1])
                    else:
                        self._environment.step(action, window.rows[t + 1])
        return window.experience()

    def _reset(self, row: TimeStep) -> None:
        self._environment.reset(int(self._generator.integers(2**31)), row)
        self._reset_due = False

    def cut(self) -> None:
        """Closes the episodes in flight as truncated, so that a checkpoint need not hold the environments' state.

        The pending row becomes LAST (its discount stays: 1 unless the episode had just terminated); the environments
        are reset, from a seed of the saved generator, by the step after it.
        """
        self._window.rows[-1].step_type.fill_(StepType.LAST)
        self._reset_due = True

    def state_dict(self) -> dict[str, Any]:
        """The rows that the next window begins with, and the actor's states. Call `cut` before."""
        assert self._reset_due, "the engine's state is only complete right after a cut"
        keep = self._window.past_rows + 1
        rows = nest.map_structure(lambda leaf: leaf[-keep:].clone(), self._window.time_step)
        return {"started": self._started, "rows": nest.leaves(rows), "actor": self._actor.state_dict()}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raises a ValueError if the state is of other environments or another number of them."""
        keep = self._window.past_rows + 1
        expected = nest.map_structure(lambda leaf: leaf[:keep], self._window.time_step)
        changes = _changes(state["rows"], nest.leaves_with_paths(expected))
        if changes:
            raise ValueError(
                f"the checkpoint's environments are not those of this run: {', '.join(changes)}; set that back, or "
                "begin a new run in another folder"
            )
        self._actor.check_state_dict(state["actor"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; the next step resets the environments."""
        keep = self._window.past_rows + 1
        for leaf, saved in zip(nest.leaves(self._window.time_step), state["rows"], strict=True):
            leaf[:keep] = saved
        self._actor.load_state_dict(state["actor"])
        self._started = bool(state["started"])
        self._carry_due = False
        self._reset_due = True


def _changes(found: Sequence[torch.Tensor], expected: Sequence[tuple[str, torch.Tensor]]) -> list[str]:
    """What differs between rows `[rows, B, ...]`, as `name before -> now`."""
    if len(found) != len(expected):
        return [f"leaves of a row {len(found)} -> {len(expected)}"]
    changes: dict[str, str] = {}
    for before, (path, now) in zip(found, expected, strict=True):
        sizes = zip(("rows that a frame stack keeps", "Trainer.num_envs"), before.shape, now.shape, strict=False)
        changes |= {name: f"{size} -> {own}" for name, size, own in sizes if size != own}
        if (before.shape[2:], before.dtype) != (now.shape[2:], now.dtype):
            changes[path] = f"{before.dtype} {tuple(before.shape[2:])} -> {now.dtype} {tuple(now.shape[2:])}"
    return [f"{name} {change}" for name, change in changes.items()]

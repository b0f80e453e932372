"""The act-step loop, shared by all engines: B environments and an actor fill one window after another."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from alfish import nest, specs
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import StepType, TimeStep
from alfish.environments.environment import VectorEnvironment
from alfish.networks.preprocessing import ObservationTransform
from alfish.rollout.acting import Actor
from alfish.rollout.unit_streams import UnitStreams
from alfish.rollout.window import Window
from alfish.summary.timers import Timers


class Collector:
    """An acting unit: steps its environments and its algorithm in turn.

    Timeline of one window, T = 3; row 3 becomes row 0 of the next one::

        row 0 ── act ── env ── row 1 ── act ── env ── row 2 ── act ── env ── row 3

    What a window begins with (its row 0 and the rows before) is kept here, so each window may have memory of its own,
    and belongs to others as soon as `collect` returns. Before the run's first row there are LAST rows of zeros, so that
    nothing reaches behind it.

    Environments that freeze (`VectorEnvironment.freezes`) repeat the LAST row of an episode until the window ends; the
    next window's row 0 is that LAST row still, its row 1 is FIRST.

    Args:
        environment: E environments.
        algorithm: answers the rows; must be on `device`.
        transform: from stored to seen observations.
        row_specs: the specs of a TimeStep.
        device: where the algorithm is.
        streams: all random numbers of the loop.
        timers: gets the phases "env" and `algorithm.acting_phase`.
        first_env: what this unit's environments are counted from in `TimeStep.env_id`.
        between_rows: called after each row; None calls nothing.
    """

    def __init__(
        self,
        environment: VectorEnvironment,
        algorithm: Algorithm,
        transform: ObservationTransform,
        row_specs: TimeStep,
        device: torch.device,
        streams: UnitStreams,
        timers: Timers,
        first_env: int = 0,
        between_rows: Callable[[], object] | None = None,
    ):
        self._environment = environment
        self._algorithm = algorithm
        self._actor = Actor(algorithm, transform, environment.num_envs, device)
        self._streams = streams
        self._acting = timers.phase(algorithm.acting_phase)
        self._stepping = timers.phase("env")
        self._env_id = torch.arange(environment.num_envs, dtype=torch.int32) + first_env
        self._between_rows = between_rows
        self._carried: TimeStep = specs.zeros(row_specs, (transform.past_rows + 1, environment.num_envs))
        self._carried.step_type.fill_(StepType.LAST)
        self._started = False
        self._reset_due = True

    def collect(self, window: Window) -> None:
        """Fills a window, from where the one before ended.

        Args:
            window: of E environments and the transform's past rows; every row of it is overwritten.
        """
        keep = window.past_rows + 1
        for leaf, carried in zip(nest.leaves(window.time_step), nest.leaves(self._carried), strict=True):
            leaf[:keep] = carried
        if self._algorithm.training:
            self._algorithm.eval()
        with self._streams.active(), torch.inference_mode():
            if not self._started:
                self._reset(window.rows[0])
                self._started = True
            if self._environment.freezes:
                self._environment.begin_window()
            self._fill(window)
        # Also of rows before the run's first one.
        window.time_step.env_id.copy_(self._env_id)
        for leaf, carried in zip(nest.leaves(window.time_step), nest.leaves(self._carried), strict=True):
            carried.copy_(leaf[-keep:])

    def _fill(self, window: Window) -> None:
        for t in range(window.window_length):
            with self._acting:
                answer = self._actor.rollout(window.rows[t])
                window.write_answer(t, answer)
                action = self._actor.to_host(answer.action)
            with self._stepping:
                if self._reset_due:
                    self._reset(window.rows[t + 1])
                else:
                    self._environment.step(action, window.rows[t + 1])
                    self._number(window.rows[t + 1])
            if self._between_rows is not None:
                self._between_rows()

    def _reset(self, row: TimeStep) -> None:
        self._environment.reset(self._streams.environment_seed(), row)
        self._number(row)
        self._reset_due = False

    def _number(self, row: TimeStep) -> None:
        # Environments count theirs from 0, or leave the field as it is.
        row.env_id.copy_(self._env_id)

    def cut(self) -> None:
        """Closes the episodes in flight as truncated, so that a checkpoint need not hold the environments' state.

        The pending row becomes LAST (its discount stays: 1 unless the episode had just terminated); the environments
        are reset, from a seed of the unit's stream, by the step after it.
        """
        self._carried.step_type[-1] = StepType.LAST
        self._reset_due = True

    def state_dict(self) -> dict[str, Any]:
        """The rows that the next window begins with, the actor's states and the random streams. Call `cut` before."""
        assert self._reset_due, "a collector's state is only complete right after a cut"
        rows = [leaf.clone() for leaf in nest.leaves(self._carried)]
        state = {"started": self._started, "rows": rows, "actor": self._actor.state_dict()}
        return state | {"streams": self._streams.state_dict()}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raises a ValueError if the state is of other environments or another number of them."""
        check_collector_state(state, self._carried, self._actor)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; the next step resets the environments."""
        for leaf, saved in zip(nest.leaves(self._carried), state["rows"], strict=True):
            leaf.copy_(saved)
        self._actor.load_state_dict(state["actor"])
        self._streams.load_state_dict(state["streams"])
        self._started = bool(state["started"])
        self._reset_due = True


def check_collector_state(state: dict[str, Any], carried: TimeStep, actor: Actor) -> None:
    """Checks whether a collector's state fits one that has not been built.

    Args:
        state: what `Collector.state_dict` returned.
        carried: rows like those that it carries, `[past + 1, E]`.
        actor: like its own.

    Raises:
        ValueError: it is of another engine, of other environments or another number of them.
    """
    if "rows" not in state:
        raise ValueError(
            "the checkpoint was written with another Trainer.engine; set that back, or begin a new run in another "
            "folder"
        )
    changes = _changes(state["rows"], nest.leaves_with_paths(carried))
    if changes:
        raise ValueError(
            f"the checkpoint's environments are not those of this run: {', '.join(changes)}; set that back, or "
            "begin a new run in another folder"
        )
    actor.check_state_dict(state["actor"])


def _changes(found: Sequence[torch.Tensor], expected: Sequence[tuple[str, torch.Tensor]]) -> list[str]:
    """What differs between rows `[rows, E, ...]`, as `name before -> now`."""
    if len(found) != len(expected):
        return [f"leaves of a row {len(found)} -> {len(expected)}"]
    changes: dict[str, str] = {}
    for before, (path, now) in zip(found, expected, strict=True):
        sizes = zip(("rows that a frame stack keeps", "Trainer.num_envs"), before.shape, now.shape, strict=False)
        changes |= {name: f"{size} -> {own}" for name, size, own in sizes if size != own}
        if (before.shape[2:], before.dtype) != (now.shape[2:], now.dtype):
            changes[path] = f"{before.dtype} {tuple(before.shape[2:])} -> {now.dtype} {tuple(now.shape[2:])}"
    return [f"{name} {change}" for name, change in changes.items()]

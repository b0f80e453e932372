"""What runs in a worker process of an engine: an acting unit that fills its columns of shared windows."""

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from alfish import nest
from alfish.data_structures import Progress, time_step_spec
from alfish.environments.faults import EnvironmentFault, renumbered
from alfish.rollout.acting import experience_specs
from alfish.rollout.collector import Collector
from alfish.rollout.engine import Buildable, BuiltParts, apply_progress
from alfish.rollout.shared_windows import SharedWindows
from alfish.rollout.unit_streams import UnitStreams, unit_sequence
from alfish.rollout.weights_snapshot import WeightsSnapshot
from alfish.rollout.window import Window, columns
from alfish.rollout.worker_process import READY, Pipe, messages
from alfish.summary.timers import Timers

COLLECT, CUT, STATE, LOAD, GO_ON = "collect", "cut", "state", "load", "go_on"
COLLECTED = "collected"


class Assignment(NamedTuple):
    """What a worker process is told as it starts.

    Attributes:
        make_experiment: builds the parts anew.
        device: where it acts.
        unit: its number.
        restarts: how often the process with this number was lost before.
        streams: the seed sequence of all units.
        num_envs: its environments.
        first_env: their first in the run.
        envs_of_run: B, those of all units.
        first_column: their first in a window.
        window_envs: environments of a window.
        window_length: T.
        num_windows: of the pool.
        windows: the pool's memory.
        num_weights: versions that the snapshot holds.
        weights: the snapshot's memory.
    """

    make_experiment: Callable[[], Buildable]
    device: str
    unit: int
    restarts: int
    streams: np.random.SeedSequence
    num_envs: int
    first_env: int
    envs_of_run: int
    first_column: int
    window_envs: int
    window_length: int
    num_windows: int
    windows: torch.Tensor
    num_weights: int
    weights: torch.Tensor


class Order(NamedTuple):
    """A window to be collected.

    Attributes:
        window: its number, from 0.
        slot: of the pool.
        version: of the weights.
        weights_slot: where they are.
        progress: what the schedules follow from.
    """

    window: int
    slot: int
    version: int
    weights_slot: int
    progress: Mapping[str, Progress]


def work(pipe: Pipe, assignment: Assignment) -> None:
    """Answers messages until it shall end. The main function of a worker process.

    Raises:
        EnvironmentFault: an environment failed; it is named by its number in the run.
    """
    try:
        _answer_messages(pipe, assignment)
    except EnvironmentFault as fault:
        raise EnvironmentFault(renumbered(str(fault), assignment.first_env, assignment.envs_of_run)) from fault


def _answer_messages(pipe: Pipe, assignment: Assignment) -> None:
    device = torch.device(assignment.device)
    built = assignment.make_experiment().build(assignment.num_envs, device)
    with contextlib.closing(built.environment):
        unit = ActingUnit(built, assignment, device)
        pipe.send(READY)
        for name, *arguments in messages(pipe):
            pipe.send(unit.answer(name, *arguments))


class ActingUnit:
    """Environments and an actor, and what a worker may be asked of them.

    Args:
        built: the parts, of this process.
        assignment: see Assignment.
        device: where the algorithm is.
    """

    def __init__(self, built: BuiltParts, assignment: Assignment, device: torch.device):
        environment, transform = built.environment, built.transform
        self._algorithm = built.algorithm
        row_specs = time_step_spec(environment.observation_spec, environment.action_spec)
        stored_specs = experience_specs(self._algorithm, transform, row_specs, assignment.num_envs, device)
        pool = SharedWindows(
            stored_specs,
            assignment.window_length,
            assignment.window_envs,
            transform.past_rows,
            assignment.num_windows,
            assignment.windows,
        )
        self._windows = [
            Window(columns(window, assignment.first_column, assignment.num_envs), transform.past_rows)
            for window in pool.windows
        ]
        self._weights = WeightsSnapshot(self._algorithm, assignment.num_weights, assignment.weights)
        self._version = -1
        sequence = unit_sequence(assignment.streams, assignment.unit, assignment.restarts)
        self._collector = Collector(
            environment,
            self._algorithm,
            transform,
            row_specs,
            device,
            UnitStreams(sequence, device),
            Timers(),
            assignment.first_env,
        )

    def answer(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Does what a message asks, and says so."""
        if name == COLLECT:
            return COLLECTED, self._collect(Order(*arguments))
        if name == CUT:
            self._collector.cut()
        elif name == STATE:
            return STATE, to_bytes(self._collector.state_dict())
        elif name == LOAD:
            self._load(*arguments)
        else:
            assert name == GO_ON, name
            self._go_on(*arguments)
        return (name,)

    def _collect(self, order: Order) -> int:
        if order.version != self._version:
            self._weights.read(order.weights_slot)
            self._version = order.version
        apply_progress(self._algorithm, order.progress)
        self._collector.collect(self._windows[order.slot])
        return order.window

    def _load(self, state: bytes, with_streams: bool) -> None:
        """Goes on from a checkpoint; a process that replaces a lost one keeps its own random numbers."""
        changes = {} if with_streams else {"streams": self._collector.state_dict()["streams"]}
        self._collector.load_state_dict(from_bytes(state) | changes)

    def _go_on(self, slot: int) -> None:
        """Goes on where the window in `slot` ended, as after a cut: the process that filled it is lost."""
        window = self._windows[slot]
        rows = [leaf[-window.past_rows - 1 :] for leaf in nest.leaves(window.time_step)]
        self._collector.load_state_dict(self._collector.state_dict() | {"started": True, "rows": rows})
        self._collector.cut()


def to_bytes(state: dict[str, Any]) -> bytes:
    """A state as it goes through a pipe: tensors, too, without memory that both sides would share."""
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def from_bytes(state: bytes) -> dict[str, Any]:
    """The inverse of `to_bytes`; tensors come to the CPU."""
    return torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)

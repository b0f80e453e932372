"""What the trainer asks of an engine, whatever process or machine collects for it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import Experience, Progress
from alfish.environments.environment import VectorEnvironment
from alfish.networks.preprocessing import ObservationTransform
from alfish.summary.timers import Timers


class Collected(NamedTuple):
    """A window of rows, on the host.

    Attributes:
        experience: `time_step` `[past + T + 1, E, ...]`, the rest `[T, E, ...]`. Valid until the next `collect`.
        first_env: the rows are those of the environments `first_env … first_env + E − 1` of the run.
        staleness: updates of the algorithm itself between the weights that it was collected with and now.
    """

    experience: Experience
    first_env: int = 0
    staleness: int = 0


class BuiltParts(Protocol):
    """What an experiment builds: see `trainers.experiment.Built`."""

    @property
    def environment(self) -> VectorEnvironment:
        """The environments."""

    @property
    def transform(self) -> ObservationTransform:
        """From stored to seen observations."""

    @property
    def algorithm(self) -> Algorithm:
        """On its device."""


class Buildable(Protocol):
    """What builds the parts of an acting unit: see `trainers.experiment.Experiment`."""

    def build(self, num_envs: int, device: torch.device) -> BuiltParts:
        """The parts, with environments of their own and weights of no meaning."""


def nothing_else_runs() -> None:
    """There is nothing beside the engine to look after."""


class EngineContext(NamedTuple):
    """What an engine is made from.

    Attributes:
        make_experiment: makes the experiment anew in another process; can be pickled. It raises a ValueError in the
            learner's process, before any worker starts, if it could not.
        environment: the learner's B environments; of an engine with `owns_environments` only one, closed already.
        algorithm: the learner's, on `device`. An engine reads its weights within `collect` only.
        transform: from stored to seen observations.
        stored_specs: the specs of one stored row.
        num_envs: B, of all acting units together.
        window_length: T.
        streams: the seed sequence that all acting units have in common (`unit_streams.unit_sequence`).
        device: where the learner's algorithm is.
        timers: of the learner's process.
        poll_others: to be called now and then while the learner collects, or waits: looks after what else runs, without
            waiting.
    """

    make_experiment: Callable[[], Buildable]
    environment: VectorEnvironment
    algorithm: Algorithm
    transform: ObservationTransform
    stored_specs: Experience
    num_envs: int
    window_length: int
    streams: np.random.SeedSequence
    device: torch.device
    timers: Timers
    poll_others: Callable[[], object] = nothing_else_runs


class Engine(Protocol):
    """Collects windows. `Trainer.engine` makes it from an EngineContext.

    The constructor checks its settings and starts nothing: processes start with the first `collect`, when all parts of
    a run have been built and a checkpoint, if there is one, has been loaded.

    Attributes:
        owns_environments: True if it makes its environments itself; known to the class, so that the learner need not
            make all of them too.
        window_envs: E, the environments of one window; it divides B, and windows take turns over the run's
            environments in ascending order.
    """

    owns_environments: bool
    window_envs: int

    def collect(self, progress: Mapping[str, Progress]) -> Collected:
        """Collects a window.

        Args:
            progress: how far the run has come, with the updates of each training task, by its name; `""` is the
                algorithm itself. What `Algorithm.after_train_iter` sets follows from it (see `apply_progress`).

        Raises:
            EnvironmentFault: an environment failed.
        """

    def poll(self) -> None:
        """Called between updates: looks after what runs elsewhere, without waiting."""

    def metrics(self) -> dict[str, float]:
        """Numbers to report, such as restarts of workers since the run began, by names without a prefix."""

    def cut(self) -> None:
        """Closes the episodes in flight as truncated, so that a checkpoint need not hold the environments' state."""

    def state_dict(self) -> dict[str, Any]:
        """What the next windows follow from, windows collected but not handed out included. Call `cut` before."""

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raises a ValueError if the state is of another configuration."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; environments begin anew."""

    def close(self) -> None:
        """Ends what it started. May be called twice."""


def apply_progress(algorithm: Algorithm, progress: Mapping[str, Progress]) -> None:
    """Tells a copy of the learner's algorithm how far the run has come: its schedules, such as one of exploration.

    Args:
        algorithm: a worker's.
        progress: as `Engine.collect` was given.
    """
    algorithm.after_train_iter(progress[""])
    for task in algorithm.training_tasks():
        task.algorithm.after_train_iter(progress[task.name])


def other_engine(found: str, expected: str) -> ValueError:
    """The error for a checkpoint that another engine wrote.

    Args:
        found: which.
        expected: the engine of this run.
    """
    return ValueError(
        f"the checkpoint was written with Trainer.engine = @{found}, and the run has {expected} now; set that back, or "
        "begin a new run in another folder, which may take the weights of this one (Experiment.initial_weights)"
    )


def check_pin_memory(owner: str, pin_memory: bool, device: torch.device) -> None:
    """Raises a ValueError if pinned memory is asked for, and the device has no use for it.

    Args:
        owner: the engine, for the message.
        pin_memory: the setting.
        device: of the learner.
    """
    if pin_memory and device.type != "cuda":
        raise ValueError(f"{owner}.pin_memory is True, which needs a GPU; the device is {device}: set it to False")

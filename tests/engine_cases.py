"""All engines, and an experiment in which a row tells which weights, schedule and random numbers it was answered with.

Worker processes import this module, so what they build is defined here.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from engine_parts import engine_context
from support import ScriptedEnvironment, TinyAlgorithm

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import AlgStep, Progress
from alfish.environments.environment import VectorEnvironment
from alfish.environments.faults import EnvironmentFault
from alfish.networks.preprocessing import FrameStack, ObservationTransform
from alfish.rollout.background_engine import BackgroundEngine
from alfish.rollout.multi_process_engine import MultiProcessEngine
from alfish.rollout.same_process_engine import SameProcessEngine
from alfish.trainers.experiment import Experiment

CPU = torch.device("cpu")


class Case(NamedTuple):
    """An engine, and what it may be expected to do.

    Attributes:
        name: for pytest.
        make: from an EngineContext.
        units: how many acting units divide the environments.
        per_window: how many of them fill a window.
        max_staleness: in iterations.
    """

    name: str
    make: Callable[..., Any]
    units: int = 1
    per_window: int = 1
    max_staleness: int = 0


def _background(max_staleness):
    return lambda context, **options: BackgroundEngine(context, max_staleness=max_staleness, **options)


def _processes(num_workers, max_staleness, workers_per_batch=None):
    return lambda context, **options: MultiProcessEngine(
        context, num_workers, max_staleness, workers_per_batch, **options
    )


CASES = [
    Case("same_process", SameProcessEngine),
    Case("background", _background(0)),
    Case("background_ahead", _background(1), max_staleness=1),
    Case("one_of_many", _processes(1, 0)),
    Case("two_workers", _processes(2, 0), units=2, per_window=2),
    Case("two_workers_ahead", _processes(2, 2), units=2, per_window=2, max_staleness=2),
    Case("in_turns", _processes(2, 0, 1), units=2),
    Case("in_turns_ahead", _processes(2, 2, 1), units=2, max_staleness=2),
]
SYNCHRONOUS = [case for case in CASES if case.max_staleness == 0]
WITH_WORKERS = [case for case in CASES if case.name != "same_process"]


class Told(NamedTuple):
    weight: torch.Tensor
    buffer: torch.Tensor
    fraction: torch.Tensor
    drawn: torch.Tensor
    env_id: torch.Tensor


class TellingAlgorithm(TinyAlgorithm):
    """Acts at random; counts the steps of an episode in its state; stores what it was when it answered."""

    def __init__(self, observation_spec, action_spec):
        Algorithm.__init__(self, observation_spec, action_spec)
        self.future = 1
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.fraction = 0.0

    def initial_state(self, batch_size):
        return torch.zeros(batch_size)

    def rollout_step(self, time_step, state):
        drawn = torch.rand(time_step.reward.shape)
        like = torch.ones_like(time_step.reward)
        told = Told(like * self.weight, like.long() * self.count, like * self.fraction, drawn, time_step.env_id)
        return AlgStep((drawn > 0.5).long(), state + 1, told)

    def after_train_iter(self, progress):
        self.fraction = progress.fraction


class Parts(NamedTuple):
    environment: VectorEnvironment
    transform: ObservationTransform
    algorithm: Algorithm


@dataclasses.dataclass
class Trouble:
    """What befalls the environments of a run, once: in the process that first finds that the file is there.

    Args:
        file: taken away by the one that it befalls.
        kind: "raise", "hang", "exit" or "bug".
        episode: when, in the script of the environments.
        step: likewise.
    """

    file: pathlib.Path
    kind: str
    episode: int = 2
    step: int = 2

    def befall(self):
        try:
            self.file.unlink()
        except FileNotFoundError:
            return
        if self.kind == "raise":
            raise EnvironmentFault("'Scripted', environment 1 of 0…1, episode 2, step 2: the door is locked")
        if self.kind == "bug":
            raise ZeroDivisionError("a bug in the environment's adapter")
        if self.kind == "exit":
            os._exit(3)
        time.sleep(3600)


class TroubledEnvironment(ScriptedEnvironment):
    trouble: Trouble | None = None

    def step(self, action, out):
        trouble = self.trouble
        if trouble and ((self._step == trouble.step) & (self._episode == trouble.episode)).any():
            trouble.befall()
        super().step(action, out)


@dataclasses.dataclass
class Scripted:
    """An experiment, and what makes it: it builds itself."""

    num_frames: int = 1
    trouble: Trouble | None = None
    fails: bool = False

    def __call__(self):
        return self

    def build(self, num_envs, device):
        if self.fails:
            raise ValueError("Scripted.fails is True; expected False")
        environment = TroubledEnvironment(num_envs)
        environment.trouble = self.trouble
        spec = environment.observation_spec
        transform = ObservationTransform(spec) if self.num_frames == 1 else FrameStack(spec, num_frames=self.num_frames)
        return Parts(environment, transform, TellingAlgorithm(transform.output_spec, environment.action_spec))


def make_tiny():
    """An experiment of the trainer's own kind; what its parts are given is not from a configuration."""
    return Experiment(environment=ScriptedEnvironment, algorithm=TinyAlgorithm)


OPEN = []


def make_engine(make, num_envs=4, window_length=5, seed=3, experiment=None, **options):
    """An engine and the learner's algorithm; closed after the test."""
    experiment = experiment or Scripted()
    environment, transform, algorithm = dataclasses.replace(experiment, fails=False, trouble=None).build(num_envs, CPU)
    context = engine_context(environment, algorithm, transform, window_length, seed, make_experiment=experiment)
    engine = make(context, **options)
    OPEN.append(engine)
    return engine, algorithm


def close_engines():
    while OPEN:
        OPEN.pop().close()


def iterate(engine, algorithm, iteration, total=100):
    """One iteration of a learner: collects, then changes its weights. Returns what was collected, copied."""
    progress = {"": Progress(iteration, iteration * 10, iteration, iteration / total)}
    algorithm.after_train_iter(progress[""])
    collected = engine.collect(progress)
    copied = collected._replace(experience=nest.map_structure(torch.clone, collected.experience))
    with torch.no_grad():
        algorithm.weight += 1
        algorithm.count += 2
    return copied


def assert_same_rows(first, second, but=()):
    for (path, leaf), (_, found) in zip(nest.leaves_with_paths(first), nest.leaves_with_paths(second), strict=True):
        if path not in but:
            same = torch.equal(leaf, found) if isinstance(leaf, torch.Tensor) else leaf == found
            assert same, path
